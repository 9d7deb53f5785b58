"""The inference routes of a gateway: a seat at some neuron, and bytes passed through.

The body is peeked at, never rebuilt; only an alias is replaced by the model's name. A
failure that proves that nothing ran is tried once more elsewhere; a neuron that no longer
has the model is looked at again and the request placed anew. Everything else reaches the
client. Contents are never logged.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from math import inf
from typing import Final, TypeVar

import trio

from cortex.config.limits import Limits
from cortex.dispatch import Dispatch
from cortex.errors import (
    CortexError,
    NoRoom,
    NotHereNow,
    Overloaded,
    Recovering,
    Stopping,
    TooMuch,
    Unreachable,
    Unsupported,
    UpstreamFailed,
)
from cortex.gateway import sight
from cortex.gateway.bookkeeping import Bookkeeping
from cortex.gateway.counting import Counting
from cortex.gateway.express import BIG_BODY, Begun, Express, told_to
from cortex.gateway.fleet import Fleet, Neuron
from cortex.gateway.journey import Journey
from cortex.gateway.orders import Orders
from cortex.gateway.standings import explained
from cortex.gateway.views import Views
from cortex.gateway.wants import want_of
from cortex.gateway.ways import CHATS, COUNTS, VECTORS, WAYS, Way
from cortex.ledger import Want
from cortex.metrics import Metrics
from cortex.web.answer import Answer
from cortex.web.connection import Reply, Request
from cortex.web.forwarding import forward
from cortex.web.progress import EVERY_S, Progress, asked_for
from cortex.web.refusal import OWN_FAULT, refusal
from cortex.web.relay import Destination, request_bytes
from cortex.web.retell import Retelling
from cortex.web.site import Route
from cortex.web.streaming import open_stream
from cortex.wire import neuron as wire
from cortex.wire.openai import peek, rename
from cortex.wire.pictures import text_bytes

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# A look follows each refusal, so that so many in a row are a fleet in motion.
MOST_STALE: Final = 3
# What a neuron says of a count that every other one would say, too.
ANSWERED: Final = frozenset({200, 400, 413})


class Passage:
    """The handlers of the inference routes. `boot_id` marks requests as routed by us."""

    def __init__(
        self, boot_id: str, views: Views, dispatch: Dispatch, limits: Limits, metrics: Metrics
    ) -> None:
        self._views, self._dispatch = views, dispatch
        self._orders = Orders(boot_id, views.accounts, dispatch)
        self._listing, self._accounts = views.listing, views.accounts
        self._limits, self._metrics = limits, metrics
        self._books = Bookkeeping(metrics, views, dispatch)
        self.express = Express(boot_id, views, dispatch, limits, metrics)
        self.express.go_on = self.go_on
        self._counting = Counting(views.listing, metrics, self._exchange)

    @property
    def _fleet(self) -> Fleet:
        return self._listing.fleet

    def refit(self, limits: Limits) -> None:
        """Other limits, for exchanges to come."""
        self._limits = limits
        self.express.refit(limits)

    def routes(self) -> dict[str, Route]:
        """The inference routes by path. What can go by callbacks alone does."""
        return {
            way.path: Route(
                way.path,
                partial(self._pass, way),
                way.dialect.wire,
                partial(self.express.take, way) if way is not COUNTS else None,
            )
            for way in WAYS
        }

    async def go_on(self, begun: Begun, reply: Reply) -> None:
        """What callbacks have begun is brought to its end."""
        journey = begun.journey
        journey.reply = reply
        try:
            with self._books.entry(journey):
                await self._serve(journey, reply, begun)
        finally:
            begun.claim.end()

    async def _pass(self, way: Way, request: Request, reply: Reply) -> None:
        journey = Journey(way, request, reply)
        with self._books.entry(journey), ExitStack() as stack:
            await self._read(journey, stack)
            await self._serve(journey, reply)

    async def _serve(self, journey: Journey, reply: Reply, begun: Begun | None = None) -> None:
        if journey.streams:
            stream = open_stream(reply, journey.way.dialect.wire)
            if journey.progress is not None:
                stream.murmur(journey.progress.news, EVERY_S)
            async with stream as journey.stream:
                await self._travel(journey, reply, begun)
        else:
            await self._travel(journey, reply, begun)

    async def _read(self, journey: Journey, stack: ExitStack) -> None:
        """What routing needs is known, and until `stack` is left the request counts for its key,
        whatever its body holds. Whatever becomes of it, it is in the books."""
        body = journey.request.body
        try:
            limited = journey.request.caller and sight.possible(journey.way)
            journey.text_bytes = await _aside(body, text_bytes) if limited else len(body)
            claim = stack.enter_context(self._accounts.held(journey.request.caller, journey.text_bytes))
            seen = await _aside(body, peek)
            claim.expect(0 if journey.way in (COUNTS, VECTORS) else seen.answer_tokens)
            journey.read(self._views, seen)
            journey.body = body
            if seen.model != journey.model:
                journey.body = await _aside(body, lambda body: rename(body, seen.model, journey.model))
            await self._look(journey)
            if asked_for(journey.request, chat=journey.way is CHATS, streams=seen.stream):
                journey.progress = Progress(self._dispatch.ledger, journey.request.id, journey.name)
        finally:
            journey.label = self._metrics.request_began(journey.model)

    async def _look(self, journey: Journey) -> None:
        """Raises Unsupported for what the model cannot be shown. Who has it is looked at only where that
        costs less than a look at the body, or where that leaves a doubt."""
        doubtful, body = partial(sight.doubtful, journey.way), journey.body
        if not sight.possible(journey.way) or (len(body) <= BIG_BODY and not doubtful(body)):
            return
        if not self._listing.sees(journey.model) and await _aside(body, doubtful):
            ask = await _aside(body, lambda body: journey.way.read(body, journey.model))
            sight.ensure(ask, journey, self._views)

    async def _travel(self, journey: Journey, reply: Reply, begun: Begun | None) -> None:
        """Seat and pass on, until it was passed on or must not be tried again."""
        with self._discreetly(journey):
            if journey.way is COUNTS:
                await self._count(journey, reply)
                return
            error = await (self._attempt(journey, reply) if begun is None else self._resume(begun, reply))
            while error is not None:
                if isinstance(error, NotHereNow):
                    await self._unbelieve(journey)
                else:
                    self._avoid(journey, error)
                log.info("request.again neuron=%s code=%s", journey.neuron, error.code)
                self._metrics.retried(error)
                error = await self._attempt(journey, reply)

    async def _count(self, journey: Journey, reply: Reply) -> None:
        """Passed on to whoever can tell, without a seat."""
        try:
            await self._counting.travel(journey, reply)
        except NoRoom as error:
            told = self._parting(error) or self._unspoken(journey, error)
            raise error if told is None else told from error

    @contextmanager
    def _discreetly(self, journey: Journey) -> Iterator[None]:
        """What goes wrong in the block is told in the words that the client may hear."""
        try:
            yield
        except CortexError as error:
            told = self._views.discreet(journey.request.caller, journey.model, journey.name, error)
            if told is error:
                raise
            raise told from error

    async def _attempt(self, journey: Journey, reply: Reply) -> CortexError | None:
        """None when the request was answered; else how a neuron proved that nothing ran, and
        may be tried again. Raises what the client is to be told."""
        async with self._seated(journey):
            return await self._tried(journey, self._placed(journey, reply))

    async def _resume(self, begun: Begun, reply: Reply) -> CortexError | None:
        """The same, of an attempt that callbacks have made so far; its seat is given back."""
        try:
            return await self._tried(begun.journey, self._rest(begun, reply))
        finally:
            self._dispatch.leave(begun.ticket)

    async def _tried(self, journey: Journey, attempt: Awaitable[None]) -> CortexError | None:
        try:
            await attempt
        except CortexError as error:
            self._fleet.suspect(journey.neuron, error)
            if error.blame == "engine":
                self._metrics.upstream_failed(journey.neuron, error)
            if journey.answered or not error.not_started:
                raise
            self._check_again(journey, error)
            return error
        self._books.judge(journey)
        return None

    @asynccontextmanager
    async def _seated(self, journey: Journey) -> AsyncIterator[None]:
        """A seat at the journey's neuron."""
        async with AsyncExitStack() as stack:
            asked_at = trio.current_time()
            with self._metrics.waiting(journey.label):
                want: Want | None = None
                try:
                    want = self._want(journey)
                    ticket = await stack.enter_async_context(self._dispatch.seat(want, journey.waits))
                except CortexError as error:
                    told = self._parting(error) or self._unspoken(journey, error) or _refused(journey, error)
                    told = told if want is None else explained(self._dispatch.ledger, want, told)
                    raise told from (None if told is error else error)
            assert ticket.place is not None  # noqa: S101 - a seated ticket has one
            journey.neuron = journey.reply.tags[wire.NEURON] = ticket.place.name
            journey.route = ticket.route
            if ticket.waited:
                journey.elsewhere_s += trio.current_time() - asked_at
            if journey.seated is None:
                journey.seated = trio.current_time()
            yield

    def _want(self, journey: Journey) -> Want:
        caller, avoid = journey.request.caller, journey.avoid | self._fleet.tongues.mute(journey.way)
        want = want_of(self._views, journey.model, caller, affinity=journey.affinity, avoid=avoid)
        journey.reply.tags[wire.MODEL] = journey.name
        return want

    def _parting(self, error: CortexError) -> CortexError | None:
        """Where cortex goes as a whole, its neurons go with it: that is why nobody can be found."""
        if not self._fleet.stopping or error.blame == "caller":
            return None
        return Stopping("cortex is shutting down; try again in a moment")

    def _unspoken(self, journey: Journey, error: CortexError) -> CortexError | None:
        """What is wrong behind `error` when all who have the model, or nobody has and all there are,
        cannot be asked in the client's dialect."""
        if error.blame == "caller":
            return None
        mute = self._fleet.tongues.mute(journey.way)
        names = [place.name for place, _ in self._dispatch.ledger.holders(journey.model)]
        if not mute or not mute.issuperset(names or [neuron.name for neuron in self._fleet if neuron.up]):
            return None
        who = f"{', '.join(names)} has '{journey.model}' and does not speak" if names else "No neuron speaks"
        return Unsupported(
            f"{who} {journey.way.path}: ask in another dialect, or have its cortex brought up to date"
        )

    async def _rest(self, begun: Begun, reply: Reply) -> None:
        """The client has the rest of the answer that callbacks began to read."""
        pool, link, answer = begun.pool, begun.link, begun.answer
        if begun.error is not None or answer is None:
            await pool.part(link, broken=True)
            raise begun.error or UpstreamFailed("The neuron's answer was given up.")
        with begun.journey.elsewhere():
            async with pool.adopt(link, answer):
                await self._pass_on(begun.journey, reply, begun.neuron, answer, begun.retelling)

    async def _placed(self, journey: Journey, reply: Reply) -> None:
        # It may have left the fleet since its seat was given.
        await self._exchange(journey, reply, self._fleet[journey.neuron])

    async def _exchange(self, journey: Journey, reply: Reply, neuron: Neuron) -> None:
        """The client has the neuron's answer."""
        retelling = await self._retelling(journey, neuron)
        async with AsyncExitStack() as stack:
            with self._patience(journey, neuron) as first_byte_s:
                head = self._head(journey, neuron, retelling)
                exchange = neuron.pool.exchange(head, first_byte_s=first_byte_s)
                stack.enter_context(journey.elsewhere())
                answer = await stack.enter_async_context(exchange)
            await self._pass_on(journey, reply, neuron, answer, retelling)

    async def _pass_on(
        self,
        journey: Journey,
        reply: Reply,
        neuron: Neuron,
        answer: Answer,
        retelling: Retelling | None = None,
    ) -> None:
        """The client has the answer whose head has come."""
        refused = journey.way is COUNTS and answer.status not in ANSWERED
        if refused or answer.headers.get(wire.NOT_STARTED) == "1":
            journey.told = answer.status not in OWN_FAULT
            raise await refusal(answer, self._limits)
        if journey.stream is not None:
            await journey.stream.hand_over()
        extra = ((wire.NEURON, neuron.name), (wire.MODEL, journey.name))
        journey.answered = True
        tell = forward if retelling is None else retelling.tell
        reactor = neuron.pool.reactor
        await tell(answer, reply, reactor, meter=journey.meter, limits=self._limits, extra_headers=extra)

    async def _retelling(self, journey: Journey, neuron: Neuron) -> Retelling | None:
        """How the request is told to a neuron that does not speak the client's dialect."""
        if self._fleet.tongues.speaks(neuron.name, journey.way):
            return None
        model, request_id = journey.model, journey.request.id
        return await _aside(journey.body, lambda body: told_to(journey.way, body, model, request_id))

    @contextmanager
    def _patience(self, journey: Journey, neuron: Neuron) -> Iterator[float]:
        """How long the head of an answer may take. That of a whole answer comes when all of it is
        computed, which is as long as the neuron shows that it lives."""
        if journey.streams:
            yield self._limits.first_token_s
        else:
            with neuron.waits.awaited():
                yield inf

    def _head(self, journey: Journey, neuron: Neuron, retelling: Retelling | None) -> bytes:
        request = journey.request
        own = self._orders.fields(journey)
        to = Destination(neuron.pool.authority, neuron.ref.token)
        if retelling is None:
            return request_bytes("POST", request.path, request.headers, journey.body, to=to, own=own)
        return retelling.request(to, own)

    # -- trying again

    def _check_again(self, journey: Journey, error: CortexError) -> None:
        """Raises what the client is told when the request was tried often enough."""
        if isinstance(error, NotHereNow):
            journey.stale += 1
            if journey.stale >= MOST_STALE:
                raise Recovering(
                    f"Model '{journey.model}' is moving between neurons; try again in a moment"
                ) from error
        elif journey.retried:
            raise _unplaced(journey, error) from error

    async def _unbelieve(self, journey: Journey) -> None:
        """The neuron's own word says what it has of the model, if anything: it may be broken rather
        than gone, and then no second copy is wanted."""
        self._dispatch.ledger.gone(journey.neuron, journey.model)
        await self._fleet.look_again(journey.neuron)

    def _avoid(self, journey: Journey, error: CortexError) -> None:
        """The next attempt goes elsewhere. Backpressure reaches the client intact when there is no
        elsewhere."""
        journey.retried = True
        journey.avoid |= {journey.neuron}
        journey.full = error if isinstance(error, Overloaded | TooMuch) else None


async def _aside(body: bytes, look: Callable[[bytes], _T]) -> _T:
    """What `look` finds in `body`; in a thread where that is long. Cancelled, the thread is left to end."""
    if len(body) <= BIG_BODY:
        return look(body)
    return await trio.to_thread.run_sync(look, body, abandon_on_cancel=True)


def _refused(journey: Journey, error: CortexError) -> CortexError:
    """What the client is told when the ledger has no seat because of `error`."""
    if journey.full is not None:
        return journey.full
    if isinstance(error, NotHereNow):  # a neuron's word to a gateway, never one to a client
        return Recovering(f"Model '{journey.model}' lives at no neuron that can be reached; try again soon")
    return error


def _unplaced(journey: Journey, error: CortexError) -> CortexError:
    """What becomes of `error` when there is nobody left to try."""
    if isinstance(error, Unreachable):
        return NoRoom(f"No neuron that has '{journey.model}' can be reached; try again in a moment")
    return error
