"""Bytes become text, never half a code point, and bad ones cost one character each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.text.detokenise import Detokeniser
from tests.play import splits

VALID = "plain é ß 日本語 🧑‍🚀 \ufeff\ufffd \x00 end"


def read(cut: list[bytes]) -> str:
    reader = Detokeniser()
    return "".join([*map(reader.feed, cut), reader.flush()])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (VALID.encode(), VALID),
        (b"a\xffb", "a\ufffdb"),
        (b"a\xc3(b", "a\ufffd(b"),
        (b"\xe2\x82", "\ufffd"),
        (b"\xe2\x82\xe2\x82\xac", "\ufffd€"),
        (b"\xf0\x9f\x92x", "\ufffdx"),
        (b"\xc0\x80", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_every_cut_of_the_bytes_gives_the_same_text(data: bytes, text: str):
    """Fault row 13: a code point split over chunks, invalid UTF-8."""
    assert {read(cut) for cut in splits(data)} == {text}


def test_a_code_point_comes_out_with_its_last_byte():
    reader = Detokeniser()
    for char in VALID:
        *first, last = char.encode()
        assert [reader.feed(bytes([byte])) for byte in first] == [""] * len(first)
        assert reader.waiting is bool(first)
        assert reader.feed(bytes([last])) == char
        assert not reader.waiting


def test_a_reader_goes_on_after_bad_bytes():
    reader = Detokeniser()
    assert reader.feed(b"\xf0\x9f") == ""
    assert reader.feed(b"ok") == "\ufffdok"


@given(st.binary(), st.integers(0))
def test_any_bytes_give_what_decoding_them_whole_gives(data: bytes, seed: int):
    at = seed % (len(data) + 1)
    assert read([data[:at], data[at:]]) == data.decode("utf-8", "replace")
