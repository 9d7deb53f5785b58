"""Reasoning is told from the visible answer by its markers, piece by piece.

A thought opens with `<think>` at the start of the answer or of a line, and closes
with the first `</think>`. In the middle of a line the opening marker is text: an
answer *about* the marker would otherwise vanish into a thought. A template may have
opened the thought already; `opens_thought` reads that from the prompt.

Line ends inside the markers and after the closing one belong to the markers.
Blanks between the start of the answer and a thought go with it. Everything else
comes out, in order; only what may be the beginning of a marker is held back.
"""

from typing import Final

from cortex.events import Text, Thought
from cortex.text.held import Hoard, overlap

OPEN: Final = "<think>"
CLOSE: Final = "</think>"


def opens_thought(prompt: str, prefill: str = "") -> bool:
    """Whether the model goes on inside a thought.

    The prompt ends with the opening marker and blanks, or the caller's own
    `prefill` (a trailing assistant turn) leaves a thought open. Markers elsewhere
    in the prompt are somebody's text.
    """
    return prompt.rstrip().endswith(OPEN) or prefill.rfind(OPEN) > prefill.rfind(CLOSE)


class Thinking:
    """One answer's scanner. `inside` is True between the markers."""

    def __init__(self, *, inside: bool) -> None:
        self.inside = inside
        self._held = ""
        self._trim = inside  # the next line ends belong to a marker
        self._newlines = 0  # of a thought: dropped if the thought closes here
        self._fresh = True  # the line so far is blank
        self._lead = Hoard()  # blanks before anything visible
        self._visible = False

    def feed(self, piece: str) -> list[Text | Thought]:
        """What `piece` makes certain."""
        whole, at = self._held + piece, 0
        self._held = ""
        said: list[Text | Thought] = []
        while at < len(whole):
            marker = CLOSE if self.inside else OPEN
            found = whole.find(marker, at)
            end = len(whole) - overlap(whole, at, marker) if found < 0 else found
            said += self._say(whole[at:end])
            if found < 0:
                self._held = whole[end:]
                break
            at = found + len(marker)
            if self.inside or self._fresh:
                self._turn()
            else:
                said += self._say(marker)
        return said

    def flush(self) -> list[Text | Thought]:
        """What was held back; an unclosed thought stays one."""
        held, self._held = self._held, ""
        said = self._say(held)
        if self._lead:
            said.append(Text(self._lead.take()))
        return said

    def held(self) -> int:
        """How many characters are read and not said."""
        return len(self._held) + len(self._lead)

    def _turn(self) -> None:
        """Past a marker."""
        self.inside = not self.inside
        self._trim = self._fresh = True
        self._newlines = 0
        self._lead.clear()

    def _say(self, text: str) -> list[Text | Thought]:
        if self._trim:
            text = text.lstrip("\n")
        if not text:
            return []
        self._trim = False
        return self._think(text) if self.inside else self._tell(text)

    def _think(self, text: str) -> list[Text | Thought]:
        core = text.rstrip("\n")
        newlines = len(text) - len(core)
        if not core:
            self._newlines += newlines
            return []
        before, self._newlines = self._newlines, newlines
        return [Thought("\n" * before + core)]

    def _tell(self, text: str) -> list[Text | Thought]:
        line = text.rfind("\n") + 1
        self._fresh = (line > 0 or self._fresh) and not text[line:].strip()
        if not self._visible:
            self._lead.add(text)
            if text.isspace():
                return []
            self._visible, text = True, self._lead.take()
        return [Text(text)]
