"""Gateways and neurons that answer over loopback with what a test gave them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

Answer = tuple[int, bytes]


class Played:
    """One gateway or neuron: `answers` by "METHOD path"; what is not there is 404. An answer is held
    back until its event in `waits` is set."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.waits: dict[str, trio.Event] = {}
        self.heard: list[tuple[str, bytes, dict[str, str]]] = []
        self._news = trio.Event()

    def says(self, what: str, body: object, status: int = 200) -> "Played":
        self.answers[what] = (status, body if isinstance(body, bytes) else msgspec.json.encode(body))
        return self

    async def asked(self, what: str, times: int = 1) -> None:
        """`what` has come so often."""
        while sum(one == what for one, _, _ in self.heard) < times:
            await self._news.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := await stream.receive_some()):
                    return
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
            while len(body) < int(headers.get("content-length", "0")):
                body += await stream.receive_some()
            what = first.rpartition(" ")[0]
            self.heard.append((what, body, headers))
            self._news.set()
            self._news = trio.Event()
            if what in self.waits:
                await self.waits[what].wait()
            status, answer = self.answers.get(what, (404, b"{}"))
            await stream.send_all(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, len(answer), answer)
            )


@asynccontextmanager
async def played_at(played: Played) -> AsyncIterator[str]:
    """The URL of `played`, for as long as the block lasts."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, played.serve, 0)
            yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            nursery.cancel_scope.cancel()
