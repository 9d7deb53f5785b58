"""Who lives where, and who is on the way in or out.

A load in flight is a resident in phase `loading` that holds its bytes already; its victims
are `leaving` until they are gone. What a place reports is believed as of the moment it was
asked: what happened here since then stands.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cortex.errors import Busy, CortexError, Recovering
from cortex.ledger.outlook import Outlook, Outlooks
from cortex.ledger.paces import Paces
from cortex.ledger.replicas import Replicas
from cortex.ledger.rests import Rest, Rests
from cortex.ledger.rooms import Rooms
from cortex.ledger.tickets import Load, Policy, Ticket, Want
from cortex.places import Place, Resident, Room
from cortex.router import Placement
from cortex.units import counted


def _nobody() -> None:
    """Is told, and does nothing."""


def _unseen(model: str) -> Outlook:
    """Nobody watches."""
    return Outlook()


@dataclass(slots=True)
class Residency:
    """Places by name, and who holds which model. `clock` gives monotonic seconds; `on_change`
    is called when those who wait may be better off, and must not call back. `outlook` tells how far
    a load is."""

    clock: Callable[[], float]
    policy: Policy
    on_change: Callable[[], None] = _nobody
    outlook: Outlooks = _unseen
    _places: dict[str, Place] = field(default_factory=dict)
    _holders: dict[str, dict[str, Place]] = field(default_factory=dict)
    # Of models that were asked for.
    _replicas: dict[str, Replicas] = field(default_factory=dict)
    _loads: dict[str, Load] = field(default_factory=dict)
    _rests: Rests = field(init=False)
    _rooms: Rooms = field(init=False)
    # Seats taken since the question behind the last report, by place: it could not know of them.
    _fresh: dict[str, dict[Ticket, Resident]] = field(default_factory=dict)
    # When who left, by place, for reports that were asked for earlier.
    _left: dict[str, dict[str, float]] = field(default_factory=dict)
    _paces: Paces = field(default_factory=Paces)
    # Places that get nobody who has a choice.
    _shunned: set[str] = field(default_factory=set)
    # Whose line may move: those of these models, and with `_roomier` all that wait for room.
    _stirred: set[str] = field(default_factory=set)
    _roomier: bool = False
    # What came in since the lines were looked at.
    _came: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rests = Rests(self.clock)
        self._rooms = Rooms(self._places)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places.values())

    @property
    def loads(self) -> Mapping[str, Load]:
        """Loads in flight, by model."""
        return self._loads

    def place(self, name: str) -> Place | None:
        """The place of that name, as it is believed to be."""
        return self._places.get(name)

    @property
    def layout(self) -> int:
        """Another number whenever what could be held where is another matter."""
        return self._rooms.layout

    def holders(self, model: str) -> list[tuple[Place, Resident]]:
        """Where `model` is, in any phase."""
        return [(place, place.residents[model]) for place in self._holders.get(model, {}).values()]

    def _serving(self, model: str) -> Replicas:
        """Who serves `model`."""
        if (found := self._replicas.get(model)) is None:
            found = Replicas(model, self._places, set(self._holders.get(model, ())))
            if model in self._holders:  # what is nowhere is not kept in mind
                self._replicas[model] = found
        return found

    def _touch(self, place: Place, *models: str) -> None:
        """How those residents serve has changed there."""
        for model in models:
            if (found := self._replicas.get(model)) is not None:
                found.touch(place.name)

    def resting(self, model: str) -> Rest | None:
        """Why `model` is not loaded anywhere at the moment, and until when: its last load failed."""
        return self._rests.of(model)

    # -- places -----------------------------------------------------------------------------

    def open(self, name: str, rooms: Iterable[Room]) -> Place:
        """A place that takes models, empty at first."""
        place = self._places[name] = Place(name, {room.name: room for room in rooms})
        self._rooms.touch(name)
        self._stir()
        return place

    def report(self, name: str, rooms: Iterable[Room], residents: Iterable[Resident], asked: float) -> None:
        """What a place says of itself replaces what was believed of it.

        `asked` is when the question went out. Our own seats are kept, loads that we started
        and it does not list yet, and all that came, left or was told to leave since then.
        """
        place = self._places.get(name) or self.open(name, ())
        place.rooms = {room.name: room for room in rooms}
        place.ready, place.why_not, place.doubt = True, "", False
        self._age(name, asked)
        told = {resident.model: resident for resident in residents}
        coming = {model for model, load in self._loads.items() if load.place is place}
        for model, known in list(place.residents.items()):
            if model not in told and model not in coming and known.loaded_at < asked:
                self._remove(place, model)
        left = self._left.get(name, {})
        for model, resident in told.items():
            if model not in left and (model not in coming or resident.phase == "loaded"):
                self._renew(place, resident, asked)
        self._touch(place, *place.residents)
        self._stir(*place.residents)
        self._rooms.renew(name)

    def lost(self, name: str, reason: str) -> list[Load]:
        """A place went away with all that lived there; answers the loads it took along, which
        count no longer."""
        place = self._places.get(name)
        if place is None:
            return []
        place.ready, place.why_not, place.doubt = False, reason, False
        self._rooms.touch(name)
        taken = [load for load in self._loads.values() if load.place is place]
        for load in taken:
            del self._loads[load.want.model]
            gone = Recovering(f"'{name}' went away while it loaded '{load.want.model}': {reason}")
            gone.not_started = True
            self._rests.note(load.want.model, name, gone)
        for model in list(place.residents):
            self._remove(place, model)
        # Whatever is back in its place has begun anew.
        self._left.pop(name, None)
        self._fresh.pop(name, None)
        self._stir()
        return taken

    def forget(self, name: str, reason: str) -> list[Load]:
        """There is no such place any more; answers the loads it took along, which count no longer."""
        taken = self.lost(name, reason)
        self._places.pop(name, None)
        self._shunned.discard(name)
        self._rooms.touch(name)
        return taken

    def shut(self, name: str, reason: str) -> None:
        """The place takes nobody new; who lives and sits there stays."""
        place = self._places[name]
        place.ready, place.why_not = False, reason
        self._rooms.touch(name)
        self._touch(place, *place.residents)
        self._stir(*place.residents)

    def doubt(self, name: str, reason: str) -> None:
        """The place takes nobody until `report` or `lost` tells what became of it."""
        self._places[name].doubt = True
        self.shut(name, reason)

    def bound(self, name: str, most: int | None) -> None:
        """A place gets so many requests at a time of those who have a choice; None is no bound."""
        place = self._places.get(name)
        if place is not None and place.most != most:
            place.most = most
            (self._shunned.add if most == 0 else self._shunned.discard)(name)
            self._touch(place, *place.residents)
            self._stir(*place.residents)

    def rooms(self, name: str, rooms: Iterable[Room]) -> None:
        """What models may have at a place has changed; who lives and sits there stays. Those who
        wait are looked at again only where there is more than before."""
        place = self._places[name]
        before = {room: place.free(room) for room in place.rooms}
        place.rooms = {room.name: room for room in rooms}
        self._rooms.touch(name)
        if any(place.free(room) > before.get(room, 0) for room in place.rooms):
            self._stir()

    # -- residents --------------------------------------------------------------------------

    def leaving(self, place: str, model: str, *, force: bool = False) -> Resident:
        """`model` takes nobody new from here on. Raises Busy while somebody sits there, or it is
        pinned: only `force` overrides either."""
        resident = self._places[place].residents[model]
        if resident.phase != "loaded":
            raise Busy(f"Model '{model}' is {resident.phase} already")
        if resident.pinned and not force:
            raise Busy(
                f"Model '{model}' is pinned; unpin it first, or repeat with force",
                facts={"blocked_by": [model]},
            )
        if not force and not resident.idle:
            raise Busy(
                f"Model '{model}' has {counted(resident.seats, 'request')} in flight; repeat with force to "
                "cut them",
                facts={"in_flight": resident.seats},
            )
        resident.phase = "leaving"
        self._rooms.touch(place)
        self._touch(self._places[place], model)
        self._stir(model)
        return resident

    def gone(self, place: str, model: str) -> None:
        """`model` is no longer at `place`. No error when it was not."""
        holder = self._places.get(place)
        if holder is not None and model in holder.residents:
            self._remove(holder, model)
            self._left.setdefault(place, {})[model] = self.clock()

    def died(self, place: str, model: str) -> None:
        """`model` is gone from `place`, and nobody told it to. It may come in again in a moment."""
        holder = self._places.get(place)
        if holder is not None and model in holder.residents:
            self._rests.died(model, self.clock() - holder.residents[model].loaded_at)
            self.gone(place, model)

    def fault(self, place: str, model: str, reason: str | None) -> None:
        """`model` stays where it is, but serves nobody; with None it serves again."""
        holder = self._places.get(place)
        if holder is not None and model in holder.residents:
            holder.residents[model].fault = reason
            self._touch(holder, model)
            self._stir(model)

    def _put(self, place: Place, resident: Resident) -> None:
        place.residents[resident.model] = resident
        self._rooms.touch(place.name)
        self._holders.setdefault(resident.model, {})[place.name] = place
        self._touch(place, resident.model)

    def _remove(self, place: Place, model: str) -> None:
        del place.residents[model]
        self._rooms.touch(place.name)
        del self._holders[model][place.name]
        self._touch(place, model)
        if not self._holders[model]:
            del self._holders[model]
            self._replicas.pop(model, None)
        self._stir(model)

    def _renew(self, place: Place, told: Resident, asked: float) -> None:
        known = place.residents.get(told.model)
        if known is None or known.phase == "loading":
            self._put(place, told)
        elif known.loaded_at < asked:
            # The object stays, since tickets that sit there hold it.
            leaving = known.phase == "leaving" and self._sent_away_after(asked, place, told.model)
            known.phase = "leaving" if leaving else told.phase
            for name in ("room_bytes", "priority", "pinned", "slots", "elsewhere", "fault", "loaded_at"):
                setattr(known, name, getattr(told, name))
            known.last_used = max(known.last_used, told.last_used)
        if told.load_s:
            place.residents[told.model].load_s = told.load_s
            new = known is None or known.phase == "loading"
            self._paces.note(told.model, told.bytes if new else 0, told.load_s)
        elif told.phase == "loading":
            place.residents[told.model].load_s = self._paces.expected_s(told.model, told.bytes)

    def _sent_away_after(self, asked: float, place: Place, model: str) -> bool:
        """Whether one of our loads sends `model` away of which the report cannot know yet."""
        ours = (load for load in self._loads.values() if load.place is place)
        return any(model in load.victims and load.resident.loaded_at >= asked for load in ours)

    def _age(self, name: str, asked: float) -> None:
        """Forget what a question at `asked` saw."""
        fresh = self._fresh.get(name, {})
        for ticket, resident in list(fresh.items()):
            if ticket.seated < asked:
                del fresh[ticket]
                resident.fresh -= ticket.want.weight
        left = self._left.get(name, {})
        self._left[name] = {model: at for model, at in left.items() if at >= asked}

    def _stir(self, *models: str) -> None:
        self._stirred.update(models)
        self._roomier = True
        self.on_change()

    # -- loads ------------------------------------------------------------------------------

    def _begin(self, want: Want, placement: Placement) -> Load:
        """Reserve the room and mark who leaves; from here on nobody else gets either.

        Victims that must be waited for are marked by nobody: their place decides when they go,
        and until then they serve. A load among the victims is called off in any case. A place that
        makes room by itself knows best what it takes: there, all that nobody waits for is let go of.
        """
        place = placement.place
        unwanted = [load for load in self._loads.values() if load.place is place and load.unwanted]
        victims = placement.victims
        calls_off = [load for load in unwanted if self.policy.delegates or load.want.model in victims]
        off = {load.want.model for load in calls_off}
        told = [model for model in victims if model in off or not placement.must_wait]
        leaving = tuple(place.residents[model] for model in told)
        for one in leaving:
            one.phase = "leaving"
            self._touch(place, one.model)
        resident = Resident(want.model, "loading", dict(placement.newcomer.need))
        resident.loaded_at = resident.last_used = self.clock()
        resident.load_s = self._paces.expected_s(want.model, resident.bytes)
        resident.priority = placement.newcomer.priority
        # Whom a gateway must not send away its neurons tell.
        pins = want.pinned or (want.spec is not None and bool(want.spec.pinned_on))
        resident.pinned = pins and not self.policy.delegates
        load = Load(want, place, victims, resident, leaving, tuple(calls_off))
        self._loads[want.model] = load
        self._put(place, resident)
        return load

    def loaded(self, load: Load, facts: Resident) -> None:
        """The model is in, as `facts` measured it. Whoever was to leave is gone; where a place
        makes room by itself, its next report tells who is."""
        model, place, now = load.want.model, load.place, self.clock()
        if self._loads.get(model) is not load:
            return  # its place was lost meanwhile
        del self._loads[model]
        self._rests.came(model, place.name)
        self._came.add(model)
        for victim in () if self.policy.delegates else load.staying:
            self.gone(place.name, victim.model)
        facts.load_s = now - load.resident.loaded_at
        self._paces.note(model, facts.bytes, facts.load_s)
        known = place.residents.get(model, load.resident)
        if known is load.resident and any(known in other.leaving for other in self._loads.values()):
            # It came in before it was called off, and whoever did that sends it away.
            known.room_bytes, known.slots, known.unwanted = facts.room_bytes, facts.slots, False
            self._rooms.touch(place.name)
            known.loaded_at, known.load_s = now, facts.load_s
        elif known is load.resident:  # a report may have brought it in before, and then is as good
            facts.loaded_at = facts.last_used = now
            self._put(place, facts)
        self._stir(model)

    def _withdraw(self, load: Load) -> None:
        """Undo what `_begin` reserved; victims that were not unloaded yet stay, unless they are loads
        that are called off."""
        model, place = load.want.model, load.place
        del self._loads[model]
        if place.residents.get(model) is load.resident:
            self._remove(place, model)
        ending = [other.resident for other in load.calls_off if self._loads.get(other.want.model) is other]
        for victim in load.staying:
            if victim.phase == "leaving" and victim not in ending:
                victim.phase = "loaded"
                self._touch(place, victim.model)
        self._rooms.touch(place.name)
        self._stir(model, *load.victims)

    def _let_go(self, load: Load) -> None:
        """The load is its place's own matter from here on, which may have others who wait for it: the
        next report tells what became of it."""
        del self._loads[load.want.model]
        load.resident.unwanted, load.resident.loaded_at = False, self.clock()
        self._stir(load.want.model, *load.victims)

    def _failed(self, load: Load, error: CortexError) -> bool:
        """Undone and remembered. True when those who wait may try another place."""
        self._withdraw(load)
        return self._rests.note(load.want.model, load.place.name, error)
