"""A stream that stays polite while it has nothing to say.

The status stays open for a grace, so that a quick failure keeps its own. Then 200, the
head and a first keep-alive go out, and one more whenever nothing was written for a beat,
between frames too, until the stream is finished or somebody else takes the reply over.
Keep-alives are what each dialect's clients skip: a comment, or Anthropic's `ping`. Whoever
waits for something that moves may `murmur` of it instead. How a failure ends the stream is
the reply's matter.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

import trio

from cortex.web.connection import Reply
from cortex.web.framing import Pairs
from cortex.wire import sse
from cortex.wire.faults import Dialect
from cortex.wire.sse import Frame

PING: Final = sse.render(Frame(b'{"type": "ping"}', "ping", event="ping"))
GRACE_S: Final = 1.0
BEAT_S: Final = 10.0


def _nothing() -> bytes:
    """There is no news."""
    return b""


class Stream:
    """`send` what the generation says, then `finish`. A block that is left without either
    `finish` or `hand_over` leaves the reply unfinished, which the door tells the client as a failure.
    """

    def __init__(self, reply: Reply, beat: bytes, grace_s: float, beat_s: float) -> None:
        self._reply = reply
        self._beat = beat
        self._grace_s = grace_s
        self._beat_s = beat_s
        self._headers: list[tuple[str, str]] = []
        self._trailers: tuple[str, ...] = ()
        self._held = b""
        self._late = False
        self._taken = False
        self._opened = reply.started
        self._news: Callable[[], bytes] = _nothing
        self._news_s = beat_s
        # One writer at a time: a keep-alive never lands inside a frame.
        self._writing = trio.Lock()

    def announce(self, headers: Pairs = (), trailers: Sequence[str] = ()) -> bool:
        """More for the head; False when the head is out already, and they cannot be said."""
        if self._opened:
            return False
        self._headers += headers
        self._trailers += tuple(trailers)
        return True

    def hold(self, *pieces: Frame | bytes) -> None:
        """`pieces` go out before the next that is sent, or in the place of the next keep-alive."""
        self._held += _rendered(pieces)

    def murmur(self, news: Callable[[], bytes], every_s: float) -> None:
        """What `news` answers, if anything, is said from the first keep-alive on, and asked for again
        after `every_s`, until the stream is finished or handed over. To be called before the block."""
        self._news, self._news_s = news, every_s

    async def hand_over(self) -> bool:
        """Keep-alives have stopped and the reply is the caller's alone; True when its head is out."""
        self._taken = True
        async with self._writing:  # a keep-alive under way is let out whole
            return self._opened

    async def send(self, *pieces: Frame | bytes) -> None:
        """`pieces` are out, in one write."""
        await self._alone()
        try:
            await self._put(_rendered(pieces))
        finally:
            self._writing.release()

    def push(self, data: bytes) -> bool:
        """Whether `data` is out, in one write and without waiting. Else nothing more may be pushed before
        it has been `settle`d."""
        self._open()
        held, self._held = self._held, b""
        self._due_at = trio.current_time() + self._beat_s
        self._late = not self._reply.push(held + data)
        return not self._late

    async def settle(self) -> None:
        """All that was pushed is out."""
        if self._late:
            self._late = False
            await self.send()

    async def finish(self, *pieces: Frame | bytes, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The stream is complete, `pieces` being its last."""
        self._taken = True
        await self.send(*pieces)
        await self._reply.end(trailers)

    async def __aenter__(self) -> "Stream":
        self._room: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery = await self._room.__aenter__()
        self._due_at = self._look_at = trio.current_time() + self._grace_s
        self._nursery.start_soon(self._keep_alive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Left as if all were well, so that an exception passes as itself and not in a group.
        self._taken = True
        try:
            if isinstance(error, Exception):  # whose end is told: torn, the answer could carry none
                await self.hand_over()
        finally:
            self._nursery.cancel_scope.cancel()
            await self._room.__aexit__(None, None, None)

    async def _keep_alive(self) -> None:
        # Frames move the time and never this task: it looks again when it wakes.
        while not self._taken:
            await trio.sleep_until(min(self._due_at, self._look_at))
            async with self._writing:
                if said := self._idle_words():
                    await self._put(said)

    def _idle_words(self) -> bytes:
        """What is to be said at this moment by a stream that has nothing to say."""
        now = trio.current_time()
        if self._taken:
            return b""
        if now >= self._look_at:
            self._look_at = now + self._news_s
            if news := self._news():
                return news
        if now < self._due_at:
            return b""
        held, self._held = self._held, b""
        return held or self._beat

    async def _alone(self) -> None:
        """Nobody else writes. Without a switch of tasks when nobody did."""
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self._reply.framing.start(headers=self._headers, trailers=self._trailers)

    async def _put(self, data: bytes) -> None:
        self._open()
        held, self._held = self._held, b""
        await self._reply.write(held + data)
        self._due_at = trio.current_time() + self._beat_s


def _rendered(pieces: Sequence[Frame | bytes]) -> bytes:
    return b"".join(sse.render(piece) if isinstance(piece, Frame) else piece for piece in pieces)


def beat(dialect: Dialect) -> bytes:
    """One keep-alive."""
    return PING if dialect == "anthropic" else sse.COMMENT


def open_stream(
    reply: Reply, dialect: Dialect, *, headers: Pairs = (), grace_s: float = GRACE_S, beat_s: float = BEAT_S
) -> Stream:
    """An event stream on `reply`, to be used with `async with`. Cancelled, it stops the keep-alives
    and leaves the reply as it is."""
    stream = Stream(reply, beat(dialect), grace_s, beat_s)
    stream.announce(headers)
    return stream
