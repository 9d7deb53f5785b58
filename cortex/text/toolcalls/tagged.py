"""Calls between `<tool_call>` and `</tool_call>`: Hermes and Qwen JSON, Qwen3-Coder's XML.

Hermes writes an object with `name` and `arguments`. The XML form writes
`<function=name>`, any number of `<parameter=key>value</parameter>`, `</function>`; its
values have no types, so they are told by the tool's schema, and its models often leave
the outer tags away. It may be made to write Hermes JSON, and is read then, too. A marker
inside a JSON string is data.
"""

from collections.abc import Callable, Mapping
from typing import Final

from cortex.ask import Json
from cortex.text.held import Hoard, overlap
from cortex.text.toolcalls.objects import ObjectEnd, read_call
from cortex.text.toolcalls.scanning import CallReader
from cortex.text.toolcalls.typed import typed_arguments

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
FUNCTION: Final = "<function="
PARAMETER: Final = "<parameter="
VALUE_ENDS: Final = "</parameter>"
FUNCTION_ENDS: Final = "</function>"
LONGEST_NAME: Final = 128  # of a function or parameter: more is no name, and is not held back


class TaggedCalls(CallReader):
    """Hermes JSON."""

    openings: tuple[str, ...] = (OPEN,)

    def __init__(self, new_id: Callable[[], str]) -> None:
        super().__init__(new_id)
        self._object = ObjectEnd()

    def _open(self, opening: str) -> None:
        self._stage = self._before

    def _before(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        return self._begin(whole, at) if at < len(whole) else at

    def _begin(self, whole: str, at: int) -> int:
        if whole[at] != "{":
            return self._give_up(at)
        self._object = ObjectEnd()
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
            call = read_call(block[len(OPEN) :], ("arguments",))
            if call is None:
                return self._give_up(end)
            self._ready = self._call(*call)
            self._stage = self._after
        return end

    def _after(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        word = self._word(whole, at, CLOSE)
        if word is None or self._ready is None:
            return self._give_up(at)
        if word:
            self._emit(self._ready)
            return at + len(word)
        return len(whole)


class XmlCalls(TaggedCalls):
    """Qwen3-Coder's XML. `schemas` has the parameters of each tool by its name."""

    openings = (OPEN, FUNCTION)

    def __init__(self, new_id: Callable[[], str], schemas: Mapping[str, Mapping[str, Json]]) -> None:
        super().__init__(new_id)
        self._schemas = schemas
        self._enclosed = False  # in the outer tags
        self._name = self._key = ""
        self._value = Hoard()
        self._found: dict[str, str] = {}

    def _open(self, opening: str) -> None:
        self._enclosed = opening == OPEN
        self._found = {}
        self._name = ""
        self._stage = self._before if self._enclosed else self._named

    def _begin(self, whole: str, at: int) -> int:
        if whole[at] == "{":
            return super()._begin(whole, at)
        word = self._word(whole, at, FUNCTION)
        if word is None:
            return self._give_up(at)
        return self._pass(word, at, self._named) if word else len(whole)

    def _named(self, whole: str, at: int) -> int:
        """The function's name, up to the tag's end."""
        at, name = self._until_tag_ends(whole, at)
        if name is not None:
            self._name, self._stage = name, self._between
        return at

    def _keyed(self, whole: str, at: int) -> int:
        """A parameter's name, up to the tag's end."""
        at, key = self._until_tag_ends(whole, at)
        if key is not None:
            if key in self._found:
                return self._give_up(at)
            self._key, self._stage = key, self._valued
        return at

    def _until_tag_ends(self, whole: str, at: int) -> tuple[int, str | None]:
        start = at
        while at < len(whole) and whole[at] not in "<>\n":
            at += 1
        if at - start > LONGEST_NAME or (at < len(whole) and (whole[at] != ">" or at == start)):
            self._block.add(whole[start:at])
            return self._give_up(at), None
        if at == len(whole):
            self._held = whole[start:]
            return at, None
        self._block.add(whole[start : at + 1])
        return at + 1, whole[start:at]

    def _between(self, whole: str, at: int) -> int:
        """Before a parameter, or the function's end."""
        at = self._skip(whole, at)
        word = self._word(whole, at, PARAMETER, FUNCTION_ENDS) if at < len(whole) else ""
        if word is None:
            return self._give_up(at)
        if word == PARAMETER:
            return self._pass(word, at, self._keyed)
        return self._ended(at) if word else len(whole)

    def _ended(self, at: int) -> int:
        """The function is whole; it is a call once the outer tag is closed, if there is one."""
        at = self._pass(FUNCTION_ENDS, at, self._after)
        arguments = typed_arguments(self._found, self._schemas.get(self._name, {}))
        if arguments is None:
            return self._give_up(at)
        self._ready = self._call(self._name, arguments)
        if not self._enclosed:
            self._emit(self._ready)
            self._stage = self._stray
        return at

    def _valued(self, whole: str, at: int) -> int:
        """A value, up to its closing tag. One line end on either side is the form's."""
        found = whole.find(VALUE_ENDS, at)
        end = len(whole) - overlap(whole, at, VALUE_ENDS) if found < 0 else found
        self._value.add(whole[at:end])
        self._block.add(whole[at:end])
        if found < 0:
            self._held = whole[end:]
            return len(whole)
        value = self._value.take()
        self._found[self._key] = value.removeprefix("\n").removesuffix("\n")
        return self._pass(VALUE_ENDS, end, self._between)

    def _stray(self, whole: str, at: int) -> int:
        """Behind a call without an opening tag: its closing one may come all the same."""
        at = self._skip(whole, at)
        word = self._word(whole, at, CLOSE) if at < len(whole) else ""
        if word is None:
            return self._give_up(at)
        if not word:
            return len(whole)
        self._block.clear()
        self._stage = self._resting
        return at + len(word)

    def _give_up(self, at: int) -> int:
        self._value.clear()
        return super()._give_up(at)
