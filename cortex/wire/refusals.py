"""The error body of a cortex, read back into the `CortexError` that it stands for.

The other side of `faults`: a gateway reads here what its neurons refuse, in control calls
and in inference alike. Text that is no cortex's error is nobody's here: `read` answers None.
"""

from contextlib import suppress
from typing import Final

import msgspec

from cortex.errors import CortexError, Fact, NeverFits, named


class Refusal(msgspec.Struct, frozen=True):
    """The error object, with the facts that a reader may act on."""

    message: str
    code: str | None = None
    param: str | None = None
    prompt_tokens: int | None = None
    context_length: int | None = None
    needed_bytes: int | None = None
    free_bytes: int | None = None
    free_by_device: dict[str, int] | None = None
    total_by_device: dict[str, int] | None = None
    in_flight: int | None = None
    blocked_by: list[str] | None = None

    @property
    def facts(self) -> dict[str, Fact]:
        """Those facts that were told."""
        told = ((name, getattr(self, name)) for name in _FACTS)
        return {name: value for name, value in told if value is not None}


class _Body(msgspec.Struct):
    error: Refusal


_BODY: Final = msgspec.json.Decoder(_Body)
_FACTS: Final = (
    "prompt_tokens",
    "context_length",
    "needed_bytes",
    "free_bytes",
    "free_by_device",
    "total_by_device",
    "in_flight",
    "blocked_by",
)


def read(body: bytes) -> Refusal | None:
    """The error object of `body`; None when it holds none."""
    with suppress(msgspec.DecodeError, RecursionError):
        return _BODY.decode(body).error
    return None


def error_of(refusal: Refusal, code: str, status: int, *, retry_after: str, should_retry: str) -> CortexError:
    """The error that `refusal` stands for; the last two are headers, "" when absent."""
    error = named(code, status, refusal.message, retry_after_s=seconds(retry_after))
    if error.code == NeverFits.code and should_retry == "false":
        error = NeverFits(refusal.message)
    error.param = refusal.param
    error.facts.update(refusal.facts)
    return error


def seconds(text: str) -> float | None:
    """A Retry-After in seconds; dates, which no cortex sends, are None."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
