"""Where models live: what the router, the evictor and the ledger look at.

In the gateway a place is a neuron, in a neuron a place is a device (its only
`Room`). A resident's bytes are kept per room, since a model fits a device or it
does not, whatever the sum says. Only the ledger assigns to these objects.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["loading", "loaded", "leaving", "recovering"]


@dataclass(slots=True)
class Room:
    """One device of a place, in bytes. `free_bytes` is true at the last look."""

    name: str
    total_bytes: int
    free_bytes: int


@dataclass(slots=True)
class Resident:
    """One model at one place.

    `seats` are held through this ledger; `elsewhere` is the load that the place
    reported beyond them (other gateways, queued work). `slots` is how many seats
    the resident has, None when somebody else counts them. Times are those of the
    ledger's clock, in seconds.
    """

    model: str
    phase: Phase
    room_bytes: Mapping[str, int]
    priority: int = 100
    pinned: bool = False
    slots: int | None = None
    seats: int = 0
    elsewhere: int = 0
    loaded_at: float = 0.0
    last_used: float = 0.0
    load_s: float = 0.0
    fault: str | None = None

    @property
    def bytes(self) -> int:
        """Over all rooms."""
        return sum(self.room_bytes.values())

    @property
    def busy(self) -> int:
        """How many requests it has, as far as this ledger knows."""
        return self.seats + self.elsewhere

    @property
    def servable(self) -> bool:
        """Whether a new request may be seated here, slots aside."""
        return self.phase == "loaded" and self.fault is None


@dataclass(slots=True)
class Place:
    """A neuron or a device, with its residents by model id."""

    name: str
    rooms: dict[str, Room]
    residents: dict[str, Resident] = field(default_factory=dict)
    ready: bool = True
    why_not: str = ""

    def __iter__(self) -> Iterator[Resident]:
        return iter(self.residents.values())

    @property
    def free_bytes(self) -> int:
        """Over all rooms; for sorting and showing, never for fitting."""
        return sum(room.free_bytes for room in self.rooms.values())
