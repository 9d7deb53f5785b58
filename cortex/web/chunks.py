"""What nearly every piece of a stream is: whole chunks, and in each of them whole events.

Such a piece goes to the client as it came, with its chunk framing, and nobody takes it apart. It is proven
to be of that form by counting: each line end in it has its place; or by comparing: a neuron says token
after token in the same words. Whatever else comes (a comment, an event or a chunk that goes on in the next
piece, another line end, a chunk extension) is for the parsers. Pure.
"""

import re
from typing import Final

from cortex.web.tail import whole_events

# Where the text of an answer stands in an event, in any dialect: a whole JSON string, without escapes.
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning_content|thinking|partial_json|arguments)": ?"([^"\\\r\n]*+)"[,}]'
)
# To count in all of the piece is quicker than to look at so many chunks.
_MANY: Final = 4


def payloads(piece: bytes) -> list[bytes] | None:
    """What the chunks of `piece` hold, one or more whole events each, none of which is a comment. None
    where it is anything else than such chunks, from the first byte to the last."""
    parts = piece.split(b"\r\n")
    if parts.pop() or not parts or len(parts) % 2 or piece.count(b"\r") != len(parts):
        return None
    held = parts[1::2]
    if parts[::2] != [b"%x" % len(payload) for payload in held]:
        return None
    if len(held) >= _MANY and _one_each(piece, len(held)):
        return held
    for payload in held:
        if not whole_events(payload):
            return None
    return held


def _one_each(piece: bytes, count: int) -> bool:
    """Whether each of the `count` chunks in `piece` holds one event of one line of data. Their sizes hold no
    line end: half of these are the chunks' own, and the other half just suffices to end as many events."""
    return (
        piece.count(b"\n") == 4 * count
        and piece.count(b"\n\n\r\n") == count
        and piece.count(b"\r\ndata:") == count
    )


class Likeness:
    """What the events of a stream have in common with one that was looked at: all but a text.

    That one was whole, no end of a stream, and had content. So has each that differs in nothing but the
    inside of that JSON string.
    """

    __slots__ = ("_begin", "_end")

    def __init__(self, begin: bytes, end: bytes) -> None:
        self._begin, self._end = begin, end

    @classmethod
    def of(cls, event: bytes) -> "Likeness | None":
        """For others like `event`; None where no text is found in it."""
        found = _TEXT.search(event)
        return None if found is None else cls(event[: found.start(1)], event[found.end(1) :] + b"\r\n")

    def fits(self, piece: bytes) -> tuple[int, int] | None:
        """How many events `piece` is and how many bytes they have, if each of them is a chunk of its own
        and like the one that is known; else None."""
        begin, end = self._begin, self._end
        at = count = size = 0
        while at < len(piece):
            start = piece.find(b"\r\n", at) + 2
            since = start + len(begin)
            stop = piece.find(end, since)
            length = stop + len(end) - 2 - start
            if not (start > at and stop >= 0 and piece.startswith(begin, start)):
                return None
            text = piece[since:stop]
            if b'"' in text or b"\n" in text or b"\r" in text or piece[at : start - 2] != b"%x" % length:
                return None
            at, count, size = stop + len(end), count + 1, size + length
        return (count, size) if count else None
