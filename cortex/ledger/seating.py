"""Who sits where and who waits: the ledger's second storey, on top of residency.

A `Ticket` is one request's way through: it waits in the line of its model, sits at a
resident, and leaves. A resident with seats taken is never evicted. A model is loaded once,
however many wait for it. Only lines that something happened to are looked at again, so
that an arrival at a model that is there costs the same in any fleet, whoever else waits.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from operator import itemgetter

from cortex import evictor, router
from cortex.errors import BadAsk, CortexError, NotHereNow, Recovering
from cortex.ledger import refusals
from cortex.ledger.claims import Claim, Claims
from cortex.ledger.line import Kind, Line, kind_of
from cortex.ledger.residency import Residency
from cortex.ledger.rests import again
from cortex.ledger.tickets import Decision, Load, Refuse, Serve, Settled, Ticket, Verdict, Wait, Want
from cortex.places import Place, Resident


@dataclass(slots=True, repr=False)
class Seating(Residency):
    """Residency, seats and the lines. `repr` counts all of them."""

    _lines: dict[str, Line] = field(default_factory=dict)
    _waiting: int = 0
    _arrivals: int = 0
    # Lines that wait for room, and when to look at which although nobody said anything.
    _blocked: set[str] = field(default_factory=set)
    _timed: dict[str, float] = field(default_factory=dict)
    _claims: Claims = field(default_factory=Claims)

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
        return self._waiting

    @property
    def oldest(self) -> float | None:
        """When who waits longest for a seat arrived; None when nobody waits for one. Who wants only
        that a model is there waits as long as its load takes."""
        heads = (head for line in self._lines.values() for head in line.heads() if head.want.weight)
        return min((head.arrived for head in heads), default=None)

    @property
    def due(self) -> float:
        """When to `settle` at the latest, in seconds of the clock; infinity for never."""
        return min(self._timed.values(), default=inf)

    def waiting_for(self, model: str) -> int:
        """How many tickets stand in the line of `model`."""
        return len(self._lines.get(model, ()))

    # -- what happens to a ticket -----------------------------------------------------------

    def arrive(self, want: Want) -> tuple[Ticket, Decision]:
        """A new ticket and what becomes of it. On Wait or Load it stands in line."""
        self._arrivals += 1
        ticket = Ticket(want, self.clock(), self._arrivals)
        decision = self._do(ticket, self._first_judged(ticket))
        if isinstance(decision, Wait):
            self._note(want.model, decision)
            if decision.plan is not None:
                self._stirred.add(want.model)  # it may have the right to more than to wait
        if isinstance(decision, Wait | Load):
            self._lines.setdefault(want.model, Line()).join(ticket)
            self._waiting += 1
        return ticket, decision

    def settle(self) -> list[tuple[Ticket, Settled]]:
        """What changed for those who wait. Served and refused tickets have left the line.

        Lines are asked in the order of their first tickets. Each moves in order and stops at
        the first of a kind who must wait on, so that it costs as much as it settles.
        """
        settled: list[tuple[Ticket, Settled]] = []
        while models := self._moved():
            for model in models:
                settled.extend(self._move(model, self._lines[model]))
        return settled

    def depart(self, ticket: Ticket) -> None:
        """Give the seat back, or leave the line. Harmless when done twice."""
        if ticket.place is not None and ticket.resident is not None:
            self._stand_up(ticket, ticket.place, ticket.resident)
        else:
            self._step_out(ticket)

    def failed(self, load: Load, error: CortexError) -> list[Ticket]:
        """The model did not come. Answers those to be told; they have left the line.

        Nobody, when only the place refused: they stay in line for another one. Nobody
        either, when its place was lost meanwhile.
        """
        if self._loads.get(load.want.model) is not load or self._failed(load, error):
            return []
        told = list(self._lines.get(load.want.model, ()))
        for ticket in told:
            self._step_out(ticket)
        return told

    def withdrawn(self, load: Load) -> None:
        """The load was called off, which says nothing against model or place: whoever is in line
        for it has another one begun."""
        if self._loads.get(load.want.model) is load:
            self._withdraw(load)

    def revised(self, load: Load, need_bytes: int) -> None:
        """What the load brings needs so much, as is known since it was begun: it is undone, and
        whoever is in line for it is placed anew."""
        for ticket in self._lines.get(load.want.model, ()):
            ticket.want = replace(ticket.want, need_bytes=need_bytes)
        self.withdrawn(load)

    def usual_load_s(self, model: str) -> float | None:
        """How long its last load took; None when none was seen."""
        return self._load_s.get(model)

    def overdue(self, ticket: Ticket) -> CortexError:
        """What a ticket in line is told when its patience ends, by what it waits for."""
        model, now = ticket.want.model, self.clock()
        holders = self.holders(model)
        for _, resident in holders:
            if resident.phase == "loading":
                running_s, seen = now - resident.loaded_at, self.outlook(model)
                return refusals.still_loading(model, running_s, self._load_s.get(model), seen)
        if any(resident.servable for _, resident in holders):
            position = sum(other.number <= ticket.number for other in self._lines[model])
            return refusals.seatless(model, position)
        return refusals.roomless(model)

    # -- the lines --------------------------------------------------------------------------

    def _moved(self) -> list[str]:
        """Models whose line may move, the one that has waited longest first."""
        now = self.clock()
        models = self._stirred | {model for model, until in self._timed.items() if until <= now}
        if self._roomier:
            models |= self._blocked
        self._stirred, self._roomier = set(), False
        heads = ((line.first(), model) for model in models if (line := self._lines.get(model)) is not None)
        return [model for _, model in sorted((head.number, model) for head, model in heads if head)]

    def _move(self, model: str, line: Line) -> list[tuple[Ticket, Settled]]:
        settled: list[tuple[Ticket, Settled]] = []
        self._blocked.discard(model)
        self._timed.pop(model, None)
        stuck: set[Kind] = set()
        blocked: tuple[Ticket, Wait] | None = None
        while (head := line.first(but=stuck)) is not None:
            decision = self._do(head, self._judge(head, behind=False))
            if isinstance(decision, Wait):
                stuck.add(kind_of(head.want))
                self._note(model, decision)
                blocked = blocked or (head, decision)
                continue
            settled.append((head, decision))
            if not isinstance(decision, Load):  # who caused a load waits for it
                self._step_out(head)
        if blocked is not None:
            self._entitle(*blocked)
        return settled

    def _note(self, model: str, wait: Wait) -> None:
        """When the line of `model` is to be looked at again."""
        if wait.reason == "room":
            self._blocked.add(model)
        if wait.until is not None:
            self._timed[model] = min(wait.until, self._timed.get(model, inf))

    def _step_out(self, ticket: Ticket) -> None:
        model = ticket.want.model
        line = self._lines.get(model)
        if line is None or not line.leave(ticket):
            return
        self._waiting -= 1
        self._stirred.add(model)
        if not line:
            del self._lines[model]
            self._blocked.discard(model)
            self._timed.pop(model, None)
            self._unclaim(model)

    # -- decisions --------------------------------------------------------------------------

    def _do(self, ticket: Ticket, verdict: Verdict) -> Decision:
        """The verdict becomes true: somebody sits, or a load begins."""
        match verdict:
            case Serve():
                return self._sit_down(ticket, verdict)
            case router.Placement():
                return self._begin(ticket.want, verdict)
        return verdict

    def _first_judged(self, ticket: Ticket) -> Verdict:
        """Of one that has just come, for whom there may be no place left in the line."""
        want = ticket.want
        verdict = self._judge(ticket, behind=self._has_line(want))
        if isinstance(verdict, Wait):
            before = self.waiting_for(want.model) if self.policy.queue_per_model else self._waiting
            if before >= self.policy.queue:
                return Refuse(refusals.full(before))
        return verdict

    def _has_line(self, want: Want) -> bool:
        """Whether somebody waits before whom `want` may not be served."""
        line = self._lines.get(want.model)
        return line is not None and line.has(kind_of(want))

    def _judge(self, ticket: Ticket, *, behind: bool) -> Verdict:
        """One verdict, by the router's list; nothing changes:

        1. the alias was resolved by who asks;
        2. servable replicas: sit if a seat is free (a newcomer stays `behind` those who wait),
           else wait for one;
        3. a replica that cannot serve: wait if it is on its way in, or about to be gone or heard
           of, else refuse, never a second copy;
        4. nobody has it: refuse if it may not be loaded, wait if it died a moment ago, refuse with
           the cause if its last load failed a moment ago, else find a place for it;
        5. who could hold it is not well: refuse for now;
        6. nobody could ever: refuse for good.
        """
        want = ticket.want
        holders = self.holders(want.model)
        # 2.
        elsewhere = (pair for pair in holders if pair[0].name not in want.avoid)
        if servable := router.rank(elsewhere, want.affinity):
            return self._seat(ticket, servable, behind)
        # 3.
        if want.model in self._loads or any(resident.phase == "loading" for _, resident in holders):
            return Wait("load")
        if (answer := self._unservable(want, holders)) is not None:
            return answer
        # 4.
        if not want.may_load or want.spec is None:
            return Refuse(NotHereNow(f"Model '{want.model}' is not resident here"))
        if (until := self._rests.mourned(want.model)) is not None:
            return Wait("room", until)
        if (rest := self._rests.of(want.model)) is not None:
            return Refuse(again(rest.error, rest.until - self.clock()))
        return self._find_place(ticket)

    def _seat(self, ticket: Ticket, servable: list[router.Ranked], behind: bool) -> Verdict:
        weight = ticket.want.weight
        most = max(inf if resident.slots is None else resident.slots for _, resident in servable)
        if weight > most:
            return Refuse(BadAsk(f"'n' is {weight}, and the model has {most} slots", param="n"))
        for taken, (place, resident) in enumerate(servable):
            if not weight or not self._kept_out(ticket, place, resident, behind=behind):
                return Serve(place, resident, router.route(servable, taken, ticket.want.affinity))
        return Wait("slots")

    def _kept_out(self, ticket: Ticket, place: Place, resident: Resident, *, behind: bool) -> str:
        """Why a ticket may not sit at a servable replica; "" when it may."""
        if behind:
            return "others wait for a seat already"
        if resident.slots is not None and resident.seats + ticket.want.weight > resident.slots:
            return "no seat is free"
        if self._claims.close(place.name, resident.model, ticket.number):
            return "it empties for a model that has waited for long"
        return ""

    def _unservable(self, want: Want, holders: list[router.Ranked]) -> Wait | Refuse | None:
        """What becomes of a ticket whose model is somewhere, but serves nobody at present. None
        when all that have it are closing down: it may come in elsewhere."""
        if any(place.doubt for place, _ in holders):
            return Wait("room")
        for place, resident in holders:
            if place.ready and resident.phase != "leaving":
                why = resident.fault or f"it is {resident.phase}"
                if place.name in want.avoid:
                    why = f"'{place.name}' refused this request"
                return Refuse(Recovering(f"Model '{want.model}' cannot serve at the moment: {why}"))
        return Wait("room") if any(resident.phase == "leaving" for _, resident in holders) else None

    def _find_place(self, ticket: Ticket) -> Verdict:
        want, now = ticket.want, self.clock()
        assert want.spec is not None  # noqa: S101 - `_judge` asked
        # Whoever has it already takes nobody new, or this would not be asked.
        places = [place for place in self if place.name not in want.avoid]
        rests = {place.name: self._rests.at(want.model, place.name) for place in places}
        asked = (place for place in places if rests[place.name] is None)
        found = router.placements(want.spec, want.need_bytes, asked, self._victims(), want.prefer)
        if not want.evict:
            found = [placement for placement in found if not placement.victims]
        if found and all(self._promised(placement, ticket) for placement in found):
            return Wait("room")
        found = [placement for placement in found if not self._promised(placement, ticket)]
        if found and (not found[0].must_wait or self.policy.delegates):
            return found[0]
        ends = [rest.until for rest in rests.values() if rest is not None]
        if found:
            moments = (*self._moments(ticket, found[0]), *ends)
            until = min((moment for moment in moments if moment > now), default=None)
            return Wait("room", until, found[0])
        # 5. and 6., told apart by the words of the refusal.
        possible = [place for place in places if router.never(want.spec, want.need_bytes, place) is None]
        if any(place.doubt for place in possible):
            return Wait("room")
        for place in possible:
            if place.ready and (rest := rests[place.name]) is not None:
                return Refuse(refusals.shunned(rest, now, delegates=self.policy.delegates))
        return Refuse(refusals.no_room(want, list(self), delegates=self.policy.delegates))

    def _victims(self) -> router.Victims:
        return partial(evictor.victims, now=self.clock(), rules=self.policy.rules)

    # -- warm models overtake the line, but not for ever --------------------------------------

    def _moments(self, ticket: Ticket, plan: router.Placement) -> list[float]:
        """When to look again at a ticket that waits for `plan`: as its victims come of age, and
        as it gains its rights."""
        ages = [evictor.of_age_at(plan.place.residents[model], self.policy.rules) for model in plan.victims]
        return [*ages, ticket.arrived + self.policy.max_overtake_s]

    def _entitle(self, ticket: Ticket, wait: Wait) -> None:
        """Promise the first of a line its plan, once it was overtaken for long enough. Nobody is
        closed to newcomers who is too young to leave anyway."""
        model, now = ticket.want.model, self.clock()
        if wait.plan is None or now < ticket.arrived + self.policy.max_overtake_s:
            self._unclaim(model)
            return
        claimed = self._claims.of(model)
        # Kept to as long as it can work: who is coldest changes with every request, and two
        # that are closed in turns would never empty.
        plans = [wait.plan] if claimed is None or not self._works(claimed) else [claimed, wait.plan]
        plan, ready_at = min(
            ((plan, max(now, *self._moments(ticket, plan))) for plan in plans), key=itemgetter(1)
        )
        if ready_at > now:
            self._timed[model] = min(ready_at, self._timed.get(model, inf))
        self._roomier = self._roomier or plan is not claimed
        self._stirred |= self._claims.make(model, Claim(plan, ticket.number, closes=ready_at <= now))

    def _unclaim(self, model: str) -> None:
        if self._claims.of(model) is not None:
            self._stirred |= self._claims.drop(model)
            self._roomier = True

    def _promised(self, placement: router.Placement, ticket: Ticket) -> bool:
        """Whether `placement` would take room that was promised to who came before."""
        for plan in self._claims.ahead(placement.place.name, ticket.number):
            leaving = {*plan.victims, *placement.victims}
            if not placement.must_wait and not evictor.beside(
                plan.place, plan.newcomer, placement.newcomer, leaving
            ):
                return True
        return False

    def _works(self, plan: router.Placement) -> bool:
        rules = self.policy.rules
        return plan.place.ready and evictor.would_do(plan.place, plan.newcomer, plan.victims, rules)

    # -- seats ------------------------------------------------------------------------------

    def _sit_down(self, ticket: Ticket, serve: Serve) -> Serve:
        place, resident = serve.place, serve.resident
        ticket.place, ticket.resident, ticket.seated = place, resident, self.clock()
        ticket.route = "cold" if resident.loaded_at > ticket.arrived else serve.route
        resident.seats += ticket.want.weight
        resident.fresh += ticket.want.weight
        resident.last_used = ticket.seated
        self._fresh.setdefault(place.name, {})[ticket] = resident
        return serve

    def _stand_up(self, ticket: Ticket, place: Place, resident: Resident) -> None:
        ticket.place = ticket.resident = None
        resident.seats -= ticket.want.weight
        if self._fresh.get(place.name, {}).pop(ticket, None) is not None:
            resident.fresh -= ticket.want.weight
        else:
            # A report since then counted this seat as load of the place.
            resident.elsewhere = max(0, resident.elsewhere - ticket.want.weight)
        resident.last_used = self.clock()
        self._stirred.add(resident.model)
        self._roomier = self._roomier or resident.idle
