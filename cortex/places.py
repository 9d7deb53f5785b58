"""Where models live: what the router, the evictor and the ledger look at.

In the gateway a place is a neuron, in a neuron a place is a device (its only
`Room`) or a group of them. A resident's bytes are kept per room, since a model fits a device or it
does not, whatever the sum says. Only the ledger assigns to these objects.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["loading", "loaded", "leaving", "recovering"]


@dataclass(slots=True)
class Room:
    """One device of a place. `other_bytes` are taken by what is not a resident. Rooms of one
    `group` hold a model together; where nobody told of groups, it is None and all rooms may.
    `why_not` says in a word what became of a device that computes no more."""

    name: str
    total_bytes: int
    other_bytes: int = 0
    group: str | None = None
    why_not: str = ""


@dataclass(slots=True)
class Resident:
    """One model at one place.

    `seats` are held through this ledger. `elsewhere` is what the place itself reported
    as in flight or queued, `fresh` the part of `seats` taken since it was asked.
    `slots` is how many seats there are, None when nobody said; in a gateway those that may
    wait at the neuron are among them.
    Times are those of the ledger's clock, in seconds. Unused for `idle_unload_s` it is sent away
    (0: never). `fault` says why it cannot
    serve although it is loaded. `unwanted` is one whose load is under way here, and nobody waits for it.
    """

    model: str
    phase: Phase
    room_bytes: Mapping[str, int]
    priority: int = 100
    pinned: bool = False
    slots: int | None = None
    seats: int = 0
    fresh: int = 0
    elsewhere: int = 0
    loaded_at: float = 0.0
    last_used: float = 0.0
    load_s: float = 0.0
    idle_unload_s: float = 0.0
    fault: str | None = None
    unwanted: bool = False

    @property
    def bytes(self) -> int:
        """Over all rooms."""
        return sum(self.room_bytes.values())

    @property
    def busy(self) -> int:
        """How many requests it has, as far as this ledger knows."""
        return self.elsewhere + self.fresh

    @property
    def idle(self) -> bool:
        """Whether nobody is known to sit here."""
        return self.seats == 0 and self.elsewhere == 0

    @property
    def servable(self) -> bool:
        """Whether a new request may be seated here, slots aside."""
        return self.phase == "loaded" and self.fault is None


@dataclass(slots=True)
class Place:
    """A neuron or a device, with its residents by model id.

    Not `ready`, it takes nobody new. In `doubt`, the next look will tell whether it is there
    at all: until then those who would go there wait, since the answer is a moment away. One that has
    to prove itself gets so many requests at a time of those who could go elsewhere, `most`; None
    where nothing speaks against it.
    """

    name: str
    rooms: dict[str, Room]
    residents: dict[str, Resident] = field(default_factory=dict)
    ready: bool = True
    why_not: str = ""
    doubt: bool = False
    most: int | None = None

    def __iter__(self) -> Iterator[Resident]:
        return iter(self.residents.values())

    def free(self, room: str) -> int:
        """Bytes of `room` that nobody has; may be negative when a load outgrew its estimate."""
        taken = sum(resident.room_bytes.get(room, 0) for resident in self)
        return self.rooms[room].total_bytes - self.rooms[room].other_bytes - taken

    @property
    def free_bytes(self) -> int:
        """Over all rooms; for sorting and showing, never for fitting."""
        return sum(self.free(room) for room in self.rooms)


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who needs the room: bytes by room, its class, and whom its sender would rather lose."""

    need: Mapping[str, int]
    priority: int = 100
    prefer: Collection[str] = ()
