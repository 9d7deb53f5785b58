"""What becomes of one who arrives or waits, as things are: verdicts, and nothing changes.

The ledger's third storey. Pure reads, so that `foresight` can ask the same of a request that
nobody made. Whether a verdict is carried out is `seating`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from cortex import evictor, router
from cortex.errors import BadAsk, NotHereNow, Recovering
from cortex.ledger import refusals
from cortex.ledger.claims import Claim, arrival
from cortex.ledger.rests import Rest, again
from cortex.ledger.tickets import Refuse, Serve, Ticket, Verdict, Wait, Want
from cortex.ledger.waiting import Waiting
from cortex.places import Place, Resident


@dataclass(slots=True, repr=False)
class Judging(Waiting):
    """Residency and the lines, with a verdict for everybody."""

    def _first_judged(self, ticket: Ticket) -> Verdict:
        """Of one that has just come, for whom there may be no place left in the line."""
        want = ticket.want
        verdict = self._judge(ticket, behind=self._has_line(want))
        if self._full(want) and self._queues(verdict) and self._gives_way(want) is None:
            before = self._before(want)
            return Refuse(refusals.full(before, self._again_s(want.model, before)))
        return verdict

    def _queues(self, verdict: Verdict) -> bool:
        """Whether whoever gets it counts against the bound of the line. Not for whom a load begins in
        room that is there; nor who is the first to order one where others must leave, so that a full line
        keeps no place to itself."""
        if isinstance(verdict, router.Placement):
            return verdict.must_wait and any(load.place is verdict.place for load in self._loads.values())
        return isinstance(verdict, Wait)

    def _before(self, want: Want) -> int:
        """How many wait under the same bound."""
        return self.waiting_for(want.model) if self.policy.queue_per_model else self._waiting

    def _full(self, want: Want) -> bool:
        """Whether there is no place in line for another one."""
        return self._before(want) >= self.policy.queue

    def _gives_way(self, want: Want) -> Ticket | None:
        """Who leaves a full line for `want`."""
        crowd = self._crowds.get(self._bound(want.model))
        return None if crowd is None else crowd.who_gives_way(want)

    def _again_s(self, model: str, position: int) -> float | None:
        """When who stood there in line may come again; None when nobody can tell."""
        crowd = self._crowds.get(self._bound(model))
        return None if crowd is None else crowd.wait_s(position, self.clock())

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
        # 2.
        if (verdict := self._seat(ticket, behind)) is not None:
            return verdict
        # 3.
        holders = self.holders(want.model)
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

    def _seat(self, ticket: Ticket, behind: bool) -> Verdict | None:
        """A seat where the model is, or the wait for one. None when it serves nowhere."""
        want, replicas = ticket.want, self._serving(ticket.want.model)
        ranked = replicas.ranked(want.affinity, want.avoid)
        # No more are needed to tell why the best one is that.
        best = list(islice(ranked, 2))
        if not best:
            return None
        if (most := replicas.widest(want.weight, want.avoid)) is not None:
            return Refuse(BadAsk(f"'n' is {want.weight}, and the model has {most} slots", param="n"))
        if behind and want.weight:
            return Wait("slots")
        for taken, (place, resident) in enumerate(chain(best, ranked)):
            if not want.weight or not self._kept_out(ticket, place, resident, behind=behind):
                return Serve(place, resident, router.route(best, taken, want.affinity))
        return Wait("slots")

    def _free_seat(self, want: Want, affinity: str | None) -> tuple[Place, Resident, router.Route] | None:
        """A seat for which nobody has to be judged, as nearly all are: at the best replica, which nothing
        speaks against and nobody waits for. None says nothing; so it does where an `affinity` of None would
        decide."""
        replicas = self._replicas.get(want.model)
        if replicas is None or want.model in self._lines or self._claims.closing or not want.weight:
            return None
        if (first := replicas.first(affinity)) is None:
            return None
        place, resident, route = first
        # Whom to avoid might have been compared with.
        if place.most is not None or (want.avoid and (route != "only-replica" or place.name in want.avoid)):
            return None
        full = resident.slots is not None and resident.seats + want.weight > resident.slots
        return None if full else first

    def _kept_out(self, ticket: Ticket, place: Place, resident: Resident, *, behind: bool) -> str:
        """Why a ticket may not sit at a servable replica; "" when it may."""
        if behind:
            return "others wait for a seat already"
        if resident.slots is not None and resident.seats + ticket.want.weight > resident.slots:
            return "no seat is free"
        if self._claims.close(place.name, resident.model, ticket):
            return "it empties for a model that has waited for long"
        if place.most is not None and self._has_its_share(ticket.want, place):
            return f"it has to prove itself, with {place.most} at a time"
        return ""

    def _has_its_share(self, want: Want, place: Place) -> bool:
        """Whether a place that has to prove itself has all that it gets of those who could go to one
        that need not. Where there is no such place, nobody is held back: a fleet must not keep its
        own clients out."""
        if sum(resident.seats for resident in place) + want.weight <= (place.most or 0):
            return False
        return self._serving(want.model).proven(want.avoid)

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
        rests = {
            name: rest
            for name, rest in self._rests.about(want.model).items()
            if name in self._places and name not in want.avoid
        }
        leaves = partial(evictor.movable, now=now, rules=self.policy.rules)
        question = router.Question(want.spec, want.need_bytes, self._victims(), now, want.prefer, leaves)
        # Whoever has it already takes nobody new, or this would not be asked.
        out = {*want.avoid, *rests}
        shunned = self._shunned - out
        found = self._rooms.ways(question, lambda place: place.name in out or place.name in shunned)
        if shunned:
            # Who spoils all that he is sent gets a model only when nobody else can take it.
            found = chain(found, self._rooms.ways(question, lambda place: place.name not in shunned))
        promised = False
        for way in found:
            if way.victims and not want.evict:
                continue
            if self._promised(way, ticket):
                promised = True
                continue
            if not way.must_wait or self.policy.delegates:
                return way
            moments = (*self._moments(ticket, way), *(rest.until for rest in rests.values()))
            return Wait("room", min((moment for moment in moments if moment > now), default=None), way)
        if not promised:
            return self._nowhere(want, rests)
        entitled_at = self._entitled_at(self._eldest(ticket))
        return Wait("room", entitled_at if entitled_at > now else None)

    def _nowhere(self, want: Want, rests: Mapping[str, Rest]) -> Wait | Refuse:
        """What becomes of one for whom no place was found: 5. and 6., told apart by the words of the
        refusal."""
        assert want.spec is not None  # noqa: S101 - `_judge` asked

        def possible(place: Place) -> bool:
            return (
                place.name not in want.avoid
                and want.spec is not None
                and router.never(want.spec, want.need_bytes, place) is None
            )

        if any(place.doubt and possible(place) for place in self._rooms.away()):
            return Wait("room")
        delegates = self.policy.delegates
        for name, rest in rests.items():
            if self._places[name].ready and possible(self._places[name]):
                return Refuse(refusals.shunned(rest, self.clock(), delegates=delegates))
        if not delegates:
            return Refuse(refusals.no_room(want, list(self)))
        verdict = self._rooms.verdict(want.spec, want.need_bytes)
        return Refuse(refusals.nowhere(want, verdict, self._rooms.largest))

    def _victims(self) -> router.Victims:
        return partial(evictor.victims, now=self.clock(), rules=self.policy.rules)

    # -- what others were promised

    def _promised(self, placement: router.Placement, ticket: Ticket) -> bool:
        """Whether `placement` would take room that was promised to others before."""
        if placement.must_wait:
            return False
        for claim in self._claims.at(placement.place.name, but=ticket.want.model):
            leaving = {*claim.plan.victims, *placement.victims}
            enough = evictor.beside(claim.plan.place, claim.plan.newcomer, placement.newcomer, leaving)
            if not enough and self._holds(claim, ticket):
                return True
        return False

    def _holds(self, claim: Claim, ticket: Ticket) -> bool:
        """Whether a promise stands against `ticket`."""
        eldest = self._eldest(ticket)
        if self._entitled_at(eldest) <= self.clock():
            return self._rank(claim.ticket) < self._rank(eldest)
        return arrival(claim.ticket) < arrival(ticket)

    def _eldest(self, ticket: Ticket) -> Ticket:
        """Who has waited longest for the same as `ticket`; itself when it is the first."""
        line = self._lines.get(ticket.want.model)
        eldest = None if line is None else line.eldest(like=ticket)
        return ticket if eldest is None else eldest

    def _entitled_at(self, ticket: Ticket) -> float:
        """From when on a ticket in line has the right to more than to wait."""
        return ticket.arrived + self.policy.max_overtake_s

    def _moments(self, ticket: Ticket, plan: router.Placement) -> list[float]:
        """When to look again at a ticket that waits for `plan`: as its victims come of age, and
        as it gains its rights."""
        ages = [evictor.of_age_at(plan.place.residents[model], self.policy.rules) for model in plan.victims]
        return [*ages, self._entitled_at(ticket)]
