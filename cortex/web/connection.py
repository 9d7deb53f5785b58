"""What an inference handler holds: the request, and the reply that it writes.

A `Request` is whole and immutable. A `Reply` sends what `framing` makes, and promises that a failure
is told while there is a way to tell it. Sockets, deadlines and the hang-up watch belong to `line`
and `visit`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import trio

from cortex.errors import CortexError
from cortex.web.framing import EVENT_STREAM, JSON, Framed, Framing, Pairs, Terms
from cortex.web.line import Line


class Headers:
    """Header fields in order; names are lower-case, values text as latin-1 reads it."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = tuple((name.lower(), value) for name, value in pairs)

    def get(self, name: str) -> str | None:
        """The first value of `name`."""
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Every value of `name`, in order."""
        name = name.lower()
        return [value for key, value in self._pairs if key == name]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        # Values may be keys: only names are ever shown.
        return f"Headers({', '.join(name for name, _ in self._pairs)})"


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request. `path` is as received, without the query.

    `peer` is the client's address (the one a trusted proxy names, if there is one),
    `caller` the name of its key, "" without one, `arrived` the trio time of its head.
    The `repr` shows no body and no value of a header.
    """

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes = field(repr=False)
    peer: str
    id: str
    caller: str
    arrived: float


class Reply(Framed):
    """Either `whole`, or `start`, `write`..., `end`: a `Framing` whose bytes are sent. A second answer is
    a RuntimeError. `framing` is one that was begun by other hands, and `unsent` what of it is to go out
    before anything else.

    Cancelled in the middle of a blocked write, the answer is torn and the connection goes. When the
    client is gone, the handler that writes is cancelled.
    """

    def __init__(self, line: Line, terms: Terms, framing: Framing | None = None, unsent: bytes = b"") -> None:
        self._line = line
        self._unsent = unsent
        self.framing = Framing(terms) if framing is None else framing

    @property
    def terms(self) -> Terms:
        return self.framing.terms

    @property
    def last(self) -> bool:
        """Whether the connection closes after this answer."""
        return self.framing.last

    @last.setter
    def last(self, value: bool) -> None:
        self.framing.last = value

    @property
    def keep(self) -> bool:
        """Whether the connection can carry another request after this answer."""
        return self.done and self.framing.stays and self._line.alive and not self._line.torn

    @property
    def lost(self) -> bool:
        """Whether the client is gone."""
        return not self._line.alive

    @property
    def stalled(self) -> bool:
        """Whether it is gone because it took nothing for too long."""
        return self._line.stalled

    async def whole(self, status: int, body: bytes, headers: Pairs = (), content_type: str = JSON) -> None:
        """The complete answer is sent, in one write."""
        data = self.framing.whole(status, body, headers, content_type)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.framing.opened()
        await self._send(data)
        self.framing.sent()

    async def start(
        self,
        status: int = 200,
        headers: Pairs = (),
        content_type: str = EVENT_STREAM,
        trailers: Sequence[str] = (),
    ) -> None:
        """The head is ready and leaves with the first `write`, or by `flush`. Until it has left,
        an exception still gets its own status. `trailers` announces names for `end`.
        """
        self.framing.start(status, headers, content_type, trailers)

    async def flush(self) -> None:
        """The head is out, and all that was pushed."""
        if self.framing.state == "headed" or self._unsent:
            await self.write(b"")

    def push(self, data: bytes) -> bool:
        """Whether `data` is out, and the head before it, without waiting. Else the rest goes before
        whatever is sent next, and nothing more may be pushed until then."""
        return self.offer(self.framing.data(data))

    def offer(self, framed: bytes) -> bool:
        """The same of what the framing has made."""
        self._unsent = self._line.push(self._unsent + framed)
        return not self._unsent

    async def settle(self) -> None:
        """What was offered is out."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._out(b"")

    async def write(self, data: bytes) -> None:
        """`data` is out, and the head before it. Empty data only flushes."""
        # Cancelled before a byte is out, the answer must stay open to a status of its own.
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._out(self.framing.data(data))

    async def end(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The answer is complete. An HTTP/1.0 client, which has no trailers, is told by the close."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._out(self.framing.end(trailers))
        self.framing.sent()

    async def fail(self, error: CortexError) -> None:
        """The client is told of `error`, by status or by error event, if a way is left.

        A torn answer, or one that is no event stream, is left without its terminator:
        the close tells that it is not whole. So does that of one whose end may be out.
        """
        if not self.started:
            data = self.framing.refused(error)
            await trio.lowlevel.checkpoint_if_cancelled()
            self.framing.opened()
            await self._send(data)
            self.framing.sent()
        elif self.streaming and not self.framing.ending and self._line.alive and not self._line.torn:
            # Ended in order, so the connection keeps what its head promised.
            await self._out(self.framing.last_words(error))
            await self.end()
        else:
            self.last = True

    def adopt(self, content_type: str, *, chunked: bool) -> None:
        """The head goes out by other hands; what follows is framed as they said there."""
        self.framing.adopt(content_type, chunked=chunked)

    def adopted_end(self) -> None:
        """Those other hands have ended the answer."""
        self.framing.sent()

    async def _out(self, data: bytes) -> None:
        if data or self._unsent:
            await self._send(data)

    async def _send(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        await self._line.send(unsent + data)
