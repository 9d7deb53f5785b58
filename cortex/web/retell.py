"""A neuron's stream in OpenAI's chat, told to a client in another dialect.

For neurons that speak nothing else. The neuron is asked for a stream in any case, which keeps
its signs of life coming; a client that asked for a whole answer gets it at the end. The same
limits hold as where bytes are passed on untouched, and the same errors are raised.
"""

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.ask import Ask
from cortex.config.limits import Limits
from cortex.errors import TooSlow, UpstreamFailed
from cortex.translator.dialects import CHAT, Dialect
from cortex.translator.openai_errors import renamed
from cortex.translator.openai_manners import CORTEX
from cortex.translator.openai_write import write
from cortex.translator.retold import Retold
from cortex.web.answer import Answer
from cortex.web.meter import Meter
from cortex.web.refusal import refusal
from cortex.web.relay import Destination, Pairs, Reply, next_piece, refuse_odd, request_bytes
from cortex.web.streaming import beat
from cortex.wire.openai import Reply as Envelope

_JSON: Final = {"content-type": "application/json"}


@dataclass(slots=True)
class Retelling:
    """One request of `dialect`, read as `ask`. `body` is what the neuron is asked; with pictures it can
    be long, and is made where this is. Raises Unsupported for what that dialect cannot say."""

    dialect: Dialect
    ask: Ask
    request_id: str
    body: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.body = write(self.ask, self.ask.model, CORTEX)

    def request(self, to: Destination, own: Mapping[str, str]) -> bytes:
        """What the neuron gets, with those headers of the gateway's own. What the client says of its dialect
        and of the form of the answer is not of the retold."""
        return request_bytes("POST", CHAT.path, (), self.body, to=to, own={**own, **_JSON})

    async def tell(
        self, answer: Answer, reply: Reply, *, meter: Meter, limits: Limits, extra_headers: Pairs = ()
    ) -> None:
        """The client has the whole answer in its own dialect, and `meter` its figures. Raises as
        `relay.forward` does. Cancelled, the answer is left where it stands."""
        refuse_odd(answer)
        if answer.status != 200:
            raise renamed(await refusal(answer, limits), self.ask.shape)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise UpstreamFailed("The neuron's answer has a form that does not fit the request.")
        if self.ask.stream and not reply.started:
            await reply.start(200, tuple(extra_headers), "text/event-stream")
        told = self.begin()
        await self._listen(answer, reply, told, meter, limits)
        meter.ended(answer.trailers, failed=False)
        if self.ask.stream:
            await reply.end()
        else:
            body = told.answer()
            meter.bytes = len(body)
            await reply.whole(200, body, tuple(extra_headers))

    def begin(self) -> Retold:
        """The answer, of which nothing has come."""
        envelope = Envelope.to(
            self.ask,
            id=self.dialect.prefix + secrets.token_hex(12),
            created=int(time.time()),
            request_id=self.request_id,
        )
        return Retold(
            self.dialect,
            self.ask,
            envelope,
            beat=beat(self.dialect.wire),
            new_id=lambda: f"call_{secrets.token_hex(12)}",
        )

    async def _listen(self, answer: Answer, reply: Reply, told: Retold, meter: Meter, limits: Limits) -> None:
        """Every event of the neuron, to its own end mark: the limits are those of the relay."""
        await _pass(told, reply, meter, trio.current_time())
        late_at = answer.asked_at + limits.first_token_s
        while not told.ended:
            data = await next_piece(answer, late_at, begun=told.begun)
            came_at = trio.current_time()
            if data:
                told.feed(data)
            else:
                told.close()
            await _pass(told, reply, meter, came_at)
            # Whoever waits for a whole answer waits for as long as the neuron shows that it lives.
            if told.stirred and (told.begun or not self.ask.stream):
                late_at = trio.current_time() + limits.upstream_stall_s
            else:
                late_at += trio.current_time() - came_at  # a slow client is not the neuron's delay
        meter.told(told.usage)
        meter.ended({}, failed=False)
        await _to_trailers(answer, limits)


async def _pass(told: Retold, reply: Reply, meter: Meter, now: float) -> None:
    """What was told last is with the client. Raises what is wrong behind it."""
    if told.spoken:
        meter.began(now)
    if said := told.take():
        await reply.write(said)
        meter.bytes += len(said)
        meter.passed(said, now)
    if told.fault is not None:
        raise told.fault


async def _to_trailers(answer: Answer, limits: Limits) -> None:
    """What follows the end mark is of no use but for its trailers, and cuts nothing."""
    with suppress(UpstreamFailed, TooSlow):
        late_at = trio.current_time() + limits.upstream_stall_s
        while await next_piece(answer, late_at, begun=True, told=True):
            pass
