"""What those were promised who waited long enough for others to leave.

A claim is the plan of a blocked line, for whoever has waited longest there. From then on nobody who
came later takes room that it needs, until he has waited for long as well: between the two, turns
decide. And once its victims are old enough to go, they seat only those who came before, so that they
empty. When several claim the same one, the oldest counts. Seats do not go by turns here: turns count
what is had of the room, and who sits at a warm model has nothing more of it, however often he does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cortex.ledger.tickets import Ticket
from cortex.router import Placement


@dataclass(frozen=True, slots=True)
class Claim:
    """`ticket` was promised `plan`, and `closes` its victims."""

    plan: Placement
    ticket: Ticket
    closes: bool


def arrival(ticket: Ticket) -> tuple[bool, int]:
    """The least came first; callers without a key come last."""
    return (not ticket.want.key, ticket.number)


@dataclass(slots=True)
class Claims:
    """By the model that waits."""

    _claims: dict[str, Claim] = field(default_factory=dict)
    # Each closed resident keeps out who came after this one.
    _closed: dict[tuple[str, str], tuple[bool, int]] = field(default_factory=dict)
    # Whether any resident is closed to anybody.
    closing: bool = False

    def of(self, model: str) -> Claim | None:
        """What `model` claims."""
        return self._claims.get(model)

    def at(self, place: str, but: str) -> Iterator[Claim]:
        """What was promised at `place` to those who wait for any model `but` that."""
        for model, claim in self._claims.items():
            if model != but and claim.plan.place.name == place:
                yield claim

    def close(self, place: str, model: str, ticket: Ticket) -> bool:
        """Whether the resident is closed to `ticket`."""
        came = arrival(ticket)
        return came > self._closed.get((place, model), came)

    def make(self, model: str, claim: Claim) -> set[str]:
        """`model` claims this, and nothing else. Answers the models that may seat more than before."""
        self._claims[model] = claim
        return self._count()

    def drop(self, model: str) -> set[str]:
        """`model` claims nothing. Answers the models that may seat more than before."""
        del self._claims[model]
        return self._count()

    def _count(self) -> set[str]:
        before, self._closed = self._closed, {}
        for claim in self._claims.values():
            for victim in claim.plan.victims if claim.closes else ():
                key = (claim.plan.place.name, victim)
                came = arrival(claim.ticket)
                self._closed[key] = min(came, self._closed.get(key, came))
        self.closing = bool(self._closed)
        return {model for (place, model), came in before.items() if self._closed.get((place, model)) != came}
