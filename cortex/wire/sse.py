"""Server-sent events: frames to bytes, and the shape of a stream's end.

A frame is one event. OpenAI's dialects send nameless events whose data is JSON or
`[DONE]`; Anthropic's and Responses name theirs. A line that starts with a colon is
a comment, which every client skips: the keep-alive of the OpenAI dialects.
"""

from dataclasses import dataclass
from typing import Final

_LINE_ENDS: Final = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\u0085\u2028\u2029")
COMMENT: Final = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class Frame:
    """One event: `data` is a single line, `event` its name if the dialect has names.

    `kind` says what it is to a reader of tests and logs ("role", "content", "done");
    it is not sent.
    """

    data: bytes
    kind: str
    event: str = ""


DONE: Final = Frame(b"[DONE]", "done")


def render(*frames: Frame) -> bytes:
    """The bytes of `frames`, ready for the socket."""
    return b"".join(
        (b"event: %b\ndata: %b\n\n" % (frame.event.encode(), one_line(frame.data)))
        if frame.event
        else (b"data: %b\n\n" % one_line(frame.data))
        for frame in frames
    )


def one_line(data: bytes) -> bytes:
    """JSON without the line ends of Unicode, at which some clients cut."""
    if not data.isascii():
        for plain, escaped in _LINE_ENDS:
            data = data.replace(plain, escaped)
    return data
