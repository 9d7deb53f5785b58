"""What goes on between client and neuron beside the bodies: heads, and what a silence or an end means.

Owns which headers go on in either direction. Connections are the pool's, framing towards the client is
the reply's, the bodies are `errand`'s and `forwarding`'s, trying another neuron is the gateway's.
"""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, TypeAlias

from cortex.errors import UpstreamFailed
from cortex.web.answer import Answer
from cortex.wire import neuron

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


def refuse_odd(answer: Answer) -> None:
    """Raises UpstreamFailed for a head that no neuron has a reason for."""
    if 300 <= answer.status < 400:
        raise UpstreamFailed(
            "The neuron redirected the request; cortex follows no redirects.", reason="redirect"
        )
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamFailed("The neuron encoded its answer although it was asked not to.", reason="encoding")


def returned(headers: Mapping[str, str], extra: Pairs) -> list[tuple[str, str]]:
    """What of a neuron's `headers` goes on to the client, and `extra`, which wins."""
    kept = {
        name: value
        for name, value in headers.items()
        if name in _RETURNED or (name.startswith(_OURS) and name not in _INTERNAL)
    }
    kept.update((name.lower(), value) for name, value in extra)
    return list(kept.items())
