"""Places, specs and a clock for tests of who lives, sits and waits where. Sizes are plain numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cortex.catalogue import ModelSpec
from cortex.evictor import Rules
from cortex.ledger import Decision, Ledger, Load, Policy, Serve, Ticket, Want
from cortex.places import Place, Resident, Room

AGE_S = 30.0
OVERTAKE_S = 30.0


class Clock:
    """Stands still until it is set. It starts late, so that whatever was there at 0 is old."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def policy(
    *,
    strategy: str = "lru",
    age_s: float = AGE_S,
    overtake_s: float = OVERTAKE_S,
    queue: int = 1024,
    **modes: bool,
) -> Policy:
    return Policy(Rules(strategy, age_s), queue, overtake_s, **modes)


def resident(model: str, need: int | Mapping[str, int] = 10, **facts: object) -> Resident:
    """A loaded, old and idle one; `need` is in room "g" unless it says which."""
    rooms = need if isinstance(need, Mapping) else {"g": need}
    phase = facts.pop("phase", "loaded")
    return Resident(model, phase, dict(rooms), **facts)


def place(name: str, total: int | Mapping[str, int], *residents: Resident, **facts: object) -> Place:
    """A place of its own, in no ledger."""
    rooms = total if isinstance(total, Mapping) else {"g": total}
    made = Place(name, {room: Room(room, count) for room, count in rooms.items()}, **facts)
    made.residents.update({one.model: one for one in residents})
    return made


def want(model: str, need: int = 10, *, spec: Mapping[str, object] | None = None, **more: object) -> Want:
    """A seat at a model that may be loaded."""
    return Want(model, ModelSpec(model, **(spec or {})), need, **more)


@dataclass
class Books:
    """A ledger with its clock, and short ways to say what a dispatcher would."""

    ledger: Ledger
    clock: Clock

    def tell(
        self, name: str, total: int, *residents: Resident, asked: float | None = None, other: int = 0
    ) -> None:
        """Place `name` reports, asked just now unless said otherwise."""
        rooms = [Room("g", total, other)]
        self.ledger.report(name, rooms, residents, self.clock() if asked is None else asked)

    def arrive(self, model: str, need: int = 10, **more: object) -> tuple[Ticket, Decision]:
        return self.ledger.arrive(want(model, need, **more))

    def sit(self, model: str, need: int = 10, **more: object) -> Ticket:
        """Somebody sits there at once."""
        ticket, decision = self.arrive(model, need, **more)
        assert isinstance(decision, Serve), decision
        return ticket

    def begin(self, model: str, need: int = 10, **more: object) -> tuple[Ticket, Load]:
        """Somebody has caused a load."""
        ticket, decision = self.arrive(model, need, **more)
        assert isinstance(decision, Load), decision
        return ticket, decision

    def settle(self) -> dict[Ticket, Decision]:
        return dict(self.ledger.settle())

    def finish(self, load: Load, **facts: object) -> dict[Ticket, Decision]:
        """The load ends well; answers what became of those who waited."""
        for victim in load.victims:
            self.ledger.gone(load.place.name, victim)
        self.ledger.loaded(load, resident(load.want.model, load.resident.room_bytes, **facts))
        return self.settle()

    def living(self, name: str = "p") -> dict[str, str]:
        """Phase by model."""
        found = self.ledger.place(name)
        assert found is not None
        return {one.model: one.phase for one in found}

    def seated(self, tickets: Iterable[Ticket]) -> list[bool]:
        return [ticket.place is not None for ticket in tickets]


def books(total: int | None = 100, *residents: Resident, **rules: object) -> Books:
    """A ledger with one place "p" of `total` bytes, or with none."""
    clock = Clock()
    made = Books(Ledger(clock, policy(**rules)), clock)
    if total is not None:
        made.tell("p", total, *residents)
    return made
