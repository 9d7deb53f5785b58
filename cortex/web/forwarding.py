"""A neuron's answer goes on to the client that a task serves, byte for byte.

An event stream is complete only with its dialect's end mark, and what is missing is raised behind every
whole event that came, so that the reply can end with an error event. A whole answer is proven whole
before a byte of it goes on. Headers are the relay's, the stream itself is an errand's.
"""

from typing import Protocol

from cortex.config.limits import Limits
from cortex.errors import UpstreamFailed
from cortex.web.answer import Answer
from cortex.web.errand import Errand
from cortex.web.framing import JSON, Pairs
from cortex.web.joining import Joined, Outlet
from cortex.web.meter import Meter
from cortex.web.reactor import Reactor
from cortex.web.refusal import OWN_FAULT, is_json, read_whole, refusal
from cortex.web.relay import refuse_odd, returned


class Reply(Outlet, Protocol):
    """The client's side, as `web.connection` has it."""

    @property
    def started(self) -> bool: ...

    async def whole(
        self, status: int, body: bytes, headers: Pairs = ..., content_type: str = ...
    ) -> None: ...


async def forward(
    answer: Answer,
    reply: Reply,
    reactor: Reactor | None,
    *,
    meter: Meter,
    limits: Limits,
    extra_headers: Pairs = (),
) -> None:
    """The client has the neuron's whole answer, byte for byte, and `meter` its figures.

    Raises UpstreamFailed or TooSlow when there is no whole answer; its whole events have been
    passed on then, and the event that tells so may follow. A refusal is raised
    too when the reply has begun, or when it is the gateway's own fault. Cancelled, the
    answer is left where it stands.
    """
    refuse_odd(answer)
    if answer.status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
        joined = Joined(reply)
        errand = Errand(joined, reply.framing, answer.link, limits=limits, now=answer.asked_at)
        errand.meter, errand.extra = meter, extra_headers
        await joined.run(errand, answer, reactor)
    else:
        await _pass_whole(answer, reply, meter, limits, returned(answer.headers, extra_headers))


async def _pass_whole(
    answer: Answer, reply: Reply, meter: Meter, limits: Limits, headers: list[tuple[str, str]]
) -> None:
    status = answer.status
    if status >= 400 and (reply.started or status in OWN_FAULT or not is_json(answer)):
        raise await refusal(answer, limits)
    if reply.started or not is_json(answer):
        raise UpstreamFailed("The neuron's answer has a form that does not fit the request.")
    body = await read_whole(answer, limits.body, limits.upstream_stall_s)
    meter.read_whole(status, body)
    await reply.whole(status, body, headers, answer.headers.get("content-type", JSON))
    meter.bytes, meter.complete = len(body), True
