"""The devices that the neuron uses, and the last look at each.

A look is taken in a thread of the device's own, now and then; everybody else reads the last
one, so that health answers in microseconds while a driver hangs. A device may be `late` (it
does not let itself be looked at, and its figures are old) or `absent` (it fell off its bus).
Which models live there is not known here.
"""

import logging
import os
import platform
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from cortex.config.neuron import Devices as DevicesConfig
from cortex.errors import ConfigError, TooSlow
from cortex.neuron.devices.cpu import Cpu
from cortex.neuron.devices.nvml import Driver, find
from cortex.neuron.devices.probe import Absent, Probe, Reading
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0  # as often as gateways ask
LOOK_DEADLINE_S: Final = 5.0
# A driver that starts its card's first context takes some seconds.
FIND_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Host:
    """What does not change while the process lives."""

    hostname: str
    os: str
    kernel: str


def _nobody(name: str) -> None:
    """Is told, and does nothing."""


class Devices:
    """The devices that the configuration chooses, and the last reading of each. `on_look` is
    called with a device's name after every look that told something."""

    def __init__(
        self,
        config: DevicesConfig,
        probes: Sequence[Probe] | None = None,
        driver: Driver | None = None,
        known: Mapping[str, str] | None = None,
    ) -> None:
        """`known` are models by uuid of cards that were here before: one that is missing since
        is announced, and leaves the rest to be used."""
        self.host, self.driver = _host(), driver or Driver()
        self.on_look: Callable[[str], None] = _nobody
        here: Sequence[Probe] = (Cpu(), *self.driver.gpus) if probes is None else probes
        found = {probe.name: probe for probe in here}
        self.missing = {uuid: model for uuid, model in (known or {}).items() if uuid not in self.driver.cards}
        self.unseen = tuple(name for name in config.use if name not in found)
        chosen = {name: found[name] for name in config.use or found if name in found}
        self._check(config, found, chosen)
        self._probes: dict[str, Probe] = chosen
        self._readings: dict[str, Reading] = {}
        self._late: set[str] = set()
        self._absent: dict[str, str] = {}

    @classmethod
    async def found(cls, config: DevicesConfig, known: Mapping[str, str] | None = None) -> "Devices":
        """Those of this host. A driver that does not answer has no devices. Cancelled, the
        thread that asks it is left to end. Raises ConfigError."""
        driver = Driver(why_not=f"the NVIDIA driver did not answer within {FIND_S:g} s; see nvidia-smi")
        wanted = not config.use or any(name.startswith("cuda") for name in config.use)
        if not wanted:
            return cls(config, driver=Driver(why_not="devices.use names no CUDA device"))
        with trio.move_on_after(FIND_S):
            driver = await trio.to_thread.run_sync(find, os.environ, abandon_on_cancel=True)
        return cls(config, driver=driver, known=known)

    @property
    def remembered(self) -> Mapping[str, str]:
        """Models by uuid of every card that was ever seen here."""
        return {**self.missing, **self.driver.cards}

    @property
    def names(self) -> tuple[str, ...]:
        """Every device that is used, in the order of the configuration."""
        return tuple(self._probes)

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

    @property
    def readings(self) -> Mapping[str, Reading]:
        """The last look at each device."""
        return self._readings

    def reading(self, name: str) -> Reading:
        """The last look at a device."""
        return self._readings[name]

    async def ours(self, names: Iterable[str]) -> int:
        """Bytes of these devices that this process and its children hold, by a look of this moment;
        of a device that cannot tell whose they are, all that is used. What is no device of ours
        holds nothing."""
        held = 0
        for name in filter(self._probes.__contains__, names):
            await self._look(self._probes[name], trio.CapacityLimiter(1))
            reading = self._readings[name]
            held += reading.used_bytes if reading.ours_bytes is None else reading.ours_bytes
        return held

    def late(self, name: str) -> bool:
        """Whether the device does not let itself be looked at; its reading is then old."""
        return name in self._late

    def absent(self, name: str) -> str | None:
        """Why the device is not there any more; None while it is."""
        return self._absent.get(name)

    def report(self) -> list[wire.Device]:
        """The devices, for /discovery."""
        return [
            wire.Device(
                index=index,
                name=probe.model,
                kind=probe.kind,
                device=probe.name,
                memory_total=self._readings[probe.name].total_bytes,
                compute_capability=probe.compute,
                uuid=probe.uuid,
            )
            for index, probe in enumerate(self._probes.values())
        ]

    def warnings(self) -> list[str]:
        """What the operator should know of the devices, for /health."""
        late = (
            f"device {name} cannot be looked at: its figures are old; the log says why" for name in self._late
        )
        gone = (
            f"device {name} is absent: {why}; see the kernel's log, and restart"
            for name, why in self._absent.items()
        )
        missing = (
            f"{model} ({uuid}) was in this host before and is absent; see the kernel's log, or delete "
            "devices.json in state_dir if it was taken out"
            for uuid, model in self.missing.items()
        )
        return [*sorted(late), *gone, *missing, *self.driver.notes]

    def _check(self, config: DevicesConfig, found: Mapping[str, Probe], chosen: Mapping[str, Probe]) -> None:
        """Every device that the file names is here; or cards that were here before are missing,
        which may be those, and something is left to work with."""
        grouped = tuple(name for group in config.groups for name in group if name not in found)
        if chosen and self.missing:
            return
        here, why = ", ".join(found), ""
        if self.driver.why_not is not None:
            why = f" ({self.driver.why_not})"
        faults = [f"devices.use: this host has {here}, not {name}{why}" for name in self.unseen]
        faults += [
            f"devices.groups: this host has {here}, not {name}{why}"
            for name in grouped
            if name not in config.use
        ]
        if faults:
            raise ConfigError(faults)

    async def _watch(self, probe: Probe, limiter: trio.CapacityLimiter) -> None:
        # One that came back would be of no use: what the engines had there is gone with it.
        while probe.name not in self._absent:
            await trio.sleep(LOOK_S)
            fault = await self._look(probe, limiter)
            if fault and probe.name not in self._late and probe.name not in self._absent:
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
            except Absent as gone:
                self._gone(probe.name, str(gone))
                return str(gone)
            except Exception as error:  # noqa: BLE001 - files of the kernel vary, and so do a reader's bugs
                return f"{type(error).__name__}: {error}"
            self.on_look(probe.name)
            return ""
        return f"no answer in {LOOK_DEADLINE_S:g} s"

    def _gone(self, name: str, why: str) -> None:
        if name not in self._absent:
            log.error("device.absent device=%s why=%s", name, why)
        self._absent[name] = why
        self._late.discard(name)
        self.on_look(name)


def _host() -> Host:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return Host(socket.gethostname(), name, platform.release())
