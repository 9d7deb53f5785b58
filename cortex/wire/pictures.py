"""What a picture's first bytes say of it: its kind, its size, whether it moves.

PNG, JPEG, GIF and WebP. Nothing is decoded: a header is a few numbers at known places, and the
blocks between them are stepped over, a bounded number of them. Whether a picture is bearable is
the translators' to say. `text_bytes` tells how much of a request's body is none.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]

# A step costs half a microsecond. Pictures have a few blocks before their first pixel; frames of
# GIF are cut in blocks of 255 bytes.
_MOST_STEPS: Final = 100_000
# Start of a frame: baseline to arithmetic, but for the three markers between them that are none.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
# Where a picture begins in a body: in a data URL, or as Anthropic's dialect has it. A body is of one
# dialect, and to look for the others takes a millisecond for each megabyte.
_BEGINS: Final = (b";base64,", b'"data":"', b'"data": "')
# A shorter one makes no odds.
_LEAST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Header:
    """`width` and `height` in pixels, 0 where the bytes break off before they are told, or make no
    sense. `moves`: there are several pictures in it."""

    kind: Kind
    width: int = 0
    height: int = 0
    moves: bool = False


def header_of(data: bytes) -> Header | None:
    """The header of `data`; None when it begins as no picture of these kinds does."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError, _TooLong):
        return Header(_kind(data))
    return None


def text_bytes(body: bytes) -> int:
    """How long `body` is without its pictures, whose bytes say nothing of the tokens that they become.
    What looks like one and has a space in it is text."""
    length = len(body)
    if length < _LEAST_BYTES:
        return length
    for mark in _BEGINS:
        if length < len(body):
            break
        at = body.find(mark)
        while at >= 0:
            begin = at + len(mark)
            end = body.find(b'"', begin)
            end = len(body) if end < 0 else end
            if end - begin >= _LEAST_BYTES and body.find(b" ", begin, end) < 0:
                length -= end - begin
            at = body.find(mark, end)
    return length


class _TooLong(Exception):
    """More blocks than any picture has."""


def _kind(data: bytes) -> Kind:
    marks: dict[bytes, Kind] = {b"\x89": "image/png", b"\xff": "image/jpeg", b"G": "image/gif"}
    return marks.get(data[:1], "image/webp")


def _steps() -> Iterator[int]:
    yield from range(_MOST_STEPS)
    raise _TooLong


def _png(data: bytes) -> Header:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        return Header("image/png")
    at = 8
    for _ in _steps():
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"acTL":
            return Header("image/png", width, height, struct.unpack_from(">I", data, at + 8)[0] > 1)
        if kind == b"IDAT":
            break
        at += 12 + length
    return Header("image/png", width, height)


def _jpeg(data: bytes) -> Header:
    at = 2
    for _ in _steps():
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header("image/jpeg", width, height)
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            at += 2 + length
    return Header("image/jpeg")


def _gif(data: bytes) -> Header:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at, frames = 13 + _table(flags), 0
    steps = _steps()
    for _ in steps:
        if data[at] == 0x2C:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", data, at + 1)
            # Decoders draw what stands out of the screen as well.
            width, height, frames = max(width, left + wide), max(height, top + high), frames + 1
            at += 10 + _table(flags) + 1
        elif data[at] == 0x21:
            at += 2
        else:
            break
        if frames > 1:
            return Header("image/gif", width, height, moves=True)
        while data[at : at + 1] not in (b"", b"\0"):
            next(steps)
            at += 1 + data[at]
        at += 1
        if frames and at >= len(data):
            break
    return Header("image/gif", width, height) if frames else Header("image/gif")


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Header:
    width = height = 0
    moves, at = False, 12
    for _ in _steps():
        if at + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, at)
        wide, high = _webp_size(name, data[at + 8 : at + 18])
        width, height = max(width, wide), max(height, high)
        moves = moves or name in (b"ANIM", b"ANMF")
        at += 8 + length + length % 2
    return Header("image/webp", width, height, moves)


def _webp_size(name: bytes, head: bytes) -> tuple[int, int]:
    match name:
        case b"VP8X":
            wide, high = int.from_bytes(head[4:7], "little"), int.from_bytes(head[7:10], "little")
            return (wide + 1, high + 1) if len(head) == 10 else (0, 0)
        case b"VP8L" if head[:1] == b"\x2f" and len(head) >= 5:
            bits = int.from_bytes(head[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if head[3:6] == b"\x9d\x01\x2a" and len(head) == 10:
            wide, high = struct.unpack_from("<HH", head, 6)
            return wide & 0x3FFF, high & 0x3FFF
        case _:
            return 0, 0
