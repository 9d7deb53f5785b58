"""The scanner knows where events end, at whatever place the bytes are split."""

import tracemalloc

import pytest

from cortex.web.tail import EVENT_LIMIT, NO_EVENTS, TOO_BIG, EventTail
from cortex.wire.faults import Dialect
from tests.fake_streams import CHAT, FAILURES, STREAMS

DIALECTS = list(STREAMS)


def as_written(pieces: list[bytes], line_end: bytes) -> bytes:
    return b"".join(pieces).replace(b"\n", line_end)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_whole_stream_has_ended_however_it_is_split(dialect: Dialect, line_end: bytes) -> None:
    stream = as_written(STREAMS[dialect], line_end)
    for position in range(len(stream) + 1):
        tail = EventTail(dialect)
        completed = b""
        for piece in (stream[:position], stream[position:]):
            assert tail.feed(piece) == len(piece)
            completed += tail.whole
        assert tail.ended, position
        assert not tail.failed
        assert not tail.mid_event
        assert completed.rstrip(b"\r\n") == stream.rstrip(b"\r\n")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_whole_stream_has_ended_when_it_comes_byte_by_byte(dialect: Dialect) -> None:
    tail = EventTail(dialect)
    stream = b"".join(STREAMS[dialect])
    for number in range(len(stream)):
        assert tail.feed(stream[number : number + 1]) == 1
    assert tail.ended
    assert tail.last + b"\n\n" == STREAMS[dialect][-1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_cut_stream_has_not_ended_and_says_whether_it_stands_within_an_event(dialect: Dialect) -> None:
    """Rows 3, 14 and 16, at every position."""
    stream = b"".join(STREAMS[dialect])
    for position in range(len(stream)):
        tail = EventTail(dialect)
        tail.feed(stream[:position])
        assert not tail.ended, stream[:position]
        assert tail.mid_event == bool(position and not stream[:position].endswith(b"\n\n"))


@pytest.mark.parametrize("begun", [b"", b"da"], ids=["whole", "partly"])
def test_a_line_behind_a_lone_return_is_a_line(begun: bytes) -> None:
    tail = EventTail("openai")
    data = b"data: a\r<html>\n\n"
    assert tail.feed(data + begun) < len(data)
    assert tail.fault == NO_EVENTS


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_event_of_the_neurons_own_ends_a_stream(dialect: Dialect) -> None:
    tail = EventTail(dialect)
    tail.feed(STREAMS[dialect][0] + FAILURES[dialect])
    assert tail.ended
    assert tail.failed


@pytest.mark.parametrize(
    ("dialect", "last", "ended"),
    [
        ("openai", b"data:[DONE]\n\n", True),
        ("openai", b"data: [DONE]\n\n: bye\n\n", True),
        ("openai", b"data: [DONE]\n\n\n", True),
        ("openai", b"data: [DONE]\n\ndata: {}\n\n", False),
        ("openai", b"data: [DONE]\n\ndata: {", False),
        ("openai", b"data: [DONE]\n\nrubbish\n\n", False),
        ("openai", b"data: [DONE", False),
        ("openai", b"data: [DONE]\n", False),
        ("openai", b'data: "[DONE]"\n\n', False),
        ("openai", b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n', False),
        ("openai", b": data: [DONE]\n\n", False),
        ("openai", b'event: message_stop\ndata: {"type":"message_stop"}\n\n', False),
        ("openai", b'data: {"choices":[],"error":null}\n\n', False),
        ("anthropic", b"data: [DONE]\n\n", False),
        ("anthropic", b'data: {"error":{}}\n\n', False),
        ("anthropic", b'data: {"type":"message_stop"}\n\n', False),
        ("anthropic", b"event: message_stop\ndata: {}\n\nevent: ping\ndata: {}\n\n", False),
        ("responses", b"event: response.incomplete\ndata: {}\n\n", True),
        ("responses", b"event: response.failed\ndata: {}\n\n", True),
        ("responses", b"event: response.failed\ndata: {}\n\nevent: error\ndata: {}\n\n", True),
        ("responses", b"event: response.completed.part\ndata: {}\n\n", False),
        ("responses", b"data: [DONE]\n\n", False),
    ],
)
def test_only_the_dialects_own_end_mark_as_the_last_event_ends_a_stream(
    dialect: Dialect, last: bytes, ended: bool
) -> None:
    tail = EventTail(dialect)
    tail.feed(STREAMS[dialect][0] + last)
    assert tail.ended is ended


def test_nothing_at_all_is_no_end() -> None:
    assert not EventTail("openai").ended


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe\x01binary",
        b"<html>\n\n",
        b"no colon here\n\n",
        b"dataa: x\n\n",
        b" data: x\n\n",
        b"HTTP/1.1 500 no\r\n\r\n",
    ],
)
def test_what_is_no_event_stream_is_a_fault_and_does_not_pass(garbage: bytes) -> None:
    """Row 12: the events before it do."""
    for position in range(len(garbage)):
        tail = EventTail("openai")
        passed = tail.feed(CHAT[0] + CHAT[2] + garbage[:position])
        if tail.fault is None:
            assert passed == len(CHAT[0] + CHAT[2]) + position
            assert tail.feed(garbage[position:] + CHAT[3]) == 0
        else:
            assert passed == len(CHAT[0] + CHAT[2])
        assert tail.fault == NO_EVENTS
        assert tail.last + b"\n\n" == CHAT[2]
        assert not tail.ended


def test_garbage_without_a_line_end_is_not_waited_for() -> None:
    """Row 12: it would never become an event."""
    tail = EventTail("openai")
    assert tail.feed(CHAT[0] + b"\x00\x01\x02\x03\x04\x05") == len(CHAT[0])
    assert tail.fault == NO_EVENTS


def test_garbage_within_an_event_stops_it_at_the_last_good_line() -> None:
    tail = EventTail("openai")
    assert tail.feed(b"data: 1\n\ndata: 2\nrubbish\n\ndata: 3\n\n") == len(b"data: 1\n\ndata: 2\n")
    assert tail.fault == NO_EVENTS
    assert tail.whole == b"data: 1\n\n"
    assert tail.mid_event


def test_fields_that_the_standard_knows_are_no_garbage() -> None:
    tail = EventTail("openai")
    tail.feed(b": x\nid: 1\nretry: 5\nevent: e\ndata\xc3: x".replace(b"\xc3", b"") + b"\ndata:\n\n")
    assert tail.fault is None


def test_invalid_utf8_within_an_event_is_not_looked_at() -> None:
    """Row 13: bytes pass as they are, never decoded."""
    tail = EventTail("openai")
    data = b'data: {"choices":[{"delta":{"content":"\xff\xc3"}}]}\n\n'
    assert tail.feed(data) == len(data)
    assert tail.fault is None


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_an_event_over_the_limit_is_a_fault(step: int) -> None:
    """Row 15."""
    tail = EventTail("openai", limit=100)
    stream = b"data: 1\n\ndata: " + b"x" * 500
    passed = 0
    for start in range(0, len(stream), step):
        passed += tail.feed(stream[start : start + step])
        if tail.fault:
            break
    assert tail.fault == TOO_BIG
    assert len(b"data: 1\n\n") <= passed <= len(b"data: 1\n\n") + 100
    assert tail.mid_event == (passed > len(b"data: 1\n\n"))


def test_an_event_over_the_limit_is_a_fault_even_if_it_ends() -> None:
    tail = EventTail("openai", limit=100)
    tail.feed(b"data: " + b"x" * 80)
    assert tail.feed(b"x" * 80 + b"\n\ndata: [DONE]\n\n") == 0
    assert tail.fault == TOO_BIG
    assert not tail.ended


def test_the_last_events_of_responses_may_be_as_long_as_all_that_was_said() -> None:
    """They repeat it, a thought twice and in base64; what nothing was said before may not be so long."""
    delta = b"event: response.output_text.delta\ndata: {" + b"x" * 60 + b"}\n\n"
    repeat = b"event: response.output_text.done\ndata: {" + b"x" * 2000 + b"}\n\n"
    long = EventTail("responses", limit=200)
    for _ in range(10):
        long.feed(delta)
    assert long.feed(repeat) == len(repeat) and long.fault is None
    for tail in (EventTail("responses", limit=200), EventTail("openai", limit=200)):
        tail.feed(delta)
        tail.feed(repeat)
        assert tail.fault == TOO_BIG


def test_events_under_the_limit_may_come_many_at_once() -> None:
    tail = EventTail("openai", limit=100)
    data = (b"data: " + b"x" * 80 + b"\n\n") * 50
    assert tail.feed(data) == len(data)
    assert tail.fault is None


def test_an_endless_line_takes_no_more_memory_than_one_event() -> None:
    """Row 15: flat, whatever the neuron sends."""
    block = b"x" * 65536
    tail = EventTail("openai")
    tail.feed(b"data: ")
    tracemalloc.start()
    try:
        while tail.fault is None:
            tail.feed(block)
        assert tracemalloc.get_traced_memory()[1] < 3 * EVENT_LIMIT
    finally:
        tracemalloc.stop()
    assert tail.fault == TOO_BIG


def test_a_long_stream_leaves_nothing_behind() -> None:
    tail = EventTail("openai")
    tracemalloc.start()
    try:
        for _ in range(2000):
            tail.feed(CHAT[2] + CHAT[3][:40])
            tail.feed(CHAT[3][40:])
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_begins_with_the_first_event_that_is_no_keep_alive(dialect: Dialect) -> None:
    first, beats = STREAMS[dialect][0], b": keep-alive\n\nevent: ping\ndata: {}\n\n"
    tail = EventTail(dialect)
    tail.feed(beats)
    assert not tail.begun
    tail.feed(beats + first[:-1])
    assert not tail.begun
    tail.feed(first[-1:] + beats)
    assert tail.begun
    tail.feed(beats)
    assert tail.begun


@pytest.mark.parametrize("asks", [False, True])
def test_comments_behind_the_end_mark_do_not_take_it_back(asks: bool) -> None:
    """In one piece with it or not, and whether or not anybody asked in between."""
    pieces = [b'data: {"a": 1}\n\n', b"data: [DONE]\n\n", b": keep-alive\n\n", b": and again\n\n"]
    tail = EventTail("openai")
    for piece, ended in zip(pieces, (False, True, True, True), strict=True):
        tail.feed(piece)
        assert not asks or tail.ended is ended
    assert tail.ended and tail.last == b"data: [DONE]\n\n".rstrip()
    together = EventTail("openai")
    together.feed(b"".join(pieces))
    assert together.ended and together.last == tail.last


def test_words_that_sound_like_an_end_are_none() -> None:
    for text in (b"[DONE]", b"error", b'{\\"error\\"'):
        tail = EventTail("openai")
        tail.feed(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text)
        assert not tail.ended and not tail.failed
