"""Tokens that each key has used today, over the whole fleet.

Neurons count, by key name and day in UTC, and report the sum of their day; what ended at a
neuron since its last report is added from here, until the next one has it. So a gateway
that starts anew knows as much as one that never stopped, and gateways need not know of
each other. What a client used that left is in the neuron's count, too. What a neuron told
once goes on to count when it has forgotten it: a sum never falls within its day. A count is known by
the neuron's book, so that one that goes by another name is not counted again.
"""

from collections import Counter, deque
from collections.abc import Callable
from datetime import date
from typing import NamedTuple

from cortex.wire.neuron import KeyTokens


class _Spent(NamedTuple):
    """What one request used that ended `at` a time."""

    at: float
    key: str
    tokens: int


class _Count(NamedTuple):
    """What a book said last, and the neuron it was told by."""

    neuron: str
    tokens: Counter[str]


class Tally:
    """The tokens of one day. `today` is the date in UTC; times are the caller's, and only compared."""

    def __init__(self, today: Callable[[], date]) -> None:
        self._today = today
        self._day = ""
        # By book, or by the neuron where it tells of none: another book begins at nothing, beside the
        # old one, and a neuron of another name goes on with its own.
        self._told: dict[tuple[str, str], _Count] = {}
        self._books: dict[str, str] = {}
        self._since: dict[str, deque[_Spent]] = {}
        self._sums: Counter[str] = Counter()

    def used(self, key: str) -> int:
        """Prompt and completion tokens of `key` today."""
        self._turn()
        return self._sums[key]

    def spend(self, neuron: str, key: str, tokens: int, at: float) -> None:
        """A request ended at `neuron`, which has yet to report it."""
        self._turn()
        self._since.setdefault(neuron, deque()).append(_Spent(at, key, tokens))
        self._sums[key] += tokens

    def report(self, neuron: str, told: KeyTokens, asked_at: float) -> None:
        """What `neuron` says that it counted, when asked at a time: all that had ended by then.

        One whose clock has another day says nothing of this one. Less than it told before is a book
        that lost its last lines: they were used all the same, and only what is added to it is more.
        """
        self._turn()
        if told.day != self._day:
            return
        fresh = Counter({name: used.prompt + used.completion for name, used in told.keys.items()})
        book = (told.book, "") if told.book else ("", neuron)
        before = self._told.get(book, _Count(neuron, Counter()))
        # The difference of counters has no negative entries.
        self._sums.update(fresh - before.tokens)
        # Of two hosts with copies of one book the larger count stays: by turns each would add to the other's.
        self._told[book] = _Count(neuron, fresh if before.neuron == neuron else fresh | before.tokens)
        self._books[neuron] = told.book
        for name in self._since:
            if name == neuron or (told.book and self._books.get(name) == told.book):
                self._reported(self._since[name], asked_at)

    def _reported(self, since: deque[_Spent], asked_at: float) -> None:
        """The neuron's own count has what had ended when it was asked."""
        while since and since[0].at < asked_at:
            spent = since.popleft()
            self._sums[spent.key] -= spent.tokens

    def _turn(self) -> None:
        """With a new day all begins anew."""
        day = self._today().isoformat()
        if day != self._day:
            self._day = day
            self._told.clear()
            self._books.clear()
            self._since.clear()
            self._sums.clear()
