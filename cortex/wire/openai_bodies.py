"""The requests of chat and text completions, typed.

Every field may be null, which means absent. Numbers carry their bounds, so that a
value out of range never gets past the decode. Fields of open length are raw here and
are decoded by `reading.part`, which bounds them first. Fields of other engines that
would change an answer are listed in `Foreign`, so that they are refused and not
skipped; whatever is in no struct is skipped unseen.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

ABSENT: Final = Raw()

ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
StopText = Annotated[str, Meta(min_length=1, max_length=256)]
StopTexts = Annotated[str, Meta(max_length=256)] | Annotated[list[StopText], Meta(max_length=16)]
Bias = Annotated[
    dict[Annotated[int, Meta(ge=0, le=2**31 - 1)], Annotated[float, Meta(ge=-100, le=100)]],
    Meta(max_length=1024),
]


class Forbidden(msgspec.Struct, kw_only=True):
    """Would let a caller run a template of their own, or send the request elsewhere."""

    chat_template: Raw = ABSENT
    api_base: Raw = ABSENT
    base_url: Raw = ABSENT
    user_config: Raw = ABSENT


class Spoken(Forbidden, kw_only=True):
    """What every dialect says in the same words: the model, whether to stream, and how to sample.
    Where a vendor has fewer fields of sampling, clients of local engines send them all the same."""

    model: ModelName | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None


class Foreign(Spoken, kw_only=True):
    """And what would change the answer but is not done here; `NEUTRAL` values pass."""

    web_search_options: Raw = ABSENT
    store: Raw = ABSENT
    min_tokens: Raw = ABSENT
    thinking_budget: Raw = ABSENT
    ignore_eos: Raw = ABSENT
    stop_token_ids: Raw = ABSENT
    bad_words: Raw = ABSENT
    banned_tokens: Raw = ABSENT
    use_beam_search: Raw = ABSENT
    length_penalty: Raw = ABSENT
    repeat_penalty: Raw = ABSENT
    no_repeat_ngram_size: Raw = ABSENT
    typical_p: Raw = ABSENT
    tfs_z: Raw = ABSENT
    top_a: Raw = ABSENT
    mirostat: Raw = ABSENT
    mirostat_mode: Raw = ABSENT
    dry_multiplier: Raw = ABSENT
    xtc_probability: Raw = ABSENT
    prompt_logprobs: Raw = ABSENT
    truncate_prompt_tokens: Raw = ABSENT
    continue_final_message: Raw = ABSENT
    add_generation_prompt: Raw = ABSENT
    skip_special_tokens: Raw = ABSENT
    include_stop_str_in_output: Raw = ABSENT
    grammar: Raw = ABSENT
    json_schema: Raw = ABSENT
    guided_json: Raw = ABSENT
    guided_regex: Raw = ABSENT
    guided_choice: Raw = ABSENT
    guided_grammar: Raw = ABSENT
    structured_outputs: Raw = ABSENT


# What clients send when they mean "off". `web_search_options: {}` means "on".
_NEVER: Final = frozenset({b"", b"null"})
_OFF: Final = frozenset({b"", b"null", b"false", b"0", b"0.0", b'""', b"[]"})
_ONE: Final = frozenset({b"", b"null", b"1", b"1.0"})
_TRUE: Final = frozenset({b"", b"null", b"true"})
_SPOKEN: Final = {*Spoken.__struct_fields__} - {*Forbidden.__struct_fields__}
NEUTRAL: Final = {
    **dict.fromkeys((name for name in Foreign.__struct_fields__ if name not in _SPOKEN), _OFF),
    **dict.fromkeys((*Forbidden.__struct_fields__, "thinking_budget"), _NEVER),  # 0: think not at all
    **dict.fromkeys(("length_penalty", "repeat_penalty", "typical_p", "tfs_z"), _ONE),
    **dict.fromkeys(("add_generation_prompt", "skip_special_tokens"), _TRUE),
}


class Rarely:
    """Fields of a body that hardly anybody sends, looked at all at once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._look = attrgetter(*self._names)
        self._nothing = (ABSENT,) * len(self._names)

    def sent(self, body: Spoken) -> list[tuple[str, Raw]]:
        """Those that are in `body`, by their names, where they have no meaning of the dialect's own."""
        values = self._look(body)
        if values == self._nothing:
            return []
        named = zip(self._names, values, strict=True)
        return [(name, value) for name, value in named if value is not ABSENT and isinstance(value, Raw)]


class Body(Foreign, kw_only=True):
    """What chat and text completions share."""

    stream_options: Raw = ABSENT
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    max_tokens: Count | None = None
    stop: Raw = ABSENT
    logit_bias: Raw = ABSENT
    response_format: Raw = ABSENT


class ChatBody(Body, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Raw = ABSENT
    max_completion_tokens: Count | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    functions: Raw = ABSENT
    function_call: Raw = ABSENT
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: Raw = ABSENT
    modalities: Raw = ABSENT
    audio: Raw = ABSENT


class TextBody(Body, kw_only=True):
    """POST /v1/completions."""

    prompt: Raw = ABSENT
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class PictureBody(msgspec.Struct):
    url: str | None = None
    detail: str | None = None


class PartBody(msgspec.Struct):
    """One piece of a message's content, of any type; some clients send a picture's url bare."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: PictureBody | str | None = None


class FunctionCallBody(msgspec.Struct):
    name: str
    arguments: str | None = None


class CustomCallBody(msgspec.Struct):
    name: str
    input: str | None = None


class CallBody(msgspec.Struct):
    id: str
    type: str | None = None
    function: FunctionCallBody | None = None
    custom: CustomCallBody | None = None


class Present(msgspec.Struct):
    """Some object whose inside does not matter."""


class MessageBody(msgspec.Struct):
    role: str
    content: str | list[PartBody] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[CallBody] | None = None
    function_call: FunctionCallBody | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: Present | None = None


class FunctionBody(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None


class GrammarBody(msgspec.Struct):
    definition: str
    syntax: str | None = None


class InputFormatBody(msgspec.Struct):
    """The form of a custom tool's input."""

    type: str
    grammar: GrammarBody | None = None


class CustomBody(msgspec.Struct):
    name: str
    description: str | None = None
    format: InputFormatBody | None = None


class ToolBody(msgspec.Struct):
    type: str | None = None
    function: FunctionBody | None = None
    custom: CustomBody | None = None


class Named(msgspec.Struct):
    name: str


class ToolRef(msgspec.Struct):
    """A tool by its name, which stands where its `type` says."""

    type: str | None = None
    function: Named | None = None
    custom: Named | None = None

    @property
    def name(self) -> str | None:
        """None where it is not said, or the kind of tool is not known here."""
        named = {"function": self.function, "custom": self.custom}.get(self.type or "function")
        return named.name if named else None


class AllowedTools(msgspec.Struct):
    tools: list[ToolRef]
    mode: str | None = None


class ChoiceBody(ToolRef):
    allowed_tools: AllowedTools | None = None


class SchemaBody(msgspec.Struct):
    schema: Raw = ABSENT


class FormatBody(msgspec.Struct):
    type: str
    json_schema: SchemaBody | None = None


CHAT: Final = msgspec.json.Decoder(ChatBody)
TEXT: Final = msgspec.json.Decoder(TextBody)
MESSAGES: Final = msgspec.json.Decoder(list[MessageBody])
TOOLS: Final = msgspec.json.Decoder(list[ToolBody])
FUNCTIONS: Final = msgspec.json.Decoder(list[FunctionBody])
TOOL_CHOICE: Final = msgspec.json.Decoder(str | ChoiceBody)
FUNCTION_CHOICE: Final = msgspec.json.Decoder(str | Named)
FORMAT: Final = msgspec.json.Decoder(FormatBody)
STREAM_OPTIONS: Final = msgspec.json.Decoder(StreamOptions)
STOP: Final = msgspec.json.Decoder(StopTexts)
BIAS: Final = msgspec.json.Decoder(Bias)
STRINGS: Final = msgspec.json.Decoder(list[str])
SCALARS: Final = msgspec.json.Decoder(dict[str, bool | int | float | str | None])
PROMPT: Final = msgspec.json.Decoder(str | list[str | int | list[int]])
