"""The answers of the OpenAI dialects, typed, and a cheap way to write their streams.

Whole answers and the list of models are structs. Of a stream, `Mould` holds the bytes
that every chunk repeats, so that a token costs one small encode and one join. Which
event becomes which chunk is decided by the translators.
"""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from cortex.events import StopReason, TokenLogprob, Usage
from cortex.wire.fleet import Location, ModelState
from cortex.wire.openai import Reply

encode: Final = msgspec.json.Encoder().encode


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class UsageBody(msgspec.Struct):
    """`estimated` is there, and true, where counts are guesses: an upstream told none."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    estimated: Literal[True] | UnsetType = UNSET

    @classmethod
    def over(cls, usages: Iterable[Usage], each: int) -> "UsageBody":
        """The usage of one request from that of its choices, `each` of which have one prompt."""
        total = Usage.total(list(usages), each)
        return cls(
            prompt_tokens=total.prompt,
            completion_tokens=total.completion,
            total_tokens=total.prompt + total.completion,
            prompt_tokens_details=PromptDetails(total.cached),
            completion_tokens_details=CompletionDetails(total.reasoning),
            estimated=True if total.estimated else UNSET,
        )


class FunctionShape(msgspec.Struct):
    name: str
    arguments: str


class CustomShape(msgspec.Struct):
    name: str
    input: str


class CallShape(msgspec.Struct, kw_only=True):
    """A tool call, of a function or of a custom tool; `index` only in a stream."""

    index: int | UnsetType = UNSET
    id: str
    type: Literal["function", "custom"] = "function"
    function: FunctionShape | UnsetType = UNSET
    custom: CustomShape | UnsetType = UNSET


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, text: str, logprob: float) -> "TopLogprob":
        """The likeliest alternative `text`."""
        return cls(text, finite(logprob), list(text.encode()))


class LogprobBody(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]

    @classmethod
    def of(cls, token: TokenLogprob, top: int) -> "LogprobBody":
        """`token` with at most `top` alternatives."""
        return cls(
            token.text,
            finite(token.logprob),
            list(token.text.encode()),
            [TopLogprob.of(*other) for other in token.top[:top]],
        )


class Logprobs(msgspec.Struct):
    content: list[LogprobBody]
    refusal: None = None


class TextLogprobs(msgspec.Struct):
    """The legacy form: four lists side by side. Offsets are in characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class AnswerMessage(msgspec.Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallShape] | UnsetType = UNSET
    function_call: FunctionShape | UnsetType = UNSET


# The last is that of the one call which legacy clients know.
FinishReason: TypeAlias = StopReason | Literal["function_call"]


class ChatChoice(msgspec.Struct):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason


class TextChoice(msgspec.Struct):
    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: StopReason


class ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class TextCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


StreamKind: TypeAlias = Literal["chat.completion.chunk", "text_completion"]


class _Head(msgspec.Struct):
    id: str
    object: StreamKind
    created: int
    model: str


class Mould:
    """The bytes that all chunks of one stream share, made once."""

    def __init__(self, reply: Reply, kind: StreamKind) -> None:
        head = encode(_Head(reply.id, kind, reply.created, reply.model))[:-1]
        self._heads = [b'%b,"choices":[{"index":%d,' % (head, index) for index in range(reply.n)]
        # With include_usage every chunk but the last says so, as the vendor's does.
        self._tail = b'}],"usage":null}' if reply.include_usage else b"}]}"
        self._last = b'%b,"choices":[],"usage":' % head

    def chunk(self, choice: int, inner: bytes, finish: bytes = b"null") -> bytes:
        """A chunk of `choice`; `inner` is its delta or text as `"key":value` pairs."""
        return b'%b%b,"finish_reason":%b%b' % (self._heads[choice], inner, finish, self._tail)

    def around(self, choice: int, before: bytes, behind: bytes) -> tuple[bytes, bytes]:
        """What stands around a piece of which all else is said, as `chunk` has it with such an `inner`."""
        return self._heads[choice] + before, b'%b,"finish_reason":null%b' % (behind, self._tail)

    def usage(self, usage: UsageBody) -> bytes:
        """The chunk without choices that ends a stream with include_usage."""
        return b"%b%b}" % (self._last, encode(usage))


def finite(logprob: float) -> float:
    """`logprob` as JSON can carry it: what is impossible is -9999, as the vendor writes it."""
    return logprob if logprob > -9999.0 else -9999.0


# GET /v1/models.


class ModelCost(msgspec.Struct, kw_only=True, omit_defaults=True):
    """USD per million tokens."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


class ModelEntry(msgspec.Struct, kw_only=True):
    """One model of the list. What is unknown is left out, never 0."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cortex"
    state: ModelState | UnsetType = UNSET
    locations: list[Location] | UnsetType = UNSET
    feasible_on: list[str] | UnsetType = UNSET
    context_length: int | UnsetType = UNSET
    max_model_len: int | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    tool_call: bool | UnsetType = UNSET
    reasoning: bool | UnsetType = UNSET
    vision: bool | UnsetType = UNSET
    cost: ModelCost | UnsetType = UNSET
    aliases: list[str] | UnsetType = UNSET


class ModelList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelEntry]
