"""Who has to prove itself: a neuron that spoils what it is sent, and one that was away and is back.

After STRIKES spoilt requests in a row a neuron is ejected: nobody goes there who has a choice. It
begins with EJECTED_S and doubles with each time. Then, and when it was away, it is on probation: it gets one
request at a time from those who have a choice, then two, four, eight, then its whole share. Each
success is a step, and so is each STEP_S without a failure, since a fleet may be idle; one
failure ejects it again. Requests without a choice are the ledger's to let through: a fleet
never ejects itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final, Literal, TypeAlias

Standing: TypeAlias = Literal["trusted", "ejected", "probation"]

# One that fails fast is always the least busy, and would draw all work to itself.
STRIKES: Final = 3
EJECTED_S: Final = 10.0
EJECTED_MAX_S: Final = 300.0
STEP_S: Final = 10.0
# More at a time than this is the whole share.
SHARE: Final = 8
# Trusted for so long, and the next ejection is as short as the first.
FORGET_S: Final = 300.0


@dataclass(slots=True)
class _Record:
    """`most` requests at a time: none while ejected, no bound when trusted. `due` is when it takes the
    next step by itself, `trusted_at` when it was trusted again."""

    strikes: int = 0
    most: int | None = None
    due: float = inf
    ejected_s: float = 0.0
    trusted_at: float = -inf


class Probation:
    """The standing of each neuron by name. `bound` is told how many requests each may have of those
    who could go elsewhere, None for no bound, whenever that changes. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float], bound: Callable[[str, int | None], None]) -> None:
        self._clock, self._bound = clock, bound
        self._records: dict[str, _Record] = {}

    def standing(self, name: str) -> Standing:
        """Trusted, unless something was seen."""
        most = self._of(name).most
        return "trusted" if most is None else "probation" if most else "ejected"

    def why(self, name: str) -> str:
        """The standing in words, "" when it is trusted."""
        record = self._of(name)
        if record.most is None:
            return ""
        if record.most:
            return f"on probation: {record.most} at a time from those who have a choice"
        left = max(0.0, record.due - self._clock())
        return f"it spoilt {STRIKES} requests in a row; whoever has a choice goes elsewhere for {left:.0f} s"

    def spoilt(self, name: str) -> bool:
        """A request failed there. Whether that ejects it."""
        record = self._records.setdefault(name, _Record())
        if record.most == 0:
            return False  # those who had no choice
        record.strikes += 1
        if record.most is None and record.strikes < STRIKES:
            return False
        now = self._clock()
        if record.most is None and now - record.trusted_at > FORGET_S:
            record.ejected_s = 0.0
        record.ejected_s = min(max(2 * record.ejected_s, EJECTED_S), EJECTED_MAX_S)
        record.strikes = 0
        self._put(name, record, 0, now + record.ejected_s)
        return True

    def passed(self, name: str) -> None:
        """A request was answered there as it should be."""
        if (record := self._records.get(name)) is not None:
            record.strikes = 0
            if record.most:
                self._step(name, record)

    def returned(self, name: str) -> None:
        """It was away. One that was ejected before stays so."""
        record = self._records.setdefault(name, _Record())
        if record.most != 0:
            self._put(name, record, 1, self._clock() + STEP_S)

    def seen(self, name: str) -> None:
        """It reports, and time has passed."""
        record = self._of(name)
        if record.due <= self._clock():
            self._step(name, record)

    def forget(self, name: str) -> None:
        """There is no such neuron any more, or another one has its name."""
        if self._records.pop(name, None) is not None:
            self._bound(name, None)

    def _of(self, name: str) -> _Record:
        return self._records.get(name) or _Record()

    def _step(self, name: str, record: _Record) -> None:
        more = 2 * (record.most or 0) or 1
        if more <= SHARE:
            self._put(name, record, more, self._clock() + STEP_S)
        else:
            record.trusted_at = self._clock()
            self._put(name, record, None, inf)

    def _put(self, name: str, record: _Record, most: int | None, due: float) -> None:
        record.most, record.due = most, due
        self._bound(name, most)
