"""Reasoning is told from the visible answer by its markers, piece by piece.

Which markers a model has, its chat template tells; `marks` knows the kinds there are. A
thought opens with the opening one at the start of the answer or of a line, and closes
with the first closing one. In the middle of a line the opening marker is text: an
answer *about* the marker would otherwise vanish into a thought. A template may have
opened the thought already; `opens_thought` reads that from the prompt.

Line ends inside the markers and after the closing one belong to the markers.
Blanks between the start of the answer and a thought go with it. Everything else
comes out, in order; only what may be the beginning of a marker is held back.
"""

from typing import Final, NamedTuple

from cortex.events import Text, Thought
from cortex.text.held import Hoard, overlap


class Marks(NamedTuple):
    """What stands before and behind a thought."""

    open: str
    close: str


# The first is also what models write whose template says nothing of thoughts.
KINDS: Final = (
    Marks("<think>", "</think>"),
    Marks("[THINK]", "[/THINK]"),
    Marks("<reasoning>", "</reasoning>"),
    Marks("<thought>", "</thought>"),
)


def marks(source: str) -> Marks | None:
    """The markers that the template `source` knows; None when it knows none."""
    return next((kind for kind in KINDS if kind.open in source or kind.close in source), None)


def opens_thought(prompt: str, prefill: str = "", kind: Marks = KINDS[0]) -> bool:
    """Whether the model goes on inside a thought.

    The prompt ends with the opening marker and blanks, or the caller's own
    `prefill` (a trailing assistant turn) leaves a thought open. Markers elsewhere
    in the prompt are somebody's text.
    """
    return prompt.rstrip().endswith(kind.open) or prefill.rfind(kind.open) > prefill.rfind(kind.close)


class Thinking:
    """One answer's scanner. `inside` is True between the markers."""

    def __init__(self, *, inside: bool, kind: Marks = KINDS[0]) -> None:
        self.inside = inside
        self._kind = kind
        self._held = ""
        self._trim = inside  # the next line ends belong to a marker
        self._newlines = 0  # of a thought: dropped if the thought closes here
        self._fresh = True  # the line so far is blank
        self._lead = Hoard()  # blanks before anything visible
        self._visible = False

    def feed(self, piece: str) -> list[Text | Thought]:
        """What `piece` makes certain."""
        if not self._held and (self._kind.close if self.inside else self._kind.open)[0] not in piece:
            return self._say(piece)
        whole, at = self._held + piece, 0
        self._held = ""
        said: list[Text | Thought] = []
        while at < len(whole):
            marker = self._kind.close if self.inside else self._kind.open
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
