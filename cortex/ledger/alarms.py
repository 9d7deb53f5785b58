"""When to look at which line although nothing happened to it.

A heap in which what no longer holds is left to lie until it comes up, so that a wake-up costs what it
rings, however many lines wait for a moment of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

# So many entries that hold no longer may lie about, besides as many as do.
SLACK: Final = 16


@dataclass(slots=True)
class Alarms:
    """One moment for each model, in seconds of the ledger's clock: the earliest that was set."""

    _at: dict[str, float] = field(default_factory=dict)
    _heap: list[tuple[float, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        """Models with a moment set."""
        return iter(self._at)

    def at(self, model: str) -> float:
        """When `model` is due; infinity for never."""
        return self._at.get(model, inf)

    def put(self, model: str, moment: float) -> None:
        """`model` is due then, or before."""
        if moment < self.at(model):
            self._at[model] = moment
            heappush(self._heap, (moment, model))
            self._tidy()

    def drop(self, model: str) -> None:
        """`model` is due no longer. No error when it was not."""
        self._at.pop(model, None)

    @property
    def due(self) -> float:
        """The earliest moment of all; infinity for none."""
        while self._heap:
            moment, model = self._heap[0]
            if self.at(model) == moment:
                return moment
            heappop(self._heap)
        return inf

    def ring(self, now: float) -> set[str]:
        """Whose moment has come; they are due no longer."""
        rung = set()
        while self.due <= now:
            model = heappop(self._heap)[1]
            rung.add(model)
            self.drop(model)
        return rung

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._at) + SLACK:
            self._heap = [(moment, model) for model, moment in self._at.items()]
            heapify(self._heap)
