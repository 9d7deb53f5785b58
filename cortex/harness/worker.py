"""A device worker: one device, one OS thread, and its jobs as trio sees them.

This half runs in trio. It knows which models the thread has, hands an engine no more
jobs than it has slots (the surplus waits here, where giving up costs nothing), and
spreads what the thread says to the mailboxes. The thread's half is `turns`. Words come
back by one coalesced wake-up a turn, so the device never waits for a reader; a mailbox
is bounded by its jobs' own token limits. A seat is given back only when the engine has
let go of its slot.
"""

import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cortex.errors import EngineFailed, NotHereNow, NotResident, Recovering, Stopping
from cortex.harness import orders
from cortex.harness.base import EngineFacts, Harness, Job, LoadOrder, Said
from cortex.harness.seats import Mailbox, Seated, Seats
from cortex.harness.turns import DeviceLoop

__all__ = ["DeviceWorker", "Mailbox"]

log = logging.getLogger(__name__)

LET_GO_S: Final = 10.0  # a step of compute, or a report of load progress, is much shorter
STOP_S: Final = 20.0  # to unload everything; then the thread is left behind
HANDED_AT_ONCE: Final = 256  # words; the rest goes in the next pass of trio's loop


@dataclass(slots=True)
class _Reply:
    """The answer to one order, once it is there."""

    ticket: int
    loads: str | None = None  # the model that the order brings
    done: trio.Event = field(default_factory=trio.Event)
    word: orders.Done | orders.Undone | None = None

    def hear(self, word: orders.Done | orders.Undone) -> "_Reply":
        self.word = word
        self.done.set()
        return self

    def facts(self) -> EngineFacts:
        match self.word:
            case orders.Done(_, EngineFacts() as facts):
                return facts
            case orders.Undone(_, error):
                raise error
        raise RuntimeError(f"a load was answered with {self.word}")

    def ids(self) -> tuple[int, ...]:
        match self.word:
            case orders.Done(_, tuple() as ids):
                return ids
            case orders.Undone(_, error):
                raise error
        raise RuntimeError(f"tokenise was answered with {self.word}")


class DeviceWorker:
    """The device called `name`, as its thread is called: cpu-dev-0, cuda-dev-1."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._harnesses: dict[str, Harness] = {}
        self._loop = DeviceLoop(self._tell, self._harnesses)
        self._token: trio.lowlevel.TrioToken | None = None
        self._open = False
        self._words: deque[orders.Word] = deque()
        self._residents: dict[str, Seats] = {}
        self._loading: dict[str, tuple[int, int]] = {}
        self._replies: dict[int, _Reply] = {}
        self._numbers = itertools.count(1)
        self._bug: Exception | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the thread until cancelled; then unload everything, within STOP_S.

        What the thread dies of is raised here. Whoever still waits is told `Stopping`.
        """
        self._token, self._open = trio.lowlevel.current_trio_token(), True
        # The thread has the time after STOP to unload, whoever cancelled us.
        hold = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hold_thread, hold)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._open = False
                    self._loop.inbox.put(orders.Stop())
                    hold.deadline = trio.current_time() + STOP_S
        finally:
            self._end_all()

    async def load(self, harness: Harness, order: LoadOrder) -> EngineFacts:
        """The model is here. Raises what the harness raises: LoadFailed, DoesNotFit, Unfit.

        When cancelled, the load is told to give up, and is waited for; nothing of it stays.
        """
        resident = self._residents.get(order.model)
        if order.model in self._loading or (resident is not None and not resident.leaving):
            raise RuntimeError(f"{order.model} is loading or loaded on {self.name}")
        self._harnesses[harness.name] = harness
        reply = self._send(lambda ticket: orders.Load(ticket, harness.name, order), loads=order.model)
        self._loading[order.model] = (0, 0)
        arrived = False
        try:
            await reply.done.wait()
            arrived = True
        finally:
            if not arrived:
                await self._call_off(reply, order.model)
            del self._loading[order.model]
        return reply.facts()

    async def unload(self, model: str) -> None:
        """The model is gone; its jobs, if it had any, failed. Cancelled, it still goes."""
        resident = self._here(model)
        resident.leaving = True
        await self._send(lambda ticket: orders.Unload(ticket, model)).done.wait()

    async def tokenise(self, model: str, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens understood, none added."""
        self._here(model)
        reply = self._send(lambda ticket: orders.Tokenise(ticket, model, text))
        await reply.done.wait()
        return reply.ids()

    @asynccontextmanager
    async def generate(self, model: str, jobs: Sequence[Job]) -> AsyncIterator[Mailbox]:
        """Run `jobs` and hear them; their ids are given here, callers know them by index.

        Leaving the block early ends them all, and waits until the engine has let go of
        their slots (LET_GO_S at most; a slot that is not free by then stays taken).
        """
        resident = self._servable(model)
        mailbox = Mailbox(len(jobs))
        for index, job in enumerate(jobs):
            resident.waiting.append(Seated(replace(job, id=next(self._numbers)), mailbox, index))
        self._admit(resident)
        try:
            yield mailbox
        finally:
            await self._take_back(resident, mailbox)

    def fault(self, model: str) -> str | None:
        """Why the model serves nothing until it is unloaded; None while all is well."""
        resident = self._residents.get(model)
        return resident.fault if resident is not None else None

    @property
    def loading(self) -> Mapping[str, tuple[int, int]]:
        """Models that are being loaded: bytes done, bytes in all (0 while not known)."""
        return dict(self._loading)

    @property
    def heartbeat_age_s(self) -> float:
        """Since when the thread has shown no sign of life; 0 when there is nothing to do."""
        busy = any(resident.live for resident in self._residents.values())
        if self._loop.idle and not busy and not self._replies:
            return 0.0
        return max(0.0, time.monotonic() - self._loop.beat)

    async def _hold_thread(self, hold: trio.CancelScope) -> None:
        with hold:
            await trio.to_thread.run_sync(
                self._run_loop,
                thread_name=self.name,
                limiter=trio.CapacityLimiter(1),  # not one of the forty that all share
                abandon_on_cancel=True,  # `hold` is cancelled by its deadline alone
            )
        if hold.cancelled_caught:
            log.error("device.stuck device=%s: the thread did not stop in %.0f s", self.name, STOP_S)
        elif self._bug is not None:
            raise self._bug

    def _run_loop(self) -> None:
        try:
            self._loop.run()
        except trio.RunFinishedError:
            return  # nobody is left to tell: the thread was abandoned

    def _tell(self, word: orders.Word) -> None:
        """From the thread. One wake-up, however many words."""
        self._words.append(word)
        if (token := self._token) is not None:
            token.run_sync_soon(self._hand_over, idempotent=True)

    def _hand_over(self) -> None:
        # Runs inside trio's own loop, and must not raise: that would end the whole run.
        try:
            for _ in range(min(len(self._words), HANDED_AT_ONCE)):
                self._spread(self._words.popleft())
            if self._words and self._token is not None:
                self._token.run_sync_soon(self._hand_over, idempotent=True)
        except Exception as error:  # noqa: BLE001 - kept, and raised out of `run`
            self._bug = error
            self._loop.inbox.put(orders.Stop())

    def _spread(self, word: orders.Word) -> None:
        match word:
            case orders.Heard(model, said):
                self._spread_events(self._residents[model], said)
            case orders.Done(ticket) | orders.Undone(ticket):
                self._settle(self._replies.pop(ticket), word)
            case orders.Progress(model, done, total):
                if model in self._loading:
                    self._loading[model] = (done, total)
            case orders.Faulted(model, why):
                resident = self._residents[model]
                resident.fault = f"the engine failed: {why}"
                resident.fail_all(EngineFailed(f"{model}: {resident.fault}"), _recovering(resident))
            case orders.Gone(model):
                if (gone := self._residents.pop(model, None)) is not None:
                    late = NotHereNow(f"{model} was unloaded before this request had its turn")
                    gone.fail_all(
                        EngineFailed(f"{model} was unloaded before the answer was complete"),
                        late if self._open else self._stopped(),
                    )

    def _settle(self, reply: _Reply, word: orders.Done | orders.Undone) -> None:
        if reply.loads is not None and isinstance(word, orders.Done):
            self._residents[reply.loads] = Seats(reply.loads, reply.hear(word).facts())
        else:
            reply.hear(word)

    def _spread_events(self, resident: Seats, said: Sequence[Said]) -> None:
        for job_id, event in said:
            resident.hear(job_id, event)
        self._admit(resident)

    def _admit(self, resident: Seats) -> None:
        while resident.waiting and len(resident.live) < resident.facts.slots:
            seated = resident.waiting.popleft()
            resident.live[seated.job.id] = seated
            self._loop.inbox.put(orders.Submit(resident.model, seated.job))

    async def _take_back(self, resident: Seats, mailbox: Mailbox) -> None:
        """The mailbox has no job left; or, after LET_GO_S, a stuck one is reported."""
        resident.waiting = deque(seated for seated in resident.waiting if seated.mailbox is not mailbox)
        jobs = resident.jobs_of(mailbox)
        if not jobs:
            return
        self._loop.inbox.put(orders.Cancel(resident.model, jobs))
        with trio.move_on_after(LET_GO_S, shield=True):
            while resident.jobs_of(mailbox):
                await resident.freed.wait()
            return
        log.error("job.stuck device=%s model=%s: slots not given back", self.name, resident.model)

    async def _call_off(self, load: _Reply, model: str) -> None:
        """Nothing of the load remains; or, after LET_GO_S, it is left to end by itself."""
        if not self._open:
            return
        order = self._send(lambda ticket: orders.GiveUp(ticket, load.ticket))
        with trio.move_on_after(LET_GO_S, shield=True):
            await order.done.wait()
            await load.done.wait()
            return
        log.error("load.stuck device=%s model=%s: it goes as soon as it has come", self.name, model)

    def _send(self, order: Callable[[int], orders.Order], loads: str | None = None) -> _Reply:
        if not self._open:
            raise self._stopped()
        reply = _Reply(next(self._numbers), loads)
        self._replies[reply.ticket] = reply
        self._loop.inbox.put(order(reply.ticket))
        return reply

    def _here(self, model: str) -> Seats:
        resident = self._residents.get(model)
        if resident is None or resident.leaving:
            raise NotResident(f"{model} is not loaded on {self.name}")
        return resident

    def _servable(self, model: str) -> Seats:
        if not self._open:
            raise self._stopped()
        resident = self._residents.get(model)
        if resident is None or resident.leaving:
            raise NotHereNow(f"{model} is not loaded on {self.name}")
        if resident.fault is not None:
            raise _recovering(resident)
        return resident

    def _stopped(self) -> Stopping:
        return Stopping(f"{self.name} is not running")

    def _end_all(self) -> None:
        """Whoever still waits hears that the device stops."""
        while self._words:
            self._hand_over()
        self._token = None
        for reply in self._replies.values():
            reply.hear(orders.Undone(reply.ticket, self._stopped()))
        for resident in self._residents.values():
            resident.fail_all(
                EngineFailed(f"{self.name} stopped before the answer was complete"), self._stopped()
            )
        self._replies.clear()
        self._residents.clear()


def _recovering(resident: Seats) -> Recovering:
    return Recovering(f"{resident.model}: {resident.fault}. Unload it and load it again.")
