"""The device thread's half of a worker: engines take turns, one inbox between them.

`DeviceLoop` owns the engines of one device and is touched by its thread only (`ring`, `beat`
and the inbox aside). It sleeps on the inbox only when no engine is restless. While a model
loads, the engines that are already here have as much time as the load. What an engine
raises is judged by `severity`: it costs the jobs, the engine or the device, and never the
loop; anything else is a bug and ends it.
"""

import logging
import queue
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from cortex.errors import CortexError, DeviceLost, EngineFailed, LoadFailed
from cortex.harness.base import Engine, EngineFacts, Harness, Job, Releasing
from cortex.harness.driven import Driven
from cortex.harness.faults import Faults
from cortex.harness.journal import Blamed, Journal
from cortex.harness.orders import (
    Answer,
    Cancel,
    Detokenise,
    Done,
    GiveUp,
    Gone,
    Heard,
    Load,
    Measure,
    Order,
    Progress,
    Question,
    Release,
    Ring,
    Stop,
    Submit,
    Tokenise,
    Undone,
    Unload,
    Word,
)
from cortex.harness.pulse import IDLE, Doing, Phase, Pulse

log = logging.getLogger(__name__)

_RING: Final = Ring()
# Orders between two turns: who asks a lot keeps nobody from his turn.
ORDERS_A_PASS: Final = 64
# How often it is looked whether jobs of a silent engine came forward.
SILENT_S: Final = 1.0
# A load waits no longer than this for those who are here, however rarely it tells how far it is.
SHARE_S: Final = 1.0
_T = TypeVar("_T")


class DeviceLoop:
    """The engines of one device, and whose turn it is. `harnesses` may grow while it runs."""

    def __init__(
        self,
        tell: Callable[[Word], None],
        harnesses: Mapping[str, Harness],
        journal: Journal | None = None,
    ) -> None:
        self.inbox: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self.pulse = Pulse(journal)
        self._roused = time.monotonic()
        self._tell, self._harnesses = tell, harnesses
        self._engines: dict[str, Driven] = {}
        self._line: deque[str] = deque()
        self._later: deque[Order] = deque()  # what waits for the load in hand
        self._in_hand: Load | None = None
        self._given_up = False  # that load
        self._resumed = 0.0  # it had the thread to itself since then
        self._faults = Faults(tell, self.pulse)
        self._wrecks: list[Engine] = []  # of a lost device: to free them would touch it
        self._rung = False
        self._stopping = False

    @property
    def beat(self) -> float:
        """The last sign of life; whoever gives an idle loop something to do sets it, too."""
        return max(self._roused, self.pulse.doing.beat)

    @beat.setter
    def beat(self, at: float) -> None:
        self._roused = at

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do, as far as the thread knows."""
        return self.pulse.doing.phase == "idle"

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
                self._obey_all()
                self._take_turn()
        finally:
            for model in tuple(self._engines):
                self._drop(model)
            if self._faults.lost is None:
                self.pulse.enter(IDLE, ())

    # -- orders -----------------------------------------------------------------------------

    def _obey_all(self) -> None:
        if self._later:
            self._obey(self._later.popleft())
        if not self._later and not self._stopping and self._next() is None:
            order = self._sleep()
            if order is not None:
                self._obey(order)
        for _ in range(ORDERS_A_PASS):
            if self._stopping:
                return
            try:
                self._obey(self.inbox.get_nowait(), behind=bool(self._later))
            except queue.Empty:
                return

    def _sleep(self) -> Order | None:
        """The next order; None when it is time to see what silent jobs do."""
        if self._faults.lost is not None:
            return self.inbox.get()
        live = [driven for driven in self._engines.values() if driven.live]
        if not live:
            self.pulse.enter(IDLE, ())
            return self.inbox.get()
        self.pulse.wait(min((driven.waits() for driven in live), key=lambda doing: doing.beat))
        try:
            due_s = min(driven.due() for driven in live) - time.monotonic()
            return self.inbox.get(timeout=min(SILENT_S, max(0.0, due_s)))
        except queue.Empty:
            return None

    def _obey(self, order: Order, *, behind: bool = False) -> None:
        """Loads and unloads keep their order, `behind` those that wait."""
        match order:
            case Load() if not behind:
                self._load(order)
            case Unload(ticket, model) if not behind:
                self._drop(model)
                self._tell(Done(ticket))
            case Release(ticket) if not behind:
                self._release()
                self._tell(Done(ticket))
            case _:
                self._obey_at_once(order)

    def _release(self) -> None:
        for name, harness in self._harnesses.items():
            if isinstance(harness, Releasing):
                try:
                    harness.release()
                except Exception:
                    log.exception("release.failed harness=%s", name)

    def _obey_at_once(self, order: Order) -> None:
        """Carry out what need not wait for a load in hand; put off what must."""
        match order:
            case Ring():
                self._rung = False
            case Submit(model, job):
                self._submit(model, job)
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

    def _submit(self, model: str, job: Job) -> None:
        driven = self._drivable(model)
        if driven is None:
            return
        driven.take(job)
        self._enter("turn", driven)
        try:
            driven.engine.submit(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, its neighbours go on
            self._faults.refused(driven, job, error)
        self.pulse.beat()

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

    # -- turns ------------------------------------------------------------------------------

    def _next(self) -> str | None:
        """Who is restless, the one that waited longest first."""
        for model in tuple(self._line):
            driven = self._drivable(model)
            if driven is not None and self._guard(driven, driven.engine.restless):
                return model
        return None

    def _take_turn(self) -> bool:
        """Whether somebody had a turn to take."""
        model = self._next()
        if model is None:
            return False
        self._line.remove(model)
        self._line.append(model)
        driven = self._engines[model]
        self._enter("turn", driven)
        said = self._guard(driven, driven.engine.turn)
        if said is not None:
            driven.hear(said)
        if said:
            self._tell(Heard(model, said))
        self.pulse.beat()
        return True

    def _drivable(self, model: str) -> Driven | None:
        driven = self._engines.get(model)
        return None if driven is None or driven.broken or self._faults.lost is not None else driven

    def _drive(self, model: str, deed: Callable[[Engine], _T]) -> _T | None:
        """What `deed` answers; None when the engine is gone or faulted, or raises now."""
        driven = self._drivable(model)
        if driven is None:
            return None
        self._enter("turn", driven)
        answer = self._guard(driven, lambda: deed(driven.engine))
        self.pulse.beat()
        return answer

    def _guard(self, driven: Driven, deed: Callable[[], _T]) -> _T | None:
        try:
            return deed()
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, its neighbours go on
            self._faults.raised(driven, error)
            return None

    def _enter(self, phase: Phase, driven: Driven) -> None:
        blamed = [each.blamed for each in self._engines.values() if each is driven or each.computes]
        self.pulse.enter(driven.at(phase), blamed)

    # -- loads ------------------------------------------------------------------------------

    def _load(self, load: Load) -> None:
        self._in_hand, self._given_up = load, False
        try:
            facts = self._bring(load)
        except CortexError as error:
            self._tell(Undone(load.ticket, error))
        else:
            self._tell(Done(load.ticket, facts))
        self._in_hand = None

    def _bring(self, load: Load) -> EngineFacts:
        """The model is here, unless the load failed or is not wanted any more."""
        if self._faults.lost is not None:
            raise DeviceLost(f"{load.order.model}: the device is lost: {self._faults.lost}")
        self._enter_load(load)
        try:
            engine = self._harnesses[load.harness].load(
                load.order, lambda done, total: self._progress(load, done, total), self.ring
            )
        except Exception as error:
            told = self._faults.undone(load, error)
            if told is error:
                raise
            # Its frames may hold all that was read so far.
            traceback.clear_frames(error.__traceback__)
            raise told from None
        model = load.order.model
        self._engines[model] = Driven(model, engine, load.ticket, load.order.digest)
        self._line.append(model)
        if self._look():
            self._drop(model)
            raise self._faults.undone(load, _unwanted(load))
        self.pulse.beat()
        return engine.facts

    def _progress(self, load: Load, done_bytes: int, total_bytes: int) -> bool:
        """Whether to give up. The engines that are here already have as long as the load had."""
        took_s = min(time.monotonic() - self._resumed, SHARE_S)
        self._tell(Progress(load.order.model, done_bytes, total_bytes))
        unwanted = self._look()
        until = time.monotonic() + took_s
        while self._take_turn() and not unwanted and time.monotonic() < until:
            unwanted = self._look()
        self._enter_load(load)
        return unwanted or self._faults.lost is not None

    def _enter_load(self, load: Load) -> None:
        if self._faults.lost is not None:
            return
        order = load.order
        others = [each.blamed for each in self._engines.values() if each.computes]
        self.pulse.enter(Doing("load", order.model), (Blamed(order.model, order.digest), *others))
        self._resumed = time.monotonic()

    def _look(self) -> bool:
        """Look into the inbox during a load; whether that load is given up."""
        for _ in range(ORDERS_A_PASS):
            try:
                self._obey_at_once(self.inbox.get_nowait())
            except queue.Empty:
                break
        return self._stopping or self._given_up or self._faults.lost is not None

    def _give_up(self, order: GiveUp) -> None:
        """A load that is done is taken back, one that waits is dropped, one in hand is told."""
        for model, driven in tuple(self._engines.items()):
            if driven.ticket == order.load:
                self._drop(model)
        for waiting in tuple(self._later):
            if isinstance(waiting, Load) and waiting.ticket == order.load:
                self._later.remove(waiting)
                self._tell(Undone(waiting.ticket, _unwanted(waiting)))
        if self._in_hand is not None and self._in_hand.ticket == order.load:
            self._given_up = True
        self._tell(Done(order.ticket))

    def _drop(self, model: str) -> None:
        """The engine is unloaded, whatever it says to that; its jobs are heard no more."""
        driven = self._engines.get(model)
        if driven is None:
            return
        if self._faults.lost is not None:
            self._wrecks.append(driven.engine)
        else:
            self._enter("unload", driven)
            try:
                driven.engine.unload()
            except Exception:
                log.exception("unload.failed model=%s", model)
        del self._engines[model]
        self._line.remove(model)
        self.pulse.beat()
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
    except DeviceLost:
        raise
    except CortexError as error:
        return error


def _cancel(engine: Engine, jobs: tuple[int, ...]) -> None:
    for job in jobs:
        engine.cancel(job)


def _unwanted(load: Load) -> LoadFailed:
    return LoadFailed(f"{load.order.model}: the load was given up")
