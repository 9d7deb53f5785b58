"""Tool calls are told from the visible answer: Hermes and Qwen JSON between markers.

`<tool_call>`, an object with `name` and `arguments`, `</tool_call>`; any number of
them in one answer. Blanks around a call go with it. A block that is no call comes
out word for word, markers included, as soon as that is certain: nothing is lost,
and an answer that merely speaks of the marker streams on.

The scanner looks at every character once and runs no pattern over what a model
wrote. A marker inside a JSON string is data.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from cortex.events import Text, ToolCall
from cortex.text.held import Hoard, overlap

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"

Said: TypeAlias = list[Text | ToolCall]


class ToolCalls:
    """One answer's scanner. Its stages take the text and where to go on, and say where
    they stopped; a stage that needs more text answers with the text's end."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._stage = self._outside
        self._held = ""
        self._block = Hoard()  # an open block, from its marker on
        self._object = _Object()
        self._ready: Said = []  # the block's call, while its closing marker is awaited
        self._blank = Hoard()  # blanks that a call would take with it
        self._after_call = False
        self._said: Said = []

    def feed(self, piece: str) -> Said:
        """What `piece` makes certain."""
        whole, at = self._held + piece, 0
        self._held = ""
        while at < len(whole):
            at = self._stage(whole, at)
        return self._take()

    def flush(self) -> Said:
        """What was held back. A block that lacks only its closing marker is a call."""
        held, self._held = self._held, ""
        if self._ready:
            self._emit()
        else:
            self._tell(self._block.take() + held)
        self._stage = self._outside
        if self._blank:
            self._said.append(Text(self._blank.take()))
        return self._take()

    def held(self) -> int:
        """How many characters are read and not said."""
        return len(self._held) + len(self._block) + len(self._blank)

    def _take(self) -> Said:
        said, self._said = self._said, []
        return said

    def _outside(self, whole: str, at: int) -> int:
        found = whole.find(OPEN, at)
        end = len(whole) - overlap(whole, at, OPEN) if found < 0 else found
        self._tell(whole[at:end])
        if found < 0:
            self._held = whole[end:]
            return len(whole)
        self._block.add(OPEN)
        self._stage = self._before
        return found + len(OPEN)

    def _before(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        if at < len(whole):
            if whole[at] != "{":
                return self._give_up(at)
            self._object = _Object()
            self._stage = self._inside
        return at

    def _inside(self, whole: str, at: int) -> int:
        end = self._object.scan(whole, at)
        self._block.add(whole[at:end])
        if self._object.broken:
            return self._give_up(end)
        if self._object.whole:
            block = self._block.take()
            self._block.add(block)
            call = _read(block[len(OPEN) :])
            if call is None:
                return self._give_up(end)
            self._ready = [ToolCall(f"call_{self._new_id()[:24]}", *call)]
            self._stage = self._after
        return end

    def _after(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        rest = whole[at : at + len(CLOSE)]
        if rest == CLOSE:
            self._emit()
            return at + len(CLOSE)
        if CLOSE.startswith(rest):
            self._held = rest
            return len(whole)
        return self._give_up(at)

    def _skip(self, whole: str, at: int) -> int:
        """Past the blanks of a block."""
        start = at
        while at < len(whole) and whole[at].isspace():
            at += 1
        self._block.add(whole[start:at])
        return at

    def _give_up(self, at: int) -> int:
        """The block is text; what follows it is read as text again."""
        self._ready = []
        self._stage = self._outside
        self._tell(self._block.take())
        return at

    def _emit(self) -> None:
        self._said += self._ready
        self._ready = []
        self._stage = self._outside
        self._block.clear()
        self._blank.clear()
        self._after_call = True

    def _tell(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
        if not text:
            return
        self._after_call = False
        core = text.rstrip()
        if core:
            self._said.append(Text(self._blank.take() + core))
        self._blank.add(text[len(core) :])


class _Object:
    """Finds the end of a JSON object without parsing it: braces, strings, escapes."""

    def __init__(self) -> None:
        self.whole = False
        self.broken = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def scan(self, text: str, at: int) -> int:
        """Where the object ends or breaks, else the text's end."""
        while at < len(text) and not (self.whole or self.broken):
            at = self._string(text, at) if self._in_string else self._structure(text, at)
        return at

    def _structure(self, text: str, at: int) -> int:
        """Up to the next string, or the object's end."""
        depth = self._depth
        for end in range(at, len(text)):
            char = text[end]
            if char == '"':
                self._in_string = True
                break
            if char == "{":
                depth += 1
            elif char == "}":
                depth -= 1
                if not depth:
                    self.whole = True
                    break
        self._depth = depth
        return end + 1

    def _string(self, text: str, at: int) -> int:
        """Past the string's end. A raw line end cannot be in a string: it breaks the
        object at once, instead of keeping the rest of the answer back."""
        escaped = self._escaped
        for end in range(at, len(text)):
            char = text[end]
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                self._in_string = False
                break
            if char == "\n":
                self.broken = True
                break
        self._escaped = escaped
        return end + 1


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"null")


def _read(body: str) -> tuple[str, str] | None:
    """Name and arguments of a call as JSON text, untouched; None when it is no call."""
    try:
        call = msgspec.json.decode(body, type=_Call)
        arguments = _object_text(call.arguments)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return (call.name, arguments) if call.name else None


def _object_text(raw: msgspec.Raw) -> str:
    """The JSON text of an object, from an object, a string that holds one, or null."""
    text = bytes(raw).decode()
    if text == "null":
        return "{}"
    if text.startswith('"'):
        text = msgspec.json.decode(raw, type=str)
    msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return text
