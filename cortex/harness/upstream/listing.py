"""What an upstream has: its GET /v1/models, as values."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cortex.errors import UpstreamFailed
from cortex.harness.upstream.exchange import Endpoint, Exchange
from cortex.translator import openai_errors
from cortex.wire.openai_heard import MODELS, decode

MOST_BYTES: Final = 8 * 2**20
LIST_S: Final = 5.0  # engines answer this from memory, also at full load


@dataclass(frozen=True, slots=True)
class Told:
    """One model there. `context` is what it is served with, `trained` what it could have; 0 when
    that is not said. `owner` is what tells its kind. `sees`: it is said to read pictures. `able` is what else
    it is said to do."""

    name: str
    context: int = 0
    trained: int = 0
    owner: str = ""
    sees: bool = False
    able: frozenset[str] = frozenset()


def listed(exchange: Exchange) -> Mapping[str, Told]:
    """The models of an upstream by name. Blocking, LIST_S at most. Raises CortexError."""
    until = time.monotonic() + LIST_S
    try:
        status = exchange.ask("GET", "/models", None, until, accept="application/json")
        body = exchange.whole(MOST_BYTES, until)
    finally:
        exchange.close()
    if status != 200:
        raise openai_errors.refused(status, exchange.headers, body)
    found = decode(body, MODELS)
    if found is None:
        raise UpstreamFailed("The answer to GET /models is no list of models; does the address end in /v1?")
    return {
        model.id: Told(
            model.id, model.context or 0, model.trained or 0, model.owned_by or "", model.sees, model.able
        )
        for model in found.data
    }


def listed_by(endpoint: Endpoint, connect_s: float) -> Mapping[str, Told]:
    """The same over a connection of its own."""
    return listed(Exchange(endpoint, connect_s))
