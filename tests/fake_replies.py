"""The client's side of an answer without a client: a reply that keeps what it is told, and a reactor."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import trio

from cortex.errors import CortexError
from cortex.web.framing import EVENT_STREAM, JSON, Framing, Terms
from cortex.web.reactor import Reactor


class _Noted(Framing):
    """What is said of the head, beside what the framing makes of it."""

    def __init__(self) -> None:
        super().__init__(Terms("r-1", version="1.0"))
        self.status = 0
        self.headers: dict[str, str] = {}
        self.content_type = ""

    def start(
        self,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = EVENT_STREAM,
        trailers: Sequence[str] = (),
    ) -> None:
        self._note(status, headers, content_type)
        super().start(status, headers, content_type, trailers)

    def whole(
        self,
        status: int,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = JSON,
    ) -> bytes:
        self._note(status, headers, content_type)
        return super().whole(status, body, headers, content_type)

    def _note(self, status: int, headers: Iterable[tuple[str, str]], content_type: str) -> None:
        assert not self.status, "one head only"
        pairs = list(headers)
        self.status, self.headers, self.content_type = status, dict(pairs), content_type
        assert len(self.headers) == len(pairs), "a header was sent twice"


class Recorder:
    """A reply that keeps what it is told. Every write takes `pause_s`, as with a slow client,
    and sets the next event of `taken`."""

    def __init__(self, *, started: bool = False) -> None:
        self.framing = _Noted()
        if started:
            self.framing.adopt("text/event-stream", chunked=False)
            self.framing.status = 200
        self.body = bytearray()
        self.pause_s = 0.0
        self.taken: list[trio.Event] = []
        self._headed = started
        self._waiting = b""

    @property
    def started(self) -> bool:
        return self.framing.started

    @property
    def ended(self) -> bool:
        return self.framing.done

    @property
    def status(self) -> int:
        return self.framing.status

    @property
    def headers(self) -> dict[str, str]:
        return self.framing.headers

    @property
    def content_type(self) -> str:
        return self.framing.content_type

    def offer(self, data: bytes) -> bool:
        assert not self._waiting, "the rest of what was offered first would be lost"
        if self.pause_s:
            self._waiting = data
        else:
            self._take(data)
        return not self._waiting

    async def settle(self) -> None:
        await trio.sleep(self.pause_s)
        data, self._waiting = self._waiting, b""
        self._take(data)

    async def whole(
        self,
        status: int,
        body: bytes,
        headers: Iterable[tuple[str, str]] = (),
        content_type: str = JSON,
    ) -> None:
        await trio.lowlevel.checkpoint()
        data = self.framing.whole(status, body, headers, content_type)
        self.framing.opened()
        self._take(data)
        self.framing.sent()

    def _take(self, data: bytes) -> None:
        if not self._headed:
            self._headed = True
            data = data.partition(b"\r\n\r\n")[2]
        self.body += data
        for event in self.taken[:1]:
            event.set()
            self.taken = self.taken[1:]


@asynccontextmanager
async def reacting() -> AsyncIterator[Reactor]:
    """Its callbacks run within; an error of ours comes out as itself."""
    reactor, failure = Reactor(), None
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        try:
            yield reactor
        except CortexError as error:
            failure = error
        finally:
            nursery.cancel_scope.cancel()
    reactor.close()
    if failure is not None:
        raise failure
