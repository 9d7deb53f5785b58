"""Those who wait within one bound, and who gives way when it is reached.

Who has most waiting for his share does: callers without a key first, then the key whose youngest
would have its turn last. So nobody fills the line for all. Orders are none of the crowd, since others
may wait for what they bring. Every step costs the same however many wait.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Final

from cortex.ledger.tickets import Ticket, Want

SLACK: Final = 16
# Turns by which the pace is judged: enough to smooth out turns that come together.
MEMORY: Final = 32
# When to come again to a line that moves slowly: no more often than a client is let wait in it.
SOONEST_S: Final = 1.0
LATEST_S: Final = 60.0


@dataclass(slots=True)
class Crowd:
    """Tickets by key, in order of arrival. Entries of `_most` may say too much, and are looked at again
    when they come up."""

    _keys: dict[str, OrderedDict[Ticket, None]] = field(default_factory=dict)
    _most: list[tuple[float, str]] = field(default_factory=list)
    _turns: deque[float] = field(default_factory=lambda: deque(maxlen=MEMORY))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def join(self, ticket: Ticket) -> None:
        """It waits."""
        key = ticket.want.key
        self._keys.setdefault(key, OrderedDict())[ticket] = None
        heappush(self._most, (-self._weight(key), key))
        if len(self._most) > 2 * len(self._keys) + SLACK:
            self._most = [(-self._weight(each), each) for each in self._keys]
            heapify(self._most)

    def leave(self, ticket: Ticket) -> None:
        """It waits no longer."""
        key = ticket.want.key
        tickets = self._keys.get(key)
        if tickets is not None and ticket in tickets:
            del tickets[ticket]
            if not tickets:
                del self._keys[key]

    def who_gives_way(self, want: Want) -> Ticket | None:
        """Who leaves for `want`, so that it may wait; None when it has as many waiting itself."""
        key = self._foremost()
        if key is None or not want.key:
            return None
        mine = (len(self._keys.get(want.key, ())) + 1) / want.share
        return next(reversed(self._keys[key])) if mine < self._weight(key) else None

    def served(self, now: float) -> None:
        """One of them had a turn."""
        self._turns.append(now)

    def wait_s(self, position: int, now: float) -> float | None:
        """When there may be a place for who stands there, by the pace of late; None before it is known."""
        if len(self._turns) < 2:
            return None
        one = (now - self._turns[0]) / (len(self._turns) - 1)
        return min(max(SOONEST_S, position * one), LATEST_S)

    def _foremost(self) -> str | None:
        """The key with most waiting for its share."""
        while self._most:
            told, key = self._most[0]
            if key not in self._keys:
                heappop(self._most)
            elif (true := -self._weight(key)) == told:
                return key
            else:
                heapreplace(self._most, (true, key))
        return None

    def _weight(self, key: str) -> float:
        if not key:
            return inf
        tickets = self._keys[key]
        return len(tickets) / next(reversed(tickets)).want.share
