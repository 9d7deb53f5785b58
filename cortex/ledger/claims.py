"""Residents that are closed to newcomers, because somebody waited long enough for them to leave.

A claim is the plan of the first in a blocked line. Its victims seat only those who came
before it, so that they empty. When several claim the same one, the oldest counts.
"""

from dataclasses import dataclass, field

from cortex.router import Placement

Closed = dict[tuple[str, str], int]


@dataclass(slots=True)
class Claims:
    """By the model that waits. What changes is answered by the models that may seat more."""

    _plans: dict[str, tuple[Placement, int]] = field(default_factory=dict)
    _closed: Closed = field(default_factory=dict)

    def of(self, model: str) -> Placement | None:
        """What `model` claims."""
        claim = self._plans.get(model)
        return None if claim is None else claim[0]

    def close(self, place: str, model: str, number: int) -> bool:
        """Whether the resident is closed to the ticket of that number."""
        return number > self._closed.get((place, model), number)

    def make(self, model: str, plan: Placement, number: int) -> set[str]:
        """`model` claims `plan` for the ticket of that number, and nothing else."""
        self._plans[model] = (plan, number)
        return self._count()

    def drop(self, model: str) -> set[str]:
        """`model` claims nothing."""
        return self._count() if self._plans.pop(model, None) is not None else set()

    def _count(self) -> set[str]:
        before, self._closed = self._closed, {}
        for plan, number in self._plans.values():
            for victim in plan.victims:
                key = (plan.place.name, victim)
                self._closed[key] = min(number, self._closed.get(key, number))
        return {
            victim
            for (place, victim), number in before.items()
            if self._closed.get((place, victim)) != number
        }
