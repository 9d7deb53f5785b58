"""What a device's thread is at: told by it alone, read by whoever watches.

A `Doing` is replaced whole, so that a reader in another thread never sees half of one. The
same is entered into the crash journal, where there is one; only when it is something else
than before, since a turn must not wait for a page that says the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from cortex.harness.journal import Blamed, Journal

# `wait`: jobs are live, and the engine has nothing to say. `lost`: the device is poisoned.
Phase: TypeAlias = Literal["idle", "wait", "turn", "load", "unload", "lost"]


@dataclass(frozen=True, slots=True)
class Doing:
    """`beat` is when it last showed a sign of life, in monotonic seconds. `cold`: the engine has
    not finished a turn since it was loaded."""

    phase: Phase = "idle"
    model: str = ""
    requests: tuple[str, ...] = ()
    cold: bool = False
    beat: float = 0.0


IDLE: Final = Doing()


class Pulse:
    """Of one device's thread. `doing` may be read from anywhere."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.doing = IDLE
        self._journal = journal
        self._blamed: Sequence[Blamed] = ()

    def enter(self, doing: Doing, blamed: Sequence[Blamed]) -> None:
        """From here on it is `doing`, and `blamed` if the process dies of it."""
        self.doing, self._blamed = replace(doing, beat=time.monotonic()), blamed
        if self._journal is not None:
            self._journal.write(doing.phase, blamed)

    def lose(self) -> None:
        """The device is lost over what it was at."""
        self.enter(replace(self.doing, phase="lost"), self._blamed)

    def wait(self, doing: Doing) -> None:
        """The thread sleeps while engines compute; the journal keeps whom it named last."""
        self.doing = doing

    def beat(self) -> None:
        """It goes on."""
        self.doing = replace(self.doing, beat=time.monotonic())
