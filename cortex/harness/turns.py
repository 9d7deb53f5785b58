"""The device thread's half of a worker: engines take turns, one inbox between them.

`DeviceLoop` owns the engines of one device and is touched by its thread only (`ring` and
the inbox aside). It sleeps on the inbox only when no engine is restless. While a model
loads, the engines that are already here go on: each report of progress gives them a
turn. What an engine raises faults that engine alone; anything else is a bug and ends
the loop.
"""

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from cortex.errors import CortexError, EngineFailed, LoadFailed
from cortex.harness.base import Engine, EngineFacts, Harness
from cortex.harness.orders import (
    Answer,
    Cancel,
    Detokenise,
    Done,
    Faulted,
    GiveUp,
    Gone,
    Heard,
    Load,
    Measure,
    Order,
    Progress,
    Question,
    Ring,
    Stop,
    Submit,
    Tokenise,
    Undone,
    Unload,
    Word,
)

log = logging.getLogger(__name__)

_RING: Final = Ring()
_T = TypeVar("_T")


class DeviceLoop:
    """The engines of one device, and whose turn it is. `harnesses` may grow while it runs."""

    def __init__(self, tell: Callable[[Word], None], harnesses: Mapping[str, Harness]) -> None:
        self.inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.beat = time.monotonic()
        self.idle = False
        self._tell, self._harnesses = tell, harnesses
        self._engines: dict[str, Engine] = {}
        self._tickets: dict[str, int] = {}  # which load brought the model
        self._faulted: set[str] = set()
        self._line: deque[str] = deque()
        self._later: deque[Order] = deque()  # what waits for the load in hand
        self._in_hand: int | None = None  # ticket of the load that is under way
        self._given_up = False  # that load
        self._rung = False
        self._stopping = False

    @property
    def loading(self) -> bool:
        """Whether a load is in hand."""
        return self._in_hand is not None

    def ring(self) -> None:
        """Wake the loop, from any thread. Rings that nobody has answered yet are one."""
        if not self._rung:
            self._rung = True
            self.inbox.put(_RING)

    def run(self) -> None:
        """Obey and take turns until told to stop; every engine is unloaded then."""
        try:
            while not self._stopping:
                self._obey_all(wait=not self._later and self._next() is None)
                self._take_turn()
        finally:
            for model in tuple(self._engines):
                self._drop(model)
            self.idle = True

    def _obey_all(self, *, wait: bool) -> None:
        while self._later and not self._stopping:
            self._obey(self._later.popleft())
        self.idle = wait
        try:
            order = self.inbox.get(block=wait)
            self.beat, self.idle = time.monotonic(), False
            while not self._stopping:
                self._obey(order)
                order = self.inbox.get_nowait()
        except queue.Empty:
            self.beat = time.monotonic()

    def _obey(self, order: Order) -> None:
        match order:
            case Load():
                self._load(order)
            case Unload(ticket, model):
                self._drop(model)
                self._tell(Done(ticket))
            case _:
                self._obey_at_once(order)

    def _obey_at_once(self, order: Order) -> None:
        """Carry out what need not wait for a load in hand; put off what must."""
        match order:
            case Ring():
                self._rung = False
            case Submit(model, job):
                self._drive(model, lambda engine: engine.submit(job), job.request_id)
            case Cancel(model, jobs):
                self._drive(model, lambda engine: _cancel(engine, jobs))
            case Tokenise() | Detokenise() | Measure():
                self._answer(order)
            case GiveUp():
                self._give_up(order)
            case Stop():
                self._stopping = True
            case _:
                self._later.append(order)

    def _next(self) -> str | None:
        """Who is restless, the one that waited longest first."""
        for model in tuple(self._line):
            if self._drive(model, lambda engine: engine.restless()):
                return model
        return None

    def _take_turn(self) -> None:
        model = self._next()
        if model is None:
            return
        self._line.remove(model)
        self._line.append(model)
        said = self._drive(model, lambda engine: engine.turn())
        if said:
            self._tell(Heard(model, said))
        self.beat = time.monotonic()

    def _drive(self, model: str, deed: Callable[[Engine], _T], request_id: str = "-") -> _T | None:
        """What `deed` answers; None when the engine is gone or faulted, or raises now.
        `request_id` is of the request that it is done for, where it is one."""
        engine = self._engines.get(model)
        if engine is None or model in self._faulted:
            return None
        try:
            return deed(engine)
        except Exception as error:
            # Whatever an engine raises, its neighbours go on.
            log.exception("engine.faulted model=%s", model, extra={"request_id": request_id})
            self._faulted.add(model)
            self._tell(Faulted(model, f"{type(error).__name__}: {error}"))
            return None

    def _load(self, load: Load) -> None:
        self._in_hand, self._given_up = load.ticket, False
        try:
            facts = self._bring(load)
        except CortexError as error:
            self._tell(Undone(load.ticket, error))
        else:
            self._tell(Done(load.ticket, facts))
        self._in_hand = None

    def _bring(self, load: Load) -> EngineFacts:
        """The model is here, unless the load failed or is not wanted any more."""
        model = load.order.model
        try:
            engine = self._harnesses[load.harness].load(
                load.order, lambda done, total: self._progress(load, done, total), self.ring
            )
        except CortexError:
            raise
        except Exception as error:
            log.exception("load.failed model=%s", model)
            what = f"{load.harness} raised {type(error).__name__}: {error}"
            raise LoadFailed(f"{model}: {what}") from error
        self._engines[model], self._tickets[model] = engine, load.ticket
        self._line.append(model)
        if self._look():
            self._drop(model)
            raise _unwanted(load)
        return engine.facts

    def _progress(self, load: Load, done_bytes: int, total_bytes: int) -> bool:
        """Whether to give up; and a turn for the engines that are already here."""
        self._tell(Progress(load.order.model, done_bytes, total_bytes))
        unwanted = self._look()
        self._take_turn()
        return unwanted

    def _look(self) -> bool:
        """Look into the inbox during a load; whether that load is given up."""
        self.beat = time.monotonic()
        try:
            while True:
                self._obey_at_once(self.inbox.get_nowait())
        except queue.Empty:
            return self._stopping or self._given_up

    def _give_up(self, order: GiveUp) -> None:
        """A load that is done is taken back, one that waits is dropped, one in hand is told."""
        for model, ticket in tuple(self._tickets.items()):
            if ticket == order.load:
                self._drop(model)
        for waiting in tuple(self._later):
            if isinstance(waiting, Load) and waiting.ticket == order.load:
                self._later.remove(waiting)
                self._tell(Undone(waiting.ticket, _unwanted(waiting)))
        if self._in_hand == order.load:
            self._given_up = True
        self._tell(Done(order.ticket))

    def _answer(self, order: Question) -> None:
        answer = self._drive(order.model, lambda engine: _ask(engine, order))
        match answer:
            case None:
                what = f"{order.model}: the engine has failed or is gone; unload the model, and load it again"
                self._tell(Undone(order.ticket, EngineFailed(what)))
            case CortexError():
                self._tell(Undone(order.ticket, answer))
            case _:
                self._tell(Done(order.ticket, answer))

    def _drop(self, model: str) -> None:
        """The engine is unloaded, whatever it says to that; its jobs are heard no more."""
        engine = self._engines.pop(model, None)
        if engine is None:
            return
        self._line.remove(model)
        self._faulted.discard(model)
        del self._tickets[model]
        try:
            engine.unload()
        except Exception:
            log.exception("unload.failed model=%s", model)
        self._tell(Gone(model))


def _ask(engine: Engine, order: Question) -> Answer | CortexError:
    """A question that cannot be answered is no fault of the engine."""
    try:
        match order:
            case Tokenise(_, _, text):
                return engine.tokenise(text)
            case Detokenise(_, _, ids):
                return engine.detokenise(ids)
            case Measure():
                return engine.memory()
    except CortexError as error:
        return error


def _cancel(engine: Engine, jobs: tuple[int, ...]) -> None:
    for job in jobs:
        engine.cancel(job)


def _unwanted(load: Load) -> LoadFailed:
    return LoadFailed(f"{load.order.model}: the load was given up")
