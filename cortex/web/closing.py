"""How nearly every stream of chat ends: a mark behind its last event, and the last chunk behind that.

Known by comparing bytes, as `chunks` knows what comes before. Whatever is written in another way is for
the parsers. Pure.
"""

import re
from typing import Final

from cortex.wire.neuron import USAGE

MARK: Final = b"data: [DONE]\n\n"
# Of a chunk that holds whole events.
CHUNK_END: Final = b"\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
_TRAILER: Final = b"0\r\n%b: " % USAGE.encode()
_VALUE: Final = re.compile(rb"[0-9a-z=,]+\r\n\r\n")
# A line that may be the end of a stream of chat, or tell an error in it.
_ODD: Final = re.compile(rb'\ndata: ?(?:\[DONE\]|\{"error")')


def last_chunk(piece: bytes) -> tuple[int, str] | None:
    """Where the last chunk begins in `piece`, which ends with it, and the usage that its trailer tells, ""
    without one. None where there is none, or any doubt. What comes before is not looked at."""
    if piece.endswith(LAST_CHUNK):
        return len(piece) - len(LAST_CHUNK), ""
    at = piece.rfind(_TRAILER)
    value = at + len(_TRAILER)
    if at < 0 or _VALUE.fullmatch(piece, value) is None:
        return None
    return at, piece[value:-4].decode()


def goes_on(piece: bytes, end: int) -> bool:
    """Whether none of the events in `piece` before `end`, which are in chunks, ends a stream of chat or
    tells an error."""
    # Nearly no piece has one of these words, and most that do have it in what is said.
    if piece.find(b"[DONE]", 0, end) < 0 and piece.find(b"error", 0, end) < 0:
        return True
    return _ODD.search(piece, 0, end) is None


def ends_marked(last: bytes) -> bool:
    """Whether the latest of the whole events in `last` is the end mark."""
    return last == MARK or last.endswith(b"\n\n" + MARK)
