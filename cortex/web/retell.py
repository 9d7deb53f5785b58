"""A neuron's stream in OpenAI's chat, told to a client in another dialect.

For neurons that speak nothing else. The neuron is asked for a stream in any case, which keeps
its signs of life coming; a client that asked for a whole answer gets it at the end. The same
limits hold as where bytes are passed on untouched, and the same errors are raised.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cortex.ask import Ask
from cortex.config.limits import Limits
from cortex.errors import UpstreamFailed
from cortex.translator.dialects import CHAT, Dialect
from cortex.translator.openai_errors import renamed
from cortex.translator.openai_manners import CORTEX
from cortex.translator.openai_write import write
from cortex.translator.retold import Retold
from cortex.web.answer import Answer
from cortex.web.joining import Joined, Outlet
from cortex.web.meter import Meter
from cortex.web.reactor import Reactor
from cortex.web.refusal import refusal
from cortex.web.relay import Destination, Pairs, refuse_odd, request_head
from cortex.web.streaming import beat
from cortex.web.teller import Teller
from cortex.wire.openai import Reply as Envelope

_JSON: Final = {"content-type": "application/json"}


def retold_head(length: int, to: Destination, own: Mapping[str, str]) -> bytes:
    """The head of a retold request of `length` bytes, with those headers of the gateway's own. What the
    client says of its dialect and of the form of the answer is not of the retold."""
    return request_head("POST", CHAT.path, b"", length, to=to, own={**own, **_JSON})


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
        """What the neuron gets, with those headers of the gateway's own."""
        return retold_head(len(self.body), to, own) + self.body

    async def tell(
        self,
        answer: Answer,
        reply: Outlet,
        reactor: Reactor | None,
        *,
        meter: Meter,
        limits: Limits,
        extra_headers: Pairs = (),
    ) -> None:
        """The client has the whole answer in its own dialect, and `meter` its figures. Raises as
        `forward` does. Cancelled, the answer is left where it stands."""
        refuse_odd(answer)
        if answer.status != 200:
            raise renamed(await refusal(answer, limits), self.ask.shape)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            raise UpstreamFailed("The neuron's answer has a form that does not fit the request.")
        joined, framing = Joined(reply), reply.framing
        teller = Teller(joined, framing, answer.link, self.begin(), limits=limits, now=answer.asked_at)
        teller.meter, teller.extra = meter, extra_headers
        await joined.run(teller, answer, reactor)

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
