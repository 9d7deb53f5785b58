"""Obeys the ledger: seats requests, starts loads, wakes those who wait.

The ledger decides, without waiting; here is the waiting, without deciding. Both roles use
it: only the `Loader` differs (an HTTP call in the gateway, a job for a device's thread in
the neuron). One task a load, in a nursery of `run`; a load goes on when the request that
caused it gives up, since others may wait for it and the next one surely will.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

import trio

from cortex.errors import CortexError, LoadFailed, Loading, Stopping
from cortex.ledger import Decision, Ledger, Load, Refuse, Serve, Ticket, Wait, Want
from cortex.ledger.rests import again
from cortex.metrics import Metrics
from cortex.places import Resident

log = logging.getLogger(__name__)


class Loader(Protocol):
    """Brings a model in, after sending its victims away."""

    async def load(self, load: Load) -> Resident:
        """The resident as measured. Raises CortexError with everything of it freed, or Revised."""


class Revised(Exception):
    """Raised by a loader that has nothing in yet, and knows now what it will need: the model is
    placed again, with its bytes."""

    def __init__(self, need_bytes: int) -> None:
        super().__init__(need_bytes)
        self.need_bytes = need_bytes


class Witness(Protocol):
    """Is told what became of loads, for metrics."""

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None: ...
    def load_failed(self, model: str, error: CortexError) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits, in seconds: for a seat, and for a model to be loaded."""

    queue_s: float
    load_s: float


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits: `said` is set together with the event."""

    done: trio.Event = field(default_factory=trio.Event)
    said: Serve | Refuse | None = None

    def tell(self, said: Serve | Refuse) -> None:
        self.said = said
        self.done.set()


def _unheard(ticket: Ticket) -> None:
    """Nobody wants to know who waits."""


def _unjoined(load: Load, want: Want) -> None:
    """Nobody wants to know for whom a load under way is, too."""


class Dispatch:
    """One for each ledger. Nobody is seated unless `run` is running. `on_join` is told of whoever waits
    for a load that others caused."""

    def __init__(self, ledger: Ledger, loader: Loader, patience: Patience, witness: Witness) -> None:
        self.ledger, self.patience = ledger, patience
        self._loader, self._witness = loader, witness
        self._waiters: dict[Ticket, _Waiter] = {}
        self._scopes: dict[Load, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        # When `run` looks again. Whoever sets it earlier wakes `run`, which sleeps in the first lot.
        self._due: float = inf
        self._asleep = trio.lowlevel.ParkingLot()
        self._emptying = trio.lowlevel.ParkingLot()
        self._watching = trio.lowlevel.ParkingLot()
        # How many tasks are parked in these two: a seat is given back with each request.
        self._parked = 0
        self._called_off: set[Load] = set()
        self._ended = trio.lowlevel.ParkingLot()
        self.on_join: Callable[[Load, Want], None] = _unjoined
        ledger.on_change = self._look_soon

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the loads, and look again when the ledger has changed or its time has come.
        Cancelling it cancels the loads, which are then forgotten, and ends every wait."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                while True:
                    with trio.move_on_at(self._due):
                        await self._asleep.park()
                    if trio.current_time() >= self._due:
                        self.wake()
            finally:
                self._nursery = None
                for waiter in self._waiters.values():
                    waiter.tell(Refuse(_stopping()))

    @asynccontextmanager
    async def seat(self, want: Want, waits: Callable[[Ticket], None] = _unheard) -> AsyncIterator[Ticket]:
        """Wait for a resident that can serve `want`, and hold it. `waits` gets the ticket as soon as
        it stands in line.

        While held it cannot be evicted. Leaving the block, by any way, gives the seat back
        and wakes whoever waits. Raises the ledger's refusal, or what it says of a wait that
        is over when patience ends. Cancelled while it waits, nothing of it is left.
        """
        ticket = await self._enter(want, waits=waits)
        try:
            yield ticket
        finally:
            self.leave(ticket)

    def seat_at_once(self, want: Want) -> Ticket | None:
        """A seat that is free, held until `leave`; None where one would have to be waited for, or `want`
        is refused."""
        return None if self._nursery is None else self.ledger.sit_at_once(want)

    def seat_alone(self, want: Want, affinity: str | None = None) -> Ticket | None:
        """The same by `affinity` in place of that of `want`, where it is a matter of one look. Without one:
        where that decides nothing. None says nothing."""
        return None if self._nursery is None else self.ledger.sit_alone(want, affinity)

    async def bring(
        self, want: Want, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Resident:
        """Wait until the model is resident; nobody is seated. Patience is for requests: an order
        waits for as long as its load goes on. `started` comes when it is not refused at once.
        Cancelled, the load goes on."""
        ticket = await self._enter(replace(want, weight=0), task_status)
        try:
            assert ticket.resident is not None  # noqa: S101 - a seated ticket has one
            return ticket.resident
        finally:
            self.leave(ticket)

    async def changed(self) -> None:
        """Somebody came or left, or a load ended. Rather too often than not."""
        await self._park(self._watching)

    def be_patient(self, patience: Patience) -> None:
        """Other limits, for waits that begin from here on."""
        self.patience = patience

    async def emptied(self, resident: Resident) -> None:
        """Nobody sits at `resident` any more."""
        while resident.seats:
            await self._park(self._emptying)

    async def _park(self, lot: trio.lowlevel.ParkingLot) -> None:
        self._parked += 1
        try:
            await lot.park()
        finally:
            self._parked -= 1

    def wake(self) -> None:
        """Look at the lines again. Changes of the ledger are noticed in any case, a moment later."""
        if self._nursery is None:
            return
        for ticket, decision in self.ledger.settle():
            if isinstance(decision, Load):
                self._start(self._nursery, decision)
            else:
                self._waiters[ticket].tell(decision)
        self._watching.unpark_all()
        self._look_at(self.ledger.due)

    def abandon(self, loads: Iterable[Load]) -> None:
        """Give up loads whose place is lost; those who wait are sent elsewhere or told."""
        for load in loads:
            if load in self._scopes:
                self._scopes[load].cancel()

    def call_off(self, load: Load) -> None:
        """Give up a load that nobody wants any more. Whoever wants it before its end has another
        one begun."""
        if load in self._scopes:
            self._called_off.add(load)
            self._scopes[load].cancel()

    # -- waiting ----------------------------------------------------------------------------

    async def _enter(
        self,
        want: Want,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
        waits: Callable[[Ticket], None] = _unheard,
    ) -> Ticket:
        if self._nursery is None:
            raise _stopping()
        ticket, decision = self.ledger.arrive(want)
        match decision:
            case Serve():
                task_status.started()
                return ticket
            case Refuse(error):
                raise error
        waits(ticket)
        waiter = self._waiters[ticket] = _Waiter()
        ticket.waited = True
        seated = False
        try:
            if isinstance(decision, Load):
                self._start(self._nursery, decision)
            elif (load := self.ledger.loads.get(want.model)) is not None:
                self.on_join(load, want)
            task_status.started()
            self.wake()
            said = await self._hear(ticket, waiter, self._limit(decision, want))
            if isinstance(said, Refuse):
                raise again(said.error) from said.error
            seated = True
            return ticket
        finally:
            del self._waiters[ticket]
            # A task that is cancelled may have been seated in the same breath: the ledger knows.
            if not seated:
                self.leave(ticket)

    async def _hear(self, ticket: Ticket, waiter: _Waiter, limit_s: float) -> Serve | Refuse:
        while True:
            with trio.move_on_after(limit_s):
                await waiter.done.wait()
            if waiter.said is not None:
                return waiter.said
            error = self.ledger.overdue(ticket)
            if ticket.want.weight or not isinstance(error, Loading):
                return Refuse(error)

    def leave(self, ticket: Ticket) -> None:
        """The seat is given back, or the line left; whoever waits is woken. Harmless when done twice."""
        self.ledger.depart(ticket)
        if self._parked or self.ledger.waiting:
            self._emptying.unpark_all()
            self.wake()

    def _limit(self, decision: Decision, want: Want) -> float:
        warm = isinstance(decision, Wait) and decision.reason == "slots"
        return min(self.patience.queue_s if warm else self.patience.load_s, want.patience_s)

    def _look_soon(self) -> None:
        self._look_at(-inf)

    def _look_at(self, due: float) -> None:
        if due != self._due:
            self._due = due
            self._asleep.unpark_all()

    # -- loads ------------------------------------------------------------------------------

    def _start(self, nursery: trio.Nursery, load: Load) -> None:
        self._scopes[load] = trio.CancelScope()
        for other in load.calls_off:
            model, place = other.want.model, other.place.name
            log.info("load.called_off model=%s place=%s for=%s", model, place, load.want.model)
            self.call_off(other)
        nursery.start_soon(self._load, load, name=f"load {load.want.model}")

    async def _load(self, load: Load) -> None:
        """Bring a model in, or let the ledger know that it did not come."""
        model, place = load.want.model, load.place.name
        log.info("load.started model=%s place=%s victims=%s", model, place, ",".join(load.victims) or "-")
        # Stands when it is cancelled, alone or with `run`.
        error: CortexError | None = Stopping(f"The load of '{model}' was given up; try again in a moment")
        try:
            with self._scopes[load]:
                await self._over(load.calls_off)
                error = await self._bring_in(load)
        finally:
            del self._scopes[load]
            if error is not None:
                # Somebody wanted what stops it; that is no fault.
                level = logging.INFO if isinstance(error, Stopping) else logging.WARNING
                log.log(level, "load.failed model=%s place=%s error=%s", model, place, error.message)
                self._witness.load_failed(model, error)
                self._undo(load, error)
            self._called_off.discard(load)
            self._ended.unpark_all()
            self.wake()

    async def _over(self, loads: Iterable[Load]) -> None:
        """None of `loads` is under way any more."""
        while any(load in self._scopes for load in loads):
            await self._ended.park()
        await trio.lowlevel.checkpoint_if_cancelled()

    def _undo(self, load: Load, error: CortexError) -> None:
        if load in self._called_off and isinstance(error, Stopping):
            self.ledger.withdrawn(load)
            return
        for ticket in self.ledger.failed(load, error):
            self._waiters[ticket].tell(Refuse(error))

    async def _bring_in(self, load: Load) -> CortexError | None:
        """None when the model is in and the ledger knows. Cancelled, nobody was told anything."""
        model, place, began = load.want.model, load.place.name, trio.current_time()
        try:
            facts = await self._loader.load(load)
        except Revised as revised:
            log.info("load.revised model=%s bytes=%d", model, revised.need_bytes)
            self.ledger.revised(load, revised.need_bytes)
            return None
        except CortexError as error:
            return error
        except Exception as bug:
            log.exception("load.crashed model=%s place=%s", model, place)
            return LoadFailed(f"The load of '{model}' failed unexpectedly: {bug}")
        self.ledger.loaded(load, facts)
        seconds = trio.current_time() - began
        log.info("load.done model=%s place=%s seconds=%.2f", model, place, seconds)
        self._witness.load_done(model, seconds, load.sends_away)
        return None


def _stopping() -> Stopping:
    return Stopping("No request is seated any more; try again in a moment")


@dataclass(frozen=True, slots=True)
class LoadBook:
    """A witness that enters loads into the metrics. `evicts` says that the victims are ours
    to count: a gateway only proposes them."""

    metrics: Metrics
    evicts: bool = True

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None:
        """Count the load and whom it sent away."""
        self.metrics.cold_start(model)
        self.metrics.loaded(model, seconds)
        for _ in victims if self.evicts else ():
            self.metrics.evicted("room")

    def load_failed(self, model: str, error: CortexError) -> None:
        """Count the cold start, and the failure unless somebody wanted what stopped it."""
        self.metrics.cold_start(model)
        if not isinstance(error, Stopping):
            self.metrics.load_failed(model, error)
