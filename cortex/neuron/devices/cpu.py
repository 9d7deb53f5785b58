"""The host's processors and memory, as one device.

Its memory is that of the host, or of the container where that is less. Weights that llama.cpp
maps are page cache: the kernel drops them before it refuses anybody memory, so they count as
available here, and the ledger alone holds that a resident's weights want to stay. What the
engines have beyond that (KV cache, buffers, weights that are not mapped) is anonymous memory of
this process and its children, which is told as ours.
"""

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from cortex.neuron.devices.probe import Reading


class Cpu:
    """`cgroup` is where the container's limits are, `proc` where the kernel tells of processes."""

    def __init__(self, cgroup: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> None:
        self.name, self.kind, self.model = "cpu", "cpu", _model()
        self.compute: str | None = None
        self.uuid: str | None = None
        self._cgroup, self._proc = cgroup, proc
        # The interpreter and its modules are no model's: only what came later is.
        self._at_first = self._anonymous()

    def look(self) -> Reading:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
        limit = _number(self._cgroup / "memory.max")
        if limit is not None and limit < total:
            used = (_number(self._cgroup / "memory.current") or 0) - _reclaimable(self._cgroup)
            total, available = limit, min(available, max(0, limit - max(0, used)))
        ours = max(0, self._anonymous() - self._at_first)
        return Reading(total, available, psutil.cpu_percent() / 100, time.monotonic(), ours_bytes=ours)

    def _anonymous(self) -> int:
        """Bytes that this process and its children hold and that no file backs."""
        return sum(_field(self._proc / pid / "status", "RssAnon:") for pid in ("self", *self._children()))

    def _children(self) -> Iterable[str]:
        for thread in _listed(self._proc / "self" / "task"):
            try:
                yield from (thread / "children").read_text(encoding="ascii").split()
            except OSError:
                continue  # a thread that ended meanwhile, or a kernel without the file


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()} ({os.cpu_count()} threads)"


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _field(path: Path, name: str) -> int:
    """A size in KiB in a file of the kernel's, as bytes; 0 when it does not tell."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    """The number in a file of the kernel's; None when it is absent or says "max"."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(cgroup: Path) -> int:
    """Page cache that the kernel drops before it refuses memory: mapped weights, mostly."""
    try:
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        return sum(
            int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file "))
        )
    except (OSError, ValueError):
        return 0
