"""One client's socket: a bounded read-ahead, and writes that cannot stall for ever.

Owns the bytes that came early, and the knowledge whether the client is still there.
Everything above writes through `send`, hypercorn included, so that a reader that has
stopped cannot hold a drain. What the bytes mean is the business of others.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import trio

BLOCK: Final = 65536
# What a client may send ahead of its answer: enough for any pipelined request in use.
AHEAD: Final = 65536
# A client that has its answer sends the next request at once, before whoever served it has put
# the books in order: milliseconds, even on a busy machine.
TIDY_S: Final = 1.0
LINGER_S: Final = 1.0


class ByteStream(Protocol):
    """The part of trio's streams that a line needs; sockets and memory streams have it."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_eof(self) -> None: ...

    async def aclose(self) -> None: ...


def nobody() -> None:
    """There is no one to tell."""


class Line:
    """`alive` until the client is gone; `torn` once a write was interrupted half-way; `stalled` when
    it is gone because it took nothing for too long.

    `on_lost` is called when the client is found to be gone: whoever serves it sets it. `sock` is the
    socket of `stream`, where there is one.
    """

    def __init__(self, stream: ByteStream, stall_s: float, sock: socket.socket | None = None) -> None:
        self._stream = stream
        self._sock = sock
        self._stall_s = stall_s
        self.buffer = bytearray()
        self.alive = True
        self.torn = False
        self.stalled = False
        self.on_lost: Callable[[], None] = nobody

    async def more(self) -> bool:
        """One more block is in `buffer`; False once the client has closed or reset.

        A client that closes only its sending side counts as gone: no client library
        does so while it waits for an answer. Nothing is lost on cancellation.
        """
        try:
            block = await self._stream.receive_some(BLOCK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            block = b""
        if not block:
            self._lose()
            return False
        self.buffer += block
        return True

    async def heed(self) -> None:
        """All that came by this moment is in `buffer`. Raises BrokenResourceError when the client is
        found to be gone: on a busy day it may have left before its request is read."""
        while self.alive and len(self.buffer) <= AHEAD and self._has_news():
            await self.more()
        if not self.alive:
            await self._refuse()

    async def send(self, data: bytes) -> None:
        """`data` is with the kernel. Raises BrokenResourceError when the client is gone, or
        takes nothing for the stall limit; then `on_lost` has been called, and inside a scope
        which that cancels, Cancelled comes instead. Cancelled, the line counts as torn: part of
        `data` may be out.
        """
        if not self.alive or self.torn:
            await self._refuse()
        self.torn = True
        try:
            for start in range(0, len(data), BLOCK):
                with trio.fail_after(self._stall_s):
                    await self._stream.send_all(data[start : start + BLOCK])
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.stalled = isinstance(error, trio.TooSlowError)
            self._lose()
            await self._refuse()
        self.torn = False

    def push(self, data: bytes) -> bytes:
        """What the kernel does not take of `data` at once: all of it while somebody sends, and when the
        client is gone, which `send` finds out. Waits for nothing."""
        if self._sock is None or self.torn or not self.alive:
            return data
        try:
            count = self._sock.send(data)
        except OSError:
            return data
        return data[count:]

    async def watch(self) -> None:
        """Return when the client hangs up, or sends more ahead than it may. Cancelled, what came is
        kept: it is the next request."""
        while len(self.buffer) <= AHEAD:
            if not await self.more():
                return
        await trio.sleep(TIDY_S)
        self._lose()

    async def linger(self) -> None:
        """The last answer has a chance to be read: a close over unread bytes is a reset, which
        can overtake it. Takes what still comes, and bounds that in time.
        """
        if not self.alive or self.torn:
            return
        with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_eof()
            while await self._stream.receive_some(BLOCK):
                pass

    async def cut(self) -> None:
        """The socket is closed at once, whatever was under way; writers get an error."""
        self.alive = False
        # Not merely cancelled: closing is what wakes a writer that is shielded.
        with trio.CancelScope() as now:
            now.cancel()
            await self._stream.aclose()

    def _has_news(self) -> bool:
        """Whether there is something to read, be it the end. Streams in memory do not tell."""
        return isinstance(self._stream, trio.SocketStream) and self._stream.socket.is_readable()

    def _lose(self) -> None:
        self.alive = False
        self.on_lost()

    async def _refuse(self) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("the client is gone")
