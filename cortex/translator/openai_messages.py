"""The messages of a chat become turns: nothing is added, reordered or left out.

Content is text or a list of parts: texts, which are joined as they stand, and pictures of users
and tools between them. A developer is a system voice. The legacy function turns become tool
turns, with ids made up from their position, so that an answer still finds its call; a call told
in the legacy form and in the other is one. Any other part is refused by its name.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final, cast

from msgspec import Raw

from cortex.ask import Image, Message, Role, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.translator import media
from cortex.translator.free_tools import as_arguments
from cortex.wire import reading
from cortex.wire.openai_bodies import (
    MESSAGES,
    CallBody,
    FunctionCallBody,
    MessageBody,
    PartBody,
    PictureBody,
)

MOST_MESSAGES: Final = 2048
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def turns(raw: Raw) -> tuple[Message, ...]:
    """The turns of the field `messages`."""
    bodies = reading.long_part(raw, MESSAGES, "messages")
    if not bodies:
        raise BadAsk("'messages' is missing or empty: send at least one message", param="messages")
    if len(bodies) > MOST_MESSAGES:
        raise BadAsk(f"'messages' has more than {MOST_MESSAGES} entries", param="messages")
    return media.bounded(_turns(bodies))


def _turns(bodies: list[MessageBody]) -> Iterator[Message]:
    legacy: dict[str, str] = {}  # function name -> id of its last call
    for index, body in enumerate(bodies):
        at = f"messages[{index}]"
        _check(body, at)
        calls = [_use(call, f"{at}.tool_calls[{place}]") for place, call in enumerate(body.tool_calls or ())]
        if body.function_call is not None:
            call = _called(f"call_{index}", body.function_call)
            # Some clients tell one call in both forms.
            twin = next((one for one in calls if replace(one, id=call.id) == call), None)
            legacy[call.name] = (twin or call).id
            if twin is None:
                calls.append(call)
        answers = legacy.get(body.name or "") if body.role == "function" else body.tool_call_id
        said = Message(
            role=cast(Role, _ROLES[body.role]),
            thought=body.reasoning_content or "",
            tool_calls=tuple(calls),
            tool_call_id=answers,
            name=body.name,
        )
        yield _content(body, at).turn(said)


def _check(body: MessageBody, at: str) -> None:
    if body.role not in _ROLES:
        raise BadAsk(f"'{at}.role' must be one of {', '.join(_ROLES)}", param=f"{at}.role")
    if body.audio:
        raise Unsupported(f"'{at}.audio' is not supported; send text content", param=f"{at}.audio")
    if body.role != "assistant":
        for name in ("tool_calls", "function_call", "reasoning_content", "refusal"):
            if getattr(body, name):
                raise BadAsk(f"'{at}.{name}' belongs to assistant messages only", param=f"{at}.{name}")
    if body.role == "function" and not body.name:
        raise BadAsk(f"'{at}.name' is missing: it says which function answers", param=f"{at}.name")


def _content(body: MessageBody, at: str) -> media.Content:
    said = media.Content()
    if body.content is None or isinstance(body.content, str):
        # What the assistant refused with is what it said.
        said.say(body.content or body.refusal or "")
        return said
    for index, part in enumerate(body.content):
        place = f"{at}.content[{index}]"
        match part.type:
            case "text":
                said.say(part.text or "")
            case "refusal" if body.role == "assistant":
                said.say(part.refusal or "")
            case "image_url" if _ROLES[body.role] in ("user", "tool"):
                said.show(_picture(part, place))
            case "image_url":
                raise media.misplaced(place)
            case kind:
                raise media.stray(kind, place)
    return said


def _picture(part: PartBody, place: str) -> Image:
    at, body = f"{place}.image_url", part.image_url
    if not isinstance(body, PictureBody):
        return media.of_url(body, at, place)
    detail = media.detail(body.detail, f"{at}.detail")
    return replace(media.of_url(body.url, f"{at}.url", place), detail=detail)


def _use(call: CallBody, at: str) -> ToolUse:
    if call.type == "custom" and call.custom is not None:
        return ToolUse(call.id, call.custom.name, as_arguments(call.custom.input or ""))
    if call.type not in (None, "function") or call.function is None:
        raise Unsupported(f"'{at}': only calls of functions and custom tools are supported", param=at)
    return _called(call.id, call.function)


def _called(call_id: str, function: FunctionCallBody) -> ToolUse:
    # Some clients send back a call without arguments as an empty text.
    return ToolUse(call_id, function.name, function.arguments or "{}")
