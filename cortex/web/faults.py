"""Domain errors become answers: the one place, for both corridors.

Owns the status, the headers and the body of every refusal and failure, and the last
frames of a stream that fails after its head. What is not a `CortexError` is a bug:
logged here with its traceback, and told to the client as a plain 500.
"""

import logging
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

from cortex.errors import BadMethod, CortexError, NoUpgrade
from cortex.wire import faults, neuron, sse
from cortex.wire.faults import Dialect
from cortex.wire.responses_trail import Trail

__all__ = ["Answer", "Dialect", "cause", "last_frames", "response"]

log = logging.getLogger(__name__)

Pairs = tuple[tuple[str, str], ...]
BUG: Final = "An internal error of cortex; its log has the traceback under this request id."


class Answer(NamedTuple):
    """A whole answer, not yet on the wire."""

    status: int
    headers: Pairs
    body: bytes


def response(error: CortexError, dialect: Dialect, request_id: str) -> Answer:
    """The whole answer that `error` stands for; JSON, without framing and request-id headers."""
    return Answer(
        faults.status(error, dialect), tuple(_headers(error)), faults.body(error, dialect, request_id)
    )


def last_frames(error: CortexError, dialect: Dialect, request_id: str, trail: Trail | None = None) -> bytes:
    """What ends a failed stream, of which `trail` has passed. No end mark follows it, ever."""
    return sse.render(*faults.frames(error, dialect, request_id, trail))


def cause(error: BaseException) -> CortexError:
    """What to tell the client about `error`. A bug is logged, with its traceback, and veiled."""
    leaves = list(_leaves(error))
    bugs = [leaf for leaf in leaves if not isinstance(leaf, CortexError)]
    if bugs:
        log.error("request.failed error=%s", type(bugs[0]).__name__, exc_info=error)
        return CortexError(BUG)
    named = [leaf for leaf in leaves if isinstance(leaf, CortexError)]
    return named[0] if named else CortexError(BUG)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _headers(error: CortexError) -> Iterator[tuple[str, str]]:
    if error.retry_after_s is not None:
        yield "retry-after", str(max(1, math.ceil(error.retry_after_s)))
    if error.final:
        # Both vendors' libraries repeat 408, 409, 429 and 5xx by themselves unless told so.
        yield "x-should-retry", "false"
    if error.not_started:
        yield neuron.NOT_STARTED, "1"
    if isinstance(error, BadMethod) and isinstance(allow := error.facts.get("allow"), str):
        yield "allow", allow
    if isinstance(error, NoUpgrade):
        yield "upgrade", "HTTP/1.1"
