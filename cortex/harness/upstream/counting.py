"""The tokens of a chat, told by the engine that would be charged for it.

vLLM and cortex render and tokenise a chat at /tokenize, beside their /v1, without computing anything;
the body is that of the request itself. Others have no such route, or one that knows no chats.
"""

import time
from dataclasses import replace
from typing import Final

import msgspec

from cortex.ask import Ask
from cortex.errors import Unsupported, UpstreamFailed
from cortex.harness.upstream.exchange import Endpoint, Exchange
from cortex.translator import openai_errors
from cortex.translator.openai_manners import CORTEX, VLLM, Manner
from cortex.translator.openai_write import write
from cortex.wire.openai_heard import decode

ROUTE: Final = "/tokenize"
_ABLE: Final = frozenset({CORTEX.kind, VLLM.kind})
# Ids of the longest context of today, as JSON.
MOST_BYTES: Final = 32 * 2**20
COUNT_S: Final = 30.0


class _Tokens(msgspec.Struct, frozen=True):
    tokens: list[int]


_TOKENS: Final = msgspec.json.Decoder(_Tokens)


def tokens(exchange: Exchange, ask: Ask, name: str, manner: Manner) -> tuple[int, ...]:
    """The ids of the prompt of `ask` for the model called `name` there; the exchange is with `beside`.
    Blocking, COUNT_S at most. Raises CortexError."""
    if manner.kind not in _ABLE:
        raise _unable(ask, manner)
    # What a request has a field for, this route takes for the template alone.
    body = write(ask, name, replace(manner, flat_effort=False))
    until = time.monotonic() + COUNT_S
    try:
        status = exchange.ask("POST", ROUTE, body, until, accept="application/json")
        said = exchange.whole(MOST_BYTES, until)
    finally:
        exchange.close()
    if status in (404, 405):
        raise _unable(ask, manner)
    if status != 200:
        raise openai_errors.refused(status, exchange.headers, said)
    found = decode(said, _TOKENS)
    if found is None:
        raise UpstreamFailed(f"The upstream's answer to POST {ROUTE} holds no tokens")
    return tuple(found.tokens)


def beside(endpoint: Endpoint) -> Endpoint:
    """Where an engine has what is not of the vendor's API."""
    return replace(endpoint, url=endpoint.url.rstrip("/").removesuffix("/v1"))


def _unable(ask: Ask, manner: Manner) -> Unsupported:
    return Unsupported(
        f"Model '{ask.model}' is an upstream's, which speaks as {manner.kind} does and does not tell the "
        f"tokens of a chat at {ROUTE}; ask the upstream in its own way, or send the request itself",
        param="model",
    )
