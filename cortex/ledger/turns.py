"""Whose turn it is among keys: start-time fair queueing.

After Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). A turn starts, in virtual
time, where its key's last one ended, or at the time of now if that is later; it ends so much later
as it costs, divided by the key's share. The earliest start comes first, and its start is the time
of now. So a key with twice the share has twice the turns while both wait, and one that was away
has saved up nothing. Among callers without a key no turns are counted: they come last, in the
order of their arrival.

There is one such clock for the seats of each model, and one for room. Seats at one model
take nothing from those who wait for another: with one clock for all, who is busy at a fast model
would never be let in at a slow one. Room is what all models share: there a load is a turn, and a
key that waits for ten models has no more of it than one that waits for one.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from cortex.ledger.tickets import Ticket, Want


class Rank(NamedTuple):
    """Who comes first; the least does. `start` is virtual time, the lower `number` came first."""

    anonymous: bool
    start: float
    number: int


@dataclass(slots=True)
class Turns:
    """Virtual time, and where it is exceeded by the end of a key's last turn. Other keys are unknown."""

    _now: float = 0.0
    _ends: dict[str, float] = field(default_factory=dict)
    _ahead: list[tuple[float, str]] = field(default_factory=list)

    def start(self, key: str) -> float:
        """When the next turn of `key` starts. It never moves back."""
        return max(self._now, self._ends.get(key, 0.0)) if key else 0.0

    def rank(self, ticket: Ticket) -> Rank:
        """Where `ticket` stands, were it the next of its key."""
        key = ticket.want.key
        return Rank(not key, self.start(key), ticket.number)

    def take(self, want: Want, cost: float = 1.0) -> None:
        """The key of `want` has its turn."""
        key = want.key
        if not key:
            return
        self._now = self.start(key)
        end = self._ends[key] = self._now + cost / want.share
        heappush(self._ahead, (end, key))
        while self._ahead and self._ahead[0][0] <= self._now:
            _, past = heappop(self._ahead)
            if self._ends.get(past, self._now + 1.0) <= self._now:
                del self._ends[past]
