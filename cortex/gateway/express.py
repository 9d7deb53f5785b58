"""Requests that need nobody to wait for anything: by callbacks alone, from the client's bytes to the books.

A request goes this way when its model serves with a seat free, at a neuron that speaks the client's dialect
and to which a connection is open. Nothing has changed when `take` leaves one alone: it goes by
`passage` then, as does the rest of one that does not go as expected. What both do is the
same, and is asked of the same rooms; only the waiting is different.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import trio

from cortex.config.limits import Limits
from cortex.dispatch import Dispatch
from cortex.errors import CortexError
from cortex.gateway import sight
from cortex.gateway.bookkeeping import Bookkeeping
from cortex.gateway.fleet import Fleet, Neuron
from cortex.gateway.journey import Journey
from cortex.gateway.member import Waits
from cortex.gateway.orders import Orders
from cortex.gateway.views import Views
from cortex.gateway.wants import want_of
from cortex.gateway.ways import VECTORS, Way
from cortex.keys.accounts import Claim
from cortex.ledger import Ticket
from cortex.logs import bind_request
from cortex.metrics import Metrics, Outcome
from cortex.web.answer import Answer
from cortex.web.connection import Reply, Request
from cortex.web.errand import Errand
from cortex.web.framing import Framed, Framing
from cortex.web.guest import Guest
from cortex.web.known import Known
from cortex.web.link import Link
from cortex.web.pool import Pool
from cortex.web.relay import Destination, forwarded, request_head
from cortex.web.retell import Retelling
from cortex.web.teller import Teller
from cortex.web.visit import stopping
from cortex.wire import neuron as wire
from cortex.wire.openai import peek, rename
from cortex.wire.pictures import text_bytes

# What a client calls its request goes on as what it is called here.
_OWN: Final = frozenset({wire.REQUEST_ID})
_CUT: Final[Outcome] = "cut"
# Looking at a smaller body takes less than a millisecond.
BIG_BODY: Final = 64 * 2**10


@dataclass(slots=True)
class Begun:
    """A request that callbacks have brought so far: it has a seat, and a link of `pool` to the neuron, among
    whose `waits` it is. Either the head of its answer has come, or there is an error."""

    journey: Journey
    ticket: Ticket
    neuron: Neuron
    # Kept beside the neuron, which may be found at another address meanwhile.
    pool: Pool
    waits: Waits
    link: Link
    claim: Claim
    # How the request was told to a neuron that does not speak the client's dialect.
    retelling: Retelling | None = None
    answer: Answer | None = None
    error: CortexError | None = None


GoOn: TypeAlias = Callable[[Begun, Reply], Awaitable[None]]


@dataclass(frozen=True)
class _Reply(Framed):
    """What there is of an answer to a guest."""

    framing: Framing
    guest: Guest

    @property
    def lost(self) -> bool:
        return self.guest.gone

    @property
    def stalled(self) -> bool:
        return self.guest.stalled


class Express:
    """One for each gateway. `nursery` is where neurons are seen off whose client has left; before it is
    there nobody goes this way. `go_on` is how the passage brings to its end what was begun here."""

    def __init__(
        self, boot_id: str, views: Views, dispatch: Dispatch, limits: Limits, metrics: Metrics
    ) -> None:
        self._views, self._limits, self._metrics = views, limits, metrics
        self.dispatch = dispatch
        self.orders = Orders(boot_id, views.accounts, dispatch)
        self.books = Bookkeeping(metrics, views, dispatch)
        self.nursery: trio.Nursery | None = None
        self.go_on: GoOn = _nobody

    @property
    def _fleet(self) -> Fleet:
        return self._views.listing.fleet

    def refit(self, limits: Limits) -> None:
        """Other limits, for requests to come."""
        self._limits = limits

    def take(self, way: Way, guest: Guest, known: Known, body: bytes) -> Errand | None:
        """The errand that answers the request; None leaves it as it stands."""
        if self._fleet.stopping or self.nursery is None:
            return None
        try:
            return self._taken(way, guest, known, body)
        except CortexError:
            return None  # told by whoever finds it, too, and can tell it

    def _taken(self, way: Way, guest: Guest, known: Known, body: bytes) -> Errand | None:
        seen, framing = peek(body), Framing(known.terms(guest.request_id(known.head.headers)))
        journey = Journey(way, _request(known, framing, body), _Reply(framing, guest))
        journey.read(self._views, seen)
        if sight.doubtful(way, body) and not self._views.listing.sees(journey.model):
            return None
        journey.body = body if seen.model == journey.model else rename(body, seen.model, journey.model)
        limited = known.caller and sight.possible(way)
        journey.text_bytes = text_bytes(body) if limited else len(body)
        # First: who may ask no more keeps no model warm, and opens no connection.
        claim = self._views.accounts.let_in(known.caller, journey.text_bytes)
        trip: Trip | None = None
        try:
            claim.expect(0 if way is VECTORS else seen.answer_tokens)
            trip = self._placed(journey, framing, guest, claim, known)
        finally:
            if trip is None:
                claim.withdraw()
        return None if trip is None else trip.errand

    def _placed(
        self, journey: Journey, framing: Framing, guest: Guest, claim: Claim, known: Known
    ) -> "Trip | None":
        """The same with a seat, or nobody sits."""
        ticket = self._seated(journey)
        if ticket is None:
            return None
        trip: Trip | None = None
        try:
            neuron = self._fleet[journey.neuron]
            speaks = self._fleet.tongues.speaks(neuron.name, journey.way)
            if not speaks and len(journey.body) > BIG_BODY:
                return None  # read and written in a thread
            retelling = None if speaks else told_to(journey)
            if (link := neuron.pool.lend()) is not None:
                begun = Begun(journey, ticket, neuron, neuron.pool, neuron.waits, link, claim, retelling)
                trip = self._begun(begun, framing, guest, known)
        finally:
            if trip is None:
                self.dispatch.leave(ticket)
        return trip

    def _seated(self, journey: Journey) -> Ticket | None:
        caller, mute = journey.request.caller, self._fleet.tongues.mute(journey.way)
        want = want_of(self._views, journey.model, caller, affinity=journey.affinity, avoid=mute)
        ticket = self.dispatch.seat_at_once(want)
        if ticket is None or ticket.place is None:
            return None
        journey.neuron, journey.route, journey.seated = ticket.place.name, ticket.route, journey.began
        return ticket

    def close(self, journey: Journey, outcome: Outcome) -> None:
        """The request has come to its end here."""
        with bind_request(journey.request.id):
            self.books.close(journey, outcome)

    def see_off(self, begun: Begun, errand: Errand | None = None) -> None:
        """The neuron lets go of a request that was cut, or of an errand that its client has left; then the
        seat is given back."""
        assert self.nursery is not None  # noqa: S101 - `take` looked
        self.nursery.start_soon(self._see_off, begun, errand)

    async def _see_off(self, begun: Begun, errand: Errand | None) -> None:
        journey, outcome = begun.journey, _CUT
        try:
            if errand is not None:
                await errand.hear_out()
            await begun.pool.part(begun.link, broken=False)
        finally:
            if errand is not None:
                outcome = self.books.left(journey)
            self.dispatch.leave(begun.ticket)
            self.close(journey, outcome)
            begun.claim.end()

    def _begun(self, begun: Begun, framing: Framing, guest: Guest, known: Known) -> "Trip | None":
        """The request is with the neuron, or the link is gone."""
        journey, neuron = begun.journey, begun.neuron
        errand = self._errand(begun, framing, guest)
        request = self._asked(begun, known)
        trip = Trip(self, begun, errand)
        try:
            errand.begin(request, trip, streams=journey.streams, connect_s=neuron.pool.connect_s)
        except OSError:
            begun.pool.lost(begun.link)
            return None
        errand.extra = ((wire.NEURON, neuron.name), (wire.MODEL, journey.name))
        framing.tags.update(errand.extra)
        journey.meter = errand.meter
        journey.label = self._metrics.request_began(journey.model)
        if not journey.streams:
            begun.waits.begin(errand.give_up)
        return trip

    def _errand(self, begun: Begun, framing: Framing, guest: Guest) -> Errand:
        limits, now = self._limits, begun.journey.began
        if begun.retelling is None:
            return Errand(guest, framing, begun.link, limits=limits, now=now)
        return Teller(guest, framing, begun.link, begun.retelling.begin(), limits=limits, now=now)

    def _asked(self, begun: Begun, known: Known) -> bytes:
        """The request as the neuron gets it."""
        journey, neuron = begun.journey, begun.neuron
        own, to = self.orders.fields(journey), Destination(neuron.pool.authority, neuron.ref.token)
        if begun.retelling is not None:
            return begun.retelling.request(to, own)
        taken = known.notes.get("forwarded")
        if taken is None:
            taken = known.notes["forwarded"] = forwarded(known.head.headers, _OWN)
        body = journey.body
        return request_head("POST", known.head.path, taken, len(body), to=to, own=own) + body


@dataclass(slots=True)
class Trip:
    """What is to be done at the end of one errand, by how it ended."""

    _express: Express
    _begun: Begun
    errand: Errand

    def done(self) -> None:
        """The client has the whole answer."""
        begun, express = self._begun, self._express
        journey, answer = begun.journey, self.errand.answer
        if answer.reusable:
            begun.pool.taken_back(begun.link)
        else:
            begun.pool.lost(begun.link)
        try:
            self._over()
            journey.answered = True
            express.books.judge(journey)
            express.dispatch.leave(begun.ticket)
            express.close(journey, journey.verdict)
            begun.claim.end()
        finally:
            self.errand.guest.answered(stays=self.errand.framing.stays)

    def headed(self) -> None:
        """Whoever has the head is not one of those who wait for a sign of life."""
        self._begun.waits.end(self.errand.give_up)

    def odd(self, answer: Answer) -> None:
        """The head of an answer that tasks read on."""
        self._begun.answer = answer
        self._hand_over()

    def failed(self, error: CortexError) -> None:
        """There is no whole answer."""
        # Of an answer that has begun nothing may be asked again.
        self._begun.journey.answered = self.errand.answer.headed
        self._begun.error = error
        self._hand_over()

    def unreached(self, problem: OSError | None) -> CortexError:
        """What it means that no connection was made."""
        return self._begun.pool.unreached(problem)

    def left(self) -> None:
        """The client is gone."""
        self._over()
        self.errand.guest.forsaken()
        self._express.see_off(self._begun, self.errand)

    def stopped(self, why: CortexError | None) -> None:
        """The client gets no more."""
        self._over()
        self._express.see_off(self._begun)
        self.errand.guest.handed_over(
            self._begun.journey.request,
            self.errand.framing,
            partial(_refuse, why or stopping(not_started=False)),
        )

    def dropped(self, *, bug: bool) -> None:
        """It is over, and nobody can be told."""
        begun, express = self._begun, self._express
        self._over()
        begun.pool.lost(begun.link)
        express.dispatch.leave(begun.ticket)
        express.close(begun.journey, "bug" if bug else "cut")
        begun.claim.end()
        self.errand.guest.forsaken()

    def _hand_over(self) -> None:
        self._over()
        begun = self._begun
        self.errand.guest.handed_over(
            begun.journey.request, self.errand.framing, partial(self._express.go_on, begun)
        )

    def _over(self) -> None:
        journey = self._begun.journey
        self._begun.waits.end(self.errand.give_up)
        journey.elsewhere_s += trio.current_time() - self.errand.answer.asked_at


def told_to(journey: Journey) -> Retelling:
    """How the request is told to a neuron that does not speak the client's dialect."""
    way = journey.way
    return Retelling(way.dialect, way.read(journey.body, journey.model), journey.request.id)


async def _refuse(error: CortexError, reply: Reply) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def _nobody(begun: Begun, reply: Reply) -> None:
    raise RuntimeError("no passage goes on with what was begun")


def _request(known: Known, framing: Framing, body: bytes) -> Request:
    parsed = known.head
    return Request(
        method=parsed.method,
        path=parsed.path,
        query=parsed.query,
        headers=parsed.headers,
        body=body,
        peer=known.peer,
        id=framing.terms.request_id,
        caller=known.caller,
        arrived=trio.current_time(),
    )
