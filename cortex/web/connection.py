"""What an inference handler holds: the request, and the reply that it writes.

A `Request` is whole and immutable. A `Reply` owns the framing (length, chunks, trailers,
the close-delimited form for HTTP/1.0) and the headers that every answer carries. It
promises that a failure is told while there is a way to tell it, and that no stream gets
its terminator without an end of the handler's own or an error event. Sockets, deadlines
and the hang-up watch belong to `line` and `visit`.
"""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

import trio

from cortex.errors import CortexError
from cortex.web import faults
from cortex.web.line import Line
from cortex.wire.faults import Dialect
from cortex.wire.responses_trail import Trail

Pairs: TypeAlias = Iterable[tuple[str, str]]
State: TypeAlias = Literal["fresh", "headed", "open", "done"]

EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"
# The reply writes these itself; a second one would contradict it.
_OURS: Final = frozenset(
    {"connection", "content-length", "content-type", "date", "transfer-encoding", "trailer", "x-request-id"}
)
_EMPTY: Final = frozenset({204, 304})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


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


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every answer to one request: ids, extra headers, how the connection goes on."""

    request_id: str
    dialect: Dialect = "openai"
    version: str = "1.1"
    keep: bool = True
    bodyless: bool = False
    extra: tuple[tuple[str, str], ...] = ()


class Reply:
    """Either `whole`, or `start`, `write`..., `end`. A second answer is a RuntimeError.

    `last`: the connection closes after this answer. `tags`: headers that whatever answer there
    will be carries, a refusal too, unless it names them itself. Cancelled in the middle of a
    blocked write, the answer is torn and the connection goes. When the client is gone, the
    handler that writes is cancelled.
    """

    def __init__(self, line: Line, terms: Terms) -> None:
        self._line = line
        self.terms = terms
        self.last = False
        self.tags: dict[str, str] = {}
        self._state: State = "fresh"
        self._head = b""
        self._chunked = False
        self._framed = False
        self._events = False
        self._trail = Trail() if terms.dialect == "responses" else None

    @property
    def started(self) -> bool:
        """Whether a byte of the answer is out: from then on a failure is an error event."""
        return self._state in ("open", "done")

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self._state == "done"

    @property
    def keep(self) -> bool:
        """Whether the connection can carry another request after this answer."""
        return self.done and self._stays() and self._line.alive and not self._line.torn

    @property
    def lost(self) -> bool:
        """Whether the client is gone."""
        return not self._line.alive

    @property
    def stalled(self) -> bool:
        """Whether it is gone because it took nothing for too long."""
        return self._line.stalled

    @property
    def streaming(self) -> bool:
        """Whether the answer is an event stream whose head is out."""
        return self._events and self._state == "open"

    async def whole(self, status: int, body: bytes, headers: Pairs = (), content_type: str = JSON) -> None:
        """The complete answer is sent, in one write."""
        self._expect("fresh")
        self._framed = True
        fields = _checked(headers)
        if status not in _EMPTY:
            fields += [("content-type", content_type), ("content-length", str(len(body)))]
        head = self._render(status, fields)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._state = "open"
        await self._line.send(head if self.terms.bodyless else head + body)
        self._state = "done"

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
        self._expect("fresh")
        self._chunked = self._framed = self.terms.version != "1.0"
        self._events = content_type.startswith("text/event-stream")
        fields = [("content-type", content_type), *_checked(headers)]
        if self._events and not any(name.lower() == "cache-control" for name, _ in fields):
            fields.append(("cache-control", "no-cache"))
        if self._chunked:
            fields.append(("transfer-encoding", "chunked"))
            if trailers:
                fields.append(("trailer", ", ".join(trailers)))
        self._head = self._render(status, fields)
        self._state = "headed"

    async def flush(self) -> None:
        """The head is out."""
        if self._state == "headed":
            await self._out(b"")

    async def write(self, data: bytes) -> None:
        """`data` is out, and the head before it. Empty data only flushes."""
        self._expect("headed", "open")
        if self._trail is not None:
            self._trail.feed(data)
        if data and self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        await self._out(data)

    async def end(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The answer is complete. An HTTP/1.0 client, which has no trailers, is told by the close."""
        self._expect("headed", "open")
        tail = b"".join(b"%b: %b\r\n" % pair for pair in map(_wire, _checked(trailers)))
        await self._out(b"0\r\n%b\r\n" % tail if self._chunked else b"")
        self._state = "done"

    async def fail(self, error: CortexError) -> None:
        """The client is told of `error`, by status or by error event, if a way is left.

        A torn answer, or one that is no event stream, is left without its terminator:
        the close tells that it is not whole.
        """
        if self.started:
            if self._events and not self.done and self._line.alive and not self._line.torn:
                # Ended in order, so the connection keeps what its head promised.
                terms = self.terms
                await self.write(faults.last_frames(error, terms.dialect, terms.request_id, self._trail))
                await self.end()
            else:
                self.last = True
            return
        self._state = "fresh"
        answer = faults.response(error, self.terms.dialect, self.terms.request_id)
        await self.whole(answer.status, answer.body, answer.headers)

    def adopt(self, content_type: str, *, chunked: bool) -> None:
        """The head goes out by other hands; what follows is framed as they said there."""
        self._expect("fresh")
        self._state = "open"
        self._events = content_type.startswith("text/event-stream")
        self._chunked, self._framed = chunked, self.terms.version != "1.0"

    def adopted_end(self) -> None:
        """Those other hands have ended the answer."""
        self._expect("open")
        self._state = "done"

    async def _out(self, data: bytes) -> None:
        # Cancelled before a byte is out, the answer must stay open to a status of its own.
        await trio.lowlevel.checkpoint_if_cancelled()
        head, self._head = self._head, b""
        self._state = "open"
        if head or data:
            await self._line.send(head + data)

    def _stays(self) -> bool:
        return self._framed and self.terms.keep and not self.last

    def _expect(self, *states: State) -> None:
        if self._state not in states:
            raise RuntimeError(f"the reply is {self._state!r}, and that call needs {' or '.join(states)}")

    def _render(self, status: int, fields: Iterable[tuple[str, str]]) -> bytes:
        lines = [_status_line(status), b"date: " + http_date(int(time.time()))]
        own = list(fields)
        names = {name for name, _ in own}
        tags = [tag for tag in _checked(self.tags.items()) if tag[0] not in names]
        lines += [b"%b: %b" % _wire(field) for field in (*own, *tags, *self.terms.extra)]
        lines.append(b"x-request-id: " + self.terms.request_id.encode("latin-1"))
        if self.terms.dialect == "anthropic":
            lines.append(b"request-id: " + self.terms.request_id.encode("latin-1"))
        if not self._stays():
            lines.append(b"connection: close")
        elif self.terms.version == "1.0":
            lines.append(b"connection: keep-alive")
        return b"\r\n".join(lines) + b"\r\n\r\n"


def _checked(pairs: Pairs) -> list[tuple[str, str]]:
    """`pairs`, proven free of anything that could end a header or contradict the framing."""
    fields = list(pairs)
    for name, value in fields:
        if not _NAME.match(name) or not _VALUE.match(value):
            raise ValueError(f"header {name!r} cannot be sent as it stands")
        if name.lower() in _OURS:
            raise ValueError(f"header {name!r} is written by the reply itself")
    return fields


def _wire(field: tuple[str, str]) -> tuple[bytes, bytes]:
    return field[0].encode("latin-1"), field[1].encode("latin-1")


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:  # 529, which only Anthropic's dialect knows
        phrase = "Overloaded" if status == 529 else "Unnamed"
    return f"HTTP/1.1 {status} {phrase}".encode()


@lru_cache(maxsize=1)
def http_date(second: int) -> bytes:
    """The Date header's value; formatted once a second."""
    return formatdate(second, usegmt=True).encode()
