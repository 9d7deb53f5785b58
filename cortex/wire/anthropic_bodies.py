"""The requests of Anthropic's Messages dialect, typed.

As in `openai_bodies`: every field may be null, which means absent, numbers carry their
bounds, and what is of open length stays raw until `reading` has bounded it. Whatever is in
no struct is skipped unseen: marks for a cache (`cache_control`), versions and betas change
no answer here. Source: the vendor's API reference, and what its clients were seen to send.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from cortex.wire.openai_bodies import ABSENT, Count, Foreign, StopText


class MessagesBody(Foreign, kw_only=True):
    """POST /v1/messages and /v1/messages/count_tokens. The last fields are another dialect's words,
    which would be ignored."""

    system: Raw = ABSENT
    messages: Raw = ABSENT
    max_tokens: Count | None = None
    stop_sequences: Raw = ABSENT
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None  # the vendor has no -1
    logit_bias: Raw = ABSENT
    tools: Raw = ABSENT
    tool_choice: Raw = ABSENT
    thinking: Raw = ABSENT
    output_config: Raw = ABSENT
    output_format: Raw = ABSENT
    context_management: Raw = ABSENT
    thread: Raw = ABSENT
    container: Raw = ABSENT
    mcp_servers: Raw = ABSENT
    chat_template_kwargs: Raw = ABSENT
    n: Raw = ABSENT
    stop: Raw = ABSENT
    logprobs: Raw = ABSENT
    top_logprobs: Raw = ABSENT
    best_of: Raw = ABSENT
    response_format: Raw = ABSENT
    max_completion_tokens: Raw = ABSENT


class SourceBody(msgspec.Struct):
    """Where a picture or a document is."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class BlockBody(msgspec.Struct):
    """One block of a content, of any type; `content` is a tool result's own. The source of a search
    result is a text; `title`, `context` and `citations` are a document's."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = ABSENT
    tool_use_id: str | None = None
    content: Raw = ABSENT
    is_error: bool | None = None
    source: SourceBody | str | None = None
    title: str | None = None
    context: str | None = None
    citations: Raw = ABSENT


class CitationsBody(msgspec.Struct):
    enabled: bool | None = None


class TurnBody(msgspec.Struct):
    role: str
    content: str | list[BlockBody] | None = None


class ToolBody(msgspec.Struct):
    """`type` is absent or `custom` for a tool of the client's; the vendor's own have no schema."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Raw = ABSENT
    strict: bool | None = None


class ChoiceBody(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingBody(msgspec.Struct):
    type: str
    budget_tokens: Count | None = None


class FormatBody(msgspec.Struct):
    type: str
    schema: Raw = ABSENT


class OutputBody(msgspec.Struct):
    effort: str | None = None
    format: FormatBody | None = None


class EditBody(msgspec.Struct):
    type: str


class ContextBody(msgspec.Struct):
    edits: list[EditBody] | None = None


BODY: Final = msgspec.json.Decoder(MessagesBody)
TURNS: Final = msgspec.json.Decoder(list[TurnBody])
CONTENT: Final = msgspec.json.Decoder(str | list[BlockBody])
CITATIONS: Final = msgspec.json.Decoder(CitationsBody)
TOOLS: Final = msgspec.json.Decoder(list[ToolBody])
CHOICE: Final = msgspec.json.Decoder(ChoiceBody)
THINKING: Final = msgspec.json.Decoder(ThinkingBody)
OUTPUT: Final = msgspec.json.Decoder(OutputBody)
FORMAT: Final = msgspec.json.Decoder(FormatBody)
CONTEXT: Final = msgspec.json.Decoder(ContextBody)
STOPS: Final = msgspec.json.Decoder(Annotated[list[StopText], Meta(max_length=16)])
LIST: Final = msgspec.json.Decoder(list[Raw])
