"""Turns of a dialogue take the form that chat templates are written for.

Plain data only: messages and tools become the dicts of the Hugging Face
conventions, with a key only where there is something to say, since templates ask
`'tool_calls' in message`. `Style` covers what the conventions leave open. `forms`
gives a dialogue as it is, and then in the two stricter shapes that many templates
insist on, in which no word is missing.
"""

import json
from base64 import b32encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import groupby

from cortex.ask import Json, Message, Tool, ToolUse


@dataclass(frozen=True, slots=True)
class Style:
    """What a template takes: content as a list of parts (models that see images), the
    arguments of a call as JSON text instead of an object, ids of nine letters and digits
    (Mistral) and no others."""

    parts: bool = False
    text_arguments: bool = False
    short_ids: bool = False

    def id(self, given: str) -> str:
        """An id as the template takes it: the same one for a call and for its result."""
        if not self.short_ids or (len(given) == 9 and given.isascii() and given.isalnum()):
            return given
        return b32encode(sha256(given.encode("utf-8", "replace")).digest())[:9].decode()


def turn(message: Message, style: Style = Style()) -> dict[str, Json]:
    """One message as templates read it."""
    text = message.text
    # Thoughts have two names: templates of one family know the second only.
    said: dict[str, Json] = {"thinking": message.thought} if message.thought else {}
    said |= {"role": message.role, "content": [{"type": "text", "text": text}] if style.parts else text}
    if message.thought:
        said["reasoning_content"] = message.thought
    if message.tool_calls:
        said["tool_calls"] = [_call(call, style) for call in message.tool_calls]
    if message.tool_call_id is not None:
        said["tool_call_id"] = style.id(message.tool_call_id)
    if message.name is not None:
        said["name"] = message.name
    return said


def function(tool: Tool) -> dict[str, Json]:
    """One tool as templates read it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        },
    }


def forms(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """The dialogue as it is; then with all system turns as one in front; then with
    neighbours of one role joined as well. Texts are joined by a blank line."""
    given = tuple(messages)
    led = _led(given)
    paired = _paired(led)
    yield given
    if led != given:
        yield led
    if paired != led:
        yield paired


def _call(call: ToolUse, style: Style) -> Json:
    arguments = call.arguments if style.text_arguments else _object(call.arguments)
    return {
        "id": style.id(call.id),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _object(text: str) -> Json:
    """The object that most templates expect, or the text where it holds none."""
    try:
        value: Json = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _led(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    systems = [message for message in messages if message.role == "system"]
    if len(systems) < 2 and messages[:1] == tuple(systems[:1]):
        return messages
    others = (message for message in messages if message.role != "system")
    return (_joined(systems), *others) if systems else messages


def _paired(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    turns: list[Message] = []
    for (role, _), run in groupby(messages, lambda message: (message.role, bool(message.tool_calls))):
        same = list(run)
        turns += [_joined(same)] if role != "tool" and not same[0].tool_calls else same
    return tuple(turns)


def _joined(messages: Sequence[Message]) -> Message:
    """One turn that says what all of them say."""
    text = "\n\n".join(message.text for message in messages if message.text)
    thought = "\n\n".join(message.thought for message in messages if message.thought)
    return replace(messages[0], text=text, thought=thought)
