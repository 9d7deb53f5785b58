"""The messages of Anthropic's dialect become turns: nothing is added and nothing left out.

Blocks of text are joined as they stand. A result of a tool becomes a turn of its own, and
results of one round stand in the order of their calls: many templates tell by the order alone
which result is whose. A system turn among the messages keeps its place; the template moves it
where it knows only a leading one. One thing is taken out: the block that Claude Code puts
before its system prompt for the vendor's bill. It differs with every prompt, says nothing to a
model, and would defeat every prompt cache.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from msgspec import Raw

from cortex.ask import Message, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.wire import reading
from cortex.wire.anthropic_bodies import CONTENT, TURNS, BlockBody, TurnBody

MOST_MESSAGES: Final = 2048
_BILLING: Final = "x-anthropic-billing-header:"
# What a model that reads text alone cannot be given.
_SEEN: Final = frozenset({"image", "document", "search_result"})
# A failed tool that says nothing must not look like one that found nothing.
_SILENT_ERROR: Final = "error"


def turns(system: Raw, messages: Raw) -> tuple[Message, ...]:
    """The turns of the fields `system` and `messages`."""
    bodies = reading.long_part(messages, TURNS, "messages")
    if not bodies:
        raise BadAsk("'messages' is missing or empty: send at least one message", param="messages")
    if len(bodies) > MOST_MESSAGES:
        raise BadAsk(f"'messages' has more than {MOST_MESSAGES} entries", param="messages")
    said = [turn for index, body in enumerate(bodies) for turn in _turn(body, f"messages[{index}]")]
    return (*_system(system), *in_call_order(said))


def _system(raw: Raw) -> Iterator[Message]:
    content = reading.long_part(raw, CONTENT, "system")
    if not content:
        return
    if not isinstance(content, str) and (first := content[0].text or "").startswith(_BILLING):
        content = [BlockBody("text", first.partition("\n")[2]), *content[1:]]
    text = _text(content, "system")
    if text:
        yield Message("system", text)


def _turn(body: TurnBody, at: str) -> Iterator[Message]:
    match body.role:
        case "assistant":
            yield _spoken(_blocks(body.content), at)
        case "user":
            yield from _heard(_blocks(body.content), at)
        case "system":
            yield Message("system", _text(_blocks(body.content), f"{at}.content"))
        case _:
            raise BadAsk(f"'{at}.role' must be user, assistant or system", param=f"{at}.role")


def _blocks(content: str | list[BlockBody] | None) -> list[BlockBody]:
    if isinstance(content, str):
        return [BlockBody("text", content)]
    return content or [BlockBody("text", "")]


def _text(content: str | list[BlockBody], at: str) -> str:
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        if block.type != "text":
            raise _refused(block, f"{at}[{index}]")
    return "".join(block.text or "" for block in content)


def _refused(block: BlockBody, at: str) -> BadAsk:
    if block.type in _SEEN:
        return Unsupported(f"'{at}': this model reads text only, and no '{block.type}' blocks", param=at)
    return Unsupported(f"'{at}': blocks of type '{block.type}' are not supported here", param=at)


# -- what the assistant said


def _spoken(blocks: list[BlockBody], at: str) -> Message:
    """Its thoughts are handed back as they were; signatures and what the vendor alone can read
    say nothing to another model."""
    text: list[str] = []
    thought: list[str] = []
    calls: list[ToolUse] = []
    for index, block in enumerate(blocks):
        match block.type:
            case "text":
                text.append(block.text or "")
            case "thinking":
                thought.append(block.thinking or "")
            case "redacted_thinking":
                continue
            case "tool_use":
                calls.append(_use(block, f"{at}.content[{index}]"))
            case _:
                raise _refused(block, f"{at}.content[{index}]")
    return Message("assistant", "".join(text), "".join(thought), tuple(calls))


def _use(block: BlockBody, at: str) -> ToolUse:
    for name in ("id", "name"):
        if not getattr(block, name):
            raise BadAsk(f"'{at}.{name}' is missing", param=f"{at}.{name}")
    arguments = "{}" if reading.absent(block.input) else bytes(block.input).decode()
    if not arguments.startswith("{"):
        raise BadAsk(f"'{at}.input' must be an object", param=f"{at}.input")
    return ToolUse(block.id or "", block.name or "", arguments)


# -- what the user said, and the tools


def _heard(blocks: list[BlockBody], at: str) -> Iterator[Message]:
    numbered = [(f"{at}.content[{index}]", block) for index, block in enumerate(blocks)]
    for is_result, group in groupby(numbered, key=lambda pair: pair[1].type == "tool_result"):
        if is_result:
            yield from (_result(block, where) for where, block in group)
            continue
        text: list[str] = []
        for where, block in group:
            if block.type != "text":
                raise _refused(block, where)
            text.append(block.text or "")
        yield Message("user", "".join(text))


def _result(block: BlockBody, at: str) -> Message:
    if not block.tool_use_id:
        raise BadAsk(f"'{at}.tool_use_id' is missing: it says which call is answered", param=at)
    content = reading.long_part(block.content, CONTENT, f"{at}.content") or ""
    text = _text(content, f"{at}.content")
    return Message("tool", text or (_SILENT_ERROR if block.is_error else ""), tool_call_id=block.tool_use_id)


def in_call_order(said: list[Message]) -> Iterator[Message]:
    """`said`, the results of each round in the order of its calls."""
    places: dict[str, int] = {}
    for is_tool, group in groupby(said, key=lambda turn: turn.role == "tool"):
        if is_tool:
            yield from sorted(group, key=lambda turn: places.get(turn.tool_call_id or "", len(places)))
            continue
        for turn in group:
            if turn.role == "assistant":
                places = {use.id: index for index, use in enumerate(turn.tool_calls)}
            yield turn
