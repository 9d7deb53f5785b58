"""Who sits where, and who is let in next: the ledger's fourth storey.

A `Ticket` is one request's way through: it waits in the line of its model, sits at a
resident, and leaves. A resident with seats taken is never evicted. A model is loaded once,
however many wait for it. Only lines that something happened to are looked at again, so
that an arrival at a model that is there costs the same in any fleet, whoever else waits.
"""

from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from operator import itemgetter

from cortex import evictor, router
from cortex.errors import CortexError
from cortex.ledger import refusals
from cortex.ledger.claims import Claim
from cortex.ledger.judging import Judging
from cortex.ledger.line import Kind, Line, kind_of
from cortex.ledger.tickets import Decision, Load, Refuse, Serve, Settled, Ticket, Verdict, Wait, Want
from cortex.places import Place, Resident


@dataclass(slots=True, repr=False)
class Seating(Judging):
    """Residency, the lines and the seats. `repr` counts all of them."""

    _arrivals: int = 0
    # Who gave way in a full line, and was not told yet.
    _pushed: dict[Ticket, Refuse] = field(default_factory=dict)

    def __repr__(self) -> str:
        seats = sum(resident.seats for place in self for resident in place)
        residents = sum(len(place.residents) for place in self)
        return (
            f"<Ledger places={len(self._places)} residents={residents} seats={seats} "
            f"waiting={self.waiting} loads={len(self._loads)}>"
        )

    # -- what happens to a ticket -----------------------------------------------------------

    def arrive(self, want: Want) -> tuple[Ticket, Decision]:
        """A new ticket and what becomes of it. On Wait or Load it stands in line."""
        self._arrivals += 1
        ticket = Ticket(want, self.clock(), self._arrivals)
        verdict = self._first_judged(ticket)
        queues = self._full(want) and self._queues(verdict)
        decision = self._do(ticket, verdict)
        if queues:
            self._make_way(want)
        if isinstance(decision, Wait):
            self._note(want.model, decision)
            if decision.plan is not None:
                self._stirred.add(want.model)  # it may have the right to more than to wait
        if isinstance(decision, Wait | Load):
            self._step_in(ticket)
        return ticket, decision

    def sit_at_once(self, want: Want) -> Ticket | None:
        """A seated ticket, where `arrive` would give one without a wait; else nothing has changed."""
        ticket = Ticket(want, self.clock(), self._arrivals + 1)
        verdict = self._seat(ticket, self._has_line(want))
        if not isinstance(verdict, Serve):
            return None
        self._arrivals += 1
        self._sit_down(ticket, verdict)
        return ticket

    def sit_alone(self, want: Want, affinity: str | None = None) -> Ticket | None:
        """The same at the best replica, if that is as good as it looks. `want` goes by `affinity` in place of
        its own; None where that is yet to be found out: whom it would decide for gets no seat. None says
        nothing."""
        if (free := self._free_seat(want, affinity)) is None:
            return None
        place, resident, route = free
        self._arrivals += 1
        ticket = Ticket(want, self.clock(), self._arrivals)
        self._take(ticket, place, resident, route, ticket.arrived)
        return ticket

    def settle(self) -> list[tuple[Ticket, Settled]]:
        """What changed for those who wait. Served and refused tickets have left the line.

        Those for whom a model came in are let in before others have it sent away again. Lines are
        asked in the order of their first tickets' turns, which a load changes for all that its key
        waits for. Each moves in order and stops at the first of a kind who must wait on, so that it
        costs as much as it settles.
        """
        if not self._lines and not self._pushed:
            # Nobody waits, whom nothing that has happened could concern.
            self._stirred.clear()
            self._came.clear()
            self._roomier = False
            return []
        settled: list[tuple[Ticket, Settled]] = list(self._pushed.items())
        self._pushed.clear()
        while models := self._moved():
            came, self._came = self._came, set()
            ranked = [
                (model not in came, self._rank(head), model)
                for model in models
                if (head := self._head(model))
            ]
            heapify(ranked)
            while ranked:
                later, rank, model = heappop(ranked)
                if (head := self._head(model)) is None:
                    continue
                if (true := self._rank(head)) > rank:
                    heappush(ranked, (later, true, model))
                else:
                    settled.extend(self._move(model, self._lines[model]))
        return settled

    def depart(self, ticket: Ticket) -> None:
        """Give the seat back, or leave the line. Harmless when done twice."""
        if ticket.place is not None and ticket.resident is not None:
            self._stand_up(ticket, ticket.place, ticket.resident)
        else:
            self._step_out(ticket)
            self._pushed.pop(ticket, None)

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
        if self._loads.get(load.want.model) is not load:
            return
        if self.policy.delegates and load.place.ready:
            self._let_go(load)
        else:
            self._withdraw(load)

    def revised(self, load: Load, need_bytes: int) -> None:
        """What the load brings needs so much, as is known since it was begun: it is undone, and
        whoever is in line for it is placed anew."""
        for ticket in self._lines.get(load.want.model, ()):
            ticket.want = replace(ticket.want, need_bytes=need_bytes)
        self.withdrawn(load)

    def usual_load_s(self, model: str) -> float | None:
        """How long its last load took; None when none was seen."""
        return self._paces.usual_s(model)

    def overdue(self, ticket: Ticket) -> CortexError:
        """What a ticket in line is told when its patience ends, by what it waits for."""
        model, now = ticket.want.model, self.clock()
        holders = self.holders(model)
        for _, resident in holders:
            if resident.phase == "loading":
                running_s, seen = now - resident.loaded_at, self.outlook(model)
                return refusals.still_loading(model, running_s, self._paces.usual_s(model), seen)
        if any(resident.servable for _, resident in holders):
            position = self._lines[model].position(ticket)
            return refusals.seatless(model, position, self._again_s(model, position))
        return refusals.roomless(model)

    # -- the lines --------------------------------------------------------------------------

    def _moved(self) -> set[str]:
        """Models whose line may move."""
        models = self._stirred | self._timed.ring(self.clock())
        if self._roomier:
            models |= self._blocked
        self._stirred, self._roomier = set(), False
        return models

    def _head(self, model: str) -> Ticket | None:
        line = self._lines.get(model)
        return None if line is None else line.first()

    def _move(self, model: str, line: Line) -> list[tuple[Ticket, Settled]]:
        settled: list[tuple[Ticket, Settled]] = []
        self._blocked.discard(model)
        self._timed.drop(model)
        stuck: set[Kind] = set()
        blocked: tuple[Ticket, Wait] | None = None
        while (head := line.first(but=stuck)) is not None:
            decision = self._do(head, self._judge(head, behind=self._is_behind(head.want, stuck)))
            if isinstance(decision, Wait):
                stuck.add(kind_of(head.want))
                self._note(model, decision)
                blocked = blocked or (head, decision)
                continue
            settled.append((head, decision))
            if not isinstance(decision, Load):  # who caused a load waits for it
                if isinstance(decision, Serve):
                    self._count_turn(head, line)
                self._step_out(head)
        if blocked is not None:
            self._entitle(*blocked)
        return settled

    def _make_way(self, want: Want) -> None:
        """There is a place in a full line for `want`, as was judged."""
        if (ticket := self._gives_way(want)) is not None:
            before = self._before(want)
            self._step_out(ticket)
            error = refusals.pushed_out(before, self._again_s(ticket.want.model, before))
            self._pushed[ticket] = Refuse(error)

    def _count_turn(self, ticket: Ticket, line: Line) -> None:
        """Who waited sits down. Who did not took nothing from anybody."""
        if ticket.want.weight:
            line.turns.take(ticket.want, ticket.want.weight)
            self._crowds[self._bound(ticket.want.model)].served(self.clock())

    def _do(self, ticket: Ticket, verdict: Verdict) -> Decision:
        """The verdict becomes true: somebody sits, or a load begins."""
        match verdict:
            case Serve():
                return self._sit_down(ticket, verdict)
            case router.Placement():
                self._room.take(ticket.want)
                return self._begin(ticket.want, verdict)
        return verdict

    # -- warm models overtake the line, but not for ever --------------------------------------

    def _entitle(self, head: Ticket, wait: Wait) -> None:
        """Promise a line the plan of its head, once its eldest was overtaken for long enough. Nobody
        is closed to newcomers who is too young to leave anyway."""
        model, now = head.want.model, self.clock()
        claimant = None if wait.plan is None else self._claimant(head)
        if wait.plan is None or claimant is None:
            self._unclaim(model)
            return
        claim = self._claims.of(model)
        claimed = None if claim is None else claim.plan
        # Kept to as long as it can work: who is coldest changes with every request, and two
        # that are closed in turns would never empty.
        plans = [wait.plan] if claimed is None or not self._works(claimed) else [claimed, wait.plan]
        plan, ready_at = min(
            ((plan, max(now, *self._moments(claimant, plan))) for plan in plans), key=itemgetter(1)
        )
        if ready_at > now:
            self._timed.put(model, ready_at)
        self._roomier = self._roomier or plan is not claimed
        self._stirred |= self._claims.make(model, Claim(plan, claimant, closes=ready_at <= now))

    def _claimant(self, head: Ticket) -> Ticket | None:
        """For whom a line has the right to more than to wait: who has waited longest among the likes of
        its head, or whoever it was promised to before; None as long as that is nobody."""
        model = head.want.model
        line, claim = self._lines[model], self._claims.of(model)
        eldest = self._eldest(head)
        if (since := self._entitled_at(eldest)) <= self.clock():
            return eldest
        self._timed.put(model, since)
        return claim.ticket if claim is not None and claim.ticket in line else None

    def _works(self, plan: router.Placement) -> bool:
        rules = self.policy.rules
        return plan.place.ready and evictor.would_do(plan.place, plan.newcomer, plan.victims, rules)

    # -- seats ------------------------------------------------------------------------------

    def _sit_down(self, ticket: Ticket, serve: Serve) -> Serve:
        self._take(ticket, serve.place, serve.resident, serve.route, self.clock())
        return serve

    def _take(
        self, ticket: Ticket, place: Place, resident: Resident, route: router.Route, now: float
    ) -> None:
        ticket.place, ticket.resident, ticket.seated = place, resident, now
        ticket.route = "cold" if resident.loaded_at > ticket.arrived else route
        resident.seats += ticket.want.weight
        resident.fresh += ticket.want.weight
        if (replicas := self._replicas.get(resident.model)) is not None:
            replicas.touch(place.name)
        resident.last_used = now
        self._fresh.setdefault(place.name, {})[ticket] = resident

    def _stand_up(self, ticket: Ticket, place: Place, resident: Resident) -> None:
        ticket.place = ticket.resident = None
        resident.seats -= ticket.want.weight
        if self._fresh.get(place.name, {}).pop(ticket, None) is not None:
            resident.fresh -= ticket.want.weight
        else:
            # A report since then counted this seat as load of the place.
            resident.elsewhere = max(0, resident.elsewhere - ticket.want.weight)
        resident.last_used = self.clock()
        self._touch(place, resident.model)
        # Where seats of all are counted together, others may be let in than who wants the same.
        self._stirred.update([resident.model] if place.most is None else place.residents)
        self._roomier = self._roomier or resident.idle
