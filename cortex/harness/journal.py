"""The crash journal: who to ask when a process died of its engine.

One small mapped file a device holds what its thread does at this moment, so that it outlives
any death of the process. An entry is written over the older of two halves and is valid by its
checksum: one that was being written when the process died leaves the one before. No file is
flushed: what a power cut takes with it was no crash of an engine.
"""

import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

_HEAD: Final = struct.Struct("<IIQ")  # checksum of what follows it, length, generation
_HALF: Final = 16 * 2**10
# An id is at most 128 characters long: so many fit, whatever they are.
MOST_REQUESTS: Final = 64


@dataclass(frozen=True, slots=True)
class Blamed:
    """A model that may have been the cause, by its file's digest, and whom it served."""

    model: str
    digest: str
    requests: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """What a device's thread was at. `at` is Unix time, `kernel` the boot of the host, `more`
    how many requests are not named. `leaving`: the process was told to end."""

    boot_id: str
    kernel: str
    device: str
    phase: str = "idle"
    at: float = 0.0
    blamed: tuple[Blamed, ...] = ()
    more: int = 0
    leaving: bool = False

    @property
    def crashed(self) -> bool:
        """Whether a process that left this behind died of an engine, as far as can be told."""
        return self.phase != "idle" and bool(self.blamed) and not self.leaving and self.kernel == kernel()


class Journal:
    """The file of one device, written by its thread alone. Raises OSError where it cannot be had."""

    def __init__(self, path: Path, device: str, boot_id: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Blocks now rather than SIGBUS later, when the disk is full.
            os.posix_fallocate(descriptor, 0, 2 * _HALF)
            self._map = mmap.mmap(descriptor, 2 * _HALF)
        finally:
            os.close(descriptor)
        self._device, self._boot_id, self._kernel = device, boot_id, kernel()
        self._encoder = msgspec.msgpack.Encoder()
        self._written: tuple[str, tuple[Blamed, ...]] = ("idle", ())
        self._leaving = False
        self._one_at_a_time = threading.Lock()
        self._generation = max((found[0] for found in _halves(self._map)), default=0)
        self._write()

    def write(self, phase: str, blamed: Sequence[Blamed]) -> None:
        """From here on it is this, if it is not already."""
        what = (phase, tuple(blamed))
        if what != self._written:
            self._written = what
            self._write()

    def leave(self) -> None:
        """The process was told to end: however it does that, it is no crash. From any thread."""
        self._leaving = True
        self._write()

    def _write(self) -> None:
        with self._one_at_a_time:
            self._enter(*self._written)

    def _enter(self, phase: str, blamed: tuple[Blamed, ...]) -> None:
        named, more = _cut(blamed)
        self._generation += 1
        entry = Entry(
            self._boot_id, self._kernel, self._device, phase, time.time(), named, more, self._leaving
        )
        data = self._encoder.encode(entry)
        tail = _HEAD.pack(0, len(data), self._generation)[4:] + data
        if len(tail) + 4 > _HALF:
            return  # no model is called by so long a name
        start = self._generation % 2 * _HALF
        self._map[start : start + 4 + len(tail)] = struct.pack("<I", zlib.crc32(tail)) + tail


def read(path: Path) -> Entry | None:
    """The last whole entry of a journal; None where there is none to be had."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    entries = sorted(_halves(data), key=lambda found: found[0])
    try:
        return msgspec.msgpack.decode(entries[-1][1], type=Entry) if entries else None
    except msgspec.MsgspecError:
        return None  # of another build


def kernel() -> str:
    """Changes when the host starts; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _halves(data: bytes | mmap.mmap) -> list[tuple[int, bytes]]:
    """Generation and content of each half that is whole."""
    found: list[tuple[int, bytes]] = []
    for start in (0, _HALF):
        half = bytes(data[start : start + _HALF])
        if len(half) < _HEAD.size:
            continue
        checksum, length, generation = _HEAD.unpack_from(half)
        tail = half[4 : _HEAD.size + length]
        if generation and len(tail) == _HEAD.size - 4 + length and zlib.crc32(tail) == checksum:
            found.append((generation, half[_HEAD.size : _HEAD.size + length]))
    return found


def _cut(blamed: Sequence[Blamed]) -> tuple[tuple[Blamed, ...], int]:
    """At most MOST_REQUESTS of them are named, the rest is counted."""
    total = sum(len(each.requests) for each in blamed)
    if total <= MOST_REQUESTS:
        return tuple(blamed), 0
    named: list[Blamed] = []
    room = MOST_REQUESTS
    for each in blamed:
        named.append(Blamed(each.model, each.digest, each.requests[:room]))
        room -= len(named[-1].requests)
    return tuple(named), total - MOST_REQUESTS
