"""A wire with faults: a TCP proxy in this process whose toxics can be put in and taken out at any time.

The set is toxiproxy's: latency, bandwidth, slow close, timeout, slicer, limit of data, reset, and
the black hole. They stand in a row, each hands on to the next, and act on blocks that come from
then on, over connections that are open, too. Waiting is trio's alone, and `carry` works on any
streams: on memory streams a test's mock clock drives it.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import trio

from tests.fake_upstream import LINGER_ZERO

BLOCK = 65536
# Of a bandwidth: how often a second something passes.
BEATS = 20

Onward: TypeAlias = Callable[[bytes], Awaitable[None]]
Stream: TypeAlias = trio.abc.HalfCloseableStream
Way: TypeAlias = Literal["up", "down"]  # to the neuron, and from it


class Cut(Exception):
    """The connection ends here; by a reset, when `hard`."""

    def __init__(self, *, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard


class Toxic(Protocol):
    """Hands blocks on, in its own way. b"" is the end of one direction. One object serves all
    connections; what it must remember of one is in `seen`, the bytes that came to it before."""

    async def take(self, data: bytes, onward: Onward, seen: int) -> None: ...


@dataclass(frozen=True)
class Latency:
    """Every block is `seconds` late."""

    seconds: float

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        await trio.sleep(self.seconds)
        await onward(data)


@dataclass(frozen=True)
class Bandwidth:
    """So many bytes a second."""

    bytes_s: int

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        piece = max(1, self.bytes_s // BEATS)
        for start in range(0, len(data) or 1, piece):
            part = data[start : start + piece]
            await trio.sleep(len(part) / self.bytes_s)
            await onward(part)


@dataclass(frozen=True)
class SlowClose:
    """The end of a direction comes `seconds` late; its bytes do not."""

    seconds: float

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        if not data:
            await trio.sleep(self.seconds)
        await onward(data)


@dataclass(frozen=True)
class Timeout:
    """Nothing passes, and the connection is cut `seconds` after the first byte that did not; None:
    it is held open."""

    seconds: float | None

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        if self.seconds is None:
            await trio.sleep_forever()
        else:
            await trio.sleep(self.seconds)
            raise Cut


def hole() -> Timeout:
    """A peer that vanished: bytes are taken, none arrive, and no end is told."""
    return Timeout(None)


@dataclass(frozen=True)
class Slicer:
    """Blocks are cut into `size` bytes, or at positions `at` of the direction, with pauses between."""

    size: int = 1
    at: tuple[int, ...] = ()
    pause_s: float = 0.0

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        cuts = [place - seen for place in self.at if 0 < place - seen < len(data)]
        starts = [0, *(cuts if self.at else range(self.size, len(data), self.size))]
        for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
            if start:
                await trio.sleep(self.pause_s)
            await onward(data[start:end])


@dataclass(frozen=True)
class LimitData:
    """The connection is closed once so many bytes have passed; by a reset, when `hard`."""

    most: int
    hard: bool = False

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        left = self.most - seen
        if left > 0:
            await onward(data[:left])
        if not data or len(data) >= left:
            raise Cut(hard=self.hard)


@dataclass(frozen=True)
class ResetPeer:
    """The connection is reset `seconds` after the first byte that came here."""

    seconds: float = 0.0

    async def take(self, data: bytes, onward: Onward, seen: int) -> None:
        await trio.sleep(self.seconds)
        raise Cut(hard=True)


@dataclass
class Toxics:
    """What stands in each direction, the first nearest to the sender."""

    up: list[Toxic] = field(default_factory=list)
    down: list[Toxic] = field(default_factory=list)

    @contextmanager
    def put(self, toxic: Toxic, way: Way = "down") -> Iterator[None]:
        """`toxic` acts on blocks that come within the block."""
        row = self.up if way == "up" else self.down
        row.append(toxic)
        try:
            yield
        finally:
            row.remove(toxic)

    async def carry(self, near: Stream, far: Stream) -> None:
        """Both directions, until both have ended. Cut when a toxic or a peer breaks the connection."""
        cuts: list[Cut] = []

        async def one(source: Stream, sink: Stream, row: list[Toxic]) -> None:
            try:
                await self._flow(source, sink, row)
            except Cut as cut:
                cuts.append(cut)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, near, far, self.up)
            nursery.start_soon(one, far, near, self.down)
        if cuts:
            raise cuts[0]

    async def _flow(self, source: Stream, sink: Stream, row: list[Toxic]) -> None:
        seen: dict[int, int] = {}

        async def through(data: bytes, rest: list[Toxic]) -> None:
            if not rest:
                await (sink.send_all(data) if data else sink.send_eof())
                return
            before, toxic = seen.get(id(rest[0]), 0), rest[0]
            seen[id(toxic)] = before + len(data)
            await toxic.take(data, lambda part: through(part, rest[1:]), before)

        try:
            while True:
                data = bytes(await source.receive_some(BLOCK))
                await through(data, list(row))
                if not data:
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            raise Cut(hard=True) from broken


@dataclass
class Proxy(Toxics):
    """Stands at `port` before the one at `target`; `connections` counts those that came."""

    target: int = 0
    port: int = 0
    connections: int = 0
    _nursery: trio.Nursery | None = None
    _listener: trio.socket.SocketType | None = None
    _stuffing: ExitStack = field(default_factory=ExitStack)
    _open: set[trio.CancelScope] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Connections are taken, at the same port as before."""
        assert self._nursery is not None
        self.close()
        listener = trio.socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port, self._listener = listener.getsockname()[1], listener
        self._nursery.start_soon(self._accept, listener)

    def close(self) -> None:
        """Connections are refused, as when nobody listens. Those that are open stay."""
        if self._listener is not None:
            self._listener.close()
        self._stuffing.close()

    async def drop(self) -> None:
        """Those that are open are closed, and both sides have been told."""
        for scope in self._open:
            scope.cancel()
        while self._open:
            await trio.lowlevel.checkpoint()

    def deafen(self) -> None:
        """Connections are neither taken nor refused: the backlog is full."""
        self.close()
        listener = self._stuffing.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        for _ in range(4):
            each = self._stuffing.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", self.port))

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        assert self._nursery is not None
        with suppress(trio.ClosedResourceError):
            while listener.fileno() >= 0:
                sock, _ = await listener.accept()
                self.connections += 1
                self._nursery.start_soon(self._serve, trio.SocketStream(sock))

    async def _serve(self, near: trio.SocketStream) -> None:
        with near.socket, self._scope():
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self.target)
            except OSError:
                _harden(near)
                return
            with far.socket:
                try:
                    await self.carry(near, far)
                except Cut as cut:
                    if cut.hard:
                        _harden(near, far)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                yield
            finally:
                self._open.discard(scope)


def _harden(*streams: trio.SocketStream) -> None:
    """Closing them will be a reset."""
    for stream in streams:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


@asynccontextmanager
async def toxic_proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy before the listener at port `target` of loopback."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(target=target, _nursery=nursery)
        await proxy.listen()
        try:
            yield proxy
        finally:
            proxy.close()
            nursery.cancel_scope.cancel()
