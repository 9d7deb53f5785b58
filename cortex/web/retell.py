"""A neuron's stream in OpenAI's chat, told to a client in another dialect.

For neurons that speak nothing else. The neuron is asked for a stream in any case, which keeps
its signs of life coming; a client that asked for a whole answer gets it at the end. The same
limits hold as where bytes are passed on untouched, and the same errors are raised.
"""

import secrets
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.ask import Ask
from cortex.config.limits import Limits
from cortex.errors import TooSlow, UpstreamFailed
from cortex.events import Event, Failed, Prefilled, Started, Stopped
from cortex.translator.dialects import CHAT, Dialect
from cortex.translator.openai_errors import renamed
from cortex.translator.openai_hear import Hearing, Machine, hear
from cortex.translator.openai_manners import CORTEX
from cortex.translator.openai_write import write
from cortex.web.answer import Answer
from cortex.web.meter import Meter
from cortex.web.refusal import refusal
from cortex.web.relay import Pairs, Reply, next_piece, refuse_odd
from cortex.web.streaming import beat
from cortex.wire import refusals, sse
from cortex.wire.openai import Reply as Envelope
from cortex.wire.sse import Frame
from cortex.wire.sse_reading import EventReader

__all__ = ["PATH", "Retelling"]

# Where neurons are asked.
PATH: Final = CHAT.path


@dataclass(slots=True)
class Retelling:
    """One request of `dialect`, read as `ask`. `body` is what the neuron is asked; with pictures it can
    be long, and is made where this is. Raises Unsupported for what that dialect cannot say."""

    dialect: Dialect
    ask: Ask
    request_id: str
    body: bytes = field(init=False)
    _said: list[Event] = field(default_factory=list)
    _speaking: Generator[list[Frame], Event, None] | None = None

    def __post_init__(self) -> None:
        self.body = write(self.ask, self.ask.model, CORTEX)

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
        await self._listen(answer, reply, meter, limits)
        meter.ended(answer.trailers, failed=False)
        if self.ask.stream:
            await reply.end()
        else:
            body = self.dialect.whole(self._envelope(), self._said)
            meter.bytes = len(body)
            await reply.whole(200, body, tuple(extra_headers))

    async def _listen(self, answer: Answer, reply: Reply, meter: Meter, limits: Limits) -> None:
        """Every event of the neuron, to its own end mark: the limits are those of the relay."""
        machine = hear(
            Hearing(
                logprobs=self.ask.logprobs,
                parallel=self.ask.parallel_tool_calls,
                prompt_bytes=0,
                new_id=lambda: f"call_{secrets.token_hex(12)}",
            )
        )
        await self._tell(next(machine), reply, meter)
        reader, begun = EventReader(), False
        late_at = answer.asked_at + limits.first_token_s
        while data := await next_piece(answer, late_at, begun=begun):
            came_at = trio.current_time()
            events = reader.feed(data)
            for event in events:
                if not event:
                    await self._breathe(reply)
                    continue
                begun = True
                if await self._hear(machine, event, reply, meter):
                    meter.ended({}, failed=False)
                    await self._to_trailers(answer, limits)
                    return
            # Whoever waits for a whole answer waits for as long as the neuron shows that it lives.
            if events and (begun or not self.ask.stream):
                late_at = trio.current_time() + limits.upstream_stall_s
            else:
                late_at += trio.current_time() - came_at  # a slow client is not the neuron's delay
        await self._hear(machine, None, reply, meter)

    async def _to_trailers(self, answer: Answer, limits: Limits) -> None:
        """What follows the end mark is of no use but for its trailers, and cuts nothing."""
        with suppress(UpstreamFailed, TooSlow):
            late_at = trio.current_time() + limits.upstream_stall_s
            while await next_piece(answer, late_at, begun=True, told=True):
                pass

    async def _hear(self, machine: Machine, event: bytes | None, reply: Reply, meter: Meter) -> bool:
        """Whether the answer has come to its good end. A bad one is raised, in the neuron's own words."""
        if event is not None and (error := refusals.in_stream(event)) is not None:
            raise error
        said = machine.send(event)
        await self._tell(said, reply, meter)
        return bool(said) and isinstance(said[-1], Stopped)

    async def _tell(self, events: list[Event], reply: Reply, meter: Meter) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Stopped):
                meter.told(event.usage)
        if not self.ask.stream:
            self._said += events
            if any(not isinstance(event, Started | Prefilled | Stopped) for event in events):
                meter.began(trio.current_time())
            return
        frames: list[Frame] = []
        if self._speaking is None:
            self._speaking = self.dialect.speak(self._envelope())
            frames += next(self._speaking)
        for event in events:
            frames += self._speaking.send(event)
        if frames:
            data = sse.render(*frames)
            await reply.write(data)
            meter.bytes += len(data)
            meter.passed(data, trio.current_time())

    async def _breathe(self, reply: Reply) -> None:
        """The neuron lives, and so the client hears a sign of life of its own dialect."""
        if self.ask.stream:
            await reply.write(beat(self.dialect.wire))

    def _envelope(self) -> Envelope:
        return Envelope.to(
            self.ask,
            id=self.dialect.prefix + secrets.token_hex(12),
            created=int(time.time()),
            request_id=self.request_id,
        )
