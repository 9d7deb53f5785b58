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
_LINE_END: Final = re.compile(rb"[\r\n]")
_STRING: Final = msgspec.json.Decoder(str)


class Mould:
    """`before` and `behind` are what stands around the string, whose quotes belong to neither."""

    __slots__ = ("_before", "_behind", "_least", "slot")

    def __init__(self, slot: Slot, before: bytes, behind: bytes) -> None:
        self.slot: Slot = slot
        self._before, self._behind = _LEAD + before, behind
        self._least = len(self._before) + len(behind) + len('""')

    def fits(self, event: bytes) -> str | None:
        """The piece in the bytes of an event, without their end; None when it is not of this mould."""
        before, behind = self._before, self._behind
        if not (event.startswith(before) and event.endswith(behind) and len(event) >= self._least):
            return None
        try:
            return _STRING.decode(event[len(before) : len(event) - len(behind)])
        except ValueError:
            return None

    def fits_all(self, data: bytes) -> str | None:
        """The piece in `data` when that is one event of this mould, with its end; else None."""
        return None if data.count(_END) != 1 or not data.endswith(_END) else self.fits(data[: -len(_END)])

    def filled(self, piece: str) -> bytes:
        """The data of the event with that piece."""
        return b"%b%b%b" % (self._before[len(_LEAD) :], msgspec.json.encode(piece), self._behind)


def mould(event: bytes) -> Mould | None:
    """That of the chunk in the bytes of an event, without their end; None when it says nothing, or more
    than one piece."""
    if not event.startswith(_LEAD) or _LINE_END.search(event) is not None:
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
