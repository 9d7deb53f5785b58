"""Those who wait for one model, in the order of their arrival.

First come, first served among those who want the same of it. Who wants only that the
model is there, or not at a place that refused it, does not stand behind those who want a
seat anywhere: what holds up one kind need not hold up the other. Every step costs the
same however many wait.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cortex.ledger.tickets import Ticket, Want

Kind: TypeAlias = tuple[bool, frozenset[str]]


def kind_of(want: Want) -> Kind:
    """What keeps one who waits from being served before another of the same kind."""
    return (want.weight > 0, want.avoid)


@dataclass(slots=True)
class Line:
    """One model's line."""

    # A plain dict would search its first key past all that were removed before it.
    _kinds: dict[Kind, OrderedDict[Ticket, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(tickets) for tickets in self._kinds.values())

    def __iter__(self) -> Iterator[Ticket]:
        """In order of arrival."""
        tickets = (ticket for each in self._kinds.values() for ticket in each)
        return iter(sorted(tickets, key=lambda ticket: ticket.number))

    def has(self, kind: Kind) -> bool:
        """Whether somebody of that kind waits."""
        return kind in self._kinds

    def join(self, ticket: Ticket) -> None:
        """It stands last of its kind."""
        self._kinds.setdefault(kind_of(ticket.want), OrderedDict())[ticket] = None

    def leave(self, ticket: Ticket) -> bool:
        """It stands here no longer; whether it did."""
        kind = kind_of(ticket.want)
        tickets = self._kinds.get(kind)
        if tickets is None or ticket not in tickets:
            return False
        del tickets[ticket]
        if not tickets:
            del self._kinds[kind]
        return True

    def heads(self, but: Collection[Kind] = ()) -> Iterator[Ticket]:
        """Who came first of each kind `but` those."""
        return (next(iter(tickets)) for kind, tickets in self._kinds.items() if kind not in but)

    def first(self, but: Collection[Kind] = ()) -> Ticket | None:
        """Who came first of all kinds `but` those."""
        return min(self.heads(but), key=lambda ticket: ticket.number, default=None)
