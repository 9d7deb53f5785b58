"""One stream that goes as nearly all do: a known head, whole chunks of whole events, the end mark.

A ride is a hop whose answer comes piece by piece. It holds what the books want to know, and what an `Errand`
needs to go on from any place: whatever is not plain makes one of it, which hears the odd piece as if
it had heard all before. So what a stream means is judged there alone. Its times are those of the errand.
"""

import time
from typing import TYPE_CHECKING

from cortex.events import Usage
from cortex.gateway.hop import Hop
from cortex.gateway.lanes import Lane
from cortex.web.chunks import Likeness, payloads
from cortex.web.closing import CHUNK_END, LAST_CHUNK, MARK, ends_marked, goes_on, last_chunk
from cortex.web.flow import MOST_UNLIKE
from cortex.web.framing import http_date
from cortex.web.guest import Guest
from cortex.web.meter import chat_events
from cortex.web.stencil import Opening
from cortex.web.streaming import GRACE_S
from cortex.wire.neuron import parse_usage
from cortex.wire.openai import Peek

if TYPE_CHECKING:
    from cortex.gateway.express import Express
    from cortex.web.errand import Errand


class Ride(Hop):
    """A hop that is a stream."""

    __slots__ = (
        "_events",
        "_flows",
        "_head",
        "_last",
        "_late_at",
        "_like",
        "_marked",
        "_opening",
        "_size",
        "_unlike",
        "due",
        "first_at",
    )

    streams = True
    due: float
    first_at: float | None

    def __init__(self, express: "Express", lane: Lane, guest: Guest, seen: Peek, began: float) -> None:
        super().__init__(express, lane, guest, seen, began)
        self._late_at = began + self.limits.first_token_s
        # So long a connection is waited for, too, of which the errand knows.
        self.due = min(began + GRACE_S, self._late_at)
        # The neuron's head, once it has come, and in what form; whether the client has its own.
        self._head, self._flows = b"", False
        self._opening: Opening | None = None
        # What the client has: content events, bytes, the latest events, and whether these end with the mark.
        self._events = self._size = 0
        self._last, self._marked = b"", False
        # What its events have in common, and how many were looked at for that.
        self._like: Likeness | None = None
        self._unlike = 0
        self.first_at = None

    # -- what is expected

    def heard(self, data: bytes) -> None:
        head = b""
        if not self._flows:
            if self._opening is None:
                at = self._begun(data)
                self._head, data = data[:at], data[at:]
                if at and not data:
                    return
            if (opening := self._opening) is None or b"\nevent:" in data:
                self.unfolded().heard(data)
                return
            head = opening.form % (http_date(int(time.time())), self.id.encode())
        goes = self._passed if data.endswith(b"\n\n" + CHUNK_END) else self._ended
        if not goes(head, data):
            self.unfolded().heard(data)

    def _begun(self, data: bytes) -> int:
        """Where the body begins behind a known head; 0 where `data` does not begin with one."""
        road = self.road
        at = -1 if road.opening is None else road.opening.fits(data)
        if at < 0:
            road.learn_opening(self.lane, self.link, data)
            at = -1 if road.opening is None else road.opening.fits(data)
        if at < 0:
            return 0
        self._opening = road.opening
        return at

    def _passed(self, head: bytes, data: bytes) -> bool:
        """Whether `data` is plain, and went to the client as it is, behind its `head`."""
        if self._marked:
            return False
        found = None if self._like is None else self._like.fits(data)
        if found is not None:
            self._events += found[0]
            self._size += found[1]
            self._late_at = self.guest.now + self.limits.upstream_stall_s
        elif not self._counted(data, ends=False):
            return False
        if self.due > self._late_at:
            self.due = self._late_at
            self.guest.wants_look(self.due)
        if not self.guest.send(head + data if head else data):
            self.unfolded().hold()
        return True

    def _ended(self, head: bytes, data: bytes) -> bool:
        """The same of the end, and of what may come before it in one piece."""
        over_at, closing = self.guest.now, last_chunk(data)
        if closing is None:
            return False
        at, told = closing
        if self._marked == bool(at) or (at and not self._counted(data[:at], ends=True)):
            return False
        if self.guest.send(b"".join((head, data[:at], LAST_CHUNK))):
            used = parse_usage(told) or Usage(completion=self._events, estimated=True)
            self._end(used, over_at)
        else:
            self.unfolded().told_end(data)
        return True

    def _counted(self, data: bytes, *, ends: bool) -> bool:
        """Whether `data` is plain events in plain chunks, with the mark where it `ends`. They are in the
        figures, and are to be sent."""
        held = payloads(data)
        if held is None:
            return False
        last, end = held[-1], len(data)
        marked = ends_marked(last)
        if marked:
            end -= len(MARK) + len(CHUNK_END)
        if (ends and not marked) or not goes_on(data, end):
            return False
        now, count = self.guest.now, chat_events(data, end)
        if count > 0:
            self._events += count
            if self.first_at is None:
                self.first_at = now
            if not ends and self._unlike < MOST_UNLIKE and chat_events(b"\n" + last, len(last) + 1) == 1:
                self._unlike += 1
                self._like = Likeness.of(last) or self._like
        self._size += sum(map(len, held))
        self._last, self._marked, self._flows = last, marked, True
        self._late_at = now + self.limits.upstream_stall_s
        return True

    # -- what is not

    def unfolded(self) -> "Errand":
        errand = super().unfolded()
        if self._flows:
            meter = errand.meter
            meter.events, meter.bytes, meter.first_content_at = self._events, self._size, self.first_at
            errand.goes_on(self._head, self._last, self._late_at)
        elif self._head:
            errand.heard(self._head)
        return errand

    def look(self, now: float) -> None:
        if self._head and now < self._late_at:
            self.due = self._late_at
        else:
            super().look(now)
