"""The requests of OpenAI's Responses dialect, typed.

As in `openai_bodies`: every field may be null, which means absent, numbers carry their
bounds, and what is of open length stays raw until `reading` has bounded it. Whatever is in no
struct is skipped unseen. An item and a part of a content are one struct each for all their
kinds; which fields belong to which kind is the translator's to know. Source: the vendor's API
reference, and what its clients were seen to send.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from cortex.wire.openai_bodies import ABSENT, Count, Foreign


class ResponsesBody(Foreign, kw_only=True):
    """POST /v1/responses. The last fields are another dialect's words, which would be ignored."""

    instructions: str | None = None
    input: Raw = ABSENT
    max_output_tokens: Count | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    parallel_tool_calls: bool | None = None
    text: Raw = ABSENT
    reasoning: Raw = ABSENT
    include: Raw = ABSENT
    truncation: str | None = None
    store: bool | None = None  # type: ignore[assignment]  # true is what it is at the vendor when left out
    background: bool | None = None
    previous_response_id: Raw = ABSENT
    conversation: Raw = ABSENT
    prompt: Raw = ABSENT
    context_management: Raw = ABSENT
    moderation: Raw = ABSENT
    chat_template_kwargs: Raw = ABSENT
    n: Raw = ABSENT
    best_of: Raw = ABSENT
    stop: Raw = ABSENT
    stop_sequences: Raw = ABSENT
    logit_bias: Raw = ABSENT
    logprobs: Raw = ABSENT
    max_tokens: Raw = ABSENT
    max_completion_tokens: Raw = ABSENT
    response_format: Raw = ABSENT
    reasoning_effort: Raw = ABSENT
    enable_thinking: Raw = ABSENT


class PartBody(msgspec.Struct):
    """One piece of a content, of a summary or of an output."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None


Content = str | list[PartBody] | None


class ItemBody(msgspec.Struct):
    """One item of the input; without `type` it is a message."""

    type: str | None = None
    role: str | None = None
    content: Content = None
    summary: list[PartBody] | None = None
    encrypted_content: str | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Content = None


class ToolBody(msgspec.Struct):
    """`parameters` is a function's, `format` a custom tool's, `tools` a namespace's."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    parameters: Raw = ABSENT
    strict: bool | None = None
    format: Raw = ABSENT
    tools: "list[ToolBody] | None" = None


class InputFormatBody(msgspec.Struct):
    """The form of a custom tool's input."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class RefBody(msgspec.Struct):
    """A tool by its name."""

    type: str | None = None
    name: str | None = None
    namespace: str | None = None


class ChoiceBody(RefBody):
    mode: str | None = None
    tools: list[RefBody] | None = None


class FormatBody(msgspec.Struct):
    type: str
    schema: Raw = ABSENT


class OutputBody(msgspec.Struct):
    """The field `text`; how verbose it asks to be is read by nobody."""

    format: FormatBody | None = None


class ReasoningBody(msgspec.Struct):
    """How a summary is to be made is read by nobody: there is the thought itself."""

    effort: str | None = None


BODY: Final = msgspec.json.Decoder(ResponsesBody)
INPUT: Final = msgspec.json.Decoder(str | list[ItemBody])
TOOLS: Final = msgspec.json.Decoder(list[ToolBody])
INPUT_FORMAT: Final = msgspec.json.Decoder(InputFormatBody)
CHOICE: Final = msgspec.json.Decoder(str | ChoiceBody)
OUTPUT: Final = msgspec.json.Decoder(OutputBody)
REASONING: Final = msgspec.json.Decoder(ReasoningBody)
INCLUDE: Final = msgspec.json.Decoder(list[str])
EDITS: Final = msgspec.json.Decoder(list[Raw])
