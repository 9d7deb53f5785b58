"""A device worker: one device, its hosts, and its jobs as trio sees them.

This half runs in trio. It knows which models are on the device and who hosts them: the
device's thread, or a child process of a model's own. It hands an engine no more jobs than
it has slots (the surplus waits here, where giving up costs nothing), and spreads what the
hosts say to the mailboxes. A mailbox is bounded by its jobs' own token limits. A seat is
given back only when the engine has let go of its slot. A child that dies takes its own
model along, and nothing else.
"""

import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from cortex.errors import EngineFailed, NotHereNow, NotResident
from cortex.harness import orders
from cortex.harness.abilities import ensure
from cortex.harness.base import EngineFacts, Harness, Job, LoadOrder, Memory
from cortex.harness.hosts import Host
from cortex.harness.hosts.process import ProcessHost
from cortex.harness.hosts.spawn import Plan
from cortex.harness.hosts.thread import ThreadHost
from cortex.harness.journal import Journal
from cortex.harness.losses import Losses, recovering
from cortex.harness.pulse import Doing
from cortex.harness.replies import Reply
from cortex.harness.seats import Mailbox, Seated, Seats
from cortex.harness.watch import Limits

__all__ = ["DeviceWorker", "Mailbox"]

log = logging.getLogger(__name__)

LET_GO_S: Final = 10.0  # a step of compute, or a report of load progress, is much shorter
STOP_S: Final = 20.0  # to unload everything; then a thread is left behind, and a child killed
USUAL: Final = Limits()


class DeviceWorker(Losses):
    """The device called `name`, as its thread is called: cpu-dev-0, cuda-dev-1."""

    def __init__(self, name: str, journal: Journal | None = None, limits: Limits = USUAL) -> None:
        self._harnesses: dict[str, Harness] = {}
        thread = ThreadHost(name, self._harnesses, lambda words: self._hear(thread, words), journal)
        super().__init__(name, thread)
        self._limits = limits
        self._nursery: trio.Nursery | None = None
        self._loading: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count(1)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the thread and the children until cancelled; then unload everything, within STOP_S.

        What the thread dies of is raised here. Whoever still waits is told `Stopping`.
        """
        # The hosts have the time after STOP to unload, whoever cancelled us.
        hold = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._hold_hosts, hold)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._open = False
                    self._thread.send(orders.Stop())
                    for child in self._children.values():
                        child.leave()
                    hold.deadline = trio.current_time() + STOP_S
        finally:
            self._open = False
            self._end_all()

    async def load(self, harness: Harness, order: LoadOrder, *, isolated: bool = False) -> EngineFacts:
        """The model is here, with `isolated` in a process of its own. Raises what the harness
        raises: LoadFailed, DoesNotFit, Unfit.

        When cancelled, the load is told to give up, and is waited for; nothing of it stays.
        """
        model = order.model
        resident = self._residents.get(model)
        if model in self._loading or (resident is not None and not resident.leaving):
            raise RuntimeError(f"{model} is loading or loaded on {self.name}")
        if self.poisoned is not None:
            raise self._lost_now()
        if not self._open:
            raise self._stopped()
        self._loading[model] = (0, 0)
        try:
            await self._departed(model)
            self._harnesses[harness.name] = harness
            child = self._begin_child(harness, model) if isolated else None
            reply = self._send(
                child or self._thread, lambda ticket: orders.Load(ticket, harness.name, order), loads=model
            )
            await self._arrival(reply, child, model)
        finally:
            del self._loading[model]
        return reply.facts()

    async def unload(self, model: str) -> None:
        """The model is gone, and its process if it had one; its jobs, if it had any, failed.

        Cancelled, it still goes, and is waited for (LET_GO_S at most): until then its memory is
        nobody else's.
        """
        resident = self._here(model)
        resident.leaving = True
        if (child := self._children.get(model)) is not None:
            child.leave()
            gone = child.over
        else:
            gone = self._send(self._thread, lambda ticket: orders.Unload(ticket, model)).done
        try:
            await gone.wait()
        finally:
            with trio.move_on_after(LET_GO_S, shield=True):
                await gone.wait()

    async def tokenise(self, model: str, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens understood, none added."""
        return (await self._ask(model, lambda ticket: orders.Tokenise(ticket, model, text))).ids()

    async def detokenise(self, model: str, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens spelt out."""
        return (await self._ask(model, lambda ticket: orders.Detokenise(ticket, model, tuple(ids)))).text()

    async def measure(self, model: str) -> Memory:
        """What memory the model's engine holds at present."""
        return (await self._ask(model, lambda ticket: orders.Measure(ticket, model))).memory()

    async def release(self) -> None:
        """What allocators keep for later loads is the device's again. Processes of models that are
        gone keep nothing."""
        await self._send(self._thread, orders.Release).done.wait()

    @asynccontextmanager
    async def generate(self, model: str, jobs: Sequence[Job]) -> AsyncIterator[Mailbox]:
        """Run `jobs` and hear them; their ids are given here, callers know them by index.

        Leaving the block early ends them all, and waits until the engine has let go of
        their slots (LET_GO_S at most; a slot that is not free by then stays taken).
        """
        resident = self._servable(model)
        for job in jobs:
            if job.chat is None:  # who takes a whole ask refuses by itself
                ensure(job, resident.facts.can)
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

    def kv_tokens(self, model: str) -> int:
        """Tokens of live jobs in the model's cache; 0 when it is not here."""
        resident = self._residents.get(model)
        return resident.kv_tokens if resident is not None else 0

    @property
    def loading(self) -> Mapping[str, tuple[int, int]]:
        """Models that are being loaded: bytes done, bytes in all (0 while not known)."""
        return dict(self._loading)

    @property
    def doing(self) -> Doing:
        """What the thread in this process is at. Children are watched by themselves."""
        return self._thread.loop.pulse.doing

    @property
    def silent_s(self) -> float:
        """Since when the thread in this process has shown no sign of life."""
        return self._thread.age_s

    @property
    def heartbeat_age_s(self) -> float:
        """Since when one of the hosts has shown no sign of life; 0 when there is nothing to do."""
        hosts: list[Host] = [self._thread, *self._children.values()]
        working = (host for host in hosts if host.doing.phase != "idle" or self._busy(host))
        return max((host.age_s for host in working), default=0.0)

    # -- hosts ------------------------------------------------------------------------------

    async def _hold_hosts(
        self, hold: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with hold:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._thread.run)
                self._open = True
                task_status.started()
        if hold.cancelled_caught and not self._thread.ended:
            log.error("device.stuck device=%s why='the thread did not stop in %.0f s'", self.name, STOP_S)

    def _begin_child(self, harness: Harness, model: str) -> ProcessHost:
        if harness.apart is None or self._nursery is None:
            raise RuntimeError(f"{harness.name} cannot run in a process of its own")
        plan = Plan(model=model, device=self.name, factory=harness.apart.factory, limits=self._limits)
        child = ProcessHost(
            plan,
            lambda words: self._hear(child, words),
            busy=lambda: self._busy(child),
            ended=lambda: self._mourn(child),
        )
        self._children[model] = child
        self._nursery.start_soon(child.run)
        return child

    # -- words ------------------------------------------------------------------------------

    def _hear(self, host: Host, words: Sequence[orders.Word]) -> None:
        """Whoever was spoken to hears it once, however much was said."""
        heard: dict[Mailbox, None] = {}
        try:
            for word in words:
                self._spread(host, word, heard)
        finally:
            for mailbox in heard:
                mailbox.ring()

    def _spread(self, host: Host, word: orders.Word, heard: dict[Mailbox, None]) -> None:
        if self.poisoned is not None and host is self._thread:
            return  # whoever would hear it was told already
        match word:
            case orders.Heard(model, said):
                resident = self._residents[model]
                resident.hear(said, heard)
                self._admit(resident)
            case orders.Done(ticket) | orders.Undone(ticket):
                if self._replies[ticket].host is not host:
                    raise RuntimeError(f"ticket {ticket} was not given to this host")
                self._settle(self._replies.pop(ticket), word)
            case orders.Progress(model, done, total):
                if model in self._loading:
                    self._loading[model] = (done, total)
            case orders.Faulted():
                self._hurt(host, word)
            case orders.Gone(model):
                if (gone := self._residents.get(model)) is not None:
                    self._bury(gone)

    def _admit(self, resident: Seats) -> None:
        while resident.admits:
            seated = resident.waiting.popleft()
            self._put(self.host(resident.model), orders.Submit(resident.model, seated.job))
            resident.live[seated.job.id] = seated

    async def _take_back(self, resident: Seats, mailbox: Mailbox) -> None:
        """The mailbox has no job left; or, after LET_GO_S, a stuck one is reported."""
        resident.waiting = deque(seated for seated in resident.waiting if seated.mailbox is not mailbox)
        # Who needed more room than there is kept those behind it out.
        self._admit(resident)
        jobs = resident.jobs_of(mailbox)
        if not jobs:
            return
        self.host(resident.model).send(orders.Cancel(resident.model, jobs))
        with trio.move_on_after(LET_GO_S, shield=True):
            while resident.jobs_of(mailbox):
                await resident.freed.wait()
            return
        log.error("job.stuck device=%s model=%s why='slots not given back'", self.name, resident.model)

    async def _departed(self, model: str) -> None:
        """Nothing is left of a model that was leaving: its bytes are free, and nothing that it
        says is taken for a successor's."""
        if (child := self._children.get(model)) is not None:
            await child.over.wait()
        elif (resident := self._residents.get(model)) is not None:
            await resident.gone.wait()

    async def _arrival(self, load: Reply, child: ProcessHost | None, model: str) -> None:
        """The load is answered. One that failed leaves no process; nor does one that is called off."""
        arrived = False
        try:
            await load.done.wait()
            arrived = True
        finally:
            if not arrived:
                await self._call_off(load, child, model)
        if child is not None and isinstance(load.word, orders.Undone):
            child.leave()
            await child.over.wait()

    async def _call_off(self, load: Reply, child: ProcessHost | None, model: str) -> None:
        """Nothing of the load remains; or, after LET_GO_S, it is left to end by itself."""
        if not self._open:
            return
        with trio.move_on_after(LET_GO_S, shield=True):
            if child is not None:
                child.leaving = True
                child.kill("was given up")
                await child.over.wait()
            else:
                order = self._send(self._thread, lambda ticket: orders.GiveUp(ticket, load.ticket))
                await order.done.wait()
                await load.done.wait()
            return
        log.error("load.stuck device=%s model=%s why='it goes as soon as it has come'", self.name, model)

    async def _ask(self, model: str, question: Callable[[int], orders.Order]) -> Reply:
        """The answer. Cancelled, it is computed all the same, and waited for (LET_GO_S at most): who
        asks and leaves shall not have the thread answer many at once."""
        self._here(model)
        reply = self._send(self.host(model), question)
        try:
            await reply.done.wait()
        finally:
            with trio.move_on_after(LET_GO_S, shield=True):
                await reply.done.wait()
        return reply

    def _send(self, host: Host, order: Callable[[int], orders.Order], loads: str | None = None) -> Reply:
        if self.poisoned is not None and host is self._thread:
            raise self._lost_now()
        if not self._open:
            raise self._stopped()
        reply = Reply(next(self._numbers), host, loads)
        self._put(host, order(reply.ticket))
        self._replies[reply.ticket] = reply
        return reply

    def _put(self, host: Host, order: orders.Order) -> None:
        if not self._busy(host):
            host.rouse()
        host.send(order)

    def _here(self, model: str) -> Seats:
        resident = self._residents.get(model)
        if resident is None or resident.leaving:
            raise NotResident(f"{model} is not loaded on {self.name}")
        return resident

    def _servable(self, model: str) -> Seats:
        if not self._open:
            raise self._stopped()
        if self.poisoned is not None and model not in self._children:
            raise self._unserved_now()
        resident = self._residents.get(model)
        if resident is None or resident.leaving:
            raise NotHereNow(f"{model} is not loaded on {self.name}")
        if resident.fault is not None:
            raise recovering(resident)
        return resident

    def _end_all(self) -> None:
        """Whoever still waits hears that the device stops."""
        self._thread.close()
        for reply in self._replies.values():
            reply.hear(orders.Undone(reply.ticket, self._stopped()))
        self._replies.clear()
        for resident in tuple(self._residents.values()):
            stopped = EngineFailed(f"{self.name} stopped before the answer was complete")
            self._bury(resident, stopped, self._stopped())
