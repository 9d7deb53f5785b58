"""The inference routes of a gateway: a seat at some neuron, and bytes passed through.

The body is peeked at, never rebuilt; only an alias is replaced by the model's name. A
failure that proves that nothing ran is tried once more elsewhere; a neuron that no longer
has the model is forgotten and the request placed anew. Everything else reaches the client.
"""

import logging
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.config.limits import Limits
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, NoRoom, NotHereNow, Recovering, Stopping, Unreachable
from cortex.events import Usage
from cortex.gateway.fleet import Fleet, Neuron
from cortex.gateway.listing import Listing
from cortex.gateway.wants import want_of
from cortex.ledger import Ticket
from cortex.metrics import Dialect as DialectName
from cortex.metrics import Done, Metrics, Outcome
from cortex.web.connection import Reply, Request
from cortex.web.relay import Destination, Meter, forward, refusal, request_bytes
from cortex.web.site import Route
from cortex.web.streaming import Stream, open_stream
from cortex.wire import neuron as wire
from cortex.wire.openai import peek, rename

log = logging.getLogger(__name__)

# A stale belief is corrected by each refusal, so a second one in a row is a fleet in motion.
MOST_STALE: Final = 3


@dataclass(slots=True)
class Journey:
    """One request on its way, with what is known of it for the books."""

    request: Request
    reply: Reply
    model: str
    body: bytes
    affinity: str
    meter: Meter
    label: str
    stream: Stream | None = None
    neuron: str = "none"
    seated: float | None = None
    retried: bool = False
    stale: int = 0
    avoid: frozenset[str] = frozenset()
    refused: CortexError | None = field(default=None)

    def done(self, dialect: DialectName, outcome: Outcome) -> Done:
        """The entry in the books."""
        first = self.meter.first_content_at
        return Done(
            model=self.label,
            dialect=dialect,
            outcome=outcome,
            duration_s=trio.current_time() - self.request.arrived,
            neuron=self.neuron,
            ttft_s=None if first is None else first - self.request.arrived,
            queue_s=None if self.seated is None else self.seated - self.request.arrived,
            usage=self.meter.usage if self.seated is not None else Usage(),
        )


class Passage:
    """The handlers of the inference routes. `boot_id` marks requests as routed by us."""

    def __init__(
        self, boot_id: str, listing: Listing, dispatch: Dispatch, limits: Limits, metrics: Metrics
    ) -> None:
        self._boot_id, self._listing, self._dispatch = boot_id, listing, dispatch
        self._limits, self._metrics = limits, metrics
        self.stopping = False

    @property
    def _fleet(self) -> Fleet:
        return self._listing.fleet

    def routes(self) -> dict[str, Route]:
        """The inference routes by path."""
        made = (Route("/v1/chat/completions", self.chat), Route("/v1/completions", self.text))
        return {route.path: route for route in made}

    async def chat(self, request: Request, reply: Reply) -> None:
        """POST /v1/chat/completions."""
        await self._pass(request, reply, "openai_chat")

    async def text(self, request: Request, reply: Reply) -> None:
        """POST /v1/completions."""
        await self._pass(request, reply, "openai_text")

    async def _pass(self, request: Request, reply: Reply, dialect: DialectName) -> None:
        if self.stopping:
            raise Stopping("This gateway is shutting down; try another in a moment")
        seen = peek(request.body)
        model = self._listing.catalogue.resolve(seen.model)
        body = rename(request.body, seen.model, model)
        label = self._metrics.request_began(model)
        journey = Journey(request, reply, model, body, seen.affinity, Meter("openai"), label)
        outcome: Outcome = "hung_up"
        try:
            if seen.stream:
                async with open_stream(reply, "openai") as journey.stream:
                    await self._travel(journey)
            else:
                await self._travel(journey)
            outcome = "engine" if journey.meter.failed else "ok"
        except CortexError as error:
            outcome = error.blame
            if journey.neuron != "none":
                self._fleet.suspect(journey.neuron, error)
            if journey.seated is None:
                self._metrics.rejected(error)
            raise
        except Exception:
            outcome = "bug"
            raise
        finally:
            self._metrics.request_done(journey.done(dialect, outcome))

    async def _travel(self, journey: Journey) -> None:
        """Seat and pass on, until it was passed on or must not be tried again."""
        while True:
            try:
                await self._attempt(journey)
            except CortexError as error:
                if not self._again(journey, error):
                    raise journey.refused or error from error
                self._metrics.retried(error)
            else:
                return

    def _again(self, journey: Journey, error: CortexError) -> bool:
        """Whether to try once more after `error`; then the next attempt avoids what failed."""
        if not error.not_started or journey.neuron == "none":
            return False
        if isinstance(error, NotHereNow):
            journey.stale += 1
            self._dispatch.ledger.gone(journey.neuron, journey.model)
            journey.refused = Recovering(
                f"Model '{journey.model}' is moving between neurons; try again in a moment"
            )
            again = journey.stale < MOST_STALE
        else:
            self._fleet.suspect(journey.neuron, error)
            # Backpressure reaches the client intact when no other place exists. Of a neuron that
            # is gone the ledger knows more to say.
            journey.refused = None if isinstance(error, Unreachable) else error
            journey.avoid |= {journey.neuron}
            again, journey.retried = not journey.retried, True
        journey.neuron = "none"
        return again

    async def _attempt(self, journey: Journey) -> None:
        want = want_of(self._listing, journey.model, affinity=journey.affinity, avoid=journey.avoid)
        async with self._dispatch.seat(want) as ticket:
            neuron = self._sit(journey, ticket)
            head = request_bytes(
                "POST",
                journey.request.path,
                journey.request.headers,
                journey.body,
                to=Destination(neuron.pool.authority, neuron.ref.token),
                own={wire.ROUTE: self._boot_id, wire.REQUEST_ID: journey.request.id},
            )
            async with neuron.pool.exchange(head, first_byte_s=self._limits.first_token_s) as answer:
                if answer.headers.get(wire.NOT_STARTED) == "1":
                    raise await refusal(answer, self._limits)
                extra = ((wire.NEURON, neuron.name), (wire.MODEL, journey.model))
                if journey.stream is not None:
                    await journey.stream.hand_over()
                journey.refused = None
                await forward(
                    answer, journey.reply, meter=journey.meter, limits=self._limits, extra_headers=extra
                )

    def _sit(self, journey: Journey, ticket: Ticket) -> Neuron:
        place = ticket.place
        if place is None:
            raise NoRoom(f"No neuron for '{journey.model}' at the moment")
        journey.neuron = place.name
        if journey.seated is None:
            journey.seated = trio.current_time()
        return self._fleet[place.name]
