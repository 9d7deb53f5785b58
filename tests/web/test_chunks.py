"""A piece of a stream passes untouched where a parser would find whole chunks of whole events in it."""

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.web.chunks import payloads
from cortex.web.tail import EventTail

ONE = b'data: {"choices":[{"index":0,"delta":{"content":" a"}}]}\n\n'
NAMED = b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n'


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Heard:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.chunks = 0

    def on_body(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def on_chunk_complete(self) -> None:
        self.chunks += 1


def parsed(piece: bytes) -> Heard:
    """What the parser of answers says of `piece`; HttpParserError where it says that this is none."""
    heard = Heard()
    parser = httptools.HttpResponseParser(heard)
    parser.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + piece)
    return heard


@pytest.mark.parametrize("events", [[ONE], [NAMED], [ONE] * 3, [NAMED, NAMED], [ONE + ONE, ONE], [NAMED * 5]])
def test_whole_chunks_of_whole_events_are_told_by_what_they_hold(events: list[bytes]) -> None:
    assert payloads(b"".join(map(chunk, events))) == events


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"\r\n",
        chunk(ONE)[:-1],
        chunk(ONE) + b"3",
        chunk(ONE) + b"0\r\n\r\n",
        b"0\r\n\r\n",
        chunk(b": a comment\n\n"),
        chunk(b": a comment\n" + ONE),
        chunk(ONE + b": a comment\n\n"),
        chunk(ONE + b"\n"),
        chunk(ONE[:-1]),
        chunk(b"data: a\n\ndata: b\n"),
        chunk(b"data: a\r\r"),
        chunk(b"data: a\r\n\r\n"),
        chunk(b"data: a\rdata: b\n\n"),
        chunk(b"id: 7\n" + ONE),
        chunk(b"data: a\nid: 7\n\n"),
        chunk(b"event: a\n\nid: 7\n\n"),
        chunk(b"{}\n\n"),
        chunk(b""),
        ONE,
        b"%x;name=value\r\n%b\r\n" % (len(ONE), ONE),
        b"0x%x\r\n%b\r\n" % (len(ONE), ONE),
        b"+%x\r\n%b\r\n" % (len(ONE), ONE),
        b" %x\r\n%b\r\n" % (len(ONE), ONE),
        b"%x\r\n%b\r\n" % (len(ONE) - 1, ONE),
        b"%x\r\n%b\r\n" % (len(ONE) + 1, ONE),
        b"%x\r\n%b\r\n" % (len(ONE) + len(chunk(ONE)) - 2, ONE) + chunk(ONE),
        b"%x\n%b\n" % (len(ONE), ONE),
    ],
)
def test_whatever_is_odd_is_left_to_the_parsers(piece: bytes) -> None:
    assert payloads(piece) is None


@pytest.mark.parametrize(
    "odd", [b"\r\n", chunk(b": a comment\n\n"), chunk(ONE[:-1]), chunk(b""), b"+" + chunk(ONE)]
)
def test_something_odd_among_the_plain_is_found(odd: bytes) -> None:
    for piece in (chunk(ONE) + odd, odd + chunk(ONE), chunk(ONE) + odd + chunk(ONE)):
        assert payloads(piece) is None


_BITS = st.sampled_from(
    [
        b"data:",
        b"event:",
        b"id:",
        b":",
        b" x",
        b"\n",
        b"\n\n",
        b"\r",
        b"\r\n",
        b"8",
        b"a",
        b"0",
        b"data: x\n\n",
    ]
)
_PAYLOADS = st.lists(_BITS, max_size=6).map(b"".join)
_PIECES = st.lists(st.one_of(_PAYLOADS.map(chunk), st.just(chunk(ONE)), _BITS), max_size=4).map(b"".join)


@given(_PIECES)
def test_what_passes_is_the_same_to_the_parsers(piece: bytes) -> None:
    held = payloads(piece)
    if held is None:
        return
    heard = parsed(piece)
    assert b"".join(heard.pieces) == b"".join(held)
    assert heard.chunks == len(held)
    tail = EventTail("openai")
    for payload in held:
        assert tail.feed(payload) == len(payload)
        assert tail.whole == payload
        assert tail.fault is None


def test_the_parsers_that_are_asked_here_would_find_a_difference() -> None:
    """Else the test before this one holds nothing."""
    with pytest.raises(httptools.HttpParserError):
        parsed(b"+3\r\nabc\r\n")
    cuts = [chunk(ONE)[:at] for at in range(1, len(chunk(ONE)))]
    assert all(parsed(before).chunks <= parsed(after).chunks for before, after in pairwise(cuts))
    assert parsed(cuts[-1]).chunks == 0
