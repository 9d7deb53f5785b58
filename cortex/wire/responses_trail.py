"""What has passed of a Responses stream, as far as its failure has to fit it.

Whoever ends the stream is not always who began it: a gateway passes on a neuron's bytes, and tells
of the neuron's death itself. The vendor's library takes an end for one only when the response has
the id that it began with, and began at all. Looks at bytes and changes none.
"""

from contextlib import suppress
from typing import Any, Final

import msgspec

from cortex.ask import Json
from cortex.errors import UpstreamFailed
from cortex.wire import reading
from cortex.wire.sse_reading import EventReader

_END: Final = b"\n\n"
_NUMBER: Final = b'"sequence_number":'


class _Event(msgspec.Struct):
    response: dict[str, Any]


class Trail:
    """One stream. `response` is it as it began, None before; `next` is the number to go on with."""

    def __init__(self) -> None:
        self.response: dict[str, Json] | None = None
        self.next = 0
        self._last = b""
        self._reader: EventReader | None = EventReader()

    def feed(self, data: bytes) -> None:
        """`data` has passed."""
        joined = self._last + data  # the end of what passed before may begin what is counted
        self.next += joined.count(_NUMBER)
        self._last = joined[1 - len(_NUMBER) :]
        at = 0
        while self._reader is not None and at < len(data):  # nothing behind the first event is read
            begin, end = at, data.find(_END, at)
            at = len(data) if end < 0 else end + len(_END)
            self._look(self._reader, data[begin:at])

    def _look(self, reader: EventReader, data: bytes) -> None:
        try:
            for event in reader.feed(data):
                if event:
                    self._begin(event)
        except UpstreamFailed:
            self._reader = None

    def _begin(self, event: bytes) -> None:
        self._reader = None
        if self.response is None:
            with suppress(ValueError):
                self.response = reading.of_peer(event, _Event).response
