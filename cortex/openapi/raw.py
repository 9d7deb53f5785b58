"""As what the fields are read of which their structs tell too little.

Raw ones are told by the decoders of `wire` that read them in the end, so that the two cannot differ.
What no decoder tells is said here: fields that are refused unless they are off, free-form objects,
and texts of which translators take certain words only, which a test tries one by one.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from cortex.ask import TEMPLATE_WORDS
from cortex.openapi.shapes import Demands, Fills, Schema
from cortex.translator.media import DETAILS
from cortex.wire import anthropic_bodies as anthropic
from cortex.wire import embeddings
from cortex.wire import openai_bodies as openai
from cortex.wire import responses_bodies as responses


def _off(values: frozenset[bytes]) -> Schema:
    """These values alone, which say that it is not wanted."""
    told = [msgspec.json.decode(value) for value in sorted(values) if value]
    # 0 and 0.0 are one number to a schema.
    return {"enum": [value for value in told if not isinstance(value, float)]}


def _words(*words: str | None) -> Schema:
    return {"enum": [*words]}


_REFUSED: Final[Schema] = {"type": "null", "description": "Refused."}
# A JSON schema, or arguments: whatever the caller's own tools understand.
_FREE: Final[Schema] = {"type": ["object", "null"]}
# Read by what the `type` beside it says, and otherwise by nobody.
_BY_TYPE: Final[Schema] = {"description": "Read where `type` calls for it."}

_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max", None)
_MORE_EFFORTS: Final = ("none", "minimal", *_EFFORTS)
_FORMS: Final = ("text", "json_object", "json_schema")
_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,128}$"}
_KINDS: Final[Mapping[type, str]] = {bool: "boolean", int: "integer", str: "string"}
_TEMPLATE: Final[Schema] = {
    "type": ["object", "null"],
    "properties": {name: {"type": [_KINDS[kind], "null"]} for name, kind in TEMPLATE_WORDS.items()},
    "additionalProperties": False,
}

FILLS: Final[Fills] = {
    openai.Foreign: {name: _off(neutral) for name, neutral in openai.NEUTRAL.items()},
    openai.Forbidden: {name: _REFUSED for name in openai.Forbidden.__struct_fields__},
    openai.Body: {
        "stream_options": openai.STREAM_OPTIONS,
        "stop": openai.STOP,
        "logit_bias": openai.BIAS,
        "response_format": openai.FORMAT,
    },
    openai.ChatBody: {
        "messages": openai.MESSAGES,
        "tools": openai.TOOLS,
        "tool_choice": openai.TOOL_CHOICE,
        "functions": openai.FUNCTIONS,
        "function_call": openai.FUNCTION_CHOICE,
        "chat_template_kwargs": _TEMPLATE,
        "reasoning_effort": _words(*_MORE_EFFORTS),
        "modalities": openai.STRINGS,
        "audio": _REFUSED,
    },
    openai.TextBody: {"prompt": openai.PROMPT},
    embeddings.EmbeddingsBody: {
        "input": embeddings.INPUT,
        **{name: _off(neutral) for name, neutral in embeddings.NEUTRAL.items()},
    },
    openai.MessageBody: {"role": _words("system", "developer", "user", "assistant", "tool", "function")},
    openai.FormatBody: {"type": _words(*_FORMS)},
    openai.PictureBody: {"detail": _words(*DETAILS, None)},
    openai.ToolBody: {"type": _words("function", "custom", None)},
    openai.FunctionBody: {"name": _NAME, "parameters": _FREE},
    openai.CustomBody: {"name": _NAME},
    openai.InputFormatBody: {"type": _words("text", "grammar")},
    openai.SchemaBody: {"schema": _BY_TYPE},
    anthropic.MessagesBody: {
        "system": anthropic.CONTENT,
        "messages": anthropic.TURNS,
        "stop_sequences": anthropic.STOPS,
        "logit_bias": openai.BIAS,
        "tools": anthropic.TOOLS,
        "tool_choice": anthropic.CHOICE,
        "thinking": anthropic.THINKING,
        "output_config": anthropic.OUTPUT,
        "output_format": anthropic.FORMAT,
        "context_management": anthropic.CONTEXT,
        "mcp_servers": anthropic.LIST,
        **dict.fromkeys(
            (
                "thread",
                "container",
                "chat_template_kwargs",
                "n",
                "stop",
                "logprobs",
                "top_logprobs",
                "best_of",
                "response_format",
                "max_completion_tokens",
            ),
            _REFUSED,
        ),
    },
    anthropic.BlockBody: {"input": _BY_TYPE, "content": _BY_TYPE},
    anthropic.ToolBody: {"input_schema": _BY_TYPE},
    anthropic.TurnBody: {"role": _words("user", "assistant", "system")},
    anthropic.ThinkingBody: {"type": _words("enabled", "adaptive", "disabled")},
    anthropic.OutputBody: {"effort": _words(*_EFFORTS)},
    anthropic.ChoiceBody: {"type": _words("auto", "any", "tool", "none")},
    anthropic.FormatBody: {"type": _words("json_schema"), "schema": _BY_TYPE},
    responses.ResponsesBody: {
        "input": responses.INPUT,
        "tools": responses.TOOLS,
        "tool_choice": responses.CHOICE,
        "text": responses.OUTPUT,
        "reasoning": responses.REASONING,
        "include": responses.INCLUDE,
        "truncation": _words("auto", "disabled", None),
        "context_management": responses.EDITS,
        **dict.fromkeys(
            (
                "previous_response_id",
                "conversation",
                "prompt",
                "moderation",
                "chat_template_kwargs",
                "n",
                "best_of",
                "stop",
                "stop_sequences",
                "logit_bias",
                "logprobs",
                "max_tokens",
                "max_completion_tokens",
                "response_format",
                "reasoning_effort",
                "enable_thinking",
            ),
            _REFUSED,
        ),
    },
    responses.ToolBody: {"parameters": _BY_TYPE, "format": _BY_TYPE},
    responses.ReasoningBody: {"effort": _words(*_MORE_EFFORTS)},
    responses.FormatBody: {"type": _words(*_FORMS), "schema": _BY_TYPE},
}

# Missing is null to a struct, and a refusal to the translators.
DEMANDED: Final[Demands] = {
    openai.ChatBody: ("model", "messages"),
    openai.TextBody: ("model", "prompt"),
    embeddings.EmbeddingsBody: ("model", "input"),
    anthropic.MessagesBody: ("model", "messages"),
    responses.ResponsesBody: ("model", "input"),
}
