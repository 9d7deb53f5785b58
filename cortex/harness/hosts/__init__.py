"""Where engines run: on a thread of this process, or in a child process of their own.

A worker drives both by one protocol: orders go in without waiting, words come out. `thread`
keeps all models of a device that are not isolated, which take turns; `process` keeps one
model, so that a crash costs that model only and its memory is given back for certain.
`child` is what runs at the other end, `spawn` starts it, `frames` and `codec` carry it.
"""

from typing import Literal, Protocol, TypeAlias

from cortex.harness.orders import Order
from cortex.harness.pulse import Doing

__all__ = ["Host", "Isolation"]

Isolation: TypeAlias = Literal["thread", "process"]


class Host(Protocol):
    """What a worker sees of either kind."""

    @property
    def isolation(self) -> Isolation: ...

    @property
    def pid(self) -> int | None:
        """The process that computes; None while there is none."""

    def send(self, order: Order) -> None:
        """Have `order` carried out. Never waits; orders keep their order."""

    def rouse(self) -> None:
        """There is something to do again: the age of the last sign of life counts from here."""

    @property
    def doing(self) -> Doing:
        """What the device's thread was at when it was last heard of."""

    @property
    def age_s(self) -> float:
        """Since when the device's thread has shown no sign of life. Means nothing while there is
        nothing to do."""
