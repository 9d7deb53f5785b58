"""Who is on a device, and what becomes of them when what hosts them ends.

Bookkeeping in trio, without awaiting. Everybody who waits for a host that is over hears so
once. A child takes its own model along, and nothing else; the device's thread, once its
device is lost, takes all that it had.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import trio

from cortex.errors import (
    CortexError,
    DeviceLost,
    EngineFailed,
    LoadFailed,
    NotHereNow,
    Recovering,
    Stopping,
)
from cortex.harness import orders
from cortex.harness.hosts import Host
from cortex.harness.hosts.process import ProcessHost
from cortex.harness.hosts.thread import ThreadHost
from cortex.harness.replies import Reply
from cortex.harness.seats import Seats
from cortex.harness.severity import Severity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Crash:
    """A child died with its model: while it loaded, or with these requests. `shot` says that
    somebody else killed it, or that it was of another build: then nothing is held against the model."""

    model: str
    phase: Literal["load", "turn"]
    why: str
    requests: tuple[str, ...] = ()
    shot: bool = False


class Losses:
    """The residents and children of the device called `name`, and who waits for what.

    `on_death` is told of each loaded model whose child died, and why; `on_crash` of every child
    that died; `on_fault` of all that engines raised. A device that is `poisoned` serves nothing
    more in this process, and says why.
    """

    def __init__(self, name: str, thread: ThreadHost) -> None:
        self.name = name
        self.on_death: Callable[[str, str], None] = lambda model, why: None
        self.on_crash: Callable[[Crash], None] = lambda crash: None
        self.on_fault: Callable[[Severity], None] = lambda severity: None
        self.poisoned: str | None = None
        self.lost = trio.Event()  # set with `poisoned`
        self._thread = thread
        self._open = False
        self._children: dict[str, ProcessHost] = {}
        self._residents: dict[str, Seats] = {}
        self._replies: dict[int, Reply] = {}

    def host(self, model: str) -> Host:
        """Who hosts `model`, or would if it were here and not isolated."""
        return self._children.get(model, self._thread)

    def lose(self, why: str) -> None:
        """The device is poisoned. What its thread had is over; children are left to end."""
        if self.poisoned is not None:
            return
        self.poisoned = why
        log.error("device.poisoned device=%s cause=%s", self.name, why)
        for reply in [each for each in self._replies.values() if each.host is self._thread]:
            self._settle(self._replies.pop(reply.ticket), orders.Undone(reply.ticket, self._lost_now()))
        for model, resident in tuple(self._residents.items()):
            if model not in self._children:
                self._bury(resident, self._lost_now(), self._unserved_now())
        self.lost.set()

    def abandon(self, why: str) -> None:
        """Whoever is served here hears that it is over: the process is about to end."""
        for resident in self._residents.values():
            resident.fail_all(DeviceLost(f"{resident.model}: {why}"), _unserved(why))

    def _mourn(self, child: ProcessHost) -> None:
        """What lived in a child that is over is over, whether it was to leave or died."""
        model = child.plan.model
        del self._children[model]
        died = EngineFailed(f"{model}: {child.cause}")
        resident = self._residents.get(model)
        if not child.leaving:
            served = () if resident is None else resident.requests
            self.on_crash(
                Crash(model, "load" if resident is None else "turn", child.cause, served, child.shot)
            )
        for reply in [each for each in self._replies.values() if each.host is child]:
            ended = LoadFailed(died.message) if reply.loads is not None else died
            self._settle(self._replies.pop(reply.ticket), orders.Undone(reply.ticket, ended))
        if resident is None:
            return
        if child.leaving:
            self._bury(resident)
            return
        log.error("child.died device=%s model=%s cause=%s", self.name, model, child.cause)
        late = NotHereNow(f"{died.message}. This request had not begun")
        self._bury(resident, died, late)
        self.on_death(model, child.cause)

    def _bury(
        self, resident: Seats, live: CortexError | None = None, waiting: CortexError | None = None
    ) -> None:
        """The resident is no more; its jobs hear how they ended, or that it was unloaded."""
        del self._residents[resident.model]
        unloaded = f"{resident.model} was unloaded before"
        late = NotHereNow(f"{unloaded} this request had its turn") if self._open else self._stopped()
        resident.fail_all(live or EngineFailed(f"{unloaded} the answer was complete"), waiting or late)
        resident.gone.set()

    def _hurt(self, host: Host, fault: orders.Faulted) -> None:
        """An engine raised. In a child, all that it can cost is its own model."""
        self.on_fault(fault.severity)
        child = self._children.get(fault.model)
        if fault.severity == "sticky" and child is host and child is not None:
            child.kill(f"lost its device: {fault.why}")
        elif fault.severity == "sticky":
            self.lose(fault.why)
        elif fault.broken:
            resident = self._residents[fault.model]
            resident.fault = f"the engine failed: {fault.why}"
            resident.fail_all(EngineFailed(f"{fault.model}: {resident.fault}"), recovering(resident))

    def _settle(self, reply: Reply, word: orders.Done | orders.Undone) -> None:
        reply.hear(word)
        if reply.loads is not None and isinstance(word, orders.Done):
            self._residents[reply.loads] = Seats(reply.loads, reply.facts())

    def _busy(self, host: Host) -> bool:
        """Whether somebody waits for something that `host` does."""
        seated = (self.host(model) is host for model, resident in self._residents.items() if resident.live)
        return any(seated) or any(reply.host is host for reply in self._replies.values())

    def _stopped(self) -> Stopping:
        return Stopping(f"{self.name} is not running")

    def _unserved_now(self) -> Recovering:
        return _unserved(self._lost_now().message)

    def _lost_now(self) -> DeviceLost:
        return DeviceLost(f"{self.name} is poisoned until the neuron has started again: {self.poisoned}")


def _unserved(why: str) -> Recovering:
    """Nothing of this request has begun: another neuron may take it."""
    error = Recovering(why)
    error.not_started = True
    return error


def recovering(resident: Seats) -> Recovering:
    return Recovering(f"{resident.model}: {resident.fault}. Unload it and load it again.")
