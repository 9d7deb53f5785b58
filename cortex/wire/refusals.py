"""The error body of a cortex, read back into the `CortexError` that it stands for.

The other side of `faults`: a gateway reads here what its neurons refuse, in control calls
and in inference alike. Text that is no cortex's error is nobody's here: `read` answers None.
"""

from contextlib import suppress
from typing import Final

import msgspec

from cortex.errors import LONGEST_NAME, CortexError, Fact, NeverFits, brief, named
from cortex.wire import reading


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader may act on."""

    prompt_tokens: int | None = None
    context_length: int | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    free_by_device: dict[str, int] | None = None
    total_by_device: dict[str, int] | None = None
    in_flight: int | None = None
    blocked_by: list[str] | None = None
    queue_position: int | None = None
    loading_for_s: float | None = None
    eta_s: float | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None


class _Details(_Facts, frozen=True, kw_only=True):
    """Where Anthropic's dialect has code and facts."""

    error_code: str | None = None


class Refusal(_Facts, frozen=True, kw_only=True):
    """The error object of either dialect."""

    message: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    details: _Details | None = None

    @property
    def facts(self) -> dict[str, Fact]:
        """Those facts that were told."""
        places = (self, self.details) if self.details else (self,)
        told = ((name, getattr(place, name)) for place in places for name in _Facts.__struct_fields__)
        return {name: value for name, value in told if value is not None}


class _Body(msgspec.Struct):
    error: Refusal


_LONGEST: Final = 2000
_NO_WORDS: Final = "the neuron that failed did not say why; its log may"


def read(body: bytes) -> Refusal | None:
    """The error object of `body`; None when it holds none."""
    with suppress(ValueError):
        error = reading.of_peer(body, _Body).error
        code = error.code or (error.details.error_code if error.details else None)
        words = brief(error.message.strip() or _NO_WORDS, _LONGEST)
        param = error.param and brief(error.param, LONGEST_NAME)
        return msgspec.structs.replace(error, code=code, message=words, param=param)
    return None


def error_of(refusal: Refusal, code: str, status: int, *, retry_after: str, should_retry: str) -> CortexError:
    """The error that `refusal` stands for; the last two are headers, "" when absent."""
    error = named(code, status, refusal.message, retry_after_s=seconds(retry_after))
    if error.code == NeverFits.code and should_retry == "false":
        error = NeverFits(refusal.message)
    error.param = refusal.param
    error.facts.update(refusal.facts)
    return error


def in_stream(data: bytes) -> CortexError | None:
    """The error that an event of a neuron's stream tells; None for any other event."""
    if not data.startswith(b'{"error"') or (refusal := read(data)) is None:
        return None
    error = named(refusal.code or "", None, refusal.message, retry_after_s=refusal.retry_after)
    error.param = refusal.param
    error.facts.update(refusal.facts)
    error.not_started = False  # it has begun to answer
    return error


def seconds(text: str) -> float | None:
    """A Retry-After in seconds; dates, which no cortex sends, are None."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
