"""As what the fields are read that their structs keep raw.

Told by the decoders of `wire` that read them in the end, so that the two cannot differ. What no
decoder tells is said here: fields that are refused unless they are off, and free-form objects.
"""

from typing import Final

import msgspec

from cortex.openapi.shapes import Demands, Fills, Schema
from cortex.wire import anthropic_bodies as anthropic
from cortex.wire import embeddings
from cortex.wire import openai_bodies as openai
from cortex.wire import responses_bodies as responses


def _off(values: frozenset[bytes]) -> Schema:
    """These values alone, which say that it is not wanted."""
    told = [msgspec.json.decode(value) for value in sorted(values) if value]
    # 0 and 0.0 are one number to a schema.
    return {"enum": [value for value in told if not isinstance(value, float)]}


_REFUSED: Final[Schema] = {"type": "null", "description": "Refused."}
# A JSON schema, or arguments: whatever the caller's own tools understand.
_FREE: Final[Schema] = {"type": ["object", "null"]}
# Read by what the `type` beside it says, and otherwise by nobody.
_BY_TYPE: Final[Schema] = {"description": "Read where `type` calls for it."}

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
        "chat_template_kwargs": openai.SCALARS,
        "modalities": openai.STRINGS,
        "audio": _REFUSED,
    },
    openai.TextBody: {"prompt": openai.PROMPT},
    embeddings.EmbeddingsBody: {
        "input": embeddings.INPUT,
        **{name: _off(neutral) for name, neutral in embeddings.NEUTRAL.items()},
    },
    openai.FunctionBody: {"parameters": _FREE},
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
    anthropic.FormatBody: {"schema": _BY_TYPE},
    responses.ResponsesBody: {
        "input": responses.INPUT,
        "tools": responses.TOOLS,
        "tool_choice": responses.CHOICE,
        "text": responses.OUTPUT,
        "reasoning": responses.REASONING,
        "include": responses.INCLUDE,
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
    responses.FormatBody: {"schema": _BY_TYPE},
}

# Missing is null to a struct, and a refusal to the translators.
DEMANDED: Final[Demands] = {
    openai.ChatBody: ("model", "messages"),
    openai.TextBody: ("model", "prompt"),
    embeddings.EmbeddingsBody: ("model", "input"),
    anthropic.MessagesBody: ("model", "messages"),
    responses.ResponsesBody: ("model", "input"),
}
