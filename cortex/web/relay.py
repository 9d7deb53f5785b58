"""Bytes from a neuron to a client, untouched.

Owns which headers go on in either direction, and the rule that an event stream is complete
only with its dialect's end mark. What is missing is raised, after every whole event that came
has been passed on, so that the reply can end with an error event. Connections
are the pool's, framing towards the client is the reply's, trying another neuron is the gateway's.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import trio

from cortex.config.limits import Limits
from cortex.errors import TooSlow, UpstreamFailed
from cortex.web.answer import Answer
from cortex.web.meter import Meter
from cortex.web.refusal import OWN_FAULT, is_json, read_whole, refusal
from cortex.web.tail import TOO_BIG, EventTail
from cortex.wire import neuron

__all__ = [
    "Destination",
    "Meter",
    "Reply",
    "forward",
    "next_piece",
    "refusal",
    "refuse_odd",
    "request_bytes",
]

Pairs: TypeAlias = Iterable[tuple[str, str]]

_FORWARDED: Final = frozenset(
    {"content-type", "accept", "anthropic-version", "anthropic-beta", "x-request-id"}
)
_RETURNED: Final = frozenset({"cache-control", "retry-after", "x-should-retry"})
_OURS: Final = "x-cortex-"
# From the end mark to what a neuron says behind it, when nobody waits for that any more.
LAST_S: Final = 0.5
# What a neuron said of its own line would pass for its first words.
_DONE_HERE: Final = frozenset({neuron.PROGRESS})
SILENT: Final = "The neuron has stopped talking. The answer is not complete; try again."
NO_END: Final = "The neuron's stream ended without its end mark: the answer is not complete."
# Between gateway and neuron alone: never from a client, never to one.
_INTERNAL: Final = frozenset(
    {
        neuron.ROUTE,
        neuron.NOT_STARTED,
        neuron.KEY_NAME,
        neuron.KEY_SHARE,
        neuron.PATIENCE,
        neuron.USAGE,
        neuron.SAMPLING,
        neuron.SPEC,
    }
)


_KEPT_BACK: Final = _INTERNAL | _DONE_HERE
# Line ends are counted.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]|\r(?!\n)|(?<!\r)\n")


class Reply(Protocol):
    """The client's side, as `web.connection` has it."""

    @property
    def started(self) -> bool: ...

    async def start(self, status: int = ..., headers: Pairs = ..., content_type: str = ...) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self) -> None: ...

    async def whole(
        self, status: int, body: bytes, headers: Pairs = ..., content_type: str = ...
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Destination:
    """A neuron as a request names it: `host` as in Host, `token` of the fleet."""

    host: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Destination({self.host!r})"  # a token is never shown


def request_bytes(
    method: str, target: str, headers: Pairs, body: bytes, *, to: Destination, own: Mapping[str, str]
) -> bytes:
    """The request as the neuron gets it: `body` verbatim, and of the client's `headers` only
    those that concern the engine. `own` are the gateway's, and stand against a client's of
    the same name. Credentials of the client never go on; the fleet's token does.
    """
    own = {name.lower(): value for name, value in own.items()}
    taken = forwarded(headers, own.keys())
    return request_head(method, target, taken, len(body), to=to, own=own) + body


def forwarded(headers: Pairs, but: AbstractSet[str] = frozenset()) -> bytes:
    """Those lines of a client's `headers` that go on to a neuron, without those `but` for which somebody
    else has a word."""
    fields: dict[str, str] = {}
    for name, value in headers:
        key = name.lower()
        if key not in but and (key in _FORWARDED or (key.startswith(_OURS) and key not in _KEPT_BACK)):
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return _lines(fields)


def request_head(
    method: str, target: str, taken: bytes, length: int, *, to: Destination, own: Mapping[str, str]
) -> bytes:
    """The head of a request of `length` bytes, with lines of the client's that were `taken`."""
    fields = {"host": to.host, "accept-encoding": "identity", "content-length": str(length)}
    if to.token is not None:
        fields["authorization"] = f"Bearer {to.token}"
    fields.update(own)
    first = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    return b"".join((first, _lines(fields), taken, b"\r\n"))


def _lines(fields: Mapping[str, str]) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if _CONTROL.search(text) is not None or text.count("\n") != len(fields):
        raise ValueError("a header of the request to the neuron holds a control character")
    return text.encode("latin-1")


async def forward(
    answer: Answer, reply: Reply, *, meter: Meter, limits: Limits, extra_headers: Pairs = ()
) -> None:
    """The client has the neuron's whole answer, byte for byte, and `meter` its figures.

    Raises UpstreamFailed or TooSlow when there is no whole answer; its whole events have been
    passed on then, and the event that tells so may follow. A refusal is raised
    too when the reply has begun, or when it is the gateway's own fault. Cancelled, the
    answer is left where it stands.
    """
    refuse_odd(answer)
    headers = returned(answer.headers, extra_headers)
    if answer.status == 200 and _content_type(answer).startswith("text/event-stream"):
        if not reply.started:
            # An event stream's cache-control is written by the reply itself.
            kept = [(name, value) for name, value in headers if name != "cache-control"]
            await reply.start(200, kept, _content_type(answer))
        await _pass_events(answer, reply, meter, limits)
    else:
        await _pass_whole(answer, reply, meter, limits, headers)


def refuse_odd(answer: Answer) -> None:
    """Raises UpstreamFailed for a head that no neuron has a reason for."""
    if 300 <= answer.status < 400:
        raise UpstreamFailed(
            "The neuron redirected the request; cortex follows no redirects.", reason="redirect"
        )
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamFailed("The neuron encoded its answer although it was asked not to.", reason="encoding")


async def _pass_events(answer: Answer, reply: Reply, meter: Meter, limits: Limits) -> None:
    tail = EventTail(meter.dialect)
    try:
        await _pump(answer, reply, meter, limits, tail)
    except UpstreamFailed:
        # A close that comes too early cuts nothing once the end mark was passed on.
        if not tail.ended:
            raise
    meter.ended(answer.trailers, failed=tail.failed)
    await reply.end()


async def _pump(answer: Answer, reply: Reply, meter: Meter, limits: Limits, tail: EventTail) -> None:
    """Every whole event is passed on, or an error says why not. Half an event is of no use to
    any client, and would swallow the error event that follows it.

    A neuron opens its answer once the prompt is read: until an event comes that is no keep-alive,
    the first-token limit runs, and keep-alives do not put it off. From then on every whole event
    is life, keep-alives among them, since a tool call is held back until it is whole; single
    bytes are not.
    """
    late_at = answer.asked_at + limits.first_token_s
    while data := await next_piece(answer, late_at, begun=tail.begun, told=tail.ended):
        came_at = trio.current_time()
        tail.feed(data)
        if tail.whole:
            await reply.write(tail.whole)
            meter.bytes += len(tail.whole)
            meter.passed(tail.whole, came_at)
        if tail.ended:
            meter.ended({}, failed=tail.failed)
        if tail.fault is not None:
            raise UpstreamFailed(tail.fault, reason="oversize" if tail.fault == TOO_BIG else "protocol")
        passed_at = trio.current_time()
        if tail.whole and tail.begun:
            late_at = passed_at + limits.upstream_stall_s
        else:
            late_at += passed_at - came_at  # a slow client is not the neuron's delay
    if not tail.ended:
        raise UpstreamFailed(NO_END, reason="no_end")


async def next_piece(answer: Answer, late_at: float, *, begun: bool, told: bool = False) -> bytes:
    """More of a stream's body, b"" at its end. TooSlow when none came by the trio time `late_at`. Once
    its answer was `told`, the client may be gone: what the neuron says last is heard all the same."""
    if told:
        with trio.move_on_after(LAST_S, shield=True):
            return await answer.receive()
    with trio.move_on_at(late_at):
        return await answer.receive()
    raise TooSlow(SILENT, reason="stall" if begun else "late")


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
    await reply.whole(status, body, headers, _content_type(answer))
    meter.bytes, meter.complete = len(body), True


def returned(headers: Mapping[str, str], extra: Pairs) -> list[tuple[str, str]]:
    """What of a neuron's `headers` goes on to the client, and `extra`, which wins."""
    kept = {
        name: value
        for name, value in headers.items()
        if name in _RETURNED or (name.startswith(_OURS) and name not in _INTERNAL)
    }
    kept.update((name.lower(), value) for name, value in extra)
    return list(kept.items())


def _content_type(answer: Answer) -> str:
    return answer.headers.get("content-type", "")
