"""The answers of Anthropic's Messages dialect, typed, and a cheap way to write its streams.

A whole message is structs. Of a stream, each event is made of bytes that stand here and of
the little that changes. Every event has a name, since the dialect's clients skip nameless
ones. Source: the vendor's reference of streamed messages.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from cortex.events import Usage
from cortex.wire.sse import Frame

encode: Final = msgspec.json.Encoder().encode

# The header that every client of the dialect sends, whatever version it says.
VERSION: Final = "anthropic-version"
StopWord: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
# Clients hand a thought back with its signature and judge it by nothing else; some drop one that has none.
SIGNATURE: Final = "Y29ydGV4"

STOP: Final = Frame(b'{"type":"message_stop"}', "done", event="message_stop")


class UsageBody(msgspec.Struct, kw_only=True):
    """What came from the cache is counted beside `input_tokens`, not among them."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "UsageBody":
        """`usage` as this dialect counts."""
        return cls(
            input_tokens=usage.prompt - usage.cached,
            cache_read_input_tokens=usage.cached,
            output_tokens=usage.completion,
        )


class ThinkingBlock(msgspec.Struct, tag="thinking", tag_field="type"):
    thinking: str
    signature: str = SIGNATURE


class TextBlock(msgspec.Struct, tag="text", tag_field="type"):
    text: str


class ToolUseBlock(msgspec.Struct, tag="tool_use", tag_field="type"):
    id: str
    name: str
    input: Raw


Block: TypeAlias = ThinkingBlock | TextBlock | ToolUseBlock


class MessageBody(msgspec.Struct, kw_only=True):
    """The whole answer, and as far as it is known the beginning of a stream."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Block]
    stop_reason: StopWord | None = None
    stop_sequence: str | None = None
    usage: UsageBody


class _Delta(msgspec.Struct):
    stop_reason: StopWord
    stop_sequence: str | None


class _MessageDelta(msgspec.Struct, kw_only=True):
    type: Literal["message_delta"] = "message_delta"
    delta: _Delta
    usage: UsageBody


class CountBody(msgspec.Struct):
    """POST /v1/messages/count_tokens."""

    input_tokens: int


class ModelEntry(msgspec.Struct, kw_only=True):
    """One model of GET /v1/models, in this dialect. It wants a date: when a model was made is
    nobody's knowledge here."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str = "1970-01-01T00:00:00Z"

    @classmethod
    def of(cls, model: str) -> "ModelEntry":
        """The entry of that id."""
        return cls(id=model, display_name=model)


class ModelPage(msgspec.Struct, kw_only=True):
    """GET /v1/models, which is never cut into several."""

    data: list[ModelEntry]
    has_more: bool = False
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, models: Sequence[str]) -> "ModelPage":
        """The page with those ids."""
        entries = [ModelEntry.of(model) for model in models]
        return cls(
            data=entries, first_id=models[0] if models else None, last_id=models[-1] if models else None
        )


def begun(message: MessageBody) -> Frame:
    """The first event."""
    return Frame(b'{"type":"message_start","message":%b}' % encode(message), "role", event="message_start")


def opened(index: int, block: bytes) -> Frame:
    """A block begins; `block` is it as JSON, empty."""
    data = b'{"type":"content_block_start","index":%d,"content_block":%b}' % (index, block)
    return Frame(data, "open", event="content_block_start")


def grown(index: int, kind: str, inner: bytes) -> Frame:
    """The open block goes on; `inner` is its delta."""
    data = b'{"type":"content_block_delta","index":%d,"delta":%b}' % (index, inner)
    return Frame(data, kind, event="content_block_delta")


def closed(index: int) -> Frame:
    """The block is complete."""
    return Frame(b'{"type":"content_block_stop","index":%d}' % index, "close", event="content_block_stop")


def finished(reason: StopWord, stop: str | None, usage: Usage) -> Frame:
    """Why the message ended, and what it used."""
    delta = _MessageDelta(delta=_Delta(reason, stop), usage=UsageBody.of(usage))
    return Frame(encode(delta), "finish", event="message_delta")
