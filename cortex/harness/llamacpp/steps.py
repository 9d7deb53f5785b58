"""What calls have said and no turn has heard: of one step of the engine all at once, where that is soon.

A step has a token for each call that writes, and tells them one after the other, as it samples them: half a
millisecond lies between two with a vocabulary of 32,000. A turn for each would wake trio as often. So the
first word of a step waits for the others, GATHER_S at most; whoever writes alone waits for nobody, nor does
what is urgent: the first word of an answer, and its end.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# Longer than eight calls take on a busy machine, and too short to be seen in a stream.
GATHER_S: Final = 0.01
_Word = TypeVar("_Word")


class Steps(Generic[_Word]):
    """Words wait here for a turn. `writing` is how many calls have something to say in each step; `ring`
    tells the device's thread to look."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self.writing = 0
        self._ring = ring
        self._heard: deque[_Word] = deque()
        self._since = 0.0
        self._urgent = False
        self._rung = False  # for what waits

    def add(self, word: _Word, *, urgent: bool) -> None:
        """From any thread, which may be held up between any two lines: so that what only rises is never
        written back from a copy, and who adds at the same moment rings too rather than neither."""
        if not self._heard:
            self._since = time.monotonic()
        self._heard.append(word)
        if urgent:
            self._urgent = True
        # The first one has the thread see when the others are waited for no longer.
        if urgent or not self._rung or len(self._heard) >= self.writing:
            self._rung = True
            self._ring()

    # What follows is the device's thread's.

    @property
    def ready(self) -> bool:
        """Whether a turn has something to hear, and nothing to wait for."""
        count = len(self._heard)
        if not count:
            return False
        return self._urgent or count >= self.writing or time.monotonic() >= self._since + GATHER_S

    @property
    def due(self) -> float | None:
        """Until when words are waited for, in monotonic seconds; None when nothing was said."""
        return self._since + GATHER_S if self._heard else None

    def take(self, most: int) -> list[_Word]:
        """The words of one turn, in order."""
        self._urgent = False
        words = [self._heard.popleft() for _ in range(min(len(self._heard), most))]
        # Last: who added meanwhile and did not ring is seen by the look that follows every turn.
        self._rung = False
        return words
