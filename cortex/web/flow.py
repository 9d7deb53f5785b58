"""What of a stream goes by untouched, and is in the books all the same.

Between two chunks of plain events the bytes of the next ones need no parser. Owns what the events of the
stream look like; whether it is between two chunks is for whoever feeds the parsers.
"""

from typing import Final

from cortex.web.chunks import Likeness, payloads
from cortex.web.framing import Framing
from cortex.web.meter import Meter
from cortex.web.tail import EventTail

# Of a stream whose events are all in words of their own, so many are looked at for what they have in common.
MOST_UNLIKE: Final = 8


class Flow:
    """Of one stream, whose `tail`, `meter` and `framing` know what has passed."""

    __slots__ = ("_framing", "_known", "_like", "_meter", "_tail", "_unlike")

    def __init__(self, tail: EventTail, meter: Meter, framing: Framing) -> None:
        self._tail, self._meter, self._framing = tail, meter, framing
        self._like: Likeness | None = None
        self._known = b""
        self._unlike = 0

    def passes(self, data: bytes, now: float) -> bool:
        """Whether `data` is nothing but plain events in plain chunks. Then it is in the books, and to go to
        the client as it is."""
        found = None if self._like is None else self._like.fits(data)
        if found is None:
            return self._looked_through(data, now)
        self._meter.like(*found)
        # The last of them is like the one that is known: no end of the stream.
        self._tail.passed(self._known, found[1])
        return True

    def _looked_through(self, data: bytes, now: float) -> bool:
        """The same of events in words of their own."""
        held, tail, meter = payloads(data), self._tail, self._meter
        if held is None or tail.may_end(data):
            return False
        size, last = sum(map(len, held)), held[-1]
        meter.bytes += size
        meter.flowed(data, now)
        tail.passed(last, size)
        self._framing.passed(held)
        # The end of a Responses stream repeats what was said, and its events are numbered.
        if self._unlike < MOST_UNLIKE and meter.dialect != "responses" and meter.is_content(last):
            self._unlike += 1
            if (like := Likeness.of(last)) is not None:
                self._like, self._known = like, last
        return True
