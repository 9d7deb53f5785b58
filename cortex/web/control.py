"""Every route that is not inference: hypercorn's connection class with an ASGI application.

One request at a time is handed over, its bytes replayed in canonical form, so that the
corridor can change from request to request on one connection. The socket, its limits and
the hang-up watch stay the door's: hypercorn gets a stream of ours that it can neither
close nor block for ever. Its connection class is semi-internal; the version is pinned, and
this is its only importer.
"""

import logging
import math
import socket
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from cortex.config.limits import Limits
from cortex.web.connection import Reply, Request
from cortex.web.head import Head
from cortex.web.line import Line
from cortex.web.site import App, Message, Receive, Send
from cortex.wire import neuron

log = logging.getLogger(__name__)

# Said anew for the replay, or meant for the connection and not for the application.
_HOP: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        neuron.KEY_NAME,
        neuron.REQUEST_ID,
    }
)


class Control:
    """The corridor to `app`. One for each door."""

    def __init__(self, app: App, limits: Limits) -> None:
        self._app = app
        self._context = WorkerContext(None)
        self._config = Config()
        self._config.errorlog = log
        self._config.include_server_header = False
        self._config.keep_alive_timeout = math.inf  # idle time is the door's
        self.refit(limits)

    def refit(self, limits: Limits) -> None:
        """Other limits, for requests to come."""
        self._config.h11_max_incomplete_size = limits.header + 4096

    async def serve(self, head: Head, request: Request, reply: Reply, line: Line) -> None:
        """The application has answered. Raises what it raised; then, and when cancelled,
        `reply` knows how much is out.
        """
        replay = _Replay(self._app, reply, line)
        data = _bytes(head, request, close=reply.last or not head.keep_alive)
        wire = _Wire(replay, data, request.peer)
        try:
            with replay.scope:
                # Both stand in for hypercorn's own kinds, with just what it uses of them.
                await TCPServer(replay, self._config, self._context, {}, wire)  # type: ignore[arg-type]
        except BaseExceptionGroup as group:
            if not replay.cut:
                raise
            # hypercorn answers for an application that was cancelled, and trips over what is out.
            rest = group.split(Exception)[1]
            if rest is not None:
                raise rest from None
            await trio.lowlevel.checkpoint()
        if replay.error is not None:
            raise replay.error


class _Replay:
    """The application, as hypercorn calls it: contained, and its answer observed."""

    def __init__(self, app: App, reply: Reply, line: Line) -> None:
        self._app = app
        self._reply = reply
        self._line = line
        self._running = False
        self._content_type = ""
        self._chunked = False
        self._out = False
        self._ended = trio.Event()
        self.scope = trio.CancelScope()
        self.error: Exception | None = None
        self.cut = False  # the application was cancelled

    async def __call__(self, scope: Message, receive: Receive, send: Send, *_threads: object) -> None:
        self._running = self.cut = True
        try:
            await self._app(scope, partial(self._receive, receive), partial(self._send, send))
        except Exception as error:  # noqa: BLE001 - raised again by `serve`, once hypercorn has let go
            self.error = error
        self.cut = False
        self.scope.cancel()

    async def _receive(self, receive: Receive) -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            # hypercorn says so while the last send is still under way, and quart would cancel
            # that. A client that really left cancels everything from outside.
            await self._ended.wait()
        return message

    async def _send(self, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": self._headers(message)}
        await send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._reply.adopted_end()
            self._ended.set()

    def _headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        fields = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", [])]
        known = dict(fields)
        self._content_type = known.get(b"content-type", b"").decode("latin-1")
        self._chunked = b"content-length" not in known
        terms = self._reply.terms
        ours = [*terms.extra, (neuron.REQUEST_ID, terms.request_id)]
        if terms.dialect == "anthropic":
            ours.append(("request-id", terms.request_id))
        names = {name.encode() for name, _ in ours}
        if self._reply.last:
            names.add(b"connection")
            ours.append(("connection", "close"))
        kept = [(name, value) for name, value in fields if name not in names]
        return [*kept, *((name.encode("latin-1"), value.encode("latin-1")) for name, value in ours)]

    async def out(self, data: bytes) -> None:
        """Bytes of hypercorn's reach the client; the first ones are the head."""
        if not self._out:
            self._out = True
            self._reply.adopt(self._content_type, chunked=self._chunked)
        await self._line.send(data)

    def closed(self) -> None:
        """hypercorn has done with the connection. After the answer's end, that is only
        its cleaning up; before, it will take no further request.
        """
        self._reply.last = self._reply.last or not self._ended.is_set()
        if not self._running:
            self.scope.cancel()


@dataclass(frozen=True)
class _Ends:
    """What hypercorn asks of a socket: who is there. The address may be one that a proxy named."""

    peer: str
    family: int = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return self.peer, 0

    def getsockname(self) -> tuple[str, int]:
        return "", 0


class _Wire:
    """A stream that holds one request, and then nothing until the scope is cancelled."""

    def __init__(self, replay: _Replay, data: bytes, peer: str) -> None:
        self._replay = replay
        self._data = data
        self.socket = _Ends(peer)

    async def receive_some(self, _max_bytes: int) -> bytes:
        if not self._data:
            await trio.sleep_forever()
        data, self._data = self._data, b""
        return data

    async def send_all(self, data: bytes) -> None:
        if data:
            await self._replay.out(data)

    async def aclose(self) -> None:
        self._replay.closed()


def _bytes(head: Head, request: Request, *, close: bool) -> bytes:
    """The request, as plainly as HTTP/1.1 can put it."""
    lines = [f"{head.method} {head.target} HTTP/{head.version}"]
    lines += [f"{name}: {value}" for name, value in head.headers if name not in _HOP]
    # The guard has judged the client's own; behind it no address may be made from it.
    lines.append("host: cortex")
    lines.append(f"{neuron.REQUEST_ID}: {request.id}")
    if request.caller:
        lines.append(f"{neuron.KEY_NAME}: {request.caller}")
    if head.has_body or head.method in ("POST", "PUT", "PATCH"):
        lines.append(f"content-length: {len(request.body)}")
    if close:
        lines.append("connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body
