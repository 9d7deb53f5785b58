"""What would become of a request, with a reason for every place; nothing changes.

The verdict is the one that an arrival gets at the same moment, by the same methods; the router
puts the places into words, with what only the ledger knows.
"""

from dataclasses import dataclass
from functools import partial

from cortex import evictor, router
from cortex.ledger.seating import Seating
from cortex.ledger.tickets import Serve, Ticket, Verdict, Wait, Want
from cortex.places import Place, Resident


@dataclass(frozen=True, slots=True)
class Plan:
    """`place` is where the request would be served or the model loaded, None when nobody can say.
    `reasons` are one for every place, those who come into question first."""

    want: Want
    verdict: Verdict
    place: Place | None
    reasons: tuple[router.Reason, ...]


@dataclass(slots=True, repr=False)
class Foresight(Seating):
    """Seating that can be asked what it would do."""

    def plan(self, want: Want) -> Plan:
        """What would become of `want`, and why."""
        ticket = Ticket(want, self.clock(), self._arrivals + 1)
        verdict = self._first_judged(ticket)
        case = router.Case(want.model, want.spec, want.need_bytes, want.prefer, want.affinity)
        reasons = router.explain(case, self, self._judges(ticket))
        return Plan(want, verdict, self._place_of(want.model, verdict), tuple(reasons))

    def _place_of(self, model: str, verdict: Verdict) -> Place | None:
        if isinstance(verdict, Serve | router.Placement):
            return verdict.place
        if isinstance(verdict, Wait) and verdict.plan is not None:
            return verdict.plan.place
        if (load := self._loads.get(model)) is not None:
            return load.place
        # Somebody else ordered it.
        return next((place for place, one in self.holders(model) if one.phase == "loading"), None)

    def _judges(self, ticket: Ticket) -> router.Judges:
        want, now, rules = ticket.want, self.clock(), self.policy.rules
        behind = self._has_line(want)

        def kept_out(place: Place, resident: Resident) -> str:
            return self._kept_out(ticket, place, resident, behind=behind) if want.weight else ""

        def refused(place: Place) -> str | None:
            rest = self._rests.at(want.model, place.name)
            return (
                None
                if rest is None
                else f"{rest.error.message}; not asked again for {rest.until - now:.0f} s"
            )

        return router.Judges(
            self._victims(),
            partial(evictor.stays, now=now, rules=rules),
            kept_out,
            refused,
            lambda way: self._promised(way, ticket),
            now,
            want.avoid,
            want.evict,
        )
