"""A stream that a task has begun, passed on by callbacks while the task waits: an event costs it nothing.

The task keeps all that it holds, and does what is no event that passes: it waits for a slow client, gives
up a neuron that has gone silent, ends the answer, raises what went wrong, a bug among that.
"""

from math import inf
from typing import Protocol

import trio

from cortex.errors import CortexError
from cortex.web.answer import Answer
from cortex.web.errand import Errand
from cortex.web.framing import Framing
from cortex.web.reactor import Reactor
from cortex.web.relay import LAST_S


class Outlet(Protocol):
    """The client's side, as `web.connection` has it."""

    framing: Framing

    def offer(self, data: bytes) -> bool: ...

    async def settle(self) -> None: ...


class Joined:
    """Client and keeper of an errand that goes on with what a task began."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.full = False
        self.stall_at = inf  # the outlet's matter
        self._over = False
        self._error: Exception | None = None
        self._news = trio.Event()
        self._errand: Errand

    async def run(self, errand: Errand, answer: Answer, reactor: Reactor | None) -> None:
        """The client has all of `answer`, whose head was read. Raises what keeps it from that, behind all
        that the client got of it. Cancelled, the answer is left where it stands; when the client was told
        its end, what the neuron says behind that is known, if it comes soon."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._errand, link = errand, answer.link
        if reactor is None:
            raise RuntimeError("a connection that nobody watches passes nothing on")
        link.watched(reactor)
        try:
            errand.join(answer, self)
            if not self._over:
                link.listener = _Ear(errand, self)
            await self._wait()
        finally:
            link.listener = None
            link.unwatched()
            if not self._over:
                with trio.move_on_after(LAST_S, shield=True):
                    await errand.hear_out()
        if self._error is not None:
            raise self._error

    async def _wait(self) -> None:
        """It is over, and the client has what was sent."""
        errand = self._errand
        while True:
            if self.full:
                await self._outlet.settle()
                self.full = False
                if self._error is None:
                    errand.drained()
            elif self._over:
                return
            elif trio.current_time() >= errand.due:
                errand.look(trio.current_time())
            else:
                await self._sleep(errand.due)

    async def _sleep(self, due: float) -> None:
        with trio.move_on_at(due):
            await self._news.wait()
        self._news = trio.Event()

    # -- as the errand's client

    @property
    def now(self) -> float:
        return trio.current_time()

    def send(self, data: bytes) -> bool:
        if self._outlet.offer(data):
            return True
        self.full = True
        self._news.set()
        return False

    def wants_look(self, due: float) -> None:
        self._news.set()

    def give_up(self) -> None:
        """A client that takes nothing is found out by the outlet."""

    def crashed(self) -> None:
        """The task has the bug, and tells of it."""

    # -- as its keeper

    def headed(self) -> None:
        """The task has read it."""

    def done(self) -> None:
        self.end(None)

    def failed(self, error: CortexError) -> None:
        self.end(error)

    # -- what only a guest's errand meets

    def odd(self, answer: Answer) -> None:
        raise RuntimeError("the head of the answer has been read before")

    def unreached(self, problem: OSError | None) -> CortexError:
        raise RuntimeError("the neuron has been reached before")

    def left(self) -> None:
        raise RuntimeError("it is the task that hears of a client that leaves")

    def stopped(self, why: CortexError | None) -> None:
        raise RuntimeError("it is the task that is stopped")

    def dropped(self, *, bug: bool) -> None:
        raise RuntimeError("it is the task that ends")

    def end(self, error: Exception | None) -> None:
        """It is over: the client has all of the answer, or `error` says why not."""
        self._over, self._error = True, error
        self._news.set()


class _Ear:
    """Listens to the link for an errand, whose bugs are the task's."""

    def __init__(self, errand: Errand, joined: Joined) -> None:
        self._errand, self._joined = errand, joined

    def heard(self, data: bytes) -> None:
        try:
            self._errand.heard(data)
        except Exception as bug:  # noqa: BLE001 - raised by the task
            self._joined.end(bug)

    def unreached(self, problem: OSError | None) -> None:
        self._joined.unreached(problem)

    def unwritten(self) -> None:
        self._errand.unwritten()

    def crash(self) -> None:
        self._joined.end(RuntimeError("a bug has closed the connection to the neuron; its log has it"))
