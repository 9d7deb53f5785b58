"""What the scanners of all forms of tool calls share: stages, held text, the blanks around.

A stage takes the text and where to go on, and says where it stopped; one that needs more
text answers with the text's end. A block is what may become a call: it is kept word for
word until it is one, or certainly none. Blanks around a call go with it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from cortex.events import Text, ToolCall
from cortex.text.held import Hoard

Said: TypeAlias = list[Text | ToolCall]
Stage: TypeAlias = Callable[[str, int], int]


class CallReader(ABC):
    """One answer's scanner. A form adds its stages, and `openings`: the markers that begin a
    block, which all begin with one character."""

    openings: tuple[str, ...] = ()

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._resting: Stage = self._outside  # where a block that is over leads to
        self._after_text: Stage = self._outside
        self._stage: Stage = self._outside
        self._held = ""
        self._block = Hoard()  # an open block, from its first character on
        self._ready: ToolCall | None = None  # the block's call, while its closing marker is awaited
        self._blank = Hoard()  # blanks that a call would take with it
        self._after_call = False
        self._said: Said = []

    def lead(self) -> None:
        """Calls may only begin the answer and follow each other: once there is text, all is text."""
        self._stage = self._resting = self._leading
        self._after_text = self._text

    def feed(self, piece: str) -> Said:
        """What `piece` makes certain."""
        whole, at = self._held + piece, 0
        self._held = ""
        while at < len(whole):
            at = self._stage(whole, at)
        return self._take()

    def flush(self) -> Said:
        """What was held back. A block that lacks only its closing marker is a call."""
        held, self._held = self._held, ""
        if self._ready is not None:
            self._emit(self._ready)
        else:
            self._tell(self._block.take() + held)
        self._stage = self._resting
        if self._blank:
            self._said.append(Text(self._blank.take()))
        return self._take()

    def held(self) -> int:
        """How many characters are read and not said."""
        return len(self._held) + len(self._block) + len(self._blank)

    def _take(self) -> Said:
        said, self._said = self._said, []
        return said

    # -- stages and steps that forms share

    def _outside(self, whole: str, at: int) -> int:
        """Text, up to a marker."""
        start, first = at, self.openings[0][0]
        while (at := whole.find(first, at)) >= 0:
            word = self._word(whole, at, *self.openings)
            if word is not None:
                self._tell(whole[start:at])
                if not word:
                    return len(whole)
                self._block.add(word)
                self._open(word)
                return at + len(word)
            at += 1
        self._tell(whole[start:])
        return len(whole)

    def _leading(self, whole: str, at: int) -> int:
        """Blanks, and then a marker, or text to the end."""
        start = at
        while at < len(whole) and whole[at].isspace():
            at += 1
        self._tell(whole[start:at])
        word = self._word(whole, at, *self.openings) if at < len(whole) else ""
        if word is None:
            self._stage = self._resting = self._after_text
            return at
        if not word:
            return len(whole)
        self._block.add(word)
        self._open(word)
        return at + len(word)

    def _text(self, whole: str, at: int) -> int:
        self._tell(whole[at:])
        return len(whole)

    @abstractmethod
    def _open(self, opening: str) -> None:
        """Past an opening marker: choose the next stage."""

    def _word(self, whole: str, at: int, *words: str) -> str | None:
        """Which of `words` stands here: "" when only more text can tell (what is there is
        held), None when none of them does."""
        rest = whole[at : at + max(map(len, words))]
        for word in words:
            if rest.startswith(word):
                return word
        if any(word.startswith(rest) for word in words):
            self._held = rest
            return ""
        return None

    def _skip(self, whole: str, at: int) -> int:
        """Past the blanks of a block."""
        start = at
        while at < len(whole) and whole[at].isspace():
            at += 1
        self._block.add(whole[start:at])
        return at

    def _pass(self, word: str, at: int, stage: Stage) -> int:
        """Past `word`, which belongs to the block, into `stage`."""
        self._block.add(word)
        self._stage = stage
        return at + len(word)

    def _give_up(self, at: int) -> int:
        """The block is text; what follows it is read as text again."""
        self._ready = None
        self._stage = self._resting
        self._tell(self._block.take())
        return at

    # -- what leaves

    def _call(self, name: str, arguments: str) -> ToolCall:
        return ToolCall(f"call_{self._new_id()[:24]}", name, arguments)

    def _emit(self, call: ToolCall) -> None:
        """The block was `call`."""
        self._said.append(call)
        self._ready = None
        self._stage = self._resting
        self._block.clear()
        self._blank.clear()
        self._after_call = True

    def _tell(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if not text:
            return
        self._after_call = False
        core = text.rstrip()
        if core:
            self._said.append(Text(self._blank.take() + core))
        self._blank.add(text[len(core) :])
