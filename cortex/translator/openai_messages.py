"""The messages of a chat become turns: nothing is added, reordered or left out.

Content is text or a list of text parts, which are joined as they stand. A developer is
a system voice. The legacy function turns become tool turns, with ids made up from
their position, so that an answer still finds its call. Anything that is not text is
refused by the name of its part.
"""

from collections.abc import Iterator
from typing import Final, cast

from msgspec import Raw

from cortex.ask import Message, Role, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.wire import reading
from cortex.wire.openai_bodies import MESSAGES, CallBody, FunctionCallBody, MessageBody

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
    return tuple(_turns(bodies))


def _turns(bodies: list[MessageBody]) -> Iterator[Message]:
    legacy: dict[str, str] = {}  # function name -> id of its last call
    for index, body in enumerate(bodies):
        at = f"messages[{index}]"
        _check(body, at)
        calls = [_use(call, f"{at}.tool_calls[{place}]") for place, call in enumerate(body.tool_calls or ())]
        if body.function_call is not None:
            legacy[body.function_call.name] = f"call_{index}"
            calls.append(_called(f"call_{index}", body.function_call))
        answers = legacy.get(body.name or "") if body.role == "function" else body.tool_call_id
        yield Message(
            role=cast(Role, _ROLES[body.role]),
            text=_text(body, at),
            thought=body.reasoning_content or "",
            tool_calls=tuple(calls),
            tool_call_id=answers,
            name=body.name,
        )


def _check(body: MessageBody, at: str) -> None:
    if body.role not in _ROLES:
        raise BadAsk(f"'{at}.role' must be one of {', '.join(_ROLES)}", param=f"{at}.role")
    for name in ("refusal", "audio"):
        if getattr(body, name):
            raise Unsupported(f"'{at}.{name}' is not supported; send text content", param=f"{at}.{name}")
    if body.role != "assistant":
        for name in ("tool_calls", "function_call", "reasoning_content"):
            if getattr(body, name):
                raise BadAsk(f"'{at}.{name}' belongs to assistant messages only", param=f"{at}.{name}")
    if body.role == "function" and not body.name:
        raise BadAsk(f"'{at}.name' is missing: it says which function answers", param=f"{at}.name")


def _text(body: MessageBody, at: str) -> str:
    if body.content is None or isinstance(body.content, str):
        return body.content or ""
    for index, part in enumerate(body.content):
        if part.type != "text":
            name = f"{at}.content[{index}]"
            raise Unsupported(f"'{name}': only text parts are supported, not '{part.type}'", param=name)
    return "".join(part.text or "" for part in body.content)


def _use(call: CallBody, at: str) -> ToolUse:
    if call.type not in (None, "function") or call.function is None:
        raise Unsupported(f"'{at}': only function calls are supported", param=at)
    return _called(call.id, call.function)


def _called(call_id: str, function: FunctionCallBody) -> ToolUse:
    # Some clients send back a call without arguments as an empty text.
    return ToolUse(call_id, function.name, function.arguments or "{}")
