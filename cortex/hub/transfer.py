"""One file: its bytes from the hub into the cache, whole and verified.

What has come is kept and gone on from, across breaks, cancellations and restarts. A content
that is not what the hub says is thrown away. Writing and hashing are done in threads; bytes
are forced to the disk as they come, so that no flood of them waits at the end.
"""

import errno
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import trio
from trio.to_thread import run_sync as in_thread

from cortex.errors import LoadFailed
from cortex.hub.client import Client, Into, RemoteFile
from cortex.hub.refusals import Cut
from cortex.hub.source import Source
from cortex.hub.tree import Tree
from cortex.hub.tries import Tries
from cortex.units import size

log = logging.getLogger(__name__)

SYNC_BYTES: Final = 64 * 2**20
HASH_BYTES: Final = 8 * 2**20
LOCK_S: Final = 0.2


class Listener(Protocol):
    """Is told how many bytes of the file are through."""

    def downloaded(self, done: int) -> None: ...
    def verified(self, done: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Transfer:
    """How one file is brought in."""

    client: Client
    tree: Tree
    source: Source
    commit: str
    told: Listener
    pauses_s: Sequence[float]

    async def bring(self, file: RemoteFile) -> None:
        """The content is in the cache. Cancelled or failed, what came is kept for the next time;
        not so when it is wrong or the disk is full."""
        lock: int | None = None
        try:
            lock = await self._lock(file)
            if await in_thread(self.tree.blob(file.digest).exists):
                self.told.downloaded(file.bytes)
            else:
                await self._bring(file)
        except OSError as error:
            raise await self._failed(file, error) from error
        finally:
            if lock is not None:
                os.close(lock)

    async def _lock(self, file: RemoteFile) -> int:
        """Nobody else brings this content meanwhile. While somebody does, it is told how far that is."""
        waited, partial = False, self.tree.partial(file.digest)
        while (lock := await in_thread(self.tree.lock, file.digest)) is None:
            if not waited:
                log.info("hub.waiting file=%s why='another process downloads it'", file.name)
                waited = True
            self.told.downloaded(min(await in_thread(length, partial), file.bytes))
            await trio.sleep(LOCK_S)
        return lock

    async def _bring(self, file: RemoteFile) -> None:
        partial = self.tree.partial(file.digest)
        had = await in_thread(length, partial)
        if had > file.bytes:
            await in_thread(partial.unlink)
            had = 0
        await self._download(file, partial)
        if not await self._is_right(file, partial):
            await in_thread(partial.unlink)
            if not had:
                raise self._wrong(file)
            # The part that was here may have been bad; what comes in one go is the hub's own fault.
            log.warning("hub.again file=%s why='what was kept of it does not fit the rest'", file.name)
            await self._download(file, partial)
            if not await self._is_right(file, partial):
                await in_thread(partial.unlink)
                raise self._wrong(file)
        await in_thread(self.tree.keep, file.digest)

    async def _download(self, file: RemoteFile, partial: Path) -> None:
        """The partial content has the file's length."""
        remedy = "what came is kept: asked again, it goes on from there"
        tries = Tries(f"{file.name} of {self.source}", remedy, self.pauses_s)
        if not file.bytes:
            await in_thread(partial.touch)
        while (have := await in_thread(length, partial)) < file.bytes:
            try:
                await self._once(file, partial, have)
            except Cut as cut:
                await tries.again(cut, await in_thread(length, partial) - have)
        self.told.downloaded(file.bytes)

    async def _once(self, file: RemoteFile, partial: Path, have: int) -> None:
        growing = _Growing(partial, file, self.told)
        try:
            await self.client.bytes_of(self.source, self.commit, file, have, growing)
        finally:
            with trio.CancelScope(shield=True):
                await in_thread(growing.close)
        if growing.at < file.bytes:
            raise Cut(f"{file.name} ended after {size(growing.at)} of {size(file.bytes)}")

    async def _is_right(self, file: RemoteFile, partial: Path) -> bool:
        """Whether the content is the one that the hub says."""
        digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {file.bytes}\0".encode())  # noqa: S324
        with await in_thread(partial.open, "rb") as content:
            done = 0
            while piece := await in_thread(_hash, content, digest):
                done += piece
                self.told.verified(done)
        return digest.hexdigest() == file.digest

    def _wrong(self, file: RemoteFile) -> LoadFailed:
        return LoadFailed(
            f"{file.name} of {self.source.repo} is not what the hub says it is (its hash is another); it was "
            "thrown away. Try again; if it stays so, the repo or something on the way is broken"
        )

    async def _failed(self, file: RemoteFile, error: OSError) -> LoadFailed:
        folder = self.tree.folder
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return LoadFailed(
                f"{file.name} cannot be kept in {folder}: {error.strerror or error}; set [hub] cache_dir, or "
                "HF_HOME, to a folder that can be written to"
            )
        # Whatever else lives on that disk needs it more than a part of a file.
        await in_thread(self.tree.partial(file.digest).unlink, True)
        return LoadFailed(
            f"the disk of {folder} became full while {file.name} ({size(file.bytes)}) came; the part of it "
            "was removed. Make room there, or set [hub] cache_dir elsewhere"
        )


class _Growing(Into):
    """A partial content that grows."""

    def __init__(self, partial: Path, file: RemoteFile, told: Listener) -> None:
        self.at = 0
        self._partial, self._file, self._told = partial, file, told
        self._descriptor: int | None = None
        self._unsynced = 0

    async def begin(self, at: int) -> None:
        self._descriptor = await in_thread(_open_at, self._partial, at)
        self.at = at
        self._told.downloaded(at)

    async def take(self, piece: bytes) -> None:
        if self.at + len(piece) > self._file.bytes:
            raise LoadFailed(
                f"more than {size(self._file.bytes)} came for {self._file.name}, which is all that it has by "
                "the hub's own word"
            )
        await in_thread(self._write, piece)
        self._told.downloaded(self.at)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, piece: bytes) -> None:
        assert self._descriptor is not None  # noqa: S101 - begun
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._descriptor, rest, self.at)
            rest, self.at = rest[written:], self.at + written
        self._unsynced += len(piece)
        if self._unsynced >= SYNC_BYTES:
            os.fdatasync(self._descriptor)
            self._unsynced = 0


def _open_at(path: Path, at: int) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o664)
    try:
        os.ftruncate(descriptor, at)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _hash(content: IO[bytes], digest: "hashlib._Hash") -> int:
    piece = content.read(HASH_BYTES)
    digest.update(piece)
    return len(piece)
