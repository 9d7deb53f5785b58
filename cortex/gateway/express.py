"""Requests that need nobody to wait for anything: by callbacks alone, from the client's bytes to the books.

A request goes this way when its model serves with a seat free, at a neuron that speaks the client's dialect
and to which a connection is open. Nothing has changed when `take` leaves one alone: it goes by
`passage` then, as does the rest of one that does not go as expected. What both do is the
same, and is asked of the same rooms; only the waiting is different.
"""

import logging
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
from cortex.gateway.hop import Hop
from cortex.gateway.journey import Journey
from cortex.gateway.lanes import Lanes, Road
from cortex.gateway.member import Waits
from cortex.gateway.orders import Orders
from cortex.gateway.ride import Ride
from cortex.gateway.views import Views
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
from cortex.web.meter import Meter
from cortex.web.pool import Pool
from cortex.web.retell import Retelling
from cortex.web.teller import Teller
from cortex.web.visit import stopping
from cortex.wire import neuron as wire
from cortex.wire.openai import peek, rename
from cortex.wire.pictures import text_bytes

log = logging.getLogger(__name__)

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
        self._views, self.limits, self._metrics = views, limits, metrics
        self.dispatch = dispatch
        self.clock: Callable[[], float] = trio.current_time
        self.fleet: Fleet = views.listing.fleet
        self._lanes = Lanes(views, dispatch, Orders(boot_id, views.accounts, dispatch))
        self.books = Bookkeeping(metrics, views, dispatch)
        self.nursery: trio.Nursery | None = None
        self.go_on: GoOn = _nobody

    def refit(self, limits: Limits) -> None:
        """Other limits, for requests to come."""
        self.limits = limits

    def take(self, way: Way, guest: Guest, known: Known, body: bytes) -> Hop | Errand | None:
        """What answers the request; None leaves it as it stands."""
        if self.fleet.stopping or self.nursery is None:
            return None
        try:
            began, seen = guest.now, peek(body)
            lane = self._lanes.of(way, known, seen.model)
            if sight.doubtful(way, body) and not self._views.listing.sees(lane.model):
                return None
            streams = seen.stream and lane.streams
            hop = (Ride if streams else Hop)(self, lane, guest, seen, began)
            hop.body = body if seen.model == lane.model else rename(body, seen.model, lane.model)
            hop.text_bytes = text_bytes(body) if lane.limited else len(body)
            return self._let_in(hop)
        except CortexError:
            return None  # told by whoever finds it, too, and can tell it

    def _let_in(self, hop: Hop) -> Hop | Errand | None:
        """The same for whom its key lets in, or it counts for nothing. First: who may ask no more keeps no
        model warm, and opens no connection."""
        lane, errand = hop.lane, None
        expected = 0 if lane.way is VECTORS else hop.seen.answer_tokens
        hop.claim = self._views.accounts.let_in(lane.known.caller, hop.text_bytes, expected)
        try:
            errand = self._placed(hop)
        finally:
            if errand is None:
                hop.claim.withdraw()
        return errand

    def _placed(self, hop: Hop) -> Hop | Errand | None:
        """The same with a seat, or nobody sits."""
        ticket = self._lanes.seat(hop.lane, hop.seen)
        if ticket is None or ticket.place is None:
            return None
        errand: Hop | Errand | None = None
        try:
            road, lane = self._lanes.road(hop.lane, ticket.place.name), hop.lane
            if not road.speaks:
                if len(hop.body) > BIG_BODY:
                    return None  # read and written in a thread
                hop.retelling = told_to(lane.way, hop.body, lane.model, hop.id)
            if (link := road.pool.lend(hop.began)) is not None:
                errand = self._sent(hop, ticket, road, link)
        finally:
            if errand is None:
                self.dispatch.leave(ticket)
        return errand

    def _sent(self, hop: Hop, ticket: Ticket, road: Road, link: Link) -> Hop | Errand | None:
        """The request is with the neuron, or the link is gone."""
        errand: Hop | Errand | None = None
        hop.ticket, hop.road, hop.link = ticket, road, link
        try:
            # As the neuron gets it: in the client's words, or told in another dialect.
            body = hop.body if hop.retelling is None else hop.retelling.body
            asked = road.head % (len(body), hop.id.encode()) + body
            try:
                link.push(asked)
            except OSError:
                return None  # it has broken: nothing of it went
            link.listener = hop
            errand = self._under_way(hop)
        finally:
            if errand is None:
                road.pool.lost(link)  # after a bug, too: nobody is there to hear the answer
        return errand

    def _under_way(self, hop: Hop) -> Hop | Errand:
        """Who answers the request, which is with the neuron, and in the books whatever comes."""
        hop.label = self._metrics.request_began(hop.lane.model)
        try:
            plain = hop.retelling is None and (hop.streams or not hop.link.dialling)
            begun = hop if plain else self.unfolded(hop)
            if not hop.streams:
                hop.road.waits.begin(begun)
        except Exception:
            self._note_bug(hop)
            raise
        return begun

    def _note_bug(self, hop: Hop) -> None:
        framing = Framing(hop.lane.known.terms(hop.id))
        self.close(_journey(hop, _Reply(framing, hop.guest), Meter(framing.terms.dialect)), "bug")

    def abandon(self, hop: Hop) -> None:
        """A bug keeps the errand from beginning that would see to the rest: nothing stays held."""
        hop.road.waits.end(hop)
        hop.road.pool.lost(hop.link)
        self.dispatch.leave(hop.ticket)
        hop.claim.end()
        try:
            self._note_bug(hop)
        finally:
            hop.guest.crashed()
            hop.guest.forsaken()

    def unfolded(self, hop: Hop) -> Errand:
        """An errand that goes on from where that is."""
        lane, road, guest, link = hop.lane, hop.road, hop.guest, hop.link
        framing = Framing(lane.known.terms(hop.id))
        limits, now, errand = hop.limits, hop.began, None
        if hop.retelling is None:
            errand = Errand(guest, framing, link, limits=limits, now=now)
        else:
            errand = Teller(guest, framing, link, hop.retelling.begin(), limits=limits, now=now)
        errand.extra = ((wire.NEURON, road.neuron.name), (wire.MODEL, lane.name))
        framing.tags.update(errand.extra)
        journey = _journey(hop, _Reply(framing, guest), errand.meter)
        begun = Begun(journey, hop.ticket, road.neuron, road.pool, road.waits, link, hop.claim, hop.retelling)
        errand.follow(
            Trip(self, begun, errand, guest), streams=journey.streams, connect_s=road.pool.connect_s
        )
        return errand

    def give_back(self, begun: Begun) -> None:
        """What was held for the request is others'. Before anything is written down: a bug in the books is
        to cost nobody a seat, nor a key one of its requests."""
        self.dispatch.leave(begun.ticket)
        begun.claim.end()

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
        """Its bugs are its own: the nursery is the gateway's."""
        try:
            await self._seen_off(begun, errand)
        except Exception:
            log.exception("connection.crashed")
            self._metrics.connection_crashed()

    async def _seen_off(self, begun: Begun, errand: Errand | None) -> None:
        journey, outcome = begun.journey, _CUT
        try:
            if errand is not None:
                await errand.hear_out()
            await begun.pool.part(begun.link, broken=False)
        finally:
            self.give_back(begun)
            if errand is not None:
                outcome = self.books.left(journey)
            self.close(journey, outcome)


@dataclass(slots=True)
class Trip:
    """What is to be done at the end of one errand, by how it ended."""

    _express: Express
    _begun: Begun
    errand: Errand
    _guest: Guest

    def done(self) -> None:
        """The client has the whole answer."""
        begun, express = self._begun, self._express
        journey, answer = begun.journey, self.errand.answer
        try:
            self._over()
            journey.answered = True
            express.give_back(begun)
            express.books.judge(journey)
            express.close(journey, journey.verdict)
            give = begun.pool.taken_back if answer.reusable else begun.pool.lost
            give(begun.link)
        except Exception:
            begun.pool.lost(begun.link)  # it is closed for the bug, whoever may use it then
            raise
        finally:
            self._guest.answered(stays=self.errand.framing.stays)

    def headed(self) -> None:
        """Whoever has the head is not one of those who wait for a sign of life."""
        self._begun.waits.end(self.errand)

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
        self._guest.forsaken()
        self._express.see_off(self._begun, self.errand)

    def stopped(self, why: CortexError | None) -> None:
        """The client gets no more."""
        self._over()
        self._express.see_off(self._begun)
        self._guest.handed_over(
            self._begun.journey.request,
            self.errand.framing,
            partial(_refuse, why or stopping(not_started=False)),
        )

    def dropped(self, *, bug: bool) -> None:
        """It is over, and nobody can be told."""
        begun, express = self._begun, self._express
        self._over()
        begun.pool.lost(begun.link)
        express.give_back(begun)
        try:
            express.close(begun.journey, "bug" if bug else "cut")
        finally:
            self._guest.forsaken()

    def _hand_over(self) -> None:
        self._over()
        begun = self._begun
        self._guest.handed_over(
            begun.journey.request, self.errand.framing, partial(self._express.go_on, begun)
        )

    def _over(self) -> None:
        journey = self._begun.journey
        self._begun.waits.end(self.errand)
        journey.elsewhere_s += trio.current_time() - self.errand.answer.asked_at


def told_to(way: Way, body: bytes, model: str, request_id: str) -> Retelling:
    """How the request is told to a neuron that does not speak the client's dialect."""
    return Retelling(way.dialect, way.read(body, model), request_id)


async def _refuse(error: CortexError, reply: Reply) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def _nobody(begun: Begun, reply: Reply) -> None:
    raise RuntimeError("no passage goes on with what was begun")


def _journey(hop: Hop, reply: _Reply, meter: Meter) -> Journey:
    lane = hop.lane
    head = lane.known.head
    request = Request(
        method=head.method,
        path=head.path,
        query=head.query,
        headers=head.headers,
        body=hop.body,
        peer=lane.known.peer,
        id=hop.id,
        caller=lane.known.caller,
        arrived=hop.began,
    )
    journey = Journey(lane.way, request, reply)
    journey.model, journey.name, journey.label, journey.meter = lane.model, lane.name, hop.label, meter
    journey.body, journey.text_bytes, journey.sampling = hop.body, hop.text_bytes, lane.sampling
    journey.streams = hop.streams
    journey.affinity = lane.affinity or hop.seen.affinity
    journey.neuron, journey.route = hop.road.neuron.name, hop.ticket.route
    journey.began = journey.seated = hop.began
    return journey
