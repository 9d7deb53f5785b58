"""What failed a moment ago, and when it may be tried again.

A load that failed rests wherever it would go; a place that refused one rests for that
model only, so that those who wait are sent elsewhere at once and nobody asks the same
place over and over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cortex.errors import Busy, CortexError, DoesNotFit, NoRoom

# A model whose process died comes in again after 1 s, doubling to a minute while it dies young.
DEATH_S: Final = 1.0
DEATH_MAX_S: Final = 60.0
STABLE_S: Final = 60.0
# A failed load is told at once to everyone who waits, then rests: 10 s, doubling to 5 min.
COOL_DOWN_S: Final = 10.0
COOL_DOWN_MAX_S: Final = 300.0


def again(error: CortexError, retry_after_s: float | None = None) -> CortexError:
    """The same error for one more caller: an exception object of its own, since raising one
    twice would tie the callers' frames together. A time left becomes Retry-After."""
    after = error.retry_after_s if retry_after_s is None else retry_after_s
    copy = type(error)(error.message, param=error.param, retry_after_s=after, facts=error.facts)
    copy.final, copy.not_started = error.final, error.not_started
    return copy


@dataclass(frozen=True, slots=True)
class Rest:
    """What nobody tries again before `until`, and why."""

    error: CortexError
    until: float
    delay_s: float = COOL_DOWN_S


@dataclass(slots=True)
class Rests:
    """Rests by model, and by model and place. Those that are over are as good as none."""

    clock: Callable[[], float]
    _models: dict[str, Rest] = field(default_factory=dict)
    _places: dict[str, dict[str, Rest]] = field(default_factory=dict)
    # When a model that died may come in again, and how long that was from its death.
    _deaths: dict[str, tuple[float, float]] = field(default_factory=dict)

    def died(self, model: str, lived_s: float) -> None:
        """It is not loaded again for a moment, which grows as long as it dies young."""
        _, before = self._deaths.get(model, (0.0, 0.0))
        delay_s = min(2 * before, DEATH_MAX_S) if before and lived_s < STABLE_S else DEATH_S
        self._deaths[model] = self.clock() + delay_s, delay_s

    def mourned(self, model: str) -> float | None:
        """Until when whoever wants `model` has to wait since it died; None when that is over."""
        until, _ = self._deaths.get(model, (0.0, 0.0))
        return until if self.clock() < until else None

    def note(self, model: str, place: str, error: CortexError) -> bool:
        """The failure is remembered. True when it speaks of the place rather than of the model, so
        that those who wait may try another."""
        # A copy, which keeps no frame of the load alive.
        now, error = self.clock(), again(error)
        if error.not_started or isinstance(error, Busy | DoesNotFit | NoRoom):
            self._places.setdefault(model, {})[place] = Rest(error, now + COOL_DOWN_S)
            return True
        previous = self._models.get(model)
        delay = COOL_DOWN_S if previous is None else min(previous.delay_s * 2, COOL_DOWN_MAX_S)
        self._models[model] = Rest(error, now + delay, delay)
        return False

    def came(self, model: str, place: str) -> None:
        """It came in there: nothing speaks against it."""
        self._models.pop(model, None)
        self._places.get(model, {}).pop(place, None)

    def of(self, model: str) -> Rest | None:
        """Why `model` is not loaded at the moment, wherever it would go."""
        rest = self._models.get(model)
        # Kept when it is over: the next failure in a row rests for longer.
        return rest if rest is not None and self.clock() < rest.until else None

    def at(self, model: str, place: str) -> Rest | None:
        """Why `place` is not asked for `model` at the moment."""
        return self.about(model).get(place)

    def about(self, model: str) -> Mapping[str, Rest]:
        """Which places are not asked for `model` at the moment, and why."""
        now, rests = self.clock(), self._places.get(model)
        if rests is None:
            return {}
        for place in [place for place, rest in rests.items() if rest.until <= now]:
            del rests[place]
        if not rests:
            del self._places[model]
        return rests
