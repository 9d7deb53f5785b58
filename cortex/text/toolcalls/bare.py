"""Calls as Llama 3 writes them: an object with `name` and `parameters`, and nothing around it.

The answer is calls from its first character, or from `<|python_tag|>` on; `;` stands
between two. Nothing but the tool's name tells such a call from an answer in JSON, so an
object that does not name one of the tools is text, and so is everything after it.
"""

from collections.abc import Callable, Collection
from typing import Final

from cortex.text.toolcalls.objects import ObjectEnd, read_call
from cortex.text.toolcalls.scanning import CallReader

TAG: Final = "<|python_tag|>"
ARGUMENTS: Final = ("parameters", "arguments")
# With what an object begins that may be a call: any other is text as soon as that is seen.
_KEYS: Final = ('"name"', '"parameters"', '"arguments"', '"type"', '"id"')


class BareCalls(CallReader):
    """`names` are the tools'."""

    openings = (TAG,)

    def __init__(self, new_id: Callable[[], str], names: Collection[str]) -> None:
        super().__init__(new_id)
        self._names = names
        self._object = ObjectEnd()
        self._stage = self._resting = self._before

    def lead(self) -> None:
        """They do already; only the tag could come later."""
        self._after_text = self._text

    def _open(self, opening: str) -> None:
        self._stage = self._before

    def _before(self, whole: str, at: int) -> int:
        """Where a call may begin."""
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        if whole[at] == "{":
            self._object = ObjectEnd()
            return self._pass("{", at, self._keyed)
        word = self._word(whole, at, TAG)
        if word is None:
            return self._give_up(at)
        return self._pass(word, at, self._before) if word else len(whole)

    def _keyed(self, whole: str, at: int) -> int:
        at = self._skip(whole, at)
        word = self._word(whole, at, *_KEYS) if at < len(whole) else ""
        if word is None:
            return self._give_up(at)
        if word:
            self._object.scan("{", 0)
            self._stage = self._inside
        return at if word else len(whole)

    def _inside(self, whole: str, at: int) -> int:
        end = self._object.scan(whole, at)
        self._block.add(whole[at:end])
        if self._object.broken:
            return self._give_up(end)
        if self._object.whole:
            block = self._block.take()
            self._block.add(block)
            call = read_call(block[block.index("{") :], ARGUMENTS)
            if call is None or call[0] not in self._names:
                return self._give_up(end)
            self._emit(self._call(*call))
            self._stage = self._between
        return end

    def _between(self, whole: str, at: int) -> int:
        """Behind a call: `;`, or the next one at once."""
        at = self._skip(whole, at)
        if at == len(whole):
            return at
        if whole[at] == ";":
            return self._pass(";", at, self._before)
        self._stage = self._before
        return at

    def _give_up(self, at: int) -> int:
        """What is text leads to text: calls begin the answer, or stand behind the tag."""
        self._resting = self._after_text
        return super()._give_up(at)
