"""Where the events of a stream end, and whether the stream has its end mark.

Looks at bytes that pass by and changes none. Holds at most one unfinished event; a stream
whose event outgrows `EVENT_LIMIT`, or that is no event stream at all, has a `fault`. Pure: no
IO, no clock. What follows from a fault or from a missing mark is the errand's to decide.
"""

import re
from collections.abc import Iterator
from typing import Final, Protocol

from cortex.wire.faults import Dialect

# One event of a sane neuron is some hundred bytes.
EVENT_LIMIT: Final = 2**20
# The last events of a Responses stream repeat the whole answer, a thought twice and longer: so much for
# each byte that was said before.
REPEATS: Final = 4
NO_EVENTS: Final = "The neuron sent what is no event stream."
TOO_BIG: Final = "The neuron sent an event that is too big to pass on."

# Whole lines of an event stream. Possessive: no hostile line makes it look twice.
_LINES: Final = re.compile(rb"(?:(?:data|event|id|retry)?:[^\r\n]*+(?:\r\n|\n|\r)|[\r\n])*+")
_START: Final = re.compile(rb"(?:data|event|id|retry)?:|[\r\n]")
# As many bytes tell whether a line is one of these: the length of "event:" and "retry:".
_KNOWN_BY: Final = 6
_BLANK: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_MARKS: Final[dict[Dialect, frozenset[bytes]]] = {
    "openai": frozenset(),
    "anthropic": frozenset({b"message_stop"}),
    "responses": frozenset({b"response.completed", b"response.incomplete", b"response.failed"}),
}
# One of these is in any end mark and in any error.
_ENDS: Final[dict[Dialect, tuple[bytes, ...]]] = {
    "openai": (b"[DONE]", b"error"),
    "anthropic": (b"message_stop", b"error"),
    "responses": (b"response.completed", b"response.incomplete", b"response.failed", b"error"),
}
_FAILURES: Final = frozenset({b"error", b"response.failed"})
_PING: Final = b"ping"


class Tail(Protocol):
    """What is known of the end of a stream: it has `begun`, `ended`, told an error with its end."""

    @property
    def begun(self) -> bool: ...

    @property
    def ended(self) -> bool: ...

    @property
    def failed(self) -> bool: ...


class EventTail:
    """Follows one stream. After each `feed`, `whole` holds the events that it completed."""

    def __init__(self, dialect: Dialect, limit: int = EVENT_LIMIT) -> None:
        self._dialect: Dialect = dialect
        self._ends = _ENDS[dialect]
        self._least, self._passed = limit, 0
        self._open = bytearray()
        self._last = b""
        # Whole events that were not looked through for the last one yet.
        self._recent = b""
        self.whole = b""
        self.begun = False  # an event was completed that is no keep-alive
        self.fault: str | None = None

    @property
    def last(self) -> bytes:
        """The last event that was completed; comments are none."""
        if self._recent:
            self._last = next(_backwards(self._recent), self._last)
            self._recent = b""
        return self._last

    @property
    def _limit(self) -> int:
        """Of the bytes of one event."""
        return self._least + (REPEATS * self._passed if self._dialect == "responses" else 0)

    @property
    def mid_event(self) -> bool:
        """Whether the bytes that passed end within an event."""
        return bool(self._open.strip(b"\r\n"))

    @property
    def ended(self) -> bool:
        """Whether the stream may end here: its last event is the end mark, or an error event."""
        if self.fault is not None or self.mid_event:
            return False
        if self._recent and not self.may_end(self._recent):
            # Nearly every piece of a stream: nothing in it looks like an end, or tells an error.
            return False
        name, data = _fields(self.last)
        done = self._dialect == "openai" and data == b"[DONE]"
        return done or name in _MARKS[self._dialect] or self.failed

    @property
    def failed(self) -> bool:
        """Whether the last event tells an error of the neuron's own."""
        name, data = _fields(self.last)
        return name in _FAILURES or (self._dialect == "openai" and data.startswith(b'{"error"'))

    @property
    def between_events(self) -> bool:
        """Whether what was fed ended with a whole event, after the first that is no keep-alive."""
        return self.begun and not self._open and self.fault is None

    def may_end(self, data: bytes) -> bool:
        """Whether something in `data` looks like an end mark or an error."""
        for end in self._ends:  # noqa: SIM110 - for each piece of each stream: a generator costs more than the search
            if end in data:
                return True
        return False

    def passed(self, last: bytes, size: int) -> None:
        """Between two events `size` bytes of others have passed: whole ones, no comment among them, and
        none that `may_end` the stream. `last` are the latest of them."""
        self._passed += size
        self._recent = last

    def feed(self, data: bytes) -> int:
        """How many bytes of `data` may pass: all, or those before the `fault` that there is from now on."""
        plain = not self._open and b"\r" not in data and len(data) <= self._least
        if plain and (whole_events(data) or _whole_lines(data)):
            self.whole = data
            self._completed(len(data))
            return len(data)
        return self._feed_part(data)

    def _feed_part(self, data: bytes) -> int:
        before = len(self._open)
        self._open += data
        end = _last_end(self._open, before)
        good, self.fault = self._judge(before, end)
        if self.fault is not None:
            del self._open[good:]
            end = _last_end(self._open, 0)
        self.whole = bytes(self._open[:end])
        del self._open[:end]
        self._completed(end)
        return good - before

    def _completed(self, count: int) -> None:
        """So many bytes of whole events have come."""
        self._passed += count
        if self.whole.startswith((b"data:", b"event:")):
            self._recent = self.whole
        elif self.whole:
            # The last event may be one of those before: these may be comments alone.
            self._last = next(_backwards(self.whole), self.last)
            self._recent = b""
        if not self.begun:
            self.begun = any(_fields(event)[0] != _PING for event in _backwards(self.whole))

    def _judge(self, before: int, end: int) -> tuple[int, str | None]:
        """Up to where the open bytes are good, and what is wrong there. `before` have passed already."""
        total = len(self._open)
        good = _good_lines(self._open, end)
        if good < end:
            return max(good, before), NO_EVENTS
        if total > self._limit and _first_end(self._open, before, end) > self._limit:
            return before, TOO_BIG
        if total - end > self._limit:
            return max(end, before), TOO_BIG
        if total - end >= _KNOWN_BY and not _START.match(self._open, end):
            return max(end, before), NO_EVENTS
        return total, None


def whole_events(data: bytes) -> bool:
    """Whether `data` is events without comments, with names and data alone: each line end in it is behind
    a `data` or an `event` line, or ends an event. Counting them is many times as fast as reading lines."""
    ends = data.count(b"\n") - 2
    if not data.endswith(b"\n\n"):
        return False
    if data.startswith(b"data:"):
        return ends == 0 or ends == 2 * data.count(b"\n\ndata:")
    if data.startswith(b"event:"):
        return ends == 2 * data.count(b"\n\nevent:") + data.count(b"\ndata:")
    return False


def _last_end(text: bytes | bytearray, before: int) -> int:
    """Where the last event in `text` ends, 0 if none does; the first `before` bytes hold no end."""
    start = max(0, before - 2)
    # To look for a byte is quick, to look in vain for a pair of them is not.
    blanks = _BLANK if b"\r" in text else _BLANK[:1]
    found = [at + len(blank) for blank in blanks if (at := text.rfind(blank, start)) >= 0]
    return max(found, default=0)


def _first_end(text: bytearray, before: int, end: int) -> int:
    start = max(0, before - 2)
    found = [at for blank in _BLANK if (at := text.find(blank, start, end)) >= 0]
    return min(found, default=0)


def _backwards(block: bytes) -> Iterator[bytes]:
    """The events of `block`, last first, without comments."""
    while block := block.rstrip(b"\r\n"):
        start = _last_end(block, 0)
        event, block = block[start:], block[:start]
        if any(not line.startswith(b":") for line in event.splitlines()):
            yield event


def _whole_lines(data: bytes) -> bool:
    """Whether `data` is whole events of any kind."""
    return data.endswith(b"\n\n") and _LINES.fullmatch(data) is not None


def _good_lines(text: bytearray, end: int) -> int:
    """How far `text` is lines of an event stream, up to `end`."""
    if b"\r" not in text and whole_events(bytes(text[:end])):
        return end
    lines = _LINES.match(text, 0, end)
    return lines.end() if lines else 0


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """Name and data of `event`."""
    name, data = b"", []
    for line in event.splitlines():
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.strip()
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return name, b"\n".join(data)
