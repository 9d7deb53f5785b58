"""How long loads take, by those that were seen: a model's as its last one did, any other's by the
bytes that late ones brought in a second.

A figure for what is on its way in yet, so that what it will have cost can be weighed. Of nobody's
load is anything made up: before the first one was seen, nothing is known.
"""

from dataclasses import dataclass, field
from typing import Final

# What each load leaves of the weight of those before it: a dozen count.
FADING: Final = 0.9


@dataclass(slots=True)
class Paces:
    """Seconds of late loads, by model and by bytes."""

    _last_s: dict[str, float] = field(default_factory=dict)
    _seconds: float = 0.0
    _bytes: float = 0.0

    def note(self, model: str, count: int, seconds: float) -> None:
        """The load of `model`, of so many bytes, took so long; with 0 it tells of no other model's."""
        self._last_s[model] = seconds
        if count:
            self._seconds = FADING * self._seconds + seconds
            self._bytes = FADING * self._bytes + count

    def usual_s(self, model: str) -> float | None:
        """How long its last load took; None when none was seen."""
        return self._last_s.get(model)

    def expected_s(self, model: str, count: int) -> float:
        """How long a load of `model`, with so many bytes, is likely to take; 0 when nobody knows."""
        last = self._last_s.get(model)
        if last is not None:
            return last
        return self._seconds / self._bytes * count if self._bytes else 0.0
