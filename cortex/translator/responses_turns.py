"""The items of OpenAI's Responses dialect become turns: nothing is added, nothing that was said left out.

An answer is several items there (a reasoning, a message, calls) and one turn here: items of the
assistant's that follow each other are joined, but two messages side by side stay two turns. Pictures
of users and tools keep their place between the texts of their turn. Of a
thought that was sealed here the seal is read, which is the thought to the letter; seals of
others say nothing to another model, and there the summary is what is known. What the vendor did
itself is left out, so that a conversation that began there goes on here. Results of one round
stand in the order of their calls, as in `anthropic_turns`.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from cortex.ask import Image, Message, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.translator import media
from cortex.translator.anthropic_turns import in_call_order
from cortex.translator.free_tools import as_arguments
from cortex.translator.responses_tools import called
from cortex.wire import reading
from cortex.wire.responses_bodies import INPUT, Content, ItemBody, PartBody, ResponsesBody

MOST_ITEMS: Final = 4096
# Told apart from the vendor's own, which only the vendor can read.
_SEAL: Final = b"cortex:"
_TEXTS: Final = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_CALLS: Final = ("function_call", "custom_tool_call")
_RESULTS: Final = ("function_call_output", "custom_tool_call_output")
# What was done at the vendor, and what nobody but the vendor can read. The answers that follow say
# what came of it; told as the assistant's words it would teach a model to make such things up.
_HOSTED: Final = frozenset(
    {
        "web_search_call",
        "file_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_list_tools",
        "mcp_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "compaction",
        "compaction_summary",
        "context_compaction",
    }
)


def sealed(thought: str) -> str:
    """`thought` as a text that its client hands back unread."""
    return b64encode(_SEAL + thought.encode()).decode()


def turns(body: ResponsesBody) -> tuple[Message, ...]:
    """The turns of the fields `instructions` and `input`."""
    found = reading.long_part(body.input, INPUT, "input")
    if found is None or found == []:
        raise BadAsk("'input' is missing or empty: send a text, or at least one item", param="input")
    if len(found) > MOST_ITEMS and not isinstance(found, str):
        raise BadAsk(f"'input' has more than {MOST_ITEMS} entries", param="input")
    first = [Message("system", body.instructions)] if body.instructions else []
    if isinstance(found, str):
        return (*first, Message("user", found))
    said = list(_turns(found))
    if not said:
        raise BadAsk("'input' holds nothing that a model here can read: send a message, too", param="input")
    return media.bounded((*first, *in_call_order(said)))


@dataclass(slots=True)
class _Round:
    """What the assistant said since somebody else did."""

    text: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    calls: list[ToolUse] = field(default_factory=list)
    last: str = ""

    def take(self, kind: str) -> Iterator[Message]:
        """The round goes on with an item of that kind, or is over: then it is yielded."""
        if self.last and (not kind or kind == self.last == "message"):
            yield Message("assistant", "".join(self.text), "\n\n".join(self.thought), tuple(self.calls))
            self.text, self.thought, self.calls = [], [], []
        self.last = kind


def _turns(items: list[ItemBody]) -> Iterator[Message]:
    said = _Round()
    for index, item in enumerate(items):
        at = f"input[{index}]"
        match item.type or "message":
            case "message" if item.role == "assistant":
                yield from said.take("message")
                said.text.append(_text(item.content, f"{at}.content"))
            case "message":
                yield from said.take("")
                yield _heard(item, at)
            case "reasoning":
                yield from said.take("reasoning")
                said.thought += _thought(item, at)
            case kind if kind in _CALLS:
                yield from said.take("call")
                said.calls.append(_use(item, at))
            case kind if kind in _RESULTS:
                yield from said.take("")
                answer = Message("tool", tool_call_id=_needed(item, "call_id", at))
                yield _shown(item.output, f"{at}.output").turn(answer)
            case kind if kind not in _HOSTED:
                raise _stranger(item, at)
    yield from said.take("")


def _heard(item: ItemBody, at: str) -> Message:
    match item.role:
        case "system" | "developer":
            return Message("system", _text(item.content, f"{at}.content"))
        case "user" if isinstance(item.content, str):
            return Message("user", item.content)
        case "user":
            return _shown(item.content, f"{at}.content").turn(Message("user"))
        case _:
            name = f"{at}.role"
            raise BadAsk(f"'{name}' must be user, assistant, system or developer", param=name)


def _text(content: Content, at: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_piece(part, f"{at}[{index}]") for index, part in enumerate(content))


def _piece(part: PartBody, at: str) -> str:
    if part.type in _TEXTS:
        return part.text or ""
    if part.type == "refusal":
        return part.refusal or ""
    raise media.misplaced(at) if part.type == "input_image" else media.stray(part.type, at)


def _shown(content: Content, at: str) -> media.Content:
    """What somebody said who may show pictures."""
    said = media.Content()
    if content is None or isinstance(content, str):
        said.say(content or "")
        return said
    for index, part in enumerate(content):
        place = f"{at}[{index}]"
        if part.type == "input_image":
            said.show(_picture(part, place))
        else:
            said.say(_piece(part, place))
    return said


def _picture(part: PartBody, at: str) -> Image:
    if part.file_id:
        name = f"{at}.file_id"
        raise Unsupported(f"'{name}': no files are kept here; send the data itself as image_url", param=name)
    detail = media.detail(part.detail, f"{at}.detail")
    return replace(media.of_url(part.image_url, f"{at}.image_url", at), detail=detail)


def _thought(item: ItemBody, at: str) -> list[str]:
    """The thought of `item` as one text, or nothing where it holds none that can be read."""
    if (thought := _unsealed(item.encrypted_content)) is not None:
        return [thought]
    if item.content:
        return [_text(item.content, f"{at}.content")]
    parts = [_piece(part, f"{at}.summary[{index}]") for index, part in enumerate(item.summary or ())]
    return ["\n\n".join(parts)] if parts else []


def _unsealed(text: str | None) -> str | None:
    try:
        data = b64decode(text or "", validate=True)
        return data.removeprefix(_SEAL).decode() if data.startswith(_SEAL) else None
    except (binascii.Error, ValueError):
        return None


def _use(item: ItemBody, at: str) -> ToolUse:
    call_id, name = _needed(item, "call_id", at), _needed(item, "name", at)
    # A call without arguments comes back as an empty text.
    arguments = item.arguments or "{}"
    if item.type == "custom_tool_call":
        arguments = as_arguments(item.input or "")
    return ToolUse(call_id, called(name, item.namespace), arguments)


def _needed(item: ItemBody, name: str, at: str) -> str:
    value: str | None = getattr(item, name)
    if not value:
        raise BadAsk(f"'{at}.{name}' is missing", param=f"{at}.{name}")
    return value


def _stranger(item: ItemBody, at: str) -> BadAsk:
    if item.type == "item_reference":
        return Unsupported(
            f"'{at}': no answer is kept here that could be referred to; send the item itself, as clients do "
            "that are told to ask for 'store': false",
            param=at,
        )
    return Unsupported(f"'{at}': items of type '{item.type}' are not supported here", param=at)
