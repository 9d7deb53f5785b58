"""One connection of the fake neuron: requests are read, answers written, and nothing is checked.

Bare sockets, so that whatever a neuron must never say can be said.
"""

import socket
import struct
from collections.abc import Mapping

import trio

BLOCK = 2**20
LINGER_ZERO = struct.pack("ii", 1, 0)


class Gone(Exception):
    """The connection is over, or is to be closed without another word."""


class Line:
    """A connection and what came over it ahead of its time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream, self._ahead = stream, bytearray()

    async def more(self) -> None:
        """Some bytes have come; Gone when the other side has left."""
        try:
            data = await self.stream.receive_some(BLOCK)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as left:
            raise Gone from left
        if not data:
            raise Gone
        self._ahead += data

    async def head(self) -> tuple[str, str, dict[str, str]]:
        """Method, target and headers of the next request."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            await self.more()
        first, *rest = self._ahead[:end].decode("latin-1").split("\r\n")
        del self._ahead[: end + 4]
        fields = (field.partition(":") for field in rest)
        if first.count(" ") != 2:
            raise Gone
        method, target, _ = first.split(" ")
        return method, target, {name.lower(): value.strip() for name, _, value in fields}

    async def body(self, length: int) -> bytes:
        """The body of the request whose head was read."""
        while len(self._ahead) < length:
            await self.more()
        body = bytes(self._ahead[:length])
        del self._ahead[:length]
        return body

    async def send(self, data: bytes) -> None:
        """`data` is on its way; Gone when the other side has left."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as left:
            raise Gone from left

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer."""
        length = {"content-type": "application/json", "content-length": str(len(body))}
        await self.send(_head(status, {**length, **(headers or {})}) + body)

    async def open(self, headers: Mapping[str, str]) -> None:
        """The head of a chunked answer."""
        await self.send(_head(200, {**headers, "transfer-encoding": "chunked"}))

    async def chunk(self, data: bytes) -> None:
        """A piece of a chunked answer."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self, trailers: Mapping[str, str] | None = None) -> None:
        """The end of a chunked answer."""
        lines = [f"{name}: {value}" for name, value in (trailers or {}).items()]
        await self.send("\r\n".join(["0", *lines, "", ""]).encode("latin-1"))

    def reset(self) -> None:
        """Closing it will be a reset, as when a process is killed."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "", ""]).encode("latin-1")
