"""A stream is the same to client and books in whatever pieces it comes, and plain ones stay whole."""

from collections.abc import Iterable

import pytest

from cortex.config.limits import Limits
from cortex.errors import CortexError
from cortex.web.errand import Errand
from cortex.web.framing import Framing, Terms
from cortex.web.tail import EVENT_LIMIT
from cortex.wire.faults import Dialect
from tests.fake_streams import CHAT, FAILURES, RESPONSES, STREAMS
from tests.web.test_chunks import chunk, parsed

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
DIALECTS = list(STREAMS)


class Client:
    """A guest that takes everything."""

    now = stall_at = 0.0
    full = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def wants_look(self, due: float) -> None:
        pass


class Neuron:
    """A link on which nothing is said."""

    listener: object = None
    dialling = False

    def push(self, data: bytes) -> bool:
        return True

    def unwatched(self) -> None:
        pass


class Kept:
    """What an errand tells of its end."""

    def __init__(self) -> None:
        self.end: str | CortexError = ""

    def headed(self) -> None:
        pass

    def done(self) -> None:
        self.end = "done"

    def failed(self, error: CortexError) -> None:
        self.end = error


class Heard:
    """One errand that has heard `pieces`."""

    def __init__(self, dialect: Dialect, pieces: Iterable[bytes], version: str = "1.1") -> None:
        self.client, self.kept = Client(), Kept()
        framing = Framing(Terms("id", dialect=dialect, version=version))
        self.errand = Errand(self.client, framing, Neuron(), limits=Limits(), now=0.0)  # type: ignore[arg-type]
        self.errand.follow(self.kept, streams=True, connect_s=1)  # type: ignore[arg-type]
        for piece in pieces:
            if not self.kept.end:
                self.errand.heard(piece)

    @property
    def body(self) -> bytes:
        """What the client has of it."""
        out = b"".join(self.client.sent)
        return b"".join(parsed(out[out.index(b"\r\n\r\n") + 4 :]).pieces)

    @property
    def figures(self) -> tuple[int, int, bool, bool, int | None]:
        """What the books and a failure after it would have."""
        meter, trail = self.errand.meter, self.errand.framing._trail
        return meter.events, meter.bytes, meter.complete, meter.failed, trail and trail.next


def framed(events: Iterable[bytes]) -> bytes:
    return b"".join(map(chunk, events))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_is_the_same_wherever_it_is_split(dialect: Dialect) -> None:
    events = STREAMS[dialect]
    stream = framed(events) + LAST
    whole = Heard(dialect, [HEAD + stream])
    assert whole.kept.end == "done"
    assert whole.body == b"".join(events)
    for at in range(1, len(stream)):
        for pieces in ([stream[:at], stream[at:]], [stream[:at], stream[at : at + 40], stream[at + 40 :]]):
            heard = Heard(dialect, [HEAD, *filter(None, pieces)])
            assert (heard.kept.end, heard.body, heard.figures) == ("done", whole.body, whole.figures), at


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("together", [1, 2, 3])
def test_a_stream_is_the_same_chunk_by_chunk(dialect: Dialect, together: int) -> None:
    events = STREAMS[dialect]
    whole = Heard(dialect, [HEAD + framed(events) + LAST])
    pieces = [framed(events[at : at + together]) for at in range(0, len(events), together)]
    heard = Heard(dialect, [HEAD, *pieces, LAST])
    assert (heard.kept.end, heard.body, heard.figures) == ("done", whole.body, whole.figures)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("together", [1, 2, 5])
def test_events_that_are_alike_count_as_others_do(dialect: Dialect, together: int) -> None:
    """Also where another kind of content follows, and where one of them is an error or an end."""
    events = STREAMS[dialect]
    text = next(event for event in events if b"caf\xc3\xa9" in event)
    at = events.index(text)
    many = [text.replace(b"caf", b"%d" % number) for number in range(20)]
    stream = [*events[:at], *many, b"data: 1\n\n", *many, *events[at:]]
    whole = Heard(dialect, [HEAD + framed(stream) + LAST])
    pieces = [framed(stream[at : at + together]) for at in range(0, len(stream), together)]
    heard = Heard(dialect, [HEAD, *pieces, LAST])
    assert (heard.kept.end, heard.body, heard.figures) == ("done", whole.body, whole.figures)
    assert heard.figures[0] > 2 * len(many)
    assert heard.errand._flow._like is not None


def test_an_event_behind_the_end_mark_leaves_a_stream_without_end() -> None:
    """Row 14: also one that is like those before the mark."""
    text = framed([CHAT[2]])
    heard = Heard("openai", [HEAD, framed(CHAT[:1]), text, text, framed([b"data: [DONE]\n\n"]), text, b""])
    assert isinstance(heard.kept.end, CortexError)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_plain_chunks_go_out_as_they_came(dialect: Dialect) -> None:
    events = STREAMS[dialect]
    plain = events[2:5] if dialect != "responses" else events[1:3]
    heard = Heard(dialect, [HEAD, framed(events[:2]), framed(plain), chunk(plain[0])])
    assert heard.client.sent[-2:] == [framed(plain), chunk(plain[0])]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_event_in_two_chunks_behind_plain_ones_is_whole(dialect: Dialect) -> None:
    events = STREAMS[dialect]
    pieces = [chunk(b"event: odd\n"), chunk(b"data: 1\n\n"), chunk(events[2])]
    heard = Heard(dialect, [HEAD, framed(events[:3]), *pieces])
    assert heard.client.sent[-2:] == [chunk(b"event: odd\ndata: 1\n\n"), chunk(events[2])]


def test_a_size_in_two_pieces_is_one() -> None:
    """Also where the second piece looks like a whole chunk."""
    events, rest = CHAT, b"data: 345678\n\n"
    pieces = [framed(events[:3]) + b"1", b"7\r\ndata:\n\n\r\n", rest + b"\r\n", framed(events[3:]) + LAST]
    heard = Heard("openai", [HEAD, *pieces])
    assert heard.kept.end == "done"
    assert heard.body == b"".join([*events[:3], b"data:\n\n\r\n", rest, *events[3:]])


def test_a_client_without_chunks_gets_none() -> None:
    heard = Heard("openai", [HEAD, framed(CHAT[:3]), chunk(CHAT[2])], version="1.0")
    assert heard.client.sent[-1] == CHAT[2]


def test_what_looks_like_a_chunk_within_a_chunk_is_no_event() -> None:
    events = CHAT
    inner = chunk(events[2])
    for before in (b"", b"data: 1\n\n\r\n"):
        begun = b"%x\r\n" % len(before + inner) + before
        heard = Heard("openai", [HEAD, framed(events[:3]), begun, inner, b"\r\n"])
        assert isinstance(heard.kept.end, CortexError)
        assert heard.body == b"".join([*events[:3], before])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_goes_on_behind_an_end_mark_with_plain_chunks(dialect: Dialect) -> None:
    """Row 14: what came last was no end."""
    events = STREAMS[dialect]
    heard = Heard(dialect, [HEAD, framed(events), chunk(events[2]), LAST])
    assert isinstance(heard.kept.end, CortexError)


def test_plain_chunks_count_for_how_big_the_last_event_may_be() -> None:
    events, said = RESPONSES, b'data: {"delta":"' + b"x" * 60_000 + b'"}\n\n'
    last = events[-1].replace(b'"r"', b'"r","text":"' + b"x" * (EVENT_LIMIT + 100_000) + b'"')
    heard = Heard("responses", [HEAD, framed(events[:2]), *[chunk(said)] * 10, chunk(last), LAST])
    assert heard.kept.end == "done"


def test_the_numbers_of_a_responses_stream_go_on_behind_plain_chunks() -> None:
    numbered = b'event: response.output_text.delta\ndata: {"delta":"!","sequence_number":3}\n\n'
    heard = Heard("responses", [HEAD, framed(RESPONSES[:2]), *[chunk(numbered)] * 5])
    trail = heard.errand.framing._trail
    assert trail is not None
    assert trail.next == 5


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_event_behind_plain_chunks_is_known_for_one(dialect: Dialect) -> None:
    events = STREAMS[dialect]
    pieces = [HEAD, framed(events[:2]), framed(events[2:3]), chunk(FAILURES[dialect]), LAST]
    heard = Heard(dialect, pieces)
    assert heard.kept.end == "done"
    assert heard.errand.meter.failed


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "odd",
    [b"", b"0\r\n\r\n", b"zz\r\n", b"3\r\nabcd\r\n", b"5\r\n<html\r\n3\r\n>\r\n\r\n"],
    ids=["close", "end", "size", "length", "html"],
)
def test_what_breaks_off_behind_plain_chunks_is_a_failure(dialect: Dialect, odd: bytes) -> None:
    """Rows 14 to 19: what passed stays with the client, and nothing that is broken goes there."""
    events = STREAMS[dialect]
    heard = Heard(dialect, [HEAD, framed(events[:2]), framed(events[2:3]), odd])
    assert isinstance(heard.kept.end, CortexError)
    assert heard.body == b"".join(events[:3])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_half_an_event_behind_plain_chunks_stays_here(dialect: Dialect) -> None:
    """An error event could not follow it."""
    events = STREAMS[dialect]
    cut = chunk(events[2])
    for at in range(1, len(cut)):
        heard = Heard(dialect, [HEAD, framed(events[:3]), cut[:at], b""])
        assert isinstance(heard.kept.end, CortexError), at
        # All of an event may have come before its chunk's end.
        assert heard.body == b"".join(events[:3] + events[2:3] * (at >= len(cut) - 2)), at
