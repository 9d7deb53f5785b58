"""The messages of Anthropic's dialect become turns: nothing is added, and nothing that was said left out.

Blocks of text are joined as they stand, with the pictures of users and tools between them. A
document of plain text is its text, as lines of its own, below its title and its context. A result
of a tool becomes a turn of its own, and results of one round stand in the order of their calls:
many templates tell by the order alone which result is whose. A system turn among the messages
keeps its place; the template moves it where it knows only a leading one. What the vendor's servers
did, and files that lie there, are left out, so that a conversation that began there goes on here.
Of texts one thing is taken out: the block that Claude Code puts before its system prompt for the
vendor's bill. It differs with every prompt, says nothing to a model, and would defeat every prompt cache.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from msgspec import Raw

from cortex.ask import Image, Message, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.translator import media
from cortex.wire import reading
from cortex.wire.anthropic_bodies import CITATIONS, CONTENT, TURNS, BlockBody, SourceBody, TurnBody

MOST_MESSAGES: Final = 2048
_BILLING: Final = "x-anthropic-billing-header:"
# What the vendor's servers were asked for; what they answered is a result in the assistant's own turn.
_HOSTED: Final = ("server_tool_use", "mcp_tool_use")
_HOSTED_RESULT: Final = "_tool_result"
_UPLOAD: Final = "container_upload"
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
    return media.bounded((*_system(system), *in_call_order(said)))


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
        case "assistant" | "user" | "system" as role if isinstance(body.content, str):
            yield Message(role, body.content)
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
    """What stands where text alone may."""
    if isinstance(content, str):
        return content
    for index, block in enumerate(content):
        if block.type != "text":
            raise _refused(block, f"{at}[{index}]")
    return "".join(block.text or "" for block in content)


def _refused(block: BlockBody, at: str) -> BadAsk:
    return media.misplaced(at) if block.type == "image" else media.stray(block.type, at)


# -- what is shown


def _content(blocks: list[tuple[str, BlockBody]]) -> media.Content:
    said = media.Content()
    for at, block in blocks:
        match block.type:
            case "text":
                said.say(block.text or "")
            case "image":
                said.show(_picture(block, at))
            case "document":
                said.say(_document(block, at))
            case _:
                raise _refused(block, at)
    return said


def _numbered(content: list[BlockBody], at: str) -> list[tuple[str, BlockBody]]:
    return [(f"{at}[{index}]", block) for index, block in enumerate(content)]


def _source(block: BlockBody, at: str) -> SourceBody:
    if not isinstance(block.source, SourceBody):
        raise BadAsk(f"'{at}.source' is missing: it holds the {block.type}", param=f"{at}.source")
    return block.source


def _picture(block: BlockBody, at: str) -> Image:
    source = _source(block, at)
    match source.type:
        case "base64":
            label = source.media_type or ""
            if not label.startswith("image/"):
                name = f"{at}.source.media_type"
                raise BadAsk(
                    f"'{name}' must be image/png, jpeg, gif or webp", param=name, reason=media.REASON
                )
            return media.of_base64(source.data, f"{at}.source.data", at)
        case "url":
            return media.of_url(source.url, f"{at}.source.url", at)
        case kind:
            raise _unkept(kind, f"{at}.source")


def _unkept(kind: str, at: str) -> BadAsk:
    why = "no files are kept here" if kind == "file" else f"'{kind}' is not supported"
    return Unsupported(f"'{at}': {why}; send the data itself, as base64", param=at, reason=media.REASON)


def _document(block: BlockBody, at: str) -> str:
    """A document of plain text, which can be told as one."""
    source = _source(block, at)
    if source.type != "text":
        raise media.stray("document", at)
    cited = reading.part(block.citations, CITATIONS, f"{at}.citations")
    if cited is not None and cited.enabled:
        name = f"{at}.citations"
        raise Unsupported(f"'{name}' are not made here; leave it out", param=name)
    lines = (line for line in (block.title, block.context, source.data) if line)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


# -- what the assistant said


def _spoken(blocks: list[BlockBody], at: str) -> Message:
    """Its thoughts are handed back as they were; signatures and what the vendor alone can read
    say nothing to another model. What came of the vendor's tools is in the text beside them: told as
    words of the assistant's it would teach a model to make results up."""
    text: list[str] = []
    thought: list[str] = []
    calls: list[ToolUse] = []
    for index, block in enumerate(blocks):
        match block.type:
            case "text":
                text.append(block.text or "")
            case "thinking":
                thought.append(block.thinking or "")
            case kind if kind == "redacted_thinking" or _hosted(kind):
                continue
            case "tool_use":
                calls.append(_use(block, f"{at}.content[{index}]"))
            case _:
                raise _refused(block, f"{at}.content[{index}]")
    return Message("assistant", "".join(text), "".join(thought), tuple(calls))


def _hosted(kind: str) -> bool:
    return kind in (*_HOSTED, _UPLOAD) or kind.endswith(_HOSTED_RESULT)


def _use(block: BlockBody, at: str) -> ToolUse:
    for name in ("id", "name"):
        if not getattr(block, name):
            raise BadAsk(f"'{at}.{name}' is missing", param=f"{at}.{name}")
    return ToolUse(block.id or "", block.name or "", reading.object_text(block.input, f"{at}.input"))


# -- what the user said, and the tools


def _heard(blocks: list[BlockBody], at: str) -> Iterator[Message]:
    numbered = [pair for pair in _numbered(blocks, f"{at}.content") if pair[1].type != _UPLOAD]
    if not numbered:
        yield Message("user")
    for is_result, group in groupby(numbered, key=lambda pair: pair[1].type == "tool_result"):
        if is_result:
            yield from (_result(block, where) for where, block in group)
        else:
            yield _content(list(group)).turn(Message("user"))


def _result(block: BlockBody, at: str) -> Message:
    if not block.tool_use_id:
        raise BadAsk(f"'{at}.tool_use_id' is missing: it says which call is answered", param=at)
    content = reading.long_part(block.content, CONTENT, f"{at}.content")
    said = _content(_numbered(_blocks(content), f"{at}.content"))
    if block.is_error and not said.length and not said.images:
        said.say(_SILENT_ERROR)
    return said.turn(Message("tool", tool_call_id=block.tool_use_id))


def in_call_order(said: list[Message]) -> Iterable[Message]:
    """`said`, the results of each round in the order of its calls."""
    return _in_call_order(said) if any(turn.role == "tool" for turn in said) else said


def _in_call_order(said: list[Message]) -> Iterator[Message]:
    places: dict[str, int] = {}
    for is_tool, group in groupby(said, key=lambda turn: turn.role == "tool"):
        if is_tool:
            yield from sorted(group, key=lambda turn: places.get(turn.tool_call_id or "", len(places)))
            continue
        for turn in group:
            if turn.role == "assistant":
                places = {use.id: index for index, use in enumerate(turn.tool_calls)}
            yield turn
