"""What the gateway would do with a request for a model, as GET /fleet/plan tells it.

The ledger's own verdict on the want that a request would have, in the words of the wire. A neuron
has the last word on what it unloads. Nothing changes.
"""

from dataclasses import replace
from typing import Final

from cortex.gateway.listing import Listing
from cortex.gateway.views import Views
from cortex.gateway.wants import want_of
from cortex.ledger import Plan, Refuse, Serve, Wait
from cortex.router import Placement, Reason, Route
from cortex.wire.plan import Decided, Leaver, PlanPlace, PlanReport, Stayer

_SERVED: Final[dict[Route, str]] = {
    "only-replica": "it is the only replica that can serve",
    "least-busy": "it is the least busy replica",
    "affinity": "it is as calm as others, and the conversation belongs there",
    "by-name": "it is as calm as others; a conversation goes where it was before",
    "next-free": "it is the first replica with a free seat",
}
_WAITS: Final = {
    "slots": "every seat at its replicas is taken, and the request waits for one",
    "load": "a load of the model is under way, and the request waits for its end",
    "room": "the request waits until room is made, or until a neuron has been heard of",
}


def plan_of(views: Views, model: str, caller: str) -> PlanReport:
    """The plan for a request of `caller` without a conversation."""
    listing = views.listing
    plan = listing.ledger.plan(want_of(views, model, caller))
    decision, why = _told(plan)
    error = plan.verdict.error if isinstance(plan.verdict, Refuse) else None
    return PlanReport(
        model=model,
        decision=decision,
        neuron=None if plan.place is None else plan.place.name,
        why=why,
        code=None if error is None else error.code,
        status=None if error is None else error.status,
        need_bytes=plan.want.need_bytes or None,
        places=[
            _place(_heard(listing, model, reason), chosen=reason.place is plan.place)
            for reason in plan.reasons
        ],
    )


def _heard(listing: Listing, model: str, reason: Reason) -> Reason:
    """A model that only neurons know is bound to them as if it were pinned there, which is not how
    anybody would put it."""
    if reason.standing != "pinned_elsewhere" or model in listing.catalogue.specs:
        return reason
    return replace(reason, standing="unknown", why="neither its models.toml has the model nor the gateway's")


def _told(plan: Plan) -> tuple[Decided, str]:
    match plan.verdict:
        case Serve(route=route):
            return "serve", _SERVED[route]
        case Placement() as way:
            return "load", next(reason.why for reason in plan.reasons if reason.place is way.place)
        case Wait(reason="load"):
            return "join", _WAITS["load"]
        case Wait(reason=reason):
            return "wait", _WAITS[reason]
        case Refuse(error):
            return "refuse", error.message


def _place(reason: Reason, *, chosen: bool) -> PlanPlace:
    place, way = reason.place, reason.way
    return PlanPlace(
        neuron=place.name,
        chosen=chosen,
        standing=reason.standing,
        why=reason.why,
        need={} if way is None else dict(way.newcomer.need),
        free={} if way is None else {room: place.free(room) for room in way.newcomer.need},
        evicts=[Leaver(model=model, bytes=place.residents[model].bytes) for model in way.victims]
        if way
        else [],
        stays=[Stayer(model=model, why=why) for model, why in reason.stays],
    )
