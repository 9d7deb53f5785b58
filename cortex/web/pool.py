"""Connections to one neuron, kept alive between requests.

Owns the idle connections: the last one used is the first one taken again, after a look
whether the neuron has closed it meanwhile. There is no upper bound and so no queue: limits
live outside. Says which failures prove that nothing ran (`Unreachable`); everything after the
last request byte is `UpstreamFailed` and is never repeated here. Leaving an exchange early
closes its connection, which tells the neuron to stop, and lasts until it has or a moment has passed.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from cortex.errors import CortexError, TooSlow, Unreachable, UpstreamFailed
from cortex.web.answer import Answer
from cortex.web.link import Link
from cortex.web.names import Names, Resolve, resolve
from cortex.web.reactor import Reactor

# Row 9 and row 23 of the fault matrix.
CONNECT_S: Final = 1.0
DNS_S: Final = 2.0
# Below the time after which a neuron closes an idle connection by itself.
IDLE_S: Final = 30.0
# A neuron lets go of a request within milliseconds. One that is frozen keeps nobody for longer.
PART_S: Final = 0.25


class Pool:
    """Keep-alive connections to the neuron at `host` and `port`, whose addresses are `names`: its owner
    keeps them fresh.

    Connections that idle for `idle_s` are closed when the pool is next used or swept.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connect_s: float = CONNECT_S,
        idle_s: float = IDLE_S,
        dns_s: float = DNS_S,
        lookup: Resolve = resolve,
        reactor: Reactor | None = None,
        names: Names | None = None,
    ) -> None:
        self._host, self._port = host, port
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.names = names or Names(host, port, dns_s=dns_s, lookup=lookup)
        self.connect_s = connect_s
        self._idle_s = idle_s
        self._idle: deque[Link] = deque()
        self._active: set[Link] = set()
        self._closed = False
        # Watches connections, so that callbacks can use them.
        self.reactor = reactor

    def __repr__(self) -> str:
        return f"<Pool {self.authority} idle={len(self._idle)} active={len(self._active)}>"

    def beside(self) -> "Pool":
        """Other connections to the same neuron at the same addresses, for tasks alone."""
        return Pool(self._host, self._port, connect_s=self.connect_s, idle_s=self._idle_s, names=self.names)

    @asynccontextmanager
    async def exchange(self, request: bytes, *, first_byte_s: float) -> AsyncIterator[Answer]:
        """The answer to `request` (head and body), its head read within `first_byte_s`.

        Left with the answer complete, the connection is kept; left in any other way,
        cancellation included, it is closed, and the neuron had a moment to let go: whoever gets the
        seat next finds it free there too. Raises Unreachable when nothing ran, TooSlow when no head
        came in time, UpstreamFailed for the rest.
        """
        link, answer = await self._ask(request, first_byte_s)
        async with self._held(link, answer):
            yield answer

    @asynccontextmanager
    async def _held(self, link: Link, answer: Answer) -> AsyncIterator[None]:
        broken = False
        try:
            yield
        except CortexError:
            broken = True
            raise
        finally:
            if answer.reusable:
                self._keep(link, trio.current_time())
            else:
                await self._part(link, broken=broken)

    def sweep(self) -> None:
        """No connection idles longer than it may."""
        self._sweep(trio.current_time())

    def _sweep(self, now: float) -> None:
        oldest_kept = now - self._idle_s
        while self._idle and self._idle[0].idle_since <= oldest_kept:
            self._idle.popleft().close()

    def retire(self) -> None:
        """No further exchange begins. Those under way end in peace, each with its connection."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Every connection is closed, those in use too; no further exchange begins."""
        self.retire()
        for link in list(self._active):
            link.sever()

    async def _ask(self, request: bytes, first_byte_s: float) -> tuple[Link, Answer]:
        while True:
            link = self._take(trio.current_time()) or await self._connect()
            link.unwatched()
            answer, broken = None, False
            try:
                answer = await _ask_over(link, request, first_byte_s)
            except CortexError:
                broken = True
                raise
            finally:
                if answer is None:
                    await self._part(link, broken=broken)
            if answer is not None:
                return link, answer

    def _take(self, now: float) -> Link | None:
        if self._idle and self._idle[0].idle_since <= now - self._idle_s:
            self._sweep(now)
        while self._idle:
            link = self._idle.pop()
            if not link.stale:
                self._active.add(link)
                return link
            link.close()
        return None

    # -- by callbacks

    def lend(self, now: float) -> Link | None:
        """A connection for one exchange by callbacks, which ends by `taken_back`, `part` or `adopt`. One
        that is made for it is `dialling`. None where nobody watches, or that takes more than a look."""
        if self.reactor is None or self._closed:
            return None
        if self._idle and (link := self._take(now)) is not None:
            return link
        address = self.names.only
        if address is None:
            return None
        try:
            return self._admit(Link.dial(address, self.reactor))
        except OSError:
            return None

    def unreached(self, problem: OSError | None) -> Unreachable:
        """What it means that no connection was made: `problem`, or None where it took too long."""
        self.names.doubt()
        why = "refused the connection" if problem else f"did not take the connection in {self.connect_s:g} s"
        error = Unreachable(
            f"The neuron {why}. Nothing ran; see `cortex status` for its state.",
            reason="refused" if problem else "connect",
        )
        error.__cause__ = problem
        return error

    def taken_back(self, link: Link) -> None:
        """The exchange is complete, and the link can carry another one."""
        link.listener = None
        if link.clean and self.reactor is not None:
            self._keep(link, self.reactor.now)
        else:
            self.lost(link)

    def lost(self, link: Link) -> None:
        """The exchange is over, and the link can carry no other one."""
        link.listener = None
        self._active.discard(link)
        link.close()

    async def part(self, link: Link, *, broken: bool) -> None:
        """The exchange has ended in any other way. The neuron has a moment to let go."""
        link.listener = None
        link.unwatched()
        await self._part(link, broken=broken)

    @asynccontextmanager
    async def adopt(self, link: Link, answer: Answer) -> AsyncIterator[Answer]:
        """As `exchange`, of an answer whose head has been read by callbacks."""
        link.listener = None
        link.unwatched()
        async with self._held(link, answer):
            yield answer

    # -- by tasks

    async def _connect(self) -> Link:
        problem: OSError | None = None
        for address in await self.names.addresses():
            with trio.move_on_after(self.connect_s):
                try:
                    link = await Link.open(address)
                except OSError as refused:
                    problem = refused
                    continue
                self.names.prefer(address)
                return self._admit(link)
        raise self.unreached(problem)

    def _admit(self, link: Link) -> Link:
        if self._closed:
            link.close()
            raise Unreachable("The neuron has left the fleet. Nothing ran; try again.")
        self._active.add(link)
        return link

    def _keep(self, link: Link, now: float) -> None:
        self._active.discard(link)
        if self._closed:
            link.close()
            return
        link.used = True
        link.idle_since = now
        self._idle.append(link)
        if self.reactor is not None:
            link.watched(self.reactor)

    async def _part(self, link: Link, *, broken: bool) -> None:
        """Nobody waits for one that broke, or gave no sign of life for too long."""
        try:
            with trio.move_on_after(0 if broken else PART_S, shield=True):
                await link.hang_up()
        finally:
            self._active.discard(link)
            link.close()


async def _ask_over(link: Link, request: bytes, first_byte_s: float) -> Answer | None:
    """The answer, its head read; None when `link` had died while idle, so that nothing ran."""
    delivered = await link.write(request)
    answer = Answer(link, asked_at=trio.current_time(), delivered=delivered)
    with trio.move_on_after(first_byte_s) as patience:
        try:
            # Undelivered too: a refusal may be there already, and says why.
            await answer.head()
        except UpstreamFailed as error:
            if delivered:
                raise
            if link.used:
                return None
            raise Unreachable(
                "The connection to the neuron broke before the request was sent. Nothing ran; try again."
            ) from error
    if patience.cancelled_caught:
        raise TooSlow(
            f"The neuron did not answer within {first_byte_s:g} s. See its load in `cortex status`.",
            reason="late",
        )
    return answer
