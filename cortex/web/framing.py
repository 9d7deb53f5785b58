"""The bytes of one answer, and where it stands: length, chunks, trailers, the close-delimited form.

Pure: what is to go out is returned, and whoever asked for it writes it, whole and in order, be it a task
or a callback. Promises that no second answer is begun, that a stream gets no terminator without an
end of its own or an error event, and that no header can end a line or contradict the framing.
"""

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal, TypeAlias

from cortex.errors import CortexError
from cortex.web import faults
from cortex.wire.faults import Dialect
from cortex.wire.responses_trail import Trail

Pairs: TypeAlias = Iterable[tuple[str, str]]
State: TypeAlias = Literal["fresh", "headed", "open", "done"]

EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"
# Written here; a second one would contradict it.
_OURS: Final = frozenset(
    {"connection", "content-length", "content-type", "date", "transfer-encoding", "trailer", "x-request-id"}
)
_EMPTY: Final = frozenset({204, 304})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every answer to one request: ids, extra headers, how the connection goes on."""

    request_id: str
    dialect: Dialect = "openai"
    version: str = "1.1"
    keep: bool = True
    bodyless: bool = False
    extra: tuple[tuple[str, str], ...] = ()


class Framed:
    """What the framing of an answer tells, for whoever writes it."""

    framing: "Framing"

    @property
    def tags(self) -> dict[str, str]:
        """Headers that whatever answer there will be carries."""
        return self.framing.tags

    @property
    def started(self) -> bool:
        """Whether a byte of the answer is out: from then on a failure is an error event."""
        return self.framing.started

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self.framing.done

    @property
    def streaming(self) -> bool:
        """Whether the answer is an event stream whose head is out."""
        return self.framing.streaming


class Framing:
    """Either `whole`, or `start`, `data`..., `end`. A second answer is a RuntimeError.

    `last`: the connection closes after this answer. `tags`: headers that whatever answer there
    will be carries, a refusal too, unless it names them itself. What `whole` and `end` return completes
    the answer once it is written: the writer says so by `sent`.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.last = False
        self.tags: dict[str, str] = {}
        self.state: State = "fresh"
        self.events = False
        self.ending = False  # what completes the answer was made: nothing may follow it
        self._head = b""
        self._chunked = False
        self._framed = False
        self._trail = Trail() if terms.dialect == "responses" else None

    @property
    def started(self) -> bool:
        """Whether a byte of the answer is out: from then on a failure is an error event."""
        return self.state in ("open", "done")

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self.state == "done"

    @property
    def streaming(self) -> bool:
        """Whether it is an event stream whose head is out."""
        return self.events and self.state == "open"

    @property
    def stays(self) -> bool:
        """Whether the connection can carry another request after this answer."""
        return self._framed and self.terms.keep and not self.last

    def whole(self, status: int, body: bytes, headers: Pairs = (), content_type: str = JSON) -> bytes:
        """The complete answer."""
        self._expect("fresh")
        self._framed = True
        fields = _checked(headers)
        if status not in _EMPTY:
            fields += [("content-type", content_type), ("content-length", str(len(body)))]
        head = self._render(status, fields)
        return head if self.terms.bodyless else head + body

    def form(self, headers: Pairs, content_type: str) -> bytes:
        """How the whole answer begins, with status 200, of every request on these terms: a text for `%`
        that wants the date, the length of the body and the id, which Anthropic's dialect has twice."""
        self._framed = True
        fields = _escaped([*_checked(headers), ("content-type", content_type)])
        return self._render(200, [*fields, ("content-length", "%d")], date=b"%b", request_id=b"%b")

    def opening(self, headers: Pairs, content_type: str) -> bytes:
        """The same of an answer that begins with `start`, whose length is not told."""
        self._framed = True
        fields = _escaped(self._fields(headers, content_type, ()))
        return self._render(200, fields, date=b"%b", request_id=b"%b")

    def start(
        self,
        status: int = 200,
        headers: Pairs = (),
        content_type: str = EVENT_STREAM,
        trailers: Sequence[str] = (),
    ) -> None:
        """The head is ready and leaves with the first `data`. Until it has left, another answer can
        still be given. `trailers` announces names for `end`.
        """
        self._expect("fresh")
        self._framed = self.terms.version != "1.0"
        self._head = self._render(status, self._fields(headers, content_type, trailers))
        self.state = "headed"

    def _fields(self, headers: Pairs, content_type: str, trailers: Sequence[str]) -> list[tuple[str, str]]:
        """Those of an answer that comes in pieces."""
        self._chunked = self.terms.version != "1.0"
        self.events = content_type.startswith("text/event-stream")
        fields = [("content-type", content_type), *_checked(headers)]
        if self.events and not any(name.lower() == "cache-control" for name, _ in fields):
            fields.append(("cache-control", "no-cache"))
        if self._chunked:
            fields.append(("transfer-encoding", "chunked"))
            if trailers:
                fields.append(("trailer", ", ".join(trailers)))
        return fields

    def data(self, data: bytes) -> bytes:
        """`data` as it goes out, behind the head if that has not left. Empty data is the head alone."""
        self._expect("headed", "open")
        if self._trail is not None:
            self._trail.feed(data)
        if data and self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        return self._behind_head(data)

    @property
    def passes_chunks(self) -> bool:
        """Whether chunks that others have framed may go out as they are: the head is out, and so is all of
        the last `data`."""
        return self._chunked and self.state == "open"

    def passed(self, held: Sequence[bytes]) -> None:
        """Chunks with these payloads go out as others have framed them."""
        if self._trail is not None:
            for payload in held:
                self._trail.feed(payload)

    def end(self, trailers: Sequence[tuple[str, str]] = ()) -> bytes:
        """What completes the answer. An HTTP/1.0 client, which has no trailers, is told by the close."""
        self._expect("headed", "open")
        tail = b"".join(b"%b: %b\r\n" % pair for pair in map(_wire, _checked(trailers)))
        self.ending = True
        return self._behind_head(b"0\r\n%b\r\n" % tail if self._chunked else b"")

    def opened(self) -> None:
        """A byte of a whole answer may be out."""
        self.state = "open"

    def sent(self) -> None:
        """All of it is out."""
        self._expect("open")
        self.state = "done"

    def refused(self, error: CortexError) -> bytes:
        """The whole answer that tells of `error`, where none is out."""
        self.state = "fresh"
        answer = faults.response(error, self.terms.dialect, self.terms.request_id)
        return self.whole(answer.status, answer.body, answer.headers)

    def last_words(self, error: CortexError) -> bytes:
        """The events that tell of `error` in a stream that is out. `end` is to follow."""
        terms = self.terms
        return self.data(faults.last_frames(error, terms.dialect, terms.request_id, self._trail))

    def adopt(self, content_type: str, *, chunked: bool) -> None:
        """The head goes out by other hands; what follows is framed as they said there."""
        self._expect("fresh")
        self.state = "open"
        self.events = content_type.startswith("text/event-stream")
        self._chunked, self._framed = chunked, self.terms.version != "1.0"

    def _behind_head(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        self.state = "open"
        return head + data if head else data

    def _expect(self, *states: State) -> None:
        if self.state not in states:
            raise RuntimeError(f"the reply is {self.state!r}, and that call needs {' or '.join(states)}")

    def _render(
        self,
        status: int,
        fields: Iterable[tuple[str, str]],
        *,
        date: bytes | None = None,
        request_id: bytes | None = None,
    ) -> bytes:
        lines = [_status_line(status), b"date: " + (date or http_date(int(time.time())))]
        own = list(fields)
        names = {name for name, _ in own}
        tags = [tag for tag in _checked(self.tags.items()) if tag[0] not in names]
        lines += [b"%b: %b" % _wire(field) for field in (*own, *tags, *self.terms.extra)]
        said = request_id or self.terms.request_id.encode("latin-1")
        lines.append(b"x-request-id: " + said)
        if self.terms.dialect == "anthropic":
            lines.append(b"request-id: " + said)
        if not self.stays:
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


def _escaped(fields: Pairs) -> list[tuple[str, str]]:
    """For a text that `%` is used on."""
    return [(name, value.replace("%", "%%")) for name, value in fields]


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
