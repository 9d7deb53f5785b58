"""Who lives where, and who is on the way in or out.

A load in flight is a resident in phase `loading` that holds its bytes already; its victims
are `leaving` until they are gone. Beliefs about a place are replaced by its own reports.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cortex.errors import Busy, CortexError, DoesNotFit, NoRoom
from cortex.ledger.tickets import Load, Policy, Want
from cortex.places import Place, Resident, Room
from cortex.router import Placement

# A failed load is told at once to everyone who waits, then rests: 10 s, doubling to 5 min.
COOL_DOWN_S: Final = 10.0
COOL_DOWN_MAX_S: Final = 300.0


@dataclass(slots=True)
class Rest:
    """What nobody tries again until `until`, and why."""

    error: CortexError
    until: float
    delay_s: float


@dataclass(slots=True)
class Residency:
    """Places by name, and who holds which model. `clock` gives monotonic seconds."""

    clock: Callable[[], float]
    policy: Policy = field(default_factory=Policy)
    _places: dict[str, Place] = field(default_factory=dict)
    _holders: dict[str, dict[str, Place]] = field(default_factory=dict)
    _loads: dict[str, Load] = field(default_factory=dict)
    _rests: dict[str, Rest] = field(default_factory=dict)
    _shunned: dict[tuple[str, str], Rest] = field(default_factory=dict)
    _epochs: dict[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    @property
    def loads(self) -> Mapping[str, Load]:
        """Loads in flight, by model."""
        return self._loads

    def place(self, name: str) -> Place | None:
        """The place of that name, as it is believed to be."""
        return self._places.get(name)

    def holders(self, model: str) -> list[tuple[Place, Resident]]:
        """Where `model` is, in any phase."""
        return [(place, place.residents[model]) for place in self._holders.get(model, {}).values()]

    # -- places -----------------------------------------------------------------------------

    def open(self, name: str, rooms: Iterable[Room]) -> Place:
        """A place that takes models, empty at first."""
        place = self._places[name] = Place(name, {room.name: room for room in rooms})
        return place

    def report(self, name: str, rooms: Iterable[Room], residents: Iterable[Resident], asked: float) -> None:
        """What a place says of itself replaces what was believed of it.

        `asked` is when the question went out. Kept are our own seats, loads that we started
        and it does not list yet, what came in after the question, and who was told to leave.
        """
        place = self._places.get(name) or self.open(name, ())
        place.rooms = {room.name: room for room in rooms}
        place.ready, place.why_not, place.doubt = True, "", False
        self._epochs[name] = self._epochs.get(name, 0) + 1
        told = {resident.model: resident for resident in residents}
        ours = [load for load in self._loads.values() if load.place is place]
        coming = {load.want.model for load in ours}
        leaving = {model for load in ours for model in load.victims}
        for model, known in list(place.residents.items()):
            if model not in told and model not in coming and known.loaded_at < asked:
                self.gone(name, model)
        for model, resident in told.items():
            if model in coming and resident.phase != "loaded":
                continue
            if model in leaving:
                resident.phase = "leaving"
            self._renew(place, resident)

    def lost(self, name: str, reason: str) -> list[Load]:
        """A place went away with all that lived there; answers the loads it took along."""
        place = self._places.get(name)
        if place is None:
            return []
        place.ready, place.why_not, place.doubt = False, reason, False
        taken = [load for load in self._loads.values() if load.place is place]
        for model in set(place.residents) - {load.want.model for load in taken}:
            self.gone(name, model)
        return taken

    def shut(self, name: str, reason: str) -> None:
        """The place takes nobody new; who lives and sits there stays."""
        place = self._places[name]
        place.ready, place.why_not = False, reason

    def doubt(self, name: str, reason: str) -> None:
        """The place takes nobody until `report` or `lost` tells what became of it."""
        self.shut(name, reason)
        self._places[name].doubt = True

    def forget(self, name: str) -> None:
        """The place is no longer ours."""
        self.lost(name, "removed")
        self._places.pop(name, None)

    # -- residents --------------------------------------------------------------------------

    def leaving(self, place: str, model: str, *, force: bool = False) -> Resident:
        """`model` takes nobody new from here on. Raises Busy while somebody sits there."""
        resident = self._places[place].residents[model]
        if resident.phase != "loaded":
            raise Busy(f"Model '{model}' is {resident.phase} already")
        if not force and not resident.idle:
            raise Busy(
                f"Model '{model}' has {resident.seats} requests in flight; repeat with force to cut them",
                facts={"in_flight": resident.seats},
            )
        resident.phase = "leaving"
        return resident

    def gone(self, place: str, model: str) -> None:
        """`model` is no longer at `place`. No error when it was not."""
        holder = self._places.get(place)
        if holder is not None and holder.residents.pop(model, None) is not None:
            self._holders[model].pop(place, None)
            if not self._holders[model]:
                del self._holders[model]

    def fault(self, place: str, model: str, reason: str) -> None:
        """`model` stays where it is, but serves nobody."""
        holder = self._places.get(place)
        if holder is not None and model in holder.residents:
            holder.residents[model].fault = reason

    def _put(self, place: Place, resident: Resident) -> None:
        place.residents[resident.model] = resident
        self._holders.setdefault(resident.model, {})[place.name] = place

    def _renew(self, place: Place, told: Resident) -> None:
        known = place.residents.get(told.model)
        if known is None or known.phase == "loading":
            self._put(place, told)
            return
        # The object stays, since tickets that sit there hold it.
        for name in ("phase", "room_bytes", "priority", "pinned", "slots", "elsewhere", "fault", "loaded_at"):
            setattr(known, name, getattr(told, name))
        known.load_s = told.load_s or known.load_s
        known.last_used = max(known.last_used, told.last_used)
        known.fresh = 0

    # -- loads ------------------------------------------------------------------------------

    def _begin(self, want: Want, placement: Placement) -> Load:
        """Reserve the room and mark who leaves; from here on nobody else gets either."""
        place = placement.place
        for model in placement.victims:
            place.residents[model].phase = "leaving"
        resident = Resident(want.model, "loading", dict(placement.newcomer.need), loaded_at=self.clock())
        resident.priority = placement.newcomer.priority
        load = Load(want, place, placement.victims, resident)
        self._loads[want.model] = load
        self._put(place, resident)
        return load

    def loaded(self, load: Load, facts: Resident) -> None:
        """The model is in, as `facts` measured it; whoever was to leave is gone."""
        model, now = load.want.model, self.clock()
        self._loads.pop(model, None)
        self._rests.pop(model, None)
        for victim in load.victims:
            self.gone(load.place.name, victim)
        facts.loaded_at = facts.last_used = now
        facts.load_s = now - load.resident.loaded_at
        self._renew(load.place, facts)

    def _unload_plan(self, load: Load) -> None:
        """Undo what `_begin` reserved; victims that were not unloaded yet stay."""
        self._loads.pop(load.want.model, None)
        if load.place.residents.get(load.want.model) is load.resident:
            self.gone(load.place.name, load.want.model)
        for model in load.victims:
            resident = load.place.residents.get(model)
            if resident is not None and resident.phase == "leaving":
                resident.phase = "loaded"

    def _remember(self, load: Load, error: CortexError) -> bool:
        """Note the failure. True when it speaks of the place rather than of the model, so
        that those who wait may try another."""
        model, now = load.want.model, self.clock()
        if error.not_started or isinstance(error, Busy | DoesNotFit | NoRoom):
            self._shunned[model, load.place.name] = Rest(error, now + COOL_DOWN_S, COOL_DOWN_S)
            return True
        previous = self._rests.get(model)
        delay = COOL_DOWN_S if previous is None else min(previous.delay_s * 2, COOL_DOWN_MAX_S)
        self._rests[model] = Rest(error, now + delay, delay)
        return False

    def _shuns(self, model: str, place: str) -> Rest | None:
        """Why `place` is not asked for `model` at the moment."""
        rest = self._shunned.get((model, place))
        if rest is not None and rest.until <= self.clock():
            del self._shunned[model, place]
            return None
        return rest
