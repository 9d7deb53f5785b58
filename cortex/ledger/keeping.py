"""How places are kept: who has idled for too long, who is pinned, and when a place may be emptied.

Only a neuron asks: a gateway's places keep themselves. As everywhere in the ledger, nothing is
unloaded here: it says who may go, and takes note of who went and came back.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf

from cortex import evictor
from cortex.errors import Busy
from cortex.ledger.foresight import Foresight
from cortex.ledger.tickets import Policy
from cortex.places import Place, Resident


@dataclass(slots=True, repr=False)
class Ledger(Foresight):
    """Residency, seats, the lines, and the keeping of places."""

    def judge_by(self, rules: evictor.Rules, max_overtake_s: float) -> None:
        """From here on it is these who decide whom to send away, and who may be overtaken for how long."""
        self.policy = replace(self.policy, rules=rules, max_overtake_s=max_overtake_s)
        self._stir(*self._timed)

    def go_by(self, policy: Policy) -> None:
        """From here on these are the rules, for those who wait as well."""
        self.policy = policy
        self._stir(*self._timed)

    # -- who has idled for too long ---------------------------------------------------------

    @property
    def idle_due(self) -> float:
        """When to ask for `idle` next, in seconds of the clock; infinity for never. Who is busy is
        asked about again after as long as it may idle, which is never too late."""
        return min((self._idle_at(resident) for place in self for resident in place), default=inf)

    def idle(self) -> list[tuple[Place, Resident]]:
        """Who has been used by nobody for longer than it may."""
        now = self.clock()
        return [(place, one) for place in self for one in place if self._idle_at(one) <= now]

    def _idle_at(self, resident: Resident) -> float:
        if not resident.idle_unload_s or resident.pinned or not resident.servable:
            return inf
        if not resident.idle or self.waiting_for(resident.model):
            return self.clock() + resident.idle_unload_s
        young_until = evictor.of_age_at(resident, self.policy.rules)
        return max(resident.last_used + resident.idle_unload_s, young_until)

    # -- pins -------------------------------------------------------------------------------

    def pin(self, model: str, *, pinned: bool) -> None:
        """`model` stays wherever it is, or may leave again. Who meant to send it away plans anew."""
        for place, resident in self.holders(model):
            resident.pinned = pinned
            self._rooms.touch(place.name)
        self._stir(model)

    def keep(self, model: str, *, pinned: bool, priority: int, idle_unload_s: float) -> None:
        """`model` is kept by these rules wherever it is, without being loaded anew."""
        for _, resident in self.holders(model):
            resident.priority, resident.idle_unload_s = priority, idle_unload_s
        self.pin(model, pinned=pinned)

    # -- emptying a place -------------------------------------------------------------------

    def quiet_since(self, name: str) -> float | None:
        """Since when nobody has sat at a place, waited for who lives there, or for room. None while
        somebody does, or anybody is on the way in or out."""
        place = self._places[name]
        busy = any(
            not one.servable or not one.idle or self.waiting_for(one.model) or one.model in self._loads
            for one in place
        )
        if busy or not place.ready or self._blocked:
            return None
        return max((one.last_used for one in place), default=-inf)

    def clear(self, name: str, reason: str) -> list[Resident]:
        """All who live at a place come in anew, in the order of this list; until `reopen` nobody
        is served there, and who would be waits. Raises Busy when the place is not quiet."""
        if self.quiet_since(name) is None:
            raise Busy(f"'{name}' is in use")
        residents = sorted(self._places[name], key=lambda one: one.loaded_at)
        for one in residents:
            one.phase, one.loaded_at = "loading", self.clock()
        self.doubt(name, reason)
        return residents

    def returned(self, name: str, resident: Resident, facts: Resident) -> None:
        """Who was cleared away is in again, as `facts` measured it."""
        if self._places[name].residents.get(resident.model) is not resident:
            return  # the place was lost meanwhile
        resident.room_bytes, resident.slots = facts.room_bytes, facts.slots
        resident.phase, resident.loaded_at = "loaded", self.clock()
        self._rooms.touch(name)
        self._touch(self._places[name], resident.model)

    def reopen(self, name: str, reason: str, absent: Iterable[Resident] = ()) -> None:
        """The place serves again, without those who did not come back, unless something else has
        befallen it since it was cleared for `reason`."""
        place = self._places[name]
        for one in absent:
            # Unless the place was lost meanwhile, and the model came in there anew.
            if place.residents.get(one.model) is one:
                self.gone(name, one.model)
        if place.doubt and place.why_not == reason:
            place.ready, place.why_not, place.doubt = True, "", False
            self._rooms.touch(name)
        self._touch(place, *place.residents)
        self._stir(*place.residents)
