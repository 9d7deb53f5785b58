"""A piece of a stream passes untouched where a parser would find whole chunks of whole events in it."""

from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.web.chunks import Likeness, payloads
from cortex.web.meter import Meter
from cortex.web.tail import EventTail
from cortex.wire.faults import Dialect

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


@pytest.mark.parametrize(
    "events",
    [
        [ONE],
        [NAMED],
        [ONE] * 3,
        [NAMED, NAMED],
        [ONE + ONE, ONE],
        [NAMED * 5],
        [ONE] * 9,
        [NAMED] * 9,
        [ONE] * 4 + [ONE * 2],
    ],
)
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
    "odd",
    [
        b"\r\n",
        chunk(b": a comment\n\n"),
        chunk(ONE[:-1]),
        chunk(b""),
        b"+" + chunk(ONE),
        chunk(b"{}\n\n"),
        chunk(b"{}\n\ndata: 1\n\n"),
        chunk(b"data: 1\n") + chunk(b"data: 1\n\n\n"),
        chunk(b"data: 1") + chunk(b"data: 1\n\n\n\n"),
        b"data:\r\n\n\n\r\n",
    ],
)
def test_something_odd_among_the_plain_is_found(odd: bytes) -> None:
    for plain in (chunk(ONE), chunk(ONE) * 5):
        for piece in (plain + odd, odd + plain, plain + odd + plain):
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
_PIECES = st.lists(st.one_of(_PAYLOADS.map(chunk), st.just(chunk(ONE)), _BITS), max_size=8).map(b"".join)


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


# -- alike

ALIKE = {
    "openai": b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n',
    "anthropic": (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text": "%b"}}\n\n'
    ),
}


def like(event: bytes) -> Likeness:
    known = Likeness.of(event)
    assert known is not None
    return known


@pytest.mark.parametrize("event", ALIKE.values(), ids=ALIKE)
@pytest.mark.parametrize("texts", [[b""], [b" a", b"caf\xc3\xa9"], [b"}],", b"data: ", b"\\n", b"\\u00e9"]])
def test_events_that_differ_in_their_text_are_alike(event: bytes, texts: list[bytes]) -> None:
    said = [event % text for text in texts]
    assert like(event % b"one").fits(b"".join(map(chunk, said))) == (len(said), sum(map(len, said)))


ONES = ALIKE["openai"] % b"a"


@pytest.mark.parametrize(
    "piece",
    [
        b"",
        b"5",
        chunk(ONES)[:-1],
        chunk(ONES)[1:],
        chunk(ONES) + b"c",
        chunk(ONES) + b"0\r\n\r\n",
        chunk(ONES) + chunk(b"data: [DONE]\n\n"),
        chunk(ONES + ONES),
        chunk(ONES.replace(b'"1"', b'"2"')),
        chunk(ONES.replace(b"null", b'"stop"')),
        chunk(ALIKE["openai"] % b'a"b'),
        chunk(ALIKE["openai"] % b'","role":"tool'),
        chunk(ALIKE["openai"] % b"a\n\ndata: b"),
        chunk(ALIKE["openai"] % b"a\rb"),
        chunk(ONES).replace(b"\r\n", b";a=b\r\n", 1),
        b"0" + chunk(ONES),
        chunk(ONES).upper(),
        b"%x\r\n%b\r\n" % (len(ONES) + 1, ONES),
        # The quote that the text begins with is not the one that it ends with.
        chunk(ONES.replace(b'"a"', b'"')),
    ],
)
def test_what_differs_in_more_is_looked_through(piece: bytes) -> None:
    assert like(ALIKE["openai"] % b"one").fits(piece) is None


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"a\\"b"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":null}}]}\n\n',
        b'data: {"error":{"text":"content":"a"}\n\n'.replace(b'"a"', b"1"),
        b'data: {"text":"content":"a"}\n\n'.replace(b'"a"', b""),
    ],
)
def test_an_event_without_a_plain_text_is_like_no_other(event: bytes) -> None:
    assert Likeness.of(event) is None


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                chunk(event % text)
                for event in ALIKE.values()
                for text in (b"", b"a", b"error", b"[DONE]", b'"', b"\n", b"\r\n")
            ),
            *(event % b"b" for event in ALIKE.values()),
            chunk(ONE),
            b"\r\n",
            b"5\r\n",
            b'"',
            b'"}}\n\n\r\n',
        ]
    ),
    max_size=4,
).map(b"".join)


@given(PIECES, st.sampled_from(sorted(ALIKE)), st.integers(0, 40), st.integers(0, 40))
def test_what_is_alike_is_what_is_found_when_it_is_looked_through(
    piece: bytes, dialect: Dialect, before: int, behind: int
) -> None:
    piece = piece[before if before < 9 else 0 : len(piece) - (behind if behind < 9 else 0)]
    found = like(ALIKE[dialect] % b"one").fits(piece)
    if found is not None:
        held, meter = payloads(piece), Meter(dialect)
        assert held is not None
        meter.flowed(piece, 1.0)
        assert found == (len(held), sum(map(len, held))) == (meter.events, sum(map(len, held)))
        tail = EventTail(dialect)
        tail.feed(b"".join(held))
        assert not tail.ended
