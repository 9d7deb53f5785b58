"""Logprobs ride on the text they belong to, even when that text is held back a while.

Tokens and pieces of text do not share borders, so the match is by length, counted
from the end of what was read: the last characters are the ones held back. Each
logprob leaves once, or goes down with text that never becomes visible (markers,
thoughts, tool calls, a stop string).
"""

from collections.abc import Iterable

from cortex.events import TokenLogprob


class Riders:
    """The logprobs whose text is not out yet, in order."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, logprobs: Iterable[TokenLogprob]) -> None:
        self._waiting += logprobs

    def take(self, released: int, held: int, *, cut: bool) -> tuple[TokenLogprob, ...]:
        """Those that go with `released` characters, while the last `held` are kept back.

        With nothing released the decided ones are dropped: their text is not visible.
        A token on the border goes with text that leaves and waits when none does.
        `cut` says that nothing after the released text will ever be visible.
        """
        if not self._waiting:
            return ()
        border = self._covering(released) if cut else self._border(held, leaves=released > 0)
        decided, self._waiting = self._waiting[:border], [] if cut else self._waiting[border:]
        return tuple(decided) if released else ()

    def _covering(self, released: int) -> int:
        size = 0
        for at, logprob in enumerate(self._waiting):
            if size >= released:
                return at
            size += len(logprob.text)
        return len(self._waiting)

    def _border(self, held: int, *, leaves: bool) -> int:
        at, size = len(self._waiting), 0
        while at and size < held:
            size += len(self._waiting[at - 1].text)
            if leaves and size > held:
                break
            at -= 1
        return at
