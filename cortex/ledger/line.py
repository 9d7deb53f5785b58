"""Those who wait for one model, in the order of their turns.

Keys take turns (`turns`), and within a key it is first come, first served, among those who want
the same of the model. Who wants only that it is there, or not at a place that refused it, does
not stand behind those who want a seat anywhere: what holds up one kind need not hold up the
other, unless they could go wherever it could. Every step costs the same however many wait.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from itertools import takewhile
from math import ceil
from operator import itemgetter
from typing import Final, TypeAlias

from cortex.ledger.tickets import Ticket, Want
from cortex.ledger.turns import Rank, Turns

Kind: TypeAlias = tuple[bool, frozenset[str]]
# A plain dict would search its first key past all that were removed before it.
Tickets: TypeAlias = OrderedDict[Ticket, None]

# So many entries of keys that have left may lie about, besides as many as have not.
SLACK: Final = 16


def kind_of(want: Want) -> Kind:
    """What keeps one who waits from being served before another of the same kind."""
    return (want.weight > 0, want.avoid)


@dataclass(slots=True)
class _Row:
    """Those of one kind, by key. Each key has one entry in `_heads`, which may be too early: a rank
    only ever grows, and is looked at again when it comes up."""

    turns: Turns
    keys: dict[str, Tickets] = field(default_factory=dict)
    keyed: Tickets = field(default_factory=OrderedDict)
    _heads: list[tuple[Rank, str]] = field(default_factory=list)
    _listed: set[str] = field(default_factory=set)

    def join(self, ticket: Ticket) -> None:
        key = ticket.want.key
        self.keys.setdefault(key, OrderedDict())[ticket] = None
        if key:
            self.keyed[ticket] = None
        if key not in self._listed:
            self._listed.add(key)
            heappush(self._heads, (self.turns.rank(ticket), key))

    def leave(self, ticket: Ticket) -> bool:
        key = ticket.want.key
        tickets = self.keys.get(key)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        if key:
            del self.keyed[ticket]
        if not tickets:
            del self.keys[key]
            self._tidy()
        return True

    def first(self) -> Ticket:
        """Whose turn is next; somebody waits."""
        while True:
            rank, key = self._heads[0]
            if (tickets := self.keys.get(key)) is None:
                heappop(self._heads)
                self._listed.discard(key)
                continue
            head = next(iter(tickets))
            if (true := self.turns.rank(head)) == rank:
                return head
            heapreplace(self._heads, (true, key))

    def eldest(self, *, anonymous: bool) -> Ticket | None:
        """Who has waited longest, with a key or without."""
        return next(iter(self.of("") if anonymous else self.keyed), None)

    def elder(self, ticket: Ticket) -> int:
        """How many of its key came before `ticket`."""
        return sum(1 for _ in takewhile(lambda other: other.number < ticket.number, self.of(ticket.want.key)))

    def before(self, rank: Rank, but: str) -> int:
        """How many of all keys `but` that are ahead of one of that rank, as far as can be told: as if
        all wanted one seat."""
        return sum(self._ahead(key, tickets, rank) for key, tickets in self.keys.items() if key != but)

    def of(self, key: str) -> Collection[Ticket]:
        return self.keys.get(key, ())

    def _ahead(self, key: str, tickets: Tickets, rank: Rank) -> int:
        if not key or rank.anonymous:
            return len(tickets) if key else 0
        head = next(iter(tickets))
        turns = (rank.start - self.turns.start(key)) * head.want.share
        tie = turns.is_integer() and head.number < rank.number
        return min(max(ceil(turns) + tie, 0), len(tickets))

    def _tidy(self) -> None:
        if len(self._heads) > 2 * len(self.keys) + SLACK:
            self._heads = [(self.turns.rank(next(iter(each))), key) for key, each in self.keys.items()]
            heapify(self._heads)
            self._listed = set(self.keys)


@dataclass(slots=True)
class Line:
    """One model's line. `turns` are those at its seats, for as long as anybody waits for one; orders
    want none, and go by those at the `room` that all models share."""

    turns: Turns = field(default_factory=Turns)
    room: Turns = field(default_factory=Turns)
    _rows: dict[Kind, _Row] = field(default_factory=dict)
    _count: int = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, ticket: Ticket) -> bool:
        row = self._rows.get(kind_of(ticket.want))
        return row is not None and ticket in row.of(ticket.want.key)

    def __iter__(self) -> Iterator[Ticket]:
        """In order of arrival."""
        tickets = (ticket for row in self._rows.values() for each in row.keys.values() for ticket in each)
        return iter(sorted(tickets, key=lambda ticket: ticket.number))

    @property
    def kinds(self) -> Collection[Kind]:
        """Of which somebody waits."""
        return self._rows.keys()

    def join(self, ticket: Ticket) -> None:
        """It stands last of its kind and key."""
        kind = kind_of(ticket.want)
        if (row := self._rows.get(kind)) is None:
            row = self._rows[kind] = _Row(self.turns if kind[0] else self.room)
        row.join(ticket)
        self._count += 1

    def leave(self, ticket: Ticket) -> bool:
        """It stands here no longer; whether it did."""
        kind = kind_of(ticket.want)
        row = self._rows.get(kind)
        if row is None or not row.leave(ticket):
            return False
        self._count -= 1
        if not row.keys:
            del self._rows[kind]
        return True

    def first(self, but: Collection[Kind] = ()) -> Ticket | None:
        """Whose turn is next, of all kinds `but` those."""
        rows = [row for kind, row in self._rows.items() if kind not in but]
        ranked = ((row.turns.rank(head := row.first()), head) for row in rows)
        return min(ranked, key=itemgetter(0), default=(None, None))[1]

    def eldest(self, like: Ticket) -> Ticket | None:
        """Who has waited longest for the same as `like`: with a key as he has one, or without."""
        row = self._rows.get(kind_of(like.want))
        return None if row is None else row.eldest(anonymous=not like.want.key)

    def oldest(self) -> float | None:
        """When who waits longest for a seat arrived."""
        rows = (row for (seated, _), row in self._rows.items() if seated)
        eldest = (row.eldest(anonymous=anonymous) for row in rows for anonymous in (True, False))
        return min((ticket.arrived for ticket in eldest if ticket is not None), default=None)

    def position(self, ticket: Ticket) -> int:
        """How many turns it is to that of `ticket`, its own included."""
        key, share = ticket.want.key, ticket.want.share
        elder = sum(row.elder(ticket) for row in self._rows.values())
        rank = Rank(not key, self.turns.start(key) + elder / share, ticket.number)
        return 1 + elder + sum(row.before(rank, but=key) for row in self._rows.values())
