"""The front door: a listener, its connections, and an end to both.

Every connection is contained: whatever goes wrong in one ends that one. The accept loop
outlives a shortage of descriptors, and the newest connection is refused when there are
too many. `drain` promises that every client gets an end, and that it returns in time.
"""

import errno
import logging
import os
import socket
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias

import trio

from cortex.config.limits import Limits
from cortex.errors import Overloaded, Unauthorised
from cortex.web.connection import Reply
from cortex.web.control import Control
from cortex.web.framing import Terms
from cortex.web.guard import Policy
from cortex.web.guest import Guest, Handed
from cortex.web.hall import Hall
from cortex.web.line import Line
from cortex.web.listening import Crowd, Shared, listen
from cortex.web.reactor import Reactor
from cortex.web.site import UNBOOKED, Books, Entry, Handler, Route, Site, inventory
from cortex.web.visit import FAREWELL_S, Visit

__all__ = ["Door", "Entry", "Handler", "Route", "Site", "inventory"]

log = logging.getLogger(__name__)
Bound: TypeAlias = trio.TaskStatus[tuple[str, int]]

# Connections taken at one look. One alone would have each newcomer of a crowd wait for as many turns of
# the event loop as stand before him; more would keep those who are served waiting.
AT_ONCE: Final = 32
# How often it is looked whether a listener that others share is open.
GATE_S: Final = 0.002
# How long a connection is left to a process that has fewer.
YIELD_S: Final = 0.001
# What a client may have sent to a listener that is about to close is here by then.
LAST_S: Final = 0.2
# How long the accept loop rests when descriptors are short.
BACK_OFF_S: Final = 0.1
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# The listener itself is gone; any other fault belongs to the one connection.
_GONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


class Door:
    """One listener. `run` it; `drain` it before the role goes."""

    def __init__(
        self, site: Site, limits: Limits, books: Books = UNBOOKED, reactor: Reactor | None = None
    ) -> None:
        self._limits = limits
        self._hall = Hall(
            site, limits, Control(site.app, limits), Reactor() if reactor is None else reactor, books
        )
        self._guests: set[Guest] = set()
        self._crowd: Crowd | None = None
        self._accepting = trio.CancelScope()

    @property
    def in_flight(self) -> int:
        """Inference requests that have a handler at work."""
        return self._hall.in_flight

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._guests)

    @property
    def draining(self) -> bool:
        """Whether inference is refused because the role is going."""
        return self._hall.draining

    @property
    def policy(self) -> Policy:
        """Who is let in at present."""
        return self._hall.site.policy

    async def run(
        self,
        host: str,
        port: int,
        *,
        shared: Shared | None = None,
        task_status: Bound = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled or drained, from a socket of its own unless one is `shared`. `started`
        hands over the bound address. OSError when it is taken. Cancelled, it leaves no connection open,
        and says no farewell: `drain` does.
        """
        listener = await listen(host, port) if shared is None else shared.socket
        self._crowd = None if shared is None else shared.crowd
        hall = self._hall
        try:
            async with trio.open_nursery() as always, trio.open_nursery() as nursery:
                await always.start(hall.reactor.run)
                await always.start(hall.watch.run, hall.reactor)
                hall.visits = partial(self._visit, nursery)
                with listener, self._accepting:
                    bound = listener.getsockname()
                    task_status.started((bound[0], bound[1]))
                    await self._accept(listener)
                await self._empty()
                always.cancel_scope.cancel()
        finally:
            for guest in list(self._guests):
                guest.close()
            hall.reactor.close()

    def refit(self, policy: Policy, limits: Limits) -> None:
        """Other rules, for every request whose head arrives from here on."""
        hall = self._hall
        # Who guesses keys is remembered across it.
        guesses = hall.site.policy.guesses
        hall.site = replace(hall.site, policy=replace(policy, guesses=guesses))
        hall.limits = self._limits = limits
        hall.control.refit(limits)

    async def revoke(self, callers: AbstractSet[str], grace_s: float) -> None:
        """What these callers have under way is over within `grace_s`: by itself, or cut with an
        error event. What they begin from here on is not touched."""
        under_way = [(guest, token) for guest in self._guests if (token := guest.serves(callers))]
        with trio.move_on_after(grace_s):
            while any(guest.serves(callers) is token for guest, token in under_way):
                await self._hall.change()
        for guest, token in under_way:
            if guest.serves(callers) is token:
                guest.stop(
                    Unauthorised("This API key was revoked or expired while the request ran; use another.")
                )

    async def withdraw(self) -> None:
        """Nobody comes in here any more: others have the listener. Who is in already may ask."""
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.away()
        self._accepting.cancel()
        await trio.sleep(LAST_S)

    async def drain(self, grace_s: float) -> None:
        """Every client has its end, every socket is closed, and `run` returns, after `grace_s`
        and a second at the latest. Until then control routes answer, inference gets Stopping.
        """
        self._hall.draining = True
        for guest in list(self._guests):
            guest.rest()
        with trio.move_on_after(grace_s):
            while any(guest.holds for guest in self._guests):
                await self._hall.change()
        self._accepting.cancel()
        for guest in list(self._guests):
            guest.stop()
        with trio.move_on_after(FAREWELL_S):
            while self._guests:
                await self._hall.change()
        for guest in list(self._guests):
            await guest.cut()

    async def _accept(self, listener: socket.socket) -> None:
        spare = _Spare()
        at_once = AT_ONCE if self._crowd is None else 1
        self._count()
        try:
            while self._crowd is not None and not self._crowd.is_open:  # noqa: ASYNC110 - memory tells nobody
                await trio.sleep(GATE_S)
            while True:
                await trio.lowlevel.wait_readable(listener)
                if self._crowd is not None and self._crowd.yields():
                    await trio.sleep(YIELD_S)
                try:
                    for _ in range(at_once):
                        client, address = listener.accept()
                        await self._admit(client, address[0])
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno in _GONE:
                        raise
                    log.warning("accept.failed error=%s", error.strerror)
                    if error.errno in _SHORT:
                        self._hall.books.rejected(_too_many("descriptors"))
                        await spare.shed(listener)
        finally:
            spare.close()

    async def _admit(self, client: socket.socket, peer: str) -> None:
        """It is a guest, or knows that there are too many."""
        client.setblocking(False)
        if len(self._guests) >= self._limits.connections:
            self._hall.books.rejected(_too_many())
            await _turn_away(trio.socket.from_stdlib_socket(client))
            return
        self._guests.add(Guest(client, peer, self._hall, self._gone))
        self._count()

    def _count(self) -> None:
        if self._crowd is not None:
            self._crowd.has(len(self._guests))

    def _gone(self, guest: Guest) -> None:
        self._guests.discard(guest)
        self._count()
        self._hall.tell()

    async def _empty(self) -> None:
        """Every guest is gone."""
        while self._guests:
            await self._hall.change()

    def _visit(self, nursery: trio.Nursery, guest: Guest, line: Line, handed: Handed | None) -> None:
        visit = Visit(line, guest.peer, self._hall, since=guest.since, first=guest.first)
        if handed is not None:
            visit.hand(handed)
        guest.visited(visit)
        nursery.start_soon(self._contain, guest, visit, handed)

    async def _contain(self, guest: Guest, visit: Visit, handed: Handed | None) -> None:
        """The visit is over, however it ended; its bugs are in the log and nowhere else."""
        stays = False
        try:
            with visit.whole:
                stays = await visit.run(handed, stay=False)
        except Exception:
            self._hall.books.connection_crashed()
            log.exception("connection.crashed")
        except BaseExceptionGroup as group:
            errors, rest = group.split(Exception)
            if errors is not None:
                self._hall.books.connection_crashed()
                log.error("connection.crashed", exc_info=errors)
            if rest is not None:
                raise rest from None
        finally:
            if stays:
                guest.visited(None)
            else:
                await visit.cut()
                guest.close()


class _Spare:
    """One descriptor kept back, so that at the limit a client can still be told to go."""

    def __init__(self) -> None:
        self._kept: int | None = None
        self._take()

    async def shed(self, listener: socket.socket) -> None:
        """One waiting client is refused, or a moment has passed."""
        self.close()
        try:
            client, _ = listener.accept()
        except OSError:  # nobody waits any more, or somebody else took the spare one
            await trio.sleep(BACK_OFF_S)
        else:
            await _turn_away(trio.socket.from_stdlib_socket(client))
        self._take()

    def close(self) -> None:
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def _take(self) -> None:
        try:
            self._kept = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._kept = None


async def _turn_away(client: trio.socket.SocketType) -> None:
    """`client` is told that there are too many, and closed. Nothing is waited for."""
    line = Line(trio.SocketStream(client), BACK_OFF_S)
    try:
        reply = Reply(line, Terms("turned-away", keep=False))
        await reply.fail(_too_many())
    except trio.BrokenResourceError:
        pass
    finally:
        await line.cut()


def _too_many(of: str = "connections") -> Overloaded:
    return Overloaded("Too many connections are open here; try again in a few seconds.", reason=of)
