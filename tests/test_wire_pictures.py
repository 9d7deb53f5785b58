"""What a picture is and how large shows in its first bytes, whatever they are."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.wire.pictures import Header, header_of, text_bytes
from tests.pictures import KINDS, MOVING, SIZE, picture, png, text


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_picture_tells_its_kind_and_size(name: str, kind: str) -> None:
    assert header_of(picture(name)) == Header(kind, *SIZE)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MOVING)
def test_a_picture_that_moves_is_known(name: str) -> None:
    """Fault 52: thousands of frames."""
    header = header_of(picture(name))
    assert header is not None and header.moves


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"<svg width='1'/>",
        b"BM\x00\x00",
        b"%PDF-1.4",
        b"II*\x00",
        b"\x89PN",
        b"RIFF\0\0\0\0WAVE",
    ],
)
def test_what_is_no_such_picture_has_no_header(data: bytes) -> None:
    assert header_of(data) is None


@pytest.mark.parametrize("name", [*KINDS, *MOVING])
def test_a_header_that_breaks_off_has_no_size_and_never_a_wrong_one(name: str) -> None:
    data, sizes = picture(name), set()
    for length in range(len(data)):
        header = header_of(data[:length])
        if header is not None:
            sizes.add((header.width, header.height))
    assert sizes <= {(0, 0), SIZE} and (0, 0) in sizes


def test_the_size_is_the_one_that_is_told() -> None:
    assert header_of(png(100_000, 3)) == Header("image/png", 100_000, 3)
    jpeg = b"\xff\xd8\xff\xe0" + struct.pack(">H", 4) + b"ab" + b"\xff\xff\xc2"
    jpeg += struct.pack(">HBHH", 17, 8, 65_500, 65_400)
    assert header_of(jpeg) == Header("image/jpeg", 65_400, 65_500)


def test_a_gif_is_as_large_as_what_is_drawn() -> None:
    """Its screen may say 1 x 1."""
    frame = struct.pack("<BHHHHB", 0x2C, 10, 20, 30_000, 40_000, 0) + b"\x02\x01x\x00"
    gif = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + frame + b";"
    assert header_of(gif) == Header("image/gif", 30_010, 40_020)


def test_a_webp_is_as_large_as_the_largest_that_it_tells() -> None:
    """Its canvas may say 1 x 1."""
    inner = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", 9999 | 8888 << 14) + b"\0"
    webp = b"RIFF\0\0\0\0WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(10) + inner
    assert header_of(webp) == Header("image/webp", 10_000, 8_889)


FRAME = struct.pack("<BHHHHB", 0x2C, 0, 0, 5, 5, 0) + b"\x02\0;"
CODED = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, 5, 5)
LOSSLESS = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", 4 | 4 << 14) + b"\0"


@pytest.mark.parametrize(
    ("begin", "block", "end"),
    [
        (png(5, 5)[:33], b"\0\0\0\0tEXt\0\0\0\0", b"\0\0\0\0IDAT"),
        (b"\xff\xd8", b"\xff\xfe\0\2", CODED),
        (b"\xff\xd8", b"\xff", CODED),
        (b"GIF89a" + bytes(7) + b"!\xf9", b"\1x", b"\0" + FRAME),
        (b"GIF89a" + bytes(7), b"!\xf9\0", FRAME),
        (b"RIFF\0\0\0\0WEBP", b"JUNK\0\0\0\0", LOSSLESS),
    ],
    ids=["png", "jpeg", "jpeg padding", "gif blocks", "gif extensions", "webp"],
)
def test_blocks_without_end_are_given_up(begin: bytes, block: bytes, end: bytes) -> None:
    """Fault 52. Megabytes of the smallest blocks would take seconds."""
    few, many = header_of(begin + 10 * block + end), header_of(begin + 200_000 * block + end)
    assert few is not None and (few.width, few.height) == (5, 5)
    assert many is not None and (many.width, many.height) == (0, 0)


@given(st.sampled_from([*KINDS, *MOVING]), st.data())
def test_no_bytes_make_it_fail(name: str, draw: st.DataObject) -> None:
    data = bytearray(picture(name))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(8, len(data) - 1))] = draw.draw(st.integers(0, 255))
    header = header_of(bytes(data))
    assert header is None or (header.width >= 0 and header.height >= 0)


LONG = text(png(9, 9, rest=30_000)).encode()


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", 0),
        (b'{"messages": "hi"}', 18),
        (b'[{"url":"data:image/png;base64,%b"},"a"]' % LONG, 40 - 2),
        (b'[";base64,%b", ";base64,%b"]' % (LONG, LONG), 24),
        (b'[{"data":"%b"},{"data":"%b"}]' % (LONG, LONG), 25),
        (b'[{"data": "%b"}]' % LONG, 14),
        (b'[";base64,%b' % LONG, 10),
        (b'[";base64,%b"]' % LONG[:4000], 4012),
        (b'[";base64,%b"]' % (b"a few words " * 1000), 12_012),
    ],
)
def test_a_body_is_as_long_as_its_text(body: bytes, length: int) -> None:
    """By it tokens are guessed, of which a picture has few."""
    assert text_bytes(body) == length
