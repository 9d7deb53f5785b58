"""A stop string ends the visible text at the first character that completes it.

Stop strings are matched on visible text only. In a thought they would end the
answer before it has begun, and in a tool call they would break its JSON; what the
caller sees and cuts by is the text.

The first string to be complete wins, however the text was cut into pieces; of
several that end at the same character the longest wins, as it cuts the most that
was asked for. The stop string itself is cut. Only what may be the beginning of
one is held back. The work per character is constant, whatever the strings.
"""

from collections.abc import Sequence

from cortex.errors import BadAsk


class _Needle:
    """One stop string, and how much of it the text so far ends with (Knuth, Morris and Pratt)."""

    def __init__(self, whole: str) -> None:
        self.whole = whole
        self.depth = 0
        self._borders = [0]
        for char in whole[1:]:
            self._borders.append(self._deeper(self._borders[-1], char))

    def step(self, char: str) -> bool:
        """Whether `char` completes it. Nothing may follow then."""
        self.depth = self._deeper(self.depth, char)
        return self.depth == len(self.whole)

    def _deeper(self, depth: int, char: str) -> int:
        while depth and self.whole[depth] != char:
            depth = self._borders[depth - 1]
        return depth + 1 if self.whole[depth] == char else 0


class Stops:
    """One answer's visible text. `matched` is the stop string, once one is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise BadAsk("A stop string must not be empty; leave it out.", param="stop")
        self._needles = [_Needle(stop) for stop in stops]
        self._firsts = {stop[0] for stop in stops}
        self._kept = 0
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that no stop string can cut any more. Empty after a match."""
        if self.matched is not None:
            return ""
        if not self._kept and not any(first in text for first in self._firsts):
            return text
        before, kept = self._deepest()
        for at, char in enumerate(text, 1):
            complete = [needle.whole for needle in self._needles if needle.step(char)]
            if complete:
                self.matched = max(complete, key=len)
                size = kept + at - len(self.matched)
                break
        else:
            self._kept = self._deepest()[1]
            size = kept + len(text) - self._kept
        return before[: min(size, kept)] + text[: max(0, size - kept)]

    def flush(self) -> str:
        """What was held back; matching starts anew."""
        if self.matched is not None:
            return ""
        before, kept = self._deepest()
        for needle in self._needles:
            needle.depth = 0
        self._kept = 0
        return before[:kept]

    def held(self) -> int:
        """How many characters are read and not released."""
        return self._kept

    def _deepest(self) -> tuple[str, int]:
        """The stop string that most of the text's end may begin, and how much that is:
        what is held back is its beginning, so that nothing needs to be kept."""
        return max(((needle.whole, needle.depth) for needle in self._needles), key=_depth, default=("", 0))


def _depth(state: tuple[str, int]) -> int:
    return state[1]
