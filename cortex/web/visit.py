"""One client's connection: request after request, each in the corridor that it belongs to.

Owns the order in which a request is judged: head, who may call, method, drain, body. Then
the handler or the application works, watched: a client that hangs up, also behind bytes
sent ahead, cancels it at once. A stop gives the client its end first. What is written, and
how, belongs to the reply; the socket belongs to the line.
"""

import logging
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final
from urllib.parse import unquote

import trio

from cortex.errors import BadFraming, BadMethod, CortexError, NoUpgrade, SlowBody, Stopping
from cortex.logs import bind_request
from cortex.web import faults, guard, head
from cortex.web.body import read_body
from cortex.web.connection import Headers, Reply, Request
from cortex.web.framing import Terms
from cortex.web.guest import KEEP_ALIVE_S, Handed, Work
from cortex.web.hall import Hall
from cortex.web.head import Head
from cortex.web.line import Line, nobody
from cortex.web.site import Route
from cortex.wire.faults import Dialect

log = logging.getLogger(__name__)

CONTROL_BODY: Final = 2**20
# A stopped request's last event must be out within this.
FAREWELL_S: Final = 1.0


class Visit:
    """One connection. `run` it to its end; `rest`, `stop` and `cut` are the door's, at a drain. Its first
    request is one that began at the trio time `since`; with `first` it is that of the connection."""

    def __init__(
        self, line: Line, peer: str, hall: Hall, *, since: float | None = None, first: bool = True
    ) -> None:
        self._line = line
        self._peer = peer
        self._hall = hall
        self._since = trio.current_time() if since is None else since
        self._first = first
        self._stopping = False
        self._why: CortexError | None = None
        self._caller = ""
        self._waiting = trio.CancelScope()
        self._scope = trio.CancelScope()
        self._reply: Reply | None = None
        self._controlled = False
        self._unread = False
        self.whole = trio.CancelScope()

    @property
    def holds(self) -> bool:
        """Whether a drain waits for this: a request is being answered, and will end by itself.
        An event stream of a control route lasts as long as its client, and a body that still
        arrives would be refused: neither counts.
        """
        reply = self._reply
        return reply is not None and not self._unread and not (self._controlled and reply.streaming)

    async def run(self, handed: Handed | None = None, *, stay: bool = True) -> bool:
        """Serve until the client, a fault or a stop ends it; then the line is left for `cut`. Unless it is
        to `stay` for what has not even begun, True tells that the client may send it. `handed` is what
        comes first."""
        try:
            goes_on = await (self._next() if handed is None else self._resume(handed))
            while goes_on:
                self._first, self._since = False, trio.current_time()
                if not stay and not self._line.buffer and not self._stopping:
                    return True
                goes_on = await self._next()
            if self._unread:
                await self._line.linger()
        except trio.BrokenResourceError:
            log.debug("connection.lost peer=%s", self._peer)
        return False

    def rest(self) -> None:
        """No request after this one; at once when the client is between two."""
        if self._reply is not None:
            self._reply.last = True
        elif not self._first and not self._line.buffer:
            self._waiting.cancel()

    def serves(self, callers: AbstractSet[str]) -> object | None:
        """A token of the request of one of `callers` that is being answered, else None."""
        return self._reply.framing if self._reply is not None and self._caller in callers else None

    def stop(self, why: CortexError | None = None) -> None:
        """What is under way is cancelled, and its client gets an end: `why`, else that cortex goes."""
        self._stopping, self._why = True, why
        (self._waiting if self._reply is None else self._scope).cancel()

    async def cut(self) -> None:
        """The socket is closed, whatever is under way."""
        self.whole.cancel()
        await self._line.cut()

    async def _next(self) -> bool:
        """One request is answered; True when another may come."""
        self._unread = True
        terms = Terms(self._hall.request_id(Headers()), keep=False)
        try:
            raw = await self._read_head()
            if raw is None:
                self._note_departure(begun=bool(self._line.buffer))
                return False
            parsed = head.parse(raw)
        except CortexError as error:
            self._hall.books.rejected(error)
            with bind_request(terms.request_id):
                log.log(
                    logging.WARNING if isinstance(error, BadFraming | NoUpgrade) else logging.DEBUG,
                    "request.refused peer=%s code=%s cause=%r",
                    self._peer,
                    error.code,
                    error.message,
                )
            await Reply(self._line, terms).fail(error)
            return False
        return await self._exchange(parsed)

    def _note_departure(self, *, begun: bool) -> None:
        """The client may have left in the middle of a request."""
        if begun and not self._line.alive:
            self._hall.books.client_left("body")

    async def _read_head(self) -> bytes | None:
        """The bytes of one head; None when there is to be none."""
        line, limits = self._line, self._hall.limits
        deadline = self._since + (limits.header_s if self._first else KEEP_ALIVE_S)
        begun = self._first
        while True:
            while line.buffer.startswith(b"\r\n"):  # an empty line too many after a body is common
                del line.buffer[:2]
            if line.buffer and line.buffer != b"\r":
                if not begun:
                    begun, deadline = True, trio.current_time() + limits.header_s
                raw = head.take(line.buffer, limits.header)
                if raw is not None:
                    return raw
            if not await self._more_by(deadline):
                return None

    async def _more_by(self, deadline: float) -> bool:
        with trio.CancelScope(deadline=deadline) as self._waiting:
            return await self._line.more()
        if not self._stopping and head.has_start_line(self._line.buffer):
            raise SlowBody(
                "The request head came too slowly; send it again over a better connection.",
                reason="slow_header",
            )
        return False

    async def _exchange(self, parsed: Head) -> bool:
        hall, route = self._hall, self._hall.site.routes.get(parsed.path)
        terms = Terms(
            request_id=hall.request_id(parsed.headers),
            dialect=_dialect(parsed, route),
            version=parsed.version,
            keep=parsed.keep_alive,
            bodyless=parsed.method == "HEAD",
            extra=guard.cross_origin(hall.site.policy, parsed.headers),
        )
        reply = Reply(self._line, terms)
        self._caller = ""
        self._controlled = route is None
        # Until its body is read, a request that is refused ends the connection.
        reply.last = hall.draining or parsed.has_body
        return await self._converse(reply, partial(self._answer, parsed, route))

    def hand(self, handed: Handed) -> None:
        """It is at work from this moment on, although its task has not begun: a drain, a stop and a revoke
        find it so."""
        self._reply = reply = Reply(self._line, handed.framing.terms, handed.framing, handed.unsent)
        reply.last = reply.last or self._hall.draining
        self._caller, self._unread = handed.request.caller, False

    async def _resume(self, handed: Handed) -> bool:
        """An answer that other hands began is ended; True when another request may come."""
        if self._reply is None:
            self.hand(handed)
        assert self._reply is not None  # noqa: S101 - that is what `hand` does
        return await self._converse(self._reply, partial(self._end, handed))

    async def _converse(self, reply: Reply, work: Work) -> bool:
        """`work` answers, unless it is stopped; True when another request may come."""
        self._reply = reply
        try:
            with bind_request(reply.terms.request_id), trio.CancelScope() as self._scope:
                self._line.on_lost = self._scope.cancel
                if self._stopping:
                    self._scope.cancel()
                await self._attempt(work, reply)
            if self._stopping and self._line.alive:
                with trio.move_on_after(FAREWELL_S):
                    await reply.fail(self._why or stopping(not_started=self._unread))
            return reply.keep and not self._stopping
        finally:
            self._line.on_lost = nobody
            self._reply = None
            self._hall.tell()

    async def _attempt(self, work: Work, reply: Reply) -> None:
        """The reply is ended, or was cancelled: whatever went wrong, the client is told of it."""
        try:
            await work(reply)
            if not reply.done:
                raise RuntimeError("the handler returned without ending its answer")
        except Exception as error:
            if isinstance(error, trio.BrokenResourceError) and not self._line.alive:
                raise
            await reply.fail(faults.cause(error))
        except BaseExceptionGroup as group:
            # A bug while being cancelled: it is logged, and the cancel goes its way.
            errors, rest = group.split(Exception)
            if errors is not None:
                faults.cause(errors)
            if rest is not None:
                raise rest from None

    async def _end(self, handed: Handed, reply: Reply) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._line.watch)
            with self._hall.working():
                await handed.work(reply)
            nursery.cancel_scope.cancel()

    async def _answer(self, parsed: Head, route: Route | None, reply: Reply) -> None:
        try:
            allowed = guard.preflight(self._hall.site.policy, parsed.method, parsed.headers)
            request = None if allowed is not None else await self._receive(parsed, route, reply)
        except CortexError as error:
            self._hall.books.rejected(error)
            raise
        except trio.BrokenResourceError:
            self._note_departure(begun=True)
            raise
        if request is None:
            await reply.whole(204, b"", allowed or ())
        else:
            await self._serve(route, parsed, request, reply)

    async def _receive(self, parsed: Head, route: Route | None, reply: Reply) -> Request:
        """The whole request of somebody who may send it."""
        hall, arrived = self._hall, trio.current_time()
        policy, headers = hall.site.policy, parsed.headers
        visitor = guard.visitor(policy, self._peer, headers)
        scope = hall.site.scope_of(parsed.method, unquote(parsed.path))
        caller = self._caller = guard.admit(policy, headers=headers, visitor=visitor, scope=scope)
        self._check_open(parsed, route)
        limit = hall.limits.body if route is not None else min(CONTROL_BODY, hall.limits.body)
        body = await read_body(self._line, parsed, limit, hall.limits.request_body_s)
        await self._line.heed()
        reply.last, self._unread = hall.draining, False
        self._check_open(parsed, route)
        return Request(
            method=parsed.method,
            path=parsed.path,
            query=parsed.query,
            headers=headers,
            body=body,
            peer=str(visitor.address),
            id=reply.terms.request_id,
            caller=caller,
            arrived=arrived,
        )

    async def _serve(self, route: Route | None, parsed: Head, request: Request, reply: Reply) -> None:
        """The handler or the application answers, watched: a hang-up cancels it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._line.watch)
            if route is None:
                await self._hall.control.serve(parsed, request, reply, self._line)
            else:
                with self._hall.working():
                    await route.handler(request, reply)
            nursery.cancel_scope.cancel()

    def _check_open(self, parsed: Head, route: Route | None) -> None:
        """An inference route takes POST only, and nothing once the door drains."""
        if route is None:
            return
        if parsed.method != "POST":
            raise BadMethod(f"{route.path} takes POST, not {parsed.method}.", facts={"allow": "POST"})
        if self._hall.draining:
            raise stopping()


def _dialect(parsed: Head, route: Route | None) -> Dialect:
    if route is not None:
        return route.dialect
    # The lists of models exist in both shapes, and this header is how they are told apart.
    return "anthropic" if parsed.headers.get("anthropic-version") is not None else "openai"


def stopping(*, not_started: bool = True) -> Stopping:
    """What a client is told when cortex goes."""
    error = Stopping("cortex is shutting down; try again in a few seconds, or at another gateway.")
    # A request that was at work may have run: nobody may repeat it unasked.
    error.not_started = not_started
    return error
