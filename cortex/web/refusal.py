"""A neuron's refusal, read back into the `CortexError` that it stands for.

Owns what a status and an error body of a neuron mean to a gateway: whose fault it is,
whether anything ran, when to come again. A body that is no error of cortex is not quoted.
"""

from typing import Final

import trio

from cortex import errors
from cortex.config.limits import Limits
from cortex.errors import BadFraming, CortexError, TooSlow, Unreachable, UpstreamFailed
from cortex.web.answer import Answer
from cortex.wire import refusals
from cortex.wire.neuron import NOT_STARTED
from cortex.wire.refusals import Refusal

NO_LENGTH: Final = "The neuron's answer has no length: it may have been cut."
# No error body of a cortex is longer.
REFUSAL_LIMIT: Final = 65536
# The gateway's own words were refused (its token, route, framing), or the neuron has a bug.
# The client did nothing wrong and can mend nothing.
_MISFIT: Final = frozenset({401, 403, 404, 405, 408, 426, 431})
OWN_FAULT: Final = _MISFIT | {409, 500}
# The Anthropic dialect has types, but no codes: the status says which error it was.
_BY_STATUS: Final[dict[int, type[CortexError]]] = {
    400: errors.BadAsk,
    409: errors.NotHereNow,
    413: errors.TooBig,
    429: errors.TooMuch,
    503: errors.NeverFits,
    504: errors.TooSlow,
    529: errors.Overloaded,
}


async def refusal(answer: Answer, limits: Limits) -> CortexError:
    """The error that `answer`, of status 400 or more, stands for. Its body has been read.

    `not_started` and `final` are what the neuron's headers say, whatever the class says.
    """
    body = await read_whole(answer, REFUSAL_LIMIT, limits.upstream_stall_s)
    error = _named(answer, body)
    error.not_started = answer.headers.get(NOT_STARTED) == "1"
    error.final = answer.headers.get("x-should-retry") == "false"
    if error.blame == "engine" and not isinstance(error, UpstreamFailed):
        error.reason = "engine"  # told in good order, whatever it was
    return error


async def read_whole(answer: Answer, most: int, stall_s: float) -> bytes:
    """The body of `answer`, proven whole and at most `most` bytes."""
    pieces, size = [], 0
    while True:
        with trio.move_on_after(stall_s) as patience:
            piece = await answer.receive()
        if patience.cancelled_caught:
            raise TooSlow("The neuron stopped in the middle of its answer. Try again.")
        if not piece:
            break
        size += len(piece)
        if size > most:
            raise too_long(most)
        pieces.append(piece)
    if answer.by_close:
        raise UpstreamFailed(NO_LENGTH, reason="no_end")
    return b"".join(pieces)


def is_json(answer: Answer) -> bool:
    """Whether `answer` says that its body is JSON."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == "application/json"


def _named(answer: Answer, body: bytes) -> CortexError:
    status, fault = answer.status, refusals.read(body) if is_json(answer) else None
    if status == 500:
        # Nobody knows what a bug says of itself: the client gets nothing of it.
        return UpstreamFailed(
            "The neuron has a bug; its log has the traceback under this request id.", reason="internal"
        )
    if fault is None or status in _MISFIT:
        return _misfit(status, fault)
    retry_after = answer.headers.get("retry-after", "")
    if fault.code is None:
        kind = _BY_STATUS.get(status, UpstreamFailed)
        return kind(
            fault.message, param=fault.param, retry_after_s=refusals.seconds(retry_after), facts=fault.facts
        )
    should_retry = answer.headers.get("x-should-retry", "")
    meant = 503 if status == 529 else status  # what passes by itself has a number of its own in one dialect
    error = refusals.error_of(fault, fault.code, meant, retry_after=retry_after, should_retry=should_retry)
    return _misfit(status, fault) if isinstance(error, BadFraming) else error


def _misfit(status: int, fault: Refusal | None) -> UpstreamFailed:
    code = (fault.code if fault else None) or "no error that cortex knows"
    return UpstreamFailed(
        f"The neuron answered {status} ({code}) to the gateway itself: its version, fleet token or "
        "trusted networks may not fit. Compare the `token_file` and version of both hosts.",
        reason="contract",
    )


def too_long(most: int) -> UpstreamFailed:
    """What an answer is that goes on beyond what is kept of one."""
    return UpstreamFailed(f"The neuron's answer is longer than {most} bytes.", reason="oversize")


def unsent(error: CortexError) -> CortexError:
    """What `error` is where the neuron had not all of the request."""
    lost = Unreachable(
        "The connection to the neuron broke before the request was sent. Nothing ran; try again."
    )
    lost.__cause__ = error
    return lost
