"""Keeps the workers of one role alive, and ends with them.

The first worker begins alone: what is wrong with files or ports is told once, and ends the supervisor with
the worker's own exit code, as does any worker that ends before it serves while nobody else does. One that
dies later is begun again, after a while that grows as long as it dies young, and the others serve on; one
that hangs is killed for it. A stop is told to all, and who does not end in the time that it asked for is
killed; whoever outlives the supervisor is killed by the kernel.
"""

import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from cortex import logs
from cortex.workers import words
from cortex.workers.crowd import Crowd
from cortex.workers.exchange import Exchange, Member
from cortex.workers.failure import WorkerFailed
from cortex.workers.line import Line
from cortex.workers.spawn import Plan, start

log = logging.getLogger(__name__)

# A worker that was up for STEADY_S is begun again at once; else it has to wait, twice as long each time.
FIRST_S: Final = 0.2
MOST_S: Final = 30.0
STEADY_S: Final = 60.0
PING_S: Final = 5.0
# Its loop has not turned for so long: no client of it has had a byte.
HUNG_S: Final = 30.0
# Those that serve wait for so long for the others before they take connections.
OPEN_S: Final = 10.0
# The same of one that has not served yet, and may be kept by a slow disk.
HUNG_AT_START_S: Final = 120.0
# Beyond what it asked for, and for one that never said.
GRACE_S: Final = 5.0
# Of a service manager's stop, which tells supervisor and workers in any order.
TOGETHER_S: Final = 0.2
RELOAD_S: Final = 60.0


class Manager(Protocol):
    """The service manager."""

    def ready(self, status: str) -> None: ...
    def reloading(self, status: str, began_us: int) -> None: ...
    def stopping(self, takes_s: float, status: str) -> None: ...
    async def feed(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What to run. `listeners` are what the workers inherit, closed here when they are to end; `asked`
    returns when somebody wants the files read again."""

    plan: Plan
    listeners: tuple[socket.socket, ...]
    manager: Manager
    asked: Callable[[], Awaitable[None]]


class Supervisor:
    """One for each process. `run` it."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._crowds = [Crowd(order.plan.crowd, i, order.plan.workers) for i in range(order.plan.workers)]
        self._stopping, self._changed = trio.Event(), trio.Event()
        self._status = ""
        self._up = False
        # Who has yet to tell that it has read the files again, while that is asked for, and since when.
        self._reading: set[Member] | None = None
        self._asked_us = 0
        self._exchange: Exchange

    async def run(self, stop: trio.Event) -> None:
        """All workers, until `stop` is set and they have drained. WorkerFailed when they cannot start."""
        try:
            async with trio.open_nursery() as nursery:
                self._exchange = Exchange(nursery)
                nursery.start_soon(self._order.manager.feed)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._reload)
                nursery.start_soon(self._begin, nursery)
                await stop.wait()
                await self._end()
                nursery.cancel_scope.cancel()
        finally:
            for member in self._exchange.members:
                member.process.kill()
                member.process.wait()

    # -- lives

    async def _begin(self, nursery: trio.Nursery) -> None:
        for index in range(self._order.plan.workers):
            nursery.start_soon(self._live, index)
            if index == 0:
                await self._until(lambda: bool(self._exchange.serving))
        workers = self._order.plan.workers
        log.info("workers.gathering workers=%d seconds=%.0f", workers, OPEN_S)
        with trio.move_on_after(OPEN_S) as patience:
            await self._until(lambda: len(self._exchange.serving) == workers)
        if patience.cancelled_caught:
            log.warning("workers.late workers=%d serving=%d", workers, len(self._exchange.serving))
        self._crowds[0].open()
        await self._until(lambda: len(self._exchange.serving) == workers)
        log.info("workers.ready workers=%d", workers)
        self._up = True
        self._ready()

    def _ready(self) -> None:
        """The service manager knows, unless something else is to come first, and will tell."""
        if self._up and self._reading is None and not self._stopping.is_set():
            self._order.manager.ready(self._status)

    async def _live(self, index: int) -> None:
        """One worker after another, until the end."""
        wait_s = 0.0
        while not self._stopping.is_set():
            member = self._begun(index)
            if member is not None:
                await self._attend(member)
                self._exchange.restarts[index] += not self._stopping.is_set()
            if self._stopping.is_set():
                return
            steady = member is not None and trio.current_time() - member.began >= STEADY_S
            asked = member is not None and member.leaving
            wait_s = 0.0 if asked or steady else min(2 * wait_s, MOST_S) or FIRST_S
            log.info("worker.restarts worker=%d seconds=%.1f", index + 1, wait_s)
            with trio.move_on_after(wait_s):
                await self._stopping.wait()

    def _begun(self, index: int) -> Member | None:
        """A worker at the begin of its life; None where the host has no room for it, but others serve."""
        self._exchange.restarts.setdefault(index, 0)
        try:
            born = start(self._order.plan, index)
        except OSError as error:
            log.error("worker.unbegun worker=%d cause=%s", index + 1, logs.word(str(error)))
            if not self._exchange.serving:
                raise WorkerFailed(f"worker {index + 1} cannot be begun: {error}", 1) from error
            return None
        member = Member(index, born.process, Line(born.line), trio.current_time())
        self._exchange.members.append(member)
        log.info("worker.started worker=%s pid=%d", member.name, born.process.pid)
        return member

    async def _attend(self, member: Member) -> None:
        """The life of a worker, that is over then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(member.line.run, lambda word: self._hear(member, word))
            code = await _ended(member)
            # What it said last is read first.
            with trio.move_on_after(TOGETHER_S):
                await member.line.ended.wait()
            nursery.cancel_scope.cancel()
        self._bury(member, code)

    def _bury(self, member: Member, code: int) -> None:
        self._exchange.bury(member)
        self._crowds[member.index].away()
        self._has_read(member)
        if self._stopping.is_set() or (member.leaving and code == 0):
            log.info("worker.ended worker=%s", member.name)
            return
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.error("worker.lost worker=%s served=%s how=%s", member.name, member.ready, how)
        if not member.ready and not self._exchange.serving:
            message = f"worker {member.name} ended by {how} before it served; what it said stands above"
            raise WorkerFailed(message, code if code > 0 else 128 - code)

    # -- words

    def _hear(self, member: Member, word: words.Word) -> None:
        match word:
            case words.State(lines):
                self._stands(member, dict(line.partition("=")[::2] for line in lines))
            case words.Leave():
                self._exchange.nursery.start_soon(self._let_go, member)
        self._exchange.hear(member, word)

    def _stands(self, member: Member, told: dict[str, str]) -> None:
        if "STOPPING" in told:
            member.takes_s = int(told["EXTEND_TIMEOUT_USEC"]) / 1e6
        if "RELOADING" in told:
            member.read_us = int(told["MONOTONIC_USEC"])
        if "READY" in told:
            self._status, member.ready = told.get("STATUS", ""), True
            self._ready()
            if member.read_us >= self._asked_us:
                self._has_read(member)
        self._tell()

    def _has_read(self, member: Member) -> None:
        if self._reading is not None:
            self._reading.discard(member)
        self._tell()

    async def _let_go(self, member: Member) -> None:
        """It was told to go by somebody else. A service manager tells all at once, and then this is the
        end of all of us."""
        with trio.move_on_after(TOGETHER_S):
            await self._stopping.wait()
        if not self._stopping.is_set():
            log.info("worker.leaves worker=%s", member.name)
            member.leaving = True
            member.line.say(words.Stop(alone=True))
            await self._enforce(member)

    async def _reload(self) -> None:
        """Each worker reads the files by itself, and tells what came of it as its status."""
        while True:
            await self._order.asked()
            self._asked_us = time.monotonic_ns() // 1000
            self._order.manager.reloading("reading the files again", self._asked_us)
            self._reading = set(self._exchange.serving)
            # Who has not served yet may have read the files of before already.
            for member in self._exchange.members:
                member.line.say(words.Note("reload"))
            with trio.move_on_after(RELOAD_S):
                await self._until(lambda: not self._reading)
            self._reading = None
            self._ready()

    async def _watch(self) -> None:
        """Whoever hangs is killed. Counted by looks, and not by the clock: who was stopped together with
        us, or whom we have not heard because we were, does not hang."""
        while True:
            await trio.sleep(PING_S)
            for member in self._exchange.members:
                if member.silent_s >= (HUNG_S if member.ready else HUNG_AT_START_S):
                    log.error("worker.hangs worker=%s seconds=%.0f", member.name, member.silent_s)
                    # The stacks of its threads, if it can; it is gone in any case.
                    member.process.send_signal(signal.SIGABRT)
                    self._exchange.nursery.start_soon(_kill_after, member, 2.0)
                else:
                    member.silent_s += PING_S
                    self._exchange.ping(member)

    # -- the end

    async def _end(self) -> None:
        """Every worker has drained, or was killed for not doing so."""
        self._stopping.set()
        members = list(self._exchange.members)
        log.info("workers.draining workers=%d", len(members))
        for listener in self._order.listeners:
            listener.close()
        for member in members:
            member.line.say(words.Stop(alone=False))
        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(self._enforce, member)
        log.info("workers.stopped")

    async def _enforce(self, member: Member) -> None:
        """It is gone, in its own time."""
        with trio.move_on_after(GRACE_S):
            await self._until(lambda: member.takes_s is not None or self._gone(member))
        takes_s = member.takes_s or 0.0
        if self._stopping.is_set() and takes_s:
            self._order.manager.stopping(takes_s + GRACE_S, "draining")
        with trio.move_on_after(takes_s + GRACE_S):
            await self._until(lambda: self._gone(member))
        if not self._gone(member):
            log.error("worker.killed worker=%s why=%s", member.name, "it did not end in time")
            member.process.kill()
            await self._until(lambda: self._gone(member))

    def _gone(self, member: Member) -> bool:
        return member not in self._exchange.members

    # -- change

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()


async def _ended(member: Member) -> int:
    """The exit code of the worker, negative for a signal."""
    return await trio.to_thread.run_sync(
        member.process.wait, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )


async def _kill_after(member: Member, seconds: float) -> None:
    await trio.sleep(seconds)
    member.process.kill()
