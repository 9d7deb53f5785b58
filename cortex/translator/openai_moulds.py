"""What the events of a stream have in common that differ in one string alone.

Nearly every chunk of a chat is like the one before but for its piece of text. A `Mould` is made of one
that was read, and holds the bytes around that piece; whatever fits into it is known without being read.
That it may be so used is proven when it is made: the same bytes around another string are the same chunk
around that string. A chunk that says anything beside, an end or a count among them, makes none.
"""

import re
from typing import Final, Literal, TypeAlias

import msgspec

from cortex.wire.openai_heard import CHUNK, Delta, HeardCall, HeardChoice, HeardChunk

# Which string it is: of the visible answer, of the reasoning, or of the arguments of the call in hand.
Slot: TypeAlias = Literal["text", "thought", "arguments"]

_NAMES: Final[dict[Slot, str]] = {
    "text": "content|refusal",
    "thought": "reasoning_content|reasoning",
    "arguments": "arguments",
}
_PLACES: Final[dict[Slot, re.Pattern[bytes]]] = {
    slot: re.compile(rb'"(?:%b)"[ \t]*+:[ \t]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")' % names.encode())
    for slot, names in _NAMES.items()
}
# What no model says by chance at the moment when it is looked for.
_PROBE: Final = "a piece that nobody said"
_LEAD: Final = b"data: "
_END: Final = b"\n\n"
_SEAM_BYTES: Final = 16
_STRINGS: Final = msgspec.json.Decoder(list[str])


class Mould:
    """`before` and `behind` are what stands around the string, whose quotes belong to neither."""

    __slots__ = ("_before", "_behind", "_rest", "_seam", "slot")

    def __init__(self, slot: Slot, before: bytes, behind: bytes) -> None:
        self.slot: Slot = slot
        self._before, self._behind = _LEAD + before, behind + _END
        # Between two of them, as far as it is worth to be looked for: what is short is found sooner.
        self._seam = self._behind + self._before[:_SEAM_BYTES]
        self._rest = self._before[_SEAM_BYTES:]

    def run(self, data: bytes, at: int = 0) -> tuple[list[str], int]:
        """The pieces of the events of this mould that follow one another in `data` from `at`, and where the
        last of them ends."""
        if not data.startswith(self._before, at):
            return [], at
        begin = at + len(self._before)
        end = data.find(self._behind, begin)
        if 0 <= end == len(data) - len(self._behind):  # one alone, as in a stream that takes its time
            string = data[begin:end]
            pieces = [] if _broken(string) else _decoded([string])
            return pieces, len(data) if pieces else at
        *found, last = data[at + _SEAM_BYTES :].split(self._seam)
        piece, ended, _ = last.partition(self._behind)
        strings = self._strings([*found, piece] if ended else found)
        pieces = _decoded(strings)
        around = len(self._before) + len(self._behind)
        return pieces, at + sum(map(len, strings[: len(pieces)])) + around * len(pieces)

    def _strings(self, found: list[bytes]) -> list[bytes]:
        """The string of each event in `found`, without its seams, up to one of another form."""
        rest, begin = self._rest, len(self._rest)
        strings = [each[begin:] for each in found if each.startswith(rest)]
        if len(strings) == len(found) and not _broken(b"".join(strings)):
            return strings
        strings = []
        for each in found:
            string, _, _ = each.partition(self._behind)
            if not each.startswith(rest) or _broken(string):
                break
            strings.append(string[begin:])
            if len(string) < len(each):
                break
        return strings

    def filled(self, piece: str) -> bytes:
        """The data of the event with that piece."""
        return b"%b%b%b" % (
            self._before[len(_LEAD) :],
            msgspec.json.encode(piece),
            self._behind[: -len(_END)],
        )


def _decoded(strings: list[bytes]) -> list[str]:
    """The texts of `strings`, in which no line ends, up to what is none."""
    # As many lines, as many texts: no text goes on behind the end of a line, so that each has its own.
    try:
        texts = _STRINGS.decode(b"[%b]" % b",\n".join(strings))
    except ValueError:
        texts = []
    if len(texts) == len(strings):
        return texts
    if len(strings) < 2:
        return []
    middle = len(strings) // 2
    first = _decoded(strings[:middle])
    return first if len(first) < middle else first + _decoded(strings[middle:])


def _broken(data: bytes) -> bool:
    """Whether lines end in `data`."""
    return b"\n" in data or b"\r" in data


def mould(event: bytes) -> Mould | None:
    """That of the chunk in the bytes of an event, without their end; None when it says nothing, or more
    than one piece."""
    if not event.startswith(_LEAD) or _broken(event):
        return None
    data = event.removeprefix(_LEAD)
    chunk = _read(data)
    slot = _slot(chunk) if chunk is not None else None
    if chunk is None or slot is None:
        return None
    _fill(chunk, slot)
    for place in _PLACES[slot].finditer(data):
        found = Mould(slot, data[: place.start(1)], data[place.end(1) :])
        if _read(found.filled(_PROBE)) == chunk:
            return found
    return None


def _read(data: bytes) -> HeardChunk | None:
    try:
        return CHUNK.decode(data)
    except (ValueError, RecursionError):
        return None


def _slot(chunk: HeardChunk) -> Slot | None:
    if chunk.usage is not None or chunk.error is not None or chunk.object == "error":
        return None
    match chunk.choices:
        case [HeardChoice(index=0, delta=Delta() as delta) as choice] if not choice.finish_reason:
            return _piece(delta)
    return None


def _piece(delta: Delta) -> Slot | None:
    """What the one string of `delta` is that is not empty."""
    said: list[tuple[Slot, str]] = [("text", text) for text in (delta.content, delta.refusal) if text]
    said += [("thought", text) for text in (delta.reasoning_content, delta.reasoning) if text]
    match delta.tool_calls or []:
        case []:
            pass
        case [HeardCall(function=function)] if function and function.arguments and not function.name:
            said.append(("arguments", function.arguments))
        case _:
            return None
    return said[0][0] if len(said) == 1 and said[0][1] != _PROBE else None


def _fill(chunk: HeardChunk, slot: Slot) -> None:
    """The probe is in the place of the piece."""
    assert chunk.choices and chunk.choices[0].delta  # noqa: S101 - they have a slot
    delta = chunk.choices[0].delta
    match slot:
        case "text":
            name = "content" if delta.content else "refusal"
            setattr(delta, name, _PROBE)
        case "thought":
            name = "reasoning_content" if delta.reasoning_content else "reasoning"
            setattr(delta, name, _PROBE)
        case "arguments":
            assert delta.tool_calls and delta.tool_calls[0].function  # noqa: S101 - as above
            delta.tool_calls[0].function.arguments = _PROBE
