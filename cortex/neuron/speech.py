"""The inference routes of a neuron: a body in one dialect, answered by a resident.

The request is read, seated, rendered, generated and spoken here, in that order. The seat
is held until the engine has let go. Errors are raised; the door tells the client.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace

import trio

from cortex.ask import Ask
from cortex.catalogue import unknown
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, NotHereNow, Stopping
from cortex.events import Event, Prefilled, Stopped, Text, Thought, ToolCall, Usage
from cortex.ledger import Want
from cortex.metrics import Dialect as DialectName
from cortex.metrics import Done, Metrics, Outcome
from cortex.neuron.residents import Residents
from cortex.translator import openai_chat, openai_text
from cortex.web.connection import Reply, Request
from cortex.web.site import Route
from cortex.web.streaming import open_stream
from cortex.wire import neuron as wire
from cortex.wire.openai import Reply as Envelope
from cortex.wire.sse import Frame


@dataclass(frozen=True, slots=True)
class Dialect:
    """One dialect of the shared translator, as the routes need it."""

    name: DialectName
    prefix: str
    read: Callable[[bytes], Ask]
    speak: Callable[[Envelope], Generator[list[Frame], Event, None]]
    whole: Callable[[Envelope, Iterable[Event]], bytes]


CHAT = Dialect("openai_chat", "chatcmpl-", openai_chat.read, openai_chat.speak, openai_chat.whole)
TEXT = Dialect("openai_text", "cmpl-", openai_text.read, openai_text.speak, openai_text.whole)


@dataclass(slots=True)
class Account:
    """What one request has used so far, for metrics and the usage trailer."""

    arrived: float
    label: str
    neuron: str
    seated: float | None = None
    first: float | None = None
    usage: Usage = Usage()

    def hear(self, events: Iterable[Event]) -> None:
        """Take note of `events`."""
        for event in events:
            if isinstance(event, Prefilled):
                self.usage = replace(self.usage, prompt=event.prompt_tokens, cached=event.cached_tokens)
            elif isinstance(event, Text | Thought | ToolCall) and self.first is None:
                self.first = trio.current_time()
            elif isinstance(event, Stopped):
                self.usage = Usage(
                    event.usage.prompt or self.usage.prompt,
                    event.usage.cached or self.usage.cached,
                    self.usage.completion + event.usage.completion,
                    self.usage.reasoning + event.usage.reasoning,
                )

    def rates(self, before: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        """`before`, with this request's prefill and decode speed taken into the mean."""
        if self.first is None or self.seated is None:
            return before
        computed = self.usage.prompt - self.usage.cached
        return (
            _mean(before[0], computed, self.first - self.seated),
            _mean(before[1], self.usage.completion - 1, trio.current_time() - self.first),
        )

    def done(self, dialect: DialectName, outcome: Outcome) -> Done:
        """The entry in the books."""
        return Done(
            model=self.label,
            dialect=dialect,
            outcome=outcome,
            duration_s=trio.current_time() - self.arrived,
            neuron=self.neuron,
            ttft_s=None if self.first is None else self.first - self.arrived,
            queue_s=None if self.seated is None else self.seated - self.arrived,
            usage=self.usage,
        )


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way through, with the account that is kept of it."""

    ask: Ask
    dialect: Dialect
    request: Request
    reply: Reply
    account: Account

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

    def __init__(self, name: str, residents: Residents, dispatch: Dispatch, metrics: Metrics) -> None:
        self._name, self._residents, self._dispatch, self._metrics = name, residents, dispatch, metrics
        self.stopping = False
        self.rejected: dict[str, dict[str, int]] = {}
        self._rates: dict[str, tuple[float | None, float | None]] = {}

    def rates(self, model: str) -> tuple[float | None, float | None]:
        """Tokens a second of one request, prefill and decode: recent means, None before any."""
        return self._rates.get(model, (None, None))

    def routes(self) -> dict[str, Route]:
        """The inference routes by path."""
        made = (Route("/v1/chat/completions", self.chat), Route("/v1/completions", self.text))
        return {route.path: route for route in made}

    async def chat(self, request: Request, reply: Reply) -> None:
        """POST /v1/chat/completions."""
        await self._answer(request, reply, CHAT)

    async def text(self, request: Request, reply: Reply) -> None:
        """POST /v1/completions."""
        await self._answer(request, reply, TEXT)

    async def _answer(self, request: Request, reply: Reply, dialect: Dialect) -> None:
        ask = dialect.read(request.body)
        ask = replace(ask, model=self._residents.found.resolve(ask.model))
        account = Account(request.arrived, self._metrics.request_began(ask.model), self._name)
        exchange = Exchange(ask, dialect, request, reply, account)
        outcome: Outcome = "hung_up"
        try:
            await (self._stream(exchange) if ask.stream else self._whole(exchange))
            outcome = "ok"
            self._rates[ask.model] = account.rates(self.rates(ask.model))
        except CortexError as error:
            outcome = error.blame
            if account.seated is None:
                self._reject(ask.model, error)
            raise
        except Exception:
            outcome = "bug"
            raise
        finally:
            self._metrics.request_done(account.done(dialect.name, outcome))

    async def _stream(self, exchange: Exchange) -> None:
        ask, account = exchange.ask, exchange.account
        async with open_stream(exchange.reply, "openai", headers=self._headers(ask)) as stream:
            stream.announce(trailers=(wire.USAGE,))
            async with self._dispatch.seat(await self._want(exchange)):
                account.seated = trio.current_time()
                async with self._residents.generate(ask, exchange.request.id) as generation:
                    machine = exchange.dialect.speak(exchange.envelope())
                    # Held back until there is something to open for: a prompt that does not
                    # fit still gets its status.
                    opening = next(machine)
                    while not generation.finished:
                        events = await generation.take()
                        account.hear(events)
                        frames = [frame for event in events for frame in machine.send(event)]
                        if frames:
                            await stream.send(*opening, *frames)
                            opening = []
            await stream.finish(trailers=[(wire.USAGE, wire.render_usage(account.usage))])

    async def _whole(self, exchange: Exchange) -> None:
        said: list[Event] = []
        ask, account = exchange.ask, exchange.account
        async with self._dispatch.seat(await self._want(exchange)):
            account.seated = trio.current_time()
            async with self._residents.generate(ask, exchange.request.id) as generation:
                while not generation.finished:
                    events = await generation.take()
                    account.hear(events)
                    said.extend(events)
        body = exchange.dialect.whole(exchange.envelope(), said)
        await exchange.reply.whole(200, body, self._headers(ask))

    async def _want(self, exchange: Exchange) -> Want:
        ask, found = exchange.ask, self._residents.found
        if self.stopping:
            raise Stopping("This neuron is shutting down; try another in a moment")
        routed = exchange.request.headers.get(wire.ROUTE) is not None
        living = self._residents.living(ask.model)
        # A model that a gateway brought need not be in the neuron's own catalogue.
        spec = living.spec if living is not None else found.spec(ask.model)
        if living is None and routed:
            raise NotHereNow(f"Model '{ask.model}' is not resident on neuron '{self._name}'")
        if spec is None:
            raise unknown(ask.model, list(found.known()))
        return replace(await self._residents.want(spec), weight=ask.n, may_load=not routed)

    def _reject(self, model: str, error: CortexError) -> None:
        self._metrics.rejected(error)
        by_code = self.rejected.setdefault(model if self._residents.living(model) else "", {})
        by_code[error.code] = by_code.get(error.code, 0) + 1

    def _headers(self, ask: Ask) -> tuple[tuple[str, str], ...]:
        return ((wire.NEURON, self._name), (wire.MODEL, ask.model))


def _mean(before: float | None, count: int, seconds: float) -> float | None:
    # A fifth of the newest: steady within some ten requests, and quick to follow a new load.
    if count < 1 or seconds <= 0:
        return before
    return count / seconds if before is None else 0.8 * before + 0.2 * count / seconds
