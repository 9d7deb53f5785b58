"""Bytes of an event stream become the data of its events, however the bytes are cut.

Strict where a browser is not: a line that is no field is garbage and not skipped, since a
stream that lost its framing must not look quiet. Nothing here waits or decides; an event is
bounded, so that a line without end costs no memory.
"""

import re
from typing import Final

from cortex.errors import UpstreamFailed

MOST_BYTES: Final = 2**20  # one event; the largest true ones are tool calls of some ten KiB
_LEAD: Final = b"data: "
_END: Final = b"\n\n"
_BOM: Final = b"\xef\xbb\xbf"
# A carriage return ends a line by itself, unless the line feed behind it has yet to come.
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_OTHER_FIELDS: Final = frozenset({b"event", b"id", b"retry"})


class EventReader:
    """One stream. Once it has raised it is of no more use."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes; b"" stands for a comment, which is a sign
        of life and no more. Raises UpstreamFailed for what is no event stream."""
        if self._alone(data):
            self._begun = True
            return [data[len(_LEAD) : -len(_END)]]
        self._buffer += data
        if not self._begun and not self._begin():
            return []
        told: list[bytes] = []
        at = 0
        for end in _LINE_END.finditer(self._buffer, self._searched):
            self._line(bytes(self._buffer[at : end.start()]), told)
            at = end.end()
        del self._buffer[:at]
        # A return at the end may be half of a line's end.
        self._searched = max(0, len(self._buffer) - 1)
        if len(self._buffer) + self._data_bytes > self._most:
            raise UpstreamFailed(f"An event of the stream is longer than {self._most} bytes")
        return told

    def _alone(self, data: bytes) -> bool:
        """Whether `data` is one event of one line and nothing else, as nearly all are."""
        return (
            data.startswith(_LEAD)
            and data.endswith(_END)
            and data.count(b"\n") == len(_END)
            and b"\r" not in data
            and not self.inside
        )

    @property
    def inside(self) -> bool:
        """Whether an event has begun that is not complete."""
        return bool(self._buffer or self._data)

    def _begin(self) -> bool:
        """Whether it is known that no byte order mark comes, or it is taken away."""
        if _BOM.startswith(self._buffer) and len(self._buffer) < len(_BOM):
            return False
        self._begun = True
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        return True

    def _line(self, line: bytes, told: list[bytes]) -> None:
        if not line:
            if self._data:
                told.append(b"\n".join(self._data))
                self._data, self._data_bytes = [], 0
            return
        name, _, value = line.partition(b":")
        if not name:
            told.append(b"")
        elif name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._data_bytes += len(line)  # an empty line takes room, too
        elif name not in _OTHER_FIELDS:
            raise UpstreamFailed("The stream holds a line that is no field of an event")
