"""Custom tools of OpenAI's dialects: the model calls them with a text, and clients get that text.

A model knows functions alone, so it is shown one with a text as its only argument. A grammar for
that text is told to the model and held by nobody.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from cortex.ask import Json

PARAMETERS: Final[Mapping[str, Json]] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


class _Free(msgspec.Struct):
    """The arguments of such a call."""

    input: str


_INPUT: Final = msgspec.json.Decoder(_Free)


def free_input(arguments: str) -> str:
    """The text that a custom tool was called with. A model that kept to no form said all of it."""
    with suppress(msgspec.DecodeError, RecursionError):
        return _INPUT.decode(arguments).input
    return arguments


def as_arguments(text: str) -> str:
    """The arguments of an earlier call with `text`."""
    return msgspec.json.encode({"input": text}).decode()


def with_grammar(description: str, syntax: str | None, definition: str) -> str:
    """The description of a tool whose input follows that grammar."""
    rule = f"The input follows this grammar ({syntax or 'lark'}):\n{definition}"
    return f"{description}\n\n{rule}" if description else rule
