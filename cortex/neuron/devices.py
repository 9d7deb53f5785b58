"""What this host has: its devices, and how much of each a model may use.

A reading of every device is taken in a thread, now and then; everybody else reads the
last one, so that health answers in microseconds while a driver hangs. Which models live
on a device is not known here. The CPU is one device, called `cpu`; its memory is that of
the host, or of the container where that is less.
"""

import logging
import os
import platform
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil
import trio

from cortex.config.neuron import Devices as DevicesConfig
from cortex.errors import ConfigError, TooSlow
from cortex.places import Room
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0  # as often as gateways ask
LOOK_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Host:
    """What does not change while the process lives."""

    hostname: str
    os: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a device. `utilization` is a ratio, None when not known; `at` is monotonic."""

    total_bytes: int
    available_bytes: int
    utilization: float | None = None
    at: float = 0.0


class Probe(Protocol):
    """A device, as a thread looks at it. `look` may block."""

    name: str
    kind: str
    model: str

    def look(self) -> Reading: ...


class Cpu:
    """The host's processors and memory. `cgroup` is where the container's limits are."""

    def __init__(self, cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self.name, self.kind, self.model = "cpu", "cpu", _cpu_model()
        self._cgroup = cgroup

    def look(self) -> Reading:
        memory = psutil.virtual_memory()
        total, available = int(memory.total), int(memory.available)
        limit = _number(self._cgroup / "memory.max")
        if limit is not None and limit < total:
            used = (_number(self._cgroup / "memory.current") or 0) - _reclaimable(self._cgroup)
            total, available = limit, min(available, max(0, limit - max(0, used)))
        return Reading(total, available, psutil.cpu_percent() / 100, time.monotonic())


class Devices:
    """The devices that the configuration chooses, and the last reading of each."""

    def __init__(self, config: DevicesConfig, probes: Sequence[Probe] | None = None) -> None:
        self.host = _host()
        self._config = config
        found = {probe.name: probe for probe in (probes if probes is not None else (Cpu(),))}
        missing = [name for name in config.use if name not in found]
        if missing:
            raise ConfigError(
                [f"devices.use: this host has {', '.join(found)}, not {name}" for name in missing]
            )
        self._probes = {name: found[name] for name in config.use or found}
        self._readings: dict[str, Reading] = {}
        self._late: set[str] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the readings fresh until cancelled. `started` comes with the first of each; TooSlow
        when there is none, since nothing is then known of what a model may have."""
        async with trio.open_nursery() as nursery:
            for probe in self._probes.values():
                # Its own thread: a driver that hangs must not take one of those that all share.
                limiter = trio.CapacityLimiter(1)
                if fault := await self._look(probe, limiter):
                    raise TooSlow(
                        f"Device '{probe.name}' cannot be looked at: {fault}; see to its driver, or leave it "
                        "out of [devices] use"
                    )
                nursery.start_soon(self._watch, probe, limiter)
            task_status.started()

    def reading(self, name: str) -> Reading:
        """The last look at a device."""
        return self._readings[name]

    def late(self, name: str) -> bool:
        """Whether the device does not let itself be looked at; its reading is then old."""
        return name in self._late

    def rooms(self) -> list[Room]:
        """Each device with the bytes that models may have, and those of them that others hold."""
        return [self._room(name, reading) for name, reading in self._readings.items()]

    def list(self) -> "list[wire.Device]":
        """The devices, for /discovery."""
        return [
            wire.Device(
                index=index,
                name=probe.model,
                kind=probe.kind,
                memory_total=self._readings[probe.name].total_bytes,
            )
            for index, probe in enumerate(self._probes.values())
        ]

    def _room(self, name: str, reading: Reading) -> Room:
        """The headroom stays with the host; the limit is a cap on what is left."""
        total = max(0, reading.total_bytes - self._config.memory_headroom)
        if self._config.memory_limit is not None:
            total = min(total, self._config.memory_limit)
        free = max(0, min(total, reading.available_bytes - self._config.memory_headroom))
        return Room(name, total, other_bytes=total - free)

    async def _watch(self, probe: Probe, limiter: trio.CapacityLimiter) -> None:
        while True:
            await trio.sleep(LOOK_S)
            fault = await self._look(probe, limiter)
            if fault and probe.name not in self._late:
                log.warning("device.late device=%s fault=%s", probe.name, fault)
                self._late.add(probe.name)
            elif not fault:
                self._late.discard(probe.name)

    async def _look(self, probe: Probe, limiter: trio.CapacityLimiter) -> str:
        """A fresh reading is kept; else what was wrong. Cancelled, the thread is left to end."""
        with trio.move_on_after(LOOK_DEADLINE_S):
            try:
                self._readings[probe.name] = await trio.to_thread.run_sync(
                    probe.look, abandon_on_cancel=True, limiter=limiter
                )
            except Exception as error:  # noqa: BLE001 - files of the kernel vary, and so do a reader's bugs
                return f"{type(error).__name__}: {error}"
            return ""
        return f"no answer in {LOOK_DEADLINE_S:g} s"


def _host() -> Host:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return Host(socket.gethostname(), name, platform.release())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()} ({os.cpu_count()} threads)"


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
    except (OSError, ValueError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
