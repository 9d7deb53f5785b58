"""What those were promised who waited long enough for others to leave.

A claim is the plan of the first in a blocked line. From then on nobody who came later takes
room that it needs; and once its victims are old enough to go, they seat only those who came
before, so that they empty. When several claim the same one, the oldest counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cortex.router import Placement


@dataclass(frozen=True, slots=True)
class Claim:
    """The ticket of that `number` was promised `plan`, and `closes` its victims."""

    plan: Placement
    number: int
    closes: bool


@dataclass(slots=True)
class Claims:
    """By the model that waits."""

    _claims: dict[str, Claim] = field(default_factory=dict)
    # The first number that each closed resident keeps out comes after this one.
    _closed: dict[tuple[str, str], int] = field(default_factory=dict)

    def of(self, model: str) -> Placement | None:
        """What `model` claims."""
        claim = self._claims.get(model)
        return None if claim is None else claim.plan

    def ahead(self, place: str, number: int) -> Iterator[Placement]:
        """What was promised at `place` to those who came before that number."""
        for claim in self._claims.values():
            if claim.number < number and claim.plan.place.name == place:
                yield claim.plan

    def close(self, place: str, model: str, number: int) -> bool:
        """Whether the resident is closed to the ticket of that number."""
        return number > self._closed.get((place, model), number)

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
                self._closed[key] = min(claim.number, self._closed.get(key, claim.number))
        return {
            model for (place, model), number in before.items() if self._closed.get((place, model)) != number
        }
