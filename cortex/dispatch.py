"""Obeys the ledger: seats requests, starts loads, wakes those who wait.

The ledger decides, without waiting; here is the waiting, without deciding. Both roles use
it: only the `Loader` differs (an HTTP call in the gateway, a job for a device's thread in
the neuron). One task a load, in a nursery of `run`; a load goes on when the request that
caused it gives up, since others may wait for it and the next one surely will.
"""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import trio

from cortex.errors import CortexError, LoadFailed, Loading, Overloaded, Stopping
from cortex.ledger import Decision, Ledger, Load, Refuse, Serve, Ticket, Wait, Want
from cortex.metrics import Metrics
from cortex.places import Resident

log = logging.getLogger(__name__)


class Loader(Protocol):
    """Brings a model in, after sending its victims away."""

    async def load(self, load: Load) -> Resident:
        """The resident as measured. Raises CortexError with everything of it freed."""


class Witness(Protocol):
    """Is told what became of loads, for metrics."""

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None: ...
    def load_failed(self, model: str, error: CortexError) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request waits, in seconds: for a seat, and for a model to be loaded."""

    queue_s: float = 60.0
    load_s: float = 300.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """Somebody who waits: `said` is set together with the event."""

    done: trio.Event = field(default_factory=trio.Event)
    said: Serve | Refuse | None = None


class Dispatch:
    """One for each ledger. `run` must be running before anybody is seated."""

    def __init__(self, ledger: Ledger, loader: Loader, patience: Patience, witness: Witness) -> None:
        self.ledger = ledger
        self._loader, self._patience, self._witness = loader, patience, witness
        self._waiters: dict[Ticket, _Waiter] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._due: float = inf
        self._rescheduled = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the loads, and look again when the ledger's time has come. Cancelling it
        cancels the loads, which are then forgotten."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                with trio.move_on_at(self._due):
                    await self._rescheduled.wait()
                self._rescheduled = trio.Event()
                if trio.current_time() >= self._due:
                    self.wake()

    @asynccontextmanager
    async def seat(self, want: Want) -> AsyncIterator[Ticket]:
        """Wait for a resident that can serve `want`, and hold it.

        While held it cannot be evicted. Leaving the block, by any way, gives the seat back
        and wakes whoever waits. Raises the ledger's refusal, or Loading and Overloaded when
        patience ends.
        """
        ticket = await self._enter(want)
        try:
            yield ticket
        finally:
            self.ledger.depart(ticket)
            self.wake()

    async def bring(self, want: Want) -> Resident:
        """Wait until the model is resident; nobody is seated."""
        async with self.seat(want) as ticket:
            assert ticket.resident is not None  # noqa: S101 - a seated ticket has one
            return ticket.resident

    async def emptied(self, resident: Resident) -> None:
        """Nobody sits at `resident` any more."""
        while resident.seats:
            await self._rescheduled.wait()
            await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Look at the line again. Whoever changes the ledger from outside calls this."""
        settled, due = self.ledger.settle()
        for ticket, decision in settled:
            if isinstance(decision, Load):
                self._start(decision)
            else:
                self._tell(ticket, decision)
        self._due = inf if due is None else due
        self._rescheduled.set()

    def abandon(self, loads: Iterable[Load]) -> None:
        """Give up loads whose place is lost; those who wait are sent elsewhere or told."""
        for load in loads:
            if load.want.model in self._scopes:
                self._scopes[load.want.model].cancel()

    async def _enter(self, want: Want) -> Ticket:
        ticket, decision = self.ledger.arrive(want)
        if isinstance(decision, Serve):
            return ticket
        if isinstance(decision, Refuse):
            raise decision.error
        waiter = self._waiters[ticket] = _Waiter()
        try:
            if isinstance(decision, Load):
                self._start(decision)
            elif decision.until is not None:
                self._due = min(self._due, decision.until)
                self._rescheduled.set()
            with trio.move_on_after(self._limit(decision)):
                await waiter.done.wait()
        except BaseException:
            # A cancelled task may have been seated in the same breath: the ledger knows.
            self.ledger.depart(ticket)
            self.wake()
            raise
        finally:
            del self._waiters[ticket]
        match waiter.said:
            case Serve():
                return ticket
            case Refuse(error):
                raise error
        self.ledger.depart(ticket)
        self.wake()
        raise self._gave_up(want)

    def _limit(self, decision: Decision) -> float:
        warm = isinstance(decision, Wait) and decision.reason == "slots"
        return self._patience.queue_s if warm else self._patience.load_s

    def _gave_up(self, want: Want) -> CortexError:
        load = self.ledger.loads.get(want.model)
        if load is None:
            return Overloaded(f"No seat at '{want.model}' became free in time; try again in a moment")
        elapsed = trio.current_time() - load.resident.loaded_at
        return Loading(
            f"Model '{want.model}' is still loading, after {elapsed:.0f} s; the load goes on",
            facts={"loading_for_s": round(elapsed, 1)},
        )

    def _tell(self, ticket: Ticket, decision: Decision) -> None:
        waiter = self._waiters.get(ticket)
        if waiter is not None and isinstance(decision, Serve | Refuse):
            waiter.said = decision
            waiter.done.set()

    def _start(self, load: Load) -> None:
        if self._nursery is None:
            raise RuntimeError("Dispatch.run is not running")
        self._nursery.start_soon(self._load, load, name=f"load {load.want.model}")

    async def _load(self, load: Load) -> None:
        """Bring a model in, or let the ledger know that it did not come."""
        model, place = load.want.model, load.place.name
        log.info("load.started model=%s place=%s victims=%s", model, place, ",".join(load.victims) or "-")
        began, told = trio.current_time(), Refuse(Stopping(f"The load of '{model}' was given up"))
        try:
            with trio.CancelScope() as self._scopes[model]:
                try:
                    facts = await self._loader.load(load)
                except CortexError as error:
                    told = Refuse(error)
                except Exception as bug:
                    log.exception("load.crashed model=%s place=%s", model, place)
                    told = Refuse(LoadFailed(f"The load of '{model}' failed unexpectedly: {bug}"))
                else:
                    self.ledger.loaded(load, facts)
                    seconds = trio.current_time() - began
                    log.info("load.done model=%s place=%s seconds=%.2f", model, place, seconds)
                    self._witness.load_done(model, seconds, load.victims)
                    return
        finally:
            self._scopes.pop(model, None)
            if self.ledger.loads.get(model) is load:
                self._give_up(load, told)
            self.wake()

    def _give_up(self, load: Load, told: Refuse) -> None:
        error = told.error
        log.warning("load.failed model=%s place=%s error=%s", load.want.model, load.place.name, error.message)
        self._witness.load_failed(load.want.model, error)
        for ticket in self.ledger.failed(load, error):
            self._tell(ticket, told)


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
        """Count the cold start; the failure shows in the requests that waited."""
        self.metrics.cold_start(model)


class Silent:
    """A witness that tells nobody."""

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None:
        """Nothing."""

    def load_failed(self, model: str, error: CortexError) -> None:
        """Nothing."""
