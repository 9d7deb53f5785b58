"""Whether a device's thread hangs: a decision over what it told, without a clock or a deed.

Time counts only as far as it was looked at: whoever was stopped, suspended or held in a
debugger finds no time gone. What is done about a hang is decided elsewhere; a child and
its parent ask the same question.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cortex.harness.pulse import Doing

# How a process ends that gives itself up: EX_SOFTWARE of sysexits for a hang, and the next
# free number for a device that needs the process started again.
HUNG: Final = 70
LOST: Final = 71

# Looks between a sign of life and the limit: late by an eighth at most.
LOOKS: Final = 8
LONGEST_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long nothing may be heard, in seconds: of a turn, of the first turn after a load, and of
    a load or unload."""

    turn_s: float = 30.0
    warmup_s: float = 60.0
    load_s: float = 120.0

    def of(self, doing: Doing) -> float | None:
        """The limit for `doing`; None where there is none."""
        match doing.phase:
            case "idle" | "lost":
                return None
            case "load" | "unload":
                return self.load_s
            case _:
                return self.warmup_s if doing.cold else self.turn_s

    @property
    def look_s(self) -> float:
        """How often to look."""
        return min(LONGEST_LOOK_S, min(self.turn_s, self.warmup_s, self.load_s) / LOOKS)


@dataclass(frozen=True, slots=True)
class Hang:
    """A thread that shows no sign of life."""

    device: str
    doing: Doing
    silent_s: float

    def __str__(self) -> str:
        doing = self.doing
        return (
            f"device={self.device} phase={doing.phase} model={doing.model} silent_s={self.silent_s:.1f} "
            f"requests={','.join(doing.requests) or '-'}"
        )


@dataclass(slots=True)
class Watch:
    """Looks at threads by name, about every `limits.look_s`."""

    limits: Limits
    _last: float | None = None
    # What each was at when it was last looked at, and for how long that has been so.
    _seen: dict[str, tuple[Doing, float]] = field(default_factory=dict)

    def look(self, now: float, doings: Mapping[str, Doing]) -> Hang | None:
        """Who hangs at `now`, if anybody does; the one that is silent the longest."""
        # A look that comes late by more than its own measure was not made at all.
        gone = 0.0 if self._last is None else min(now - self._last, 2 * self.limits.look_s)
        self._last = now
        hangs: list[Hang] = []
        for device, doing in doings.items():
            before, silent_s = self._seen.get(device, (None, 0.0))
            silent_s = silent_s + gone if doing == before else 0.0
            self._seen[device] = doing, silent_s
            limit = self.limits.of(doing)
            if limit is not None and silent_s >= limit:
                hangs.append(Hang(device, doing, silent_s))
        return max(hangs, key=lambda hang: hang.silent_s, default=None)
