"""Calls as Mistral writes them, behind `[TOOL_CALLS]`.

Either a list of objects with `name` and `arguments`, or, in later models, a name,
`[ARGS]` and the arguments' object, with `[CALL_ID]` and an id between them in some, and
the marker again before the next call. Both are read wherever the marker stands: a model
of the later kind may be made to write the list. The ids that models write are left out:
calls have ids of ours.
"""

from collections.abc import Callable
from string import ascii_letters, digits
from typing import Final

from cortex.text.held import Hoard
from cortex.text.toolcalls.objects import ObjectEnd, read_arguments, read_call
from cortex.text.toolcalls.scanning import CallReader

OPEN: Final = "[TOOL_CALLS]"
ARGS: Final = "[ARGS]"
CALL_ID: Final = "[CALL_ID]"
LONGEST_NAME: Final = 128
_NAME: Final = frozenset(ascii_letters + digits + "_.-")


class MistralCalls(CallReader):
    """Both forms."""

    openings = (OPEN,)

    def __init__(self, new_id: Callable[[], str]) -> None:
        super().__init__(new_id)
        self._object = ObjectEnd()
        self._body = Hoard()  # of the object, within the block
        self._name = ""
        self._listed = False

    def _open(self, opening: str) -> None:
        self._name = ""
        self._stage = self._before

    def _before(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        self._listed = whole[at] == "["
        return self._pass("[", at, self._element) if self._listed else self._named(whole, at)

    def _element(self, whole: str, at: int) -> int:
        """Where an object begins."""
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        if whole[at] != "{":
            return self._give_up(at)
        self._object = ObjectEnd()
        self._body.clear()
        self._stage = self._inside
        return at

    def _inside(self, whole: str, at: int) -> int:
        end = self._object.scan(whole, at)
        self._block.add(whole[at:end])
        self._body.add(whole[at:end])
        if self._object.broken:
            return self._give_up(end)
        return self._ended(end) if self._object.whole else end

    def _ended(self, at: int) -> int:
        body = self._body.take()
        if self._listed:
            call = read_call(body, ("arguments",))
        else:
            arguments = read_arguments(body)
            call = None if arguments is None else (self._name, arguments)
        if call is None:
            return self._give_up(at)
        self._emit(self._call(*call))
        if self._listed:
            self._stage = self._between
        return at

    def _between(self, whole: str, at: int) -> int:
        """Behind an object of the list."""
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        if whole[at] == ",":
            return self._pass(",", at, self._element)
        if whole[at] != "]":
            return self._give_up(at)
        self._block.clear()
        self._stage = self._resting
        return at + 1

    def _named(self, whole: str, at: int) -> int:
        """A name, and what ends it; an id likewise."""
        self._stage = self._named
        start = at
        while at < len(whole) and whole[at] in _NAME:
            at += 1
        size = at - start
        if at == len(whole) and size <= LONGEST_NAME:
            self._held = whole[start:]
            return at
        self._block.add(whole[start:at])
        if not 0 < size <= LONGEST_NAME:
            return self._give_up(at)
        self._name = self._name or whole[start:at]
        self._stage = self._marked
        return at

    def _marked(self, whole: str, at: int) -> int:
        """Behind a name or an id."""
        if whole[at] == "{":
            return self._element(whole, at)
        word = self._word(whole, at, ARGS, CALL_ID)
        if word is None:
            return self._give_up(at)
        return self._pass(word, at, self._element if word == ARGS else self._named) if word else len(whole)
