"""The answers of OpenAI's Responses dialect, typed, and a cheap way to write its streams.

Items and the response around them are structs. Of a stream, each event is made of its name,
its number in the stream, and the little that changes; `Numbered` counts. Only names that the
vendor has are written: its clients throw at others. Source: the vendor's reference of streamed
responses.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from cortex.events import Usage
from cortex.wire.openai_answers import LogprobBody
from cortex.wire.sse import Frame, render

encode: Final = msgspec.json.Encoder().encode

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class _InputDetails(msgspec.Struct):
    cached_tokens: int
    cache_write_tokens: int = 0


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int


class UsageBody(msgspec.Struct, kw_only=True):
    """`estimated` is there, and true, where counts are guesses: an upstream told none."""

    input_tokens: int
    input_tokens_details: _InputDetails
    output_tokens: int
    output_tokens_details: _OutputDetails
    total_tokens: int
    estimated: Literal[True] | UnsetType = UNSET

    @classmethod
    def of(cls, usage: Usage) -> "UsageBody":
        """`usage` as this dialect counts."""
        return cls(
            input_tokens=usage.prompt,
            input_tokens_details=_InputDetails(usage.cached),
            output_tokens=usage.completion,
            output_tokens_details=_OutputDetails(usage.reasoning),
            total_tokens=usage.prompt + usage.completion,
            estimated=True if usage.estimated else UNSET,
        )


class TextPart(msgspec.Struct, tag="output_text", tag_field="type"):
    text: str = ""
    annotations: tuple[()] = ()
    logprobs: list[LogprobBody] = msgspec.field(default_factory=list)


class SummaryPart(msgspec.Struct, tag="summary_text", tag_field="type"):
    text: str = ""


class MessageItem(msgspec.Struct, tag="message", tag_field="type", kw_only=True):
    id: str
    status: Status
    role: Literal["assistant"] = "assistant"
    content: list[TextPart]


class ReasoningItem(msgspec.Struct, tag="reasoning", tag_field="type", kw_only=True):
    id: str
    summary: list[SummaryPart]
    encrypted_content: str | None = None


class FunctionItem(msgspec.Struct, tag="function_call", tag_field="type", kw_only=True):
    id: str
    status: Status
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    arguments: str


class CustomItem(msgspec.Struct, tag="custom_tool_call", tag_field="type", kw_only=True):
    id: str
    status: Status
    call_id: str
    name: str
    namespace: str | UnsetType = UNSET
    input: str


Item: TypeAlias = MessageItem | ReasoningItem | FunctionItem | CustomItem


class ErrorBody(msgspec.Struct):
    code: str
    message: str


class _Why(msgspec.Struct):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


CUT: Final = _Why()


class ResponseBody(msgspec.Struct, kw_only=True):
    """The response, whole or as far as it is known. What was asked is repeated where it is small:
    never the instructions or the tools, which a client has and which can be a megabyte."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Status
    background: Literal[False] = False
    error: ErrorBody | None = None
    incomplete_details: _Why | None = None
    instructions: None = None
    max_output_tokens: int | None = None
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    model: str
    output: list[Item]
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float | None = None
    # Json in truth; msgspec cannot look into a type that names itself.
    tool_choice: str | dict[str, Any] = "auto"
    tools: tuple[()] = ()
    top_p: float | None = None
    truncation: Literal["disabled"] = "disabled"
    usage: UsageBody | None = None


class Numbered:
    """Events with their numbers in order."""

    def __init__(self) -> None:
        self.next = 0

    def event(self, name: str, kind: str, inner: bytes) -> Frame:
        """The event `name`; `inner` is what it holds beside its name and number."""
        data = b'{"type":"%b","sequence_number":%d,%b}' % (name.encode(), self.next, inner)
        self.next += 1
        return Frame(data, kind, event=name)

    def mould(self, name: str, inner: bytes) -> bytes:
        """The event `name` as it goes out, with room for its number, and for what `inner` has room for."""
        data = b'{"type":"%b","sequence_number":%%d,%b}' % (name.encode(), inner)
        return render(Frame(data, "mould", event=name))

    def response(self, name: str, kind: str, response: ResponseBody) -> Frame:
        """An event about the whole response."""
        return self.event(name, kind, b'"response":%b' % encode(response))


def at(index: int, item_id: str, inner: bytes) -> bytes:
    """What an event about the inside of the item at `index` holds."""
    return b'"item_id":%b,"output_index":%d,%b' % (encode(item_id), index, inner)


def item(index: int, it: Item) -> bytes:
    """What an event about the item at `index` as such holds."""
    return b'"output_index":%d,"item":%b' % (index, encode(it))
