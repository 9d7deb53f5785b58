"""Who sits where and who waits: the ledger itself.

A `Ticket` is one request's way through: it waits in the line of its model (first come,
first served within a model), sits at a resident, and leaves. A resident with seats taken
is never evicted. A model is loaded once, however many wait for it.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import partial

from cortex import evictor, router
from cortex.errors import (
    BadAsk,
    Busy,
    CortexError,
    DoesNotFit,
    Fact,
    NeverFits,
    NoRoom,
    NotHereNow,
    Overloaded,
    Recovering,
)
from cortex.ledger.residency import Residency
from cortex.ledger.tickets import Decision, Load, Refuse, Serve, Ticket, Wait, Want
from cortex.places import Place, Resident
from cortex.units import size


@dataclass(slots=True, repr=False)
class Ledger(Residency):
    """Residency, seats and the line. `repr` counts all of them."""

    _line: dict[str, deque[Ticket]] = field(default_factory=dict)

    def __repr__(self) -> str:
        seats = sum(resident.seats for place in self for resident in place)
        residents = sum(len(place.residents) for place in self)
        return (
            f"<Ledger places={len(self._places)} residents={residents} seats={seats} "
            f"waiting={self.waiting} loads={len(self._loads)}>"
        )

    @property
    def waiting(self) -> int:
        """How many tickets stand in line."""
        return sum(len(line) for line in self._line.values())

    @property
    def oldest(self) -> float | None:
        """When the longest-waiting ticket arrived; None when nobody waits."""
        return min((line[0].arrived for line in self._line.values()), default=None)

    def waiting_for(self, model: str) -> int:
        """How many tickets stand in the line of `model`."""
        return len(self._line.get(model, ()))

    def arrive(self, want: Want) -> tuple[Ticket, Decision]:
        """A new ticket and what becomes of it. On Wait or Load it stands in line."""
        ticket = Ticket(want, self.clock())
        decision = self._decide(ticket, behind=want.model in self._line)
        if isinstance(decision, Wait) and self.waiting >= self.policy.queue:
            full = Overloaded(f"{self.waiting} requests wait already; try again in a moment")
            return ticket, Refuse(full)
        if isinstance(decision, Wait | Load):
            self._line.setdefault(want.model, deque()).append(ticket)
        return ticket, decision

    def settle(self) -> tuple[list[tuple[Ticket, Decision]], float | None]:
        """What changed for those who wait, and when to ask again at the latest.

        Served and refused tickets have left the line. Each model's line moves in order and
        stops at the first who must wait on, so that a wake-up costs as much as it settles;
        the lines are asked in the order of their first ticket.
        """
        settled: list[tuple[Ticket, Decision]] = []
        due: list[float] = []
        for line in sorted(self._line.values(), key=lambda line: line[0].arrived):
            while line:
                decision = self._decide(line[0], behind=False)
                if isinstance(decision, Wait):
                    due.extend(() if decision.until is None else (decision.until,))
                    break
                settled.append((line[0], decision))
                if isinstance(decision, Load):
                    break
                line.popleft()
        self._line = {model: line for model, line in self._line.items() if line}
        return settled, min(due, default=None)

    def depart(self, ticket: Ticket) -> None:
        """Give the seat back, or leave the line. Harmless when done twice."""
        if ticket.place is not None and ticket.resident is not None:
            self._stand_up(ticket, ticket.place, ticket.resident)
            return
        line = self._line.get(ticket.want.model)
        if line is not None and ticket in line:
            line.remove(ticket)
            if not line:
                del self._line[ticket.want.model]

    def failed(self, load: Load, error: CortexError) -> list[Ticket]:
        """The model did not come. Answers those to be told; they have left the line.

        Nobody, when only the place refused: they stay in line for another one.
        """
        self._unload_plan(load)
        if self._remember(load, error):
            return []
        return list(self._line.pop(load.want.model, ()))

    def _decide(self, ticket: Ticket, *, behind: bool) -> Decision:
        """One of five ends, in this order:

        1. a servable replica: sit if a seat is free (a newcomer stays `behind` those who wait),
           else wait for one;
        2. a load of the model is under way: join it;
        3. a replica exists but cannot serve at the moment: refuse, never a second copy;
        4. its last load failed a moment ago: refuse with that cause;
        5. nobody has it: find a place.
        """
        want = ticket.want
        holders = [pair for pair in self.holders(want.model) if pair[0].name not in want.avoid]
        # 1
        servable = router.rank(holders, want.affinity)
        for place, resident in servable:
            if resident.slots is not None and want.weight > resident.slots:
                return Refuse(
                    BadAsk(f"'n' is {want.weight}, and the model has {resident.slots} slots", param="n")
                )
            held_back = behind and resident.slots is not None
            if not held_back and self._seat_free(place, resident, ticket):
                return self._sit_down(ticket, place, resident)
        if servable:
            return Wait("slots")
        # 2
        if want.model in self._loads or any(resident.phase == "loading" for _, resident in holders):
            return Wait("load")
        # 3
        for place, resident in holders:
            if resident.phase == "leaving" or place.doubt:
                return Wait("room")
            why = resident.fault or place.why_not or f"it is {resident.phase}"
            return Refuse(Recovering(f"Model '{want.model}' cannot serve at the moment: {why}"))
        # 4
        rest = self._rests.get(want.model)
        if rest is not None and self.clock() < rest.until:
            return Refuse(again(rest.error, rest.until - self.clock()))
        # 5
        return self._find_place(ticket)

    def _find_place(self, ticket: Ticket) -> Decision:
        want, now = ticket.want, self.clock()
        if not want.may_load or want.spec is None:
            return Refuse(NotHereNow(f"Model '{want.model}' is not resident here"))
        rests = {place.name: self._shuns(want.model, place.name) for place in self}
        places = [place for place in self if place.name not in want.avoid and rests[place.name] is None]
        found = router.placements(want.spec, want.need_bytes, places, self._victims(), want.prefer)
        if not want.evict:
            found = [placement for placement in found if not placement.victims]
        if not found:
            shun = next((rest for rest in rests.values() if rest is not None), None)
            return Refuse(again(shun.error, shun.until - now) if shun else self._no_room(want))
        if not found[0].must_wait or self.policy.delegates:
            return self._begin(want, found[0])
        ticket.blocked_since = now if ticket.blocked_since is None else ticket.blocked_since
        return Wait("room", self._next_look(ticket.blocked_since, found[0], now))

    def _next_look(self, blocked_since: float, placement: router.Placement, now: float) -> float:
        """When to ask again although nobody stood up: as the victims come of age, and when
        the right to close them to newcomers begins."""
        moments = [
            placement.place.residents[model].loaded_at + self.policy.rules.min_residency_s
            for model in placement.victims
        ]
        moments.append(blocked_since + self.policy.max_overtake_s)
        return min((moment for moment in moments if moment > now), default=now + 1.0)

    def _no_room(self, want: Want) -> CortexError:
        """Why nothing was found: never, not at present, or because of who lives there."""
        spec = want.spec
        why = {place.name: router.never(spec, want.need_bytes, place) if spec else None for place in self}
        free = max((place.free(room) for place in self for room in place.rooms), default=0)
        facts: dict[str, Fact] = {"needed_bytes": want.need_bytes, "free_bytes": max(free, 0)}
        if why and all(why.values()):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(why.items()))
            kind = NeverFits if self.policy.delegates else DoesNotFit
            return kind(f"No place could ever hold '{want.model}' ({reasons})", facts=facts)
        if not any(place.ready and why[place.name] is None for place in self):
            return Recovering(f"No neuron that could hold '{want.model}' is up at the moment")
        if self.policy.delegates:
            return NoRoom(f"No neuron has room for '{want.model}' at the moment", facts=facts)
        blockers = sorted(resident.model for place in self for resident in place)
        return Busy(
            f"No room for '{want.model}': it needs {size(want.need_bytes)}, {size(max(free, 0))} are free, "
            f"and {', '.join(blockers)} may not be evicted for it",
            facts={"blocked_by": blockers, **facts},
        )

    def _seat_free(self, place: Place, resident: Resident, ticket: Ticket) -> bool:
        if resident.slots is not None and resident.seats + ticket.want.weight > resident.slots:
            return False
        return not (ticket.want.weight and self._closed(place, resident, ticket))

    def _closed(self, place: Place, resident: Resident, ticket: Ticket) -> bool:
        """Whether somebody else waited long enough for this resident to leave.

        Warm models overtake the line, but not for ever: after `max_overtake_s` the head of
        a blocked line closes its victims to newcomers, so that they empty.
        """
        now = self.clock()
        for line in filter(None, self._line.values()):  # one may just have been emptied
            head = line[0]
            if head is ticket or head.want.spec is None or head.want.model == resident.model:
                continue
            if head.blocked_since is None or now - head.blocked_since < self.policy.max_overtake_s:
                continue
            ways = router.placements(head.want.spec, head.want.need_bytes, [place], self._victims())
            if ways and resident.model in ways[0].victims:
                return True
        return False

    def _victims(self) -> router.Victims:
        return partial(evictor.victims, now=self.clock(), rules=self.policy.rules)

    def _sit_down(self, ticket: Ticket, place: Place, resident: Resident) -> Serve:
        ticket.place, ticket.resident = place, resident
        ticket.epoch = self._epochs.get(place.name, 0)
        resident.seats += ticket.want.weight
        resident.fresh += ticket.want.weight
        resident.last_used = self.clock()
        return Serve(place, resident)

    def _stand_up(self, ticket: Ticket, place: Place, resident: Resident) -> None:
        ticket.place = ticket.resident = None
        resident.seats -= ticket.want.weight
        if ticket.epoch == self._epochs.get(place.name, 0):
            resident.fresh -= ticket.want.weight
        else:
            # The report since then counted this seat as load of the place.
            resident.elsewhere = max(0, resident.elsewhere - ticket.want.weight)
        resident.last_used = self.clock()


def again(error: CortexError, rest_s: float) -> CortexError:
    """The same error for a later caller, with the time that is left as Retry-After."""
    copy = type(error)(error.message, param=error.param, retry_after_s=rest_s, facts=error.facts)
    copy.final, copy.not_started = error.final, error.not_started
    return copy
