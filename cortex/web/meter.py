"""What a stream tells about itself while it passes: first content, events, tokens.

Stands beside the bytes and never changes them. Counts content events with `bytes.count` on
whole events: deltas of text, reasoning or tool arguments; not comments, pings, or the
chunks that only open or close an answer. The markers are quoted JSON, which text inside a
JSON string cannot hold unescaped. Tokens come from the neuron's trailer, or from the
`usage` of a whole body; without either they are estimated as one for each content event.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from cortex.errors import UpstreamFailed
from cortex.events import Usage
from cortex.wire.faults import Dialect
from cortex.wire.neuron import USAGE, Count, parse_usage


class _Details(msgspec.Struct):
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0


class _Counts(msgspec.Struct):
    """`usage` of any dialect: each field belongs to one or two of them."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: Count = 0
    output_tokens: Count = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    estimated: bool = False


class _Usual(msgspec.Struct):
    """A body whose usage is as it should be."""

    usage: _Counts | None = None


class _Body(msgspec.Struct):
    # Raw, so that the whole body is proven to be JSON before its usage is understood.
    usage: msgspec.Raw = msgspec.Raw(b"null")


_NO_DETAILS: Final = _Details()
_USUAL: Final = msgspec.json.Decoder(_Usual)
_BODY: Final = msgspec.json.Decoder(_Body)
_COUNTS: Final = msgspec.json.Decoder(_Counts | None)


class Meter:
    """One answer's figures. Times are trio's; `bytes` counts what was passed on, `status` is
    the neuron's. `failed`: complete, but what completed it tells an error."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect: Dialect = dialect
        self.first_content_at: float | None = None
        self.events = 0
        self.bytes = 0
        self.complete = False
        self.failed = False
        self.status = 200
        self._told: Usage | None = None

    @property
    def usage(self) -> Usage:
        """Tokens of the answer; `estimated` says whether only counted from events."""
        return self._told or Usage(completion=self.events)

    @property
    def estimated(self) -> bool:
        return self._told is None or self._told.estimated

    def passed(self, events: bytes, now: float) -> None:
        """Whole `events` have been passed on."""
        lines = b"\n" + events
        self._passed(_content_events(self.dialect, lines) - _outside(self.dialect, lines), now)

    def flowed(self, piece: bytes, now: float) -> None:
        """The same of events in their chunks, none of which is an end mark or tells an error."""
        self._passed(_content_events(self.dialect, piece), now)

    def like(self, count: int, size: int) -> None:
        """The same of so many events with so many bytes, like one before that `is_content`."""
        self.events += count
        self.bytes += size

    def is_content(self, event: bytes) -> bool:
        """Whether `event` is one that counts."""
        return _content_events(self.dialect, b"\n" + event) == 1

    def _passed(self, count: int, now: float) -> None:
        if count > 0:
            self.events += count
            if self.first_content_at is None:
                self.first_content_at = now

    def began(self, now: float) -> None:
        """The first content has come, of an answer that is passed on at its end."""
        if self.first_content_at is None:
            self.first_content_at = now

    def told(self, usage: Usage) -> None:
        """What the stream itself says that it used; a trailer knows better."""
        self._told = usage

    def ended(self, trailers: Mapping[str, str], *, failed: bool) -> None:
        """The stream is complete."""
        self.complete, self.failed = True, failed
        self._told = parse_usage(trailers.get(USAGE, "")) or self._told

    def read_whole(self, status: int, body: bytes) -> None:
        """The counts of a whole body are known. UpstreamFailed when it is no JSON object."""
        self.status = status
        if status >= 400:
            self.failed, self._told = True, Usage()
            return
        self._told = usage_of(body)


def usage_of(body: bytes) -> Usage | None:
    """What a whole body tells of its tokens; None where it tells nothing that is known here, and they are
    to be estimated. UpstreamFailed when it is no JSON object."""
    try:
        counts = _USUAL.decode(body).usage
    except (msgspec.DecodeError, RecursionError):
        return _unusual(body)
    return None if counts is None else _usage(counts)


def _unusual(body: bytes) -> Usage | None:
    """The same where what is known of the counts does not fit."""
    try:
        said = _BODY.decode(body).usage
    except (msgspec.DecodeError, RecursionError) as error:
        raise UpstreamFailed(
            "The neuron's answer is not the JSON that was asked for.", reason="json"
        ) from error
    with suppress(msgspec.ValidationError):
        counts = _COUNTS.decode(said)
        return _usage(counts) if counts else None
    return None


def _content_events(dialect: Dialect, lines: bytes) -> int:
    if dialect == "anthropic":
        return lines.count(b'"content_block_delta"')
    if dialect == "responses":
        return lines.count(b'.delta"')
    return chat_events(lines, len(lines))


def chat_events(lines: bytes, end: int) -> int:
    """How many of a chat's events before `end` have content, of those that belong to its answer; each
    stands behind a line's end."""
    count = lines.count
    framing = count(b'"role":', 0, end) + count(b'"finish_reason":"', 0, end) + count(b'"choices":[]', 0, end)
    return count(b"\ndata:", 0, end) - framing


def _outside(dialect: Dialect, lines: bytes) -> int:
    """How many of a chat's events belong to no answer."""
    if dialect != "openai":
        return 0
    return lines.count(b"\ndata: [DONE]") + lines.count(b'\ndata: {"error"')


def _usage(counts: _Counts) -> Usage:
    details = counts.prompt_tokens_details or counts.input_tokens_details or _NO_DETAILS
    written = counts.completion_tokens_details or counts.output_tokens_details or _NO_DETAILS
    # Anthropic counts what came from its cache, and what went into it, beside `input_tokens`.
    beside = (counts.cache_read_input_tokens or 0) + (counts.cache_creation_input_tokens or 0)
    return Usage(
        prompt=counts.prompt_tokens + counts.input_tokens + beside,
        cached=details.cached_tokens + (counts.cache_read_input_tokens or 0),
        completion=counts.completion_tokens + counts.output_tokens,
        reasoning=written.reasoning_tokens,
        estimated=counts.estimated,
    )
