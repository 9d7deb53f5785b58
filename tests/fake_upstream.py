"""A neuron's end of the wire, scripted request by request: bytes, cuts, resets, drips.

Real sockets on loopback; nothing of HTTP is checked or added, so that a script can say
anything at all. Each request that arrives, over whichever connection, takes the next script;
without one left it takes `otherwise`. A script that does not close leaves the connection open.
"""

import itertools
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio
import trio.testing

LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Send:
    """`data` is written in one go."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Drip:
    """`data` is written in pieces, each after the other side has taken in the one before.

    `size` bytes a piece, or cut at the positions `at`; `pause_s` of trio's time between.
    """

    data: bytes
    size: int = 1
    at: tuple[int, ...] = ()
    pause_s: float = 0.0

    def pieces(self) -> list[bytes]:
        cuts = [0, *(self.at or range(self.size, len(self.data), self.size)), len(self.data)]
        return [self.data[a:b] for a, b in itertools.pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing more happens before `event`."""

    event: trio.Event


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing more is said; it is noted when the other side hangs up."""


@dataclass(frozen=True, slots=True)
class Close:
    """The connection is closed in good order."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset, as when the process is killed."""


Step = Send | Drip | Wait | Hang | Close | Reset


@dataclass(frozen=True, slots=True)
class Script:
    """What one request meets. `read` says how much of it is read before the first step."""

    steps: tuple[Step, ...]
    read: Literal["all", "head", "nothing"] = "all"


def script(*steps: Step | bytes, read: Literal["all", "head", "nothing"] = "all") -> Script:
    """A script; plain bytes stand for `Send`."""
    return Script(tuple(Send(step) if isinstance(step, bytes) else step for step in steps), read)


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; `raw` is all of it, `connection` counts from 0."""

    raw: bytes
    connection: int

    @property
    def head(self) -> list[str]:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [(name, value.strip()) for name, _, value in (line.partition(":") for line in self.head[1:])]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


@dataclass
class FakeUpstream:
    """`requests` that came, `connections` that were accepted, how many are `open` and who `hung_up`."""

    scripts: deque[Script]
    otherwise: Script | None
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    hung_up: int = 0
    _change: trio.Event = field(default_factory=trio.Event)

    def then(self, *steps: Step | bytes, read: Literal["all", "head", "nothing"] = "all") -> None:
        """One more script."""
        self.scripts.append(script(*steps, read=read))

    async def until(self, **wanted: int) -> None:
        """Return when each named counter has the value wanted."""
        while any(getattr(self, name) != value for name, value in wanted.items()):
            await self._change.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        number = self.connections
        self._count("connections", 1)
        self._count("open", 1)
        try:
            async with stream:
                while await self._one(stream, number):
                    pass
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            self._count("hung_up", 1)
        finally:
            self._count("open", -1)

    async def _one(self, stream: trio.SocketStream, number: int) -> bool:
        if self.scripts and self.scripts[0].read == "nothing":
            plan = self.scripts.popleft()
        else:
            raw = await _head(stream)
            if raw is None:
                return False
            plan = self.scripts.popleft() if self.scripts else self.otherwise
            assert plan is not None, "a request came for which there is no script"
            if plan.read == "all":
                raw = await _rest(stream, raw)
            self.requests.append(Received(raw, number))
            self._count("open", 0)
        for step in plan.steps:
            if not await self._step(stream, step):
                return False
        return True

    async def _step(self, stream: trio.SocketStream, step: Step) -> bool:
        match step:
            case Send(data):
                await stream.send_all(data)
            case Drip():
                for piece in step.pieces():
                    await stream.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(step.pause_s)
            case Wait(event):
                await event.wait()
            case Hang():
                while await stream.receive_some(65536):
                    pass
                self._count("hung_up", 1)
                return False
            case Close():
                return False
            case Reset():
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
                return False
        return True

    def _count(self, name: str, by: int) -> None:
        setattr(self, name, getattr(self, name) + by)
        self._change.set()
        self._change = trio.Event()


async def _head(stream: trio.SocketStream) -> bytes | None:
    """One request head, and no byte after it, so that a script can leave the body unread."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        ahead = raw + await stream.socket.recv(65536, socket.MSG_PEEK)
        end = ahead.find(b"\r\n\r\n")
        wanted = (end + 4 if end >= 0 else len(ahead)) - len(raw)
        if not wanted:
            return None
        raw += await stream.socket.recv(wanted)
    return raw


async def _rest(stream: trio.SocketStream, raw: bytes) -> bytes:
    head = raw.lower().partition(b"\r\n\r\n")[0]
    length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0")
    body = b""
    while len(body) < length:
        data = await stream.receive_some(length - len(body))
        if not data:
            break
        body += data
    return raw + body


@asynccontextmanager
async def fake_upstream(*scripts: Script, otherwise: Script | None = None) -> AsyncIterator[FakeUpstream]:
    """A listener on loopback that plays `scripts` in order of the requests."""
    upstream = FakeUpstream(deque(scripts), otherwise)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        upstream.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, upstream.serve, listeners)
        yield upstream
        nursery.cancel_scope.cancel()


def head(status: int, *headers: str) -> bytes:
    """A response head."""
    return "\r\n".join([f"HTTP/1.1 {status} Said", *headers, "", ""]).encode("latin-1")


def whole(status: int, body: bytes, *headers: str, content_type: str = "application/json") -> bytes:
    """A response with a length."""
    return head(status, f"content-type: {content_type}", f"content-length: {len(body)}", *headers) + body


def chunks(*pieces: bytes) -> bytes:
    """Pieces of a chunked body, without its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def last_chunk(*trailers: str) -> bytes:
    """The end of a chunked body."""
    return "\r\n".join(["0", *trailers, "", ""]).encode("latin-1")


STREAM_HEAD = head(200, "content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")


def events(*pieces: bytes, trailers: Iterable[str] = ()) -> bytes:
    """A whole event stream, each piece a chunk."""
    return STREAM_HEAD + chunks(*pieces) + last_chunk(*trailers)
