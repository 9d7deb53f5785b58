"""Words over a socket: four bytes of length, then the word as MessagePack.

`say` never waits; a peer that has not read MOST_UNREAD words hangs, and further ones are dropped: nobody
waits for an answer without a limit of his own.
"""

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import msgspec
import trio

from cortex.workers.words import Word

MOST_UNREAD: Final = 4096
# The page of a big fleet is some tens of megabytes.
MOST_BYTES: Final = 2**28
_BLOCK: Final = 2**18
_HEAD: Final = struct.Struct(">I")


class Line:
    """One end. `run` it; it ends with the other end, and closes this one."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._send, self._unsent = trio.open_memory_channel[bytes | trio.Event](MOST_UNREAD)
        self.ended = trio.Event()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Word).decode

    def say(self, word: Word) -> None:
        """It goes when those before have gone."""
        data = self._encode(word)
        with suppress(trio.WouldBlock):
            self._send.send_nowait(_HEAD.pack(len(data)) + data)

    async def run(self, hear: Callable[[Word], None]) -> None:
        """`hear` gets each word, until the other end is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                async for word in self._read():
                    hear(word)
                self.ended.set()
                nursery.cancel_scope.cancel()
        finally:
            self._stream.socket.close()

    async def flush(self, most_s: float) -> None:
        """All that was said is with the other end, or the time is over."""
        with trio.move_on_after(most_s):
            written = trio.Event()
            await self._send.send(written)
            await written.wait()

    async def _write(self) -> None:
        async for data in self._unsent:
            if isinstance(data, trio.Event):
                data.set()
                continue
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _read(self) -> AsyncIterator[Word]:
        held = bytearray()
        while True:
            while len(held) >= _HEAD.size:
                (length,) = _HEAD.unpack_from(held)
                end = _HEAD.size + length
                if len(held) < end:
                    break
                word = self._decode(held[_HEAD.size : end])
                del held[:end]
                yield word
            try:
                data = await self._stream.receive_some(_BLOCK)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            held += data
