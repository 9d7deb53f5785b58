"""Pictures to send: real ones of 17 x 9 pixels, written by Pillow, and headers that promise anything."""

import struct
import zlib
from base64 import b64encode
from pathlib import Path

FOLDER = Path(__file__).parent / "golden" / "pictures"
SIZE = (17, 9)
KINDS = {
    "still.png": "image/png",
    "still.jpg": "image/jpeg",
    "progressive.jpg": "image/jpeg",
    "still.gif": "image/gif",
    "lossy.webp": "image/webp",
    "lossless.webp": "image/webp",
    "extended.webp": "image/webp",
}
MOVING = ("moves.png", "moves.gif", "moves.webp")


def picture(name: str = "still.png") -> bytes:
    return (FOLDER / name).read_bytes()


def text(data: bytes) -> str:
    return b64encode(data).decode()


def url(data: bytes | None = None, label: str = "image/png") -> str:
    """A data URL."""
    return f"data:{label};base64,{text(picture() if data is None else data)}"


def png(width: int, height: int, *, rest: int = 0) -> bytes:
    """The beginning of a PNG of that size, and so many bytes that mean nothing."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I4s", rest, b"IDAT") + bytes(rest)


def distinct(number: int) -> bytes:
    """A picture that differs from those of other numbers."""
    return png(8, 8 + number)
