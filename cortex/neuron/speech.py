"""The inference routes of a neuron: a body in one dialect, answered by a resident.

The request is read, seated, rendered, generated and spoken here, in that order. The seat
is held until the engine has let go. Errors are raised; the door tells the client.
"""

import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import trio

from cortex.ask import Ask
from cortex.catalogue import unknown
from cortex.config.models import sampling_from_text
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, NotHereNow
from cortex.events import Event
from cortex.ledger import Ticket, Want
from cortex.metrics import OTHER, Done, Metrics, Outcome
from cortex.neuron.account import Account
from cortex.neuron.behalf import on_behalf
from cortex.neuron.generation import Generation
from cortex.neuron.narration import Narration
from cortex.neuron.residents import Residents
from cortex.neuron.spending import Spending
from cortex.neuron.vectors import Vectors
from cortex.translator.dialects import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, TEXT, Dialect
from cortex.web.connection import Reply, Request
from cortex.web.progress import EVERY_S, Progress, asked_for
from cortex.web.site import Route
from cortex.web.streaming import Stream, open_stream
from cortex.wire import neuron as wire
from cortex.wire.openai import Reply as Envelope

log = logging.getLogger(__name__)

# Reading a smaller body takes less than a millisecond; a larger one is read in a thread.
BIG_BODY: Final = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way through, with the account that is kept of it."""

    ask: Ask
    dialect: Dialect
    request: Request
    reply: Reply
    account: Account
    progress: Progress | None = None

    def waits(self, ticket: Ticket) -> None:
        """The request stands in line."""
        if self.progress is not None:
            self.progress.waits(ticket)

    def narration(self, stream: Stream) -> Narration:
        """What tells the answer on `stream`."""
        if self.dialect.speech is None:
            raise RuntimeError(f"{self.dialect.name} has no streams")
        envelope = self.envelope()
        return Narration(self.dialect.speech(envelope), stream, self.account, single=envelope.n == 1)

    def envelope(self) -> Envelope:
        """The frame around the answer."""
        return Envelope.to(
            self.ask,
            id=self.dialect.prefix + secrets.token_hex(12),
            created=int(time.time()),
            request_id=self.request.id,
        )


class Speech:
    """The handlers of the inference routes."""

    def __init__(
        self, name: str, residents: Residents, dispatch: Dispatch, metrics: Metrics, spending: Spending
    ) -> None:
        self._name, self._residents, self._dispatch = name, residents, dispatch
        self._metrics, self._spending = metrics, spending
        self.rejected: dict[str, dict[str, int]] = {}
        self._rates: dict[str, tuple[float | None, float | None]] = {}

    def rates(self, model: str) -> tuple[float | None, float | None]:
        """Tokens a second of one request, prefill and decode: recent means, None before any."""
        return self._rates.get(model, (None, None))

    def routes(self) -> dict[str, Route]:
        """The inference routes by path."""
        made = (
            Route(CHAT.path, self.chat, CHAT.wire),
            Route(TEXT.path, self.text, TEXT.wire),
            Route(RESPONSES.path, self.responses, RESPONSES.wire),
            Route(MESSAGES.path, self.messages, MESSAGES.wire),
            Route(EMBEDDINGS.path, self.embeddings, EMBEDDINGS.wire),
        )
        return {route.path: route for route in made}

    async def chat(self, request: Request, reply: Reply) -> None:
        """POST /v1/chat/completions."""
        await self._answer(request, reply, CHAT)

    async def text(self, request: Request, reply: Reply) -> None:
        """POST /v1/completions."""
        await self._answer(request, reply, TEXT)

    async def responses(self, request: Request, reply: Reply) -> None:
        """POST /v1/responses."""
        await self._answer(request, reply, RESPONSES)

    async def messages(self, request: Request, reply: Reply) -> None:
        """POST /v1/messages."""
        await self._answer(request, reply, MESSAGES)

    async def embeddings(self, request: Request, reply: Reply) -> None:
        """POST /v1/embeddings."""
        await self._answer(request, reply, EMBEDDINGS)

    async def _answer(self, request: Request, reply: Reply, dialect: Dialect) -> None:
        account = Account(request.arrived, OTHER, self._name, key=request.headers.get(wire.KEY_NAME) or "")
        try:
            ask = await self._read(request, dialect)
            shown = asked_for(request, chat=dialect is CHAT, streams=ask.stream)
        except CortexError as error:
            self._metrics.request_began(account.label)
            self._note(account, error)
            self._close(account, account.done(dialect.name, error.blame))
            raise
        account.label = self._metrics.request_began(ask.model)
        progress = Progress(self._dispatch.ledger, request.id) if shown else None
        await self._serve(Exchange(ask, dialect, request, reply, account, progress))

    async def _serve(self, exchange: Exchange) -> None:
        ask, account = exchange.ask, exchange.account
        outcome: Outcome = "hung_up"
        try:
            await (self._stream(exchange) if ask.stream else self._whole(exchange))
            outcome = "ok"
            self._rates[ask.model] = account.rates(self.rates(ask.model))
        except CortexError as error:
            outcome = error.blame
            self._note(account, error)
            raise
        except Exception:
            outcome = "bug"
            raise
        finally:
            if outcome == "hung_up":
                outcome = self._left(exchange)
            self._close(account, account.done(exchange.dialect.name, outcome))
            self._spending.count(exchange.request.headers.get(wire.KEY_NAME), account.usage)

    async def _read(self, request: Request, dialect: Dialect) -> Ask:
        """The body as an ask, the model by its id. Gateways send ids."""
        body = request.body
        if len(body) > BIG_BODY:
            ask = await trio.to_thread.run_sync(dialect.read, body, abandon_on_cancel=True)
        else:
            ask = dialect.read(body)
        if not _routed(request):
            return self._residents.named(ask)
        said = request.headers.get(wire.SAMPLING)
        return ask if said is None else replace(ask, sampling=ask.sampling.over(sampling_from_text(said)))

    async def _stream(self, exchange: Exchange) -> None:
        ask, account = exchange.ask, exchange.account
        stream = open_stream(exchange.reply, exchange.dialect.wire, headers=self._headers(ask))
        stream.announce(trailers=(wire.USAGE,))
        if exchange.progress is not None:
            stream.murmur(exchange.progress.news, EVERY_S)
        async with stream:
            async with self._seated(exchange) as generation:
                narration = exchange.narration(stream)
                while not generation.finished:
                    await generation.flow(narration.tell)
                    await stream.settle()
                account.told = True
            await stream.finish(trailers=[(wire.USAGE, wire.render_usage(account.usage))])

    async def _whole(self, exchange: Exchange) -> None:
        said: list[Event] = []

        def hear(events: Sequence[Event]) -> bool:
            exchange.account.hear(events)
            said.extend(events)
            return True

        async with self._seated(exchange) as generation:
            await generation.flow(hear)
        envelope, whole = exchange.envelope(), exchange.dialect.whole
        if exchange.ask.embed is None:
            body = whole(envelope, said)
        else:  # some million numbers may have to be written
            body = await trio.to_thread.run_sync(whole, envelope, said, abandon_on_cancel=True)
        await exchange.reply.whole(200, body, self._headers(exchange.ask))

    @asynccontextmanager
    async def _seated(self, exchange: Exchange) -> AsyncIterator[Generation | Vectors]:
        """A seat, and the generation that sits there."""
        account = exchange.account
        async with AsyncExitStack() as stack:
            want = await self._want(exchange)
            with self._metrics.waiting(account.label):
                ticket = await stack.enter_async_context(self._dispatch.seat(want, exchange.waits))
            account.seated, account.cold = trio.current_time(), ticket.route == "cold"
            async with self._residents.generate(exchange.ask, exchange.request.id) as generation:
                try:
                    yield generation
                finally:
                    account.usage = generation.usage

    async def _want(self, exchange: Exchange) -> Want:
        ask = exchange.ask
        routed = _routed(exchange.request)
        if routed:
            self._refuse_stale_route(ask.model)
        spec = await self._residents.spec(ask.model)
        if spec is None:
            raise unknown(ask.model, list(self._residents.found.known()))
        want = await self._residents.want(spec, ask)
        return on_behalf(want, exchange.request.headers) if routed else want

    def _refuse_stale_route(self, model: str) -> None:
        """A gateway's request is for what is here: it loads, and chooses, by itself."""
        holders = self._dispatch.ledger.holders(model)
        if any(resident.servable for _, resident in holders):
            return
        state = next((resident.fault or f"it is {resident.phase}" for _, resident in holders), "not resident")
        raise NotHereNow(f"Model '{model}' cannot be served by neuron '{self._name}' now: {state}")

    def _left(self, exchange: Exchange) -> Outcome:
        """How a request came to its end that was cancelled."""
        if exchange.reply.done or exchange.account.told:  # the client has all of it, and was quick to leave
            return "ok"
        if not exchange.reply.lost:
            return "cut"
        loading = exchange.ask.model in self._dispatch.ledger.loads
        self._metrics.client_left(exchange.account.phase(stalled=exchange.reply.stalled, loading=loading))
        return "hung_up"

    def _close(self, account: Account, done: Done) -> None:
        self._metrics.request_done(done)
        account.tell(done)

    def _note(self, account: Account, error: CortexError) -> None:
        """A failure as the books and the log have it."""
        account.code = error.code
        if account.seated is None:
            self._metrics.rejected(error)
            model = account.label if self._residents.living(account.label) else ""
            by_code = self.rejected.setdefault(model, {})
            by_code[error.code] = by_code.get(error.code, 0) + 1
        if error.blame == "caller":
            # Its message may quote the body, as may what follows the field's own name.
            field = (error.param or "-").partition(".")[0]
            log.debug("request.refused model=%s code=%s param=%s", account.label, error.code, field)
            return
        # Refusals come in floods, and the metrics count them; what an engine did is news.
        level = logging.WARNING if error.blame == "engine" else logging.DEBUG
        log.log(
            level,
            "request.failed model=%s code=%s cause=%s",
            account.label,
            error.code,
            error.message,
        )

    def _headers(self, ask: Ask) -> tuple[tuple[str, str], ...]:
        return ((wire.NEURON, self._name), (wire.MODEL, ask.model))


def _routed(request: Request) -> bool:
    """Whether a gateway sent it here."""
    return request.headers.get(wire.ROUTE) is not None
