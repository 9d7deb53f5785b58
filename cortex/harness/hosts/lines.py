"""What a child writes to its stderr, line by line into our log.

A line is bounded, and says so where it was cut. The last one before a crash is kept, since
it says why: an engine that aborts tells its reason there, and nowhere else.
"""

import logging
from typing import Final

log = logging.getLogger(__name__)

LONGEST: Final = 4096  # bytes of one line
# What the interpreter prints when it dies tells where, not why.
_DUMPS: Final = ("Fatal Python error", "Thread 0x", "Current thread 0x", "Timeout (", "Stack (most")
# The marks by which the child's own records say their level.
_LEVELS: Final = {"<2>": logging.ERROR, "<3>": logging.ERROR, "<6>": logging.INFO, "<7>": logging.DEBUG}


class Lines:
    """The lines of one child. `last` is what it said last, save for dumps of its stacks."""

    def __init__(self, model: str) -> None:
        self.last = ""
        self._model = model
        self._dumping = False
        self._held = bytearray()
        self._cut = 0

    def feed(self, data: bytes) -> None:
        """More of its stderr."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._keep(piece)
            self.end()
        self._keep(rest)

    def end(self) -> None:
        """The line that was begun is over."""
        text = self._held.decode("utf-8", "replace").strip()
        if self._cut:
            text += f" … ({self._cut} more bytes)"
        self._held.clear()
        self._cut = 0
        if text:
            self._say(text)

    def _keep(self, piece: bytes) -> None:
        room = LONGEST - len(self._held)
        self._held += piece[:room]
        self._cut += max(0, len(piece) - room)

    def _say(self, text: str) -> None:
        level = _LEVELS.get(text[:3], logging.WARNING)
        text = text[3:] if text[:1] == "<" and text[2:3] == ">" else text
        log.log(level, "engine.said model=%s text=%s", self._model, text)
        dump = text.startswith(_DUMPS)
        if not self._dumping and not (dump and self.last):
            self.last = text
        self._dumping = self._dumping or dump
