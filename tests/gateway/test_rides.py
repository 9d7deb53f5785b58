"""A stream is the same to client and books whether it rides or not, in whatever pieces it comes.

The slow way is an errand from the first byte on; the other one is a ride, which becomes an errand when it
has to. Both are told the same, and neither has a socket.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.config.limits import Limits
from cortex.errors import CortexError
from cortex.events import Usage
from cortex.gateway.lanes import LESSONS, Road
from cortex.gateway.ride import Ride
from cortex.web import duties
from cortex.web.errand import Errand
from cortex.web.framing import Framing, Terms
from cortex.wire import neuron as wire
from cortex.wire.faults import Dialect
from tests.fake_streams import CHAT, FAILURES, MESSAGES
from tests.web.test_chunks import chunk, parsed
from tests.web.test_flow import Kept, Neuron, framed

EXTRA = ((wire.NEURON, "n1"), (wire.MODEL, "a"))
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ndate: Sun, 22 Nov 2026 00:05:02 GMT\r\n"
    b"x-cortex-own: 100%\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
PLAIN = [event for event in CHAT if not event.startswith(b":")]
ENDS = {"bare": b"0\r\n\r\n", "told": b"0\r\nx-cortex-usage: prompt=7,cached=2,completion=3\r\n\r\n"}
LIMITS = Limits(first_token_s=30, upstream_stall_s=5)
HASTY = Limits(first_token_s=30, upstream_stall_s=0.1)
# Seconds between two pieces.
PACE = 0.25


class Client:
    """A guest, whose `slow`th piece of the answer stays with it until it is drained."""

    stall_at = 99.0

    def __init__(self, slow: int = 0) -> None:
        self.sent: list[bytes] = []
        self.looks: list[float] = []
        self.now, self.full, self._slow = 0.0, False, slow
        self.errand: duties.Errand | None = None
        self.stays: bool | None = None

    def send(self, data: bytes) -> bool:
        assert not self.full
        self.sent.append(data)
        self.full = len(self.sent) == self._slow
        return not self.full

    def drain(self) -> None:
        if self.full and self.errand is not None:
            self.full = False
            self.errand.drained()

    def wants_look(self, due: float) -> None:
        self.looks.append(due)

    def request_id(self, known: object) -> str:
        return "id"

    def goes_on(self, errand: duties.Errand) -> None:
        self.errand = errand

    def answered(self, *, stays: bool) -> None:
        self.stays = stays


class Link(Neuron):
    def pause(self) -> None:
        pass

    def go_on(self) -> None:
        pass


def counts(used: Usage) -> tuple[int, int, int]:
    return used.prompt, used.cached, used.completion


class Asked:
    """One stream that was asked for: what the client and the books have of it."""

    def __init__(self, dialect: Dialect = "openai", slow: int = 0, limits: Limits = LIMITS) -> None:
        self.dialect: Dialect = dialect
        self.limits = limits
        self.client, self.kept, self.link = Client(slow), Kept(), Link()
        self.errand: Errand | None = None
        self.used: Usage | None = None

    def _made(self) -> Errand:
        framing = Framing(Terms("id", dialect=self.dialect))
        errand = Errand(self.client, framing, self.link, limits=self.limits, now=0.0)  # type: ignore[arg-type]
        errand.extra = EXTRA
        framing.tags.update(EXTRA)
        errand.follow(self.kept, streams=True, connect_s=1)  # type: ignore[arg-type]
        self.errand = errand
        return errand

    def hears(self, pieces: Iterable[bytes]) -> "Asked":
        for number, piece in enumerate(pieces, 1):
            if self.kept.end or self.client.stays is not None:
                break
            self.client.now = number * PACE
            self.link.listener.heard(piece)  # type: ignore[attr-defined]
            self.client.drain()
        return self

    def looked_at(self, now: float) -> "Asked":
        self.client.now = now
        assert self.client.errand is not None
        if self.client.errand.due <= now:
            self.client.errand.look(now)
        return self

    @property
    def head(self) -> list[bytes]:
        """The client's, but for its date."""
        lines = b"".join(self.client.sent).partition(b"\r\n\r\n")[0].split(b"\r\n")
        return [line for line in lines if not line.startswith(b"date:")]

    @property
    def body(self) -> bytes:
        out = b"".join(self.client.sent).partition(b"\r\n\r\n")[2]
        return b"".join(parsed(out).pieces)

    @property
    def end(self) -> object:
        end = self.kept.end
        return (type(end), str(end), end.reason) if isinstance(end, CortexError) else end


class Slow(Asked):
    """From the first byte on in the hands of an errand."""

    def __init__(self, dialect: Dialect = "openai", slow: int = 0, limits: Limits = LIMITS) -> None:
        super().__init__(dialect, slow, limits)
        self.client.errand = self._made()

    @property
    def figures(self) -> tuple[object, ...]:
        assert self.errand is not None
        meter = self.errand.meter
        used = counts(meter.usage), meter.estimated, meter.complete, meter.failed
        return meter.events, meter.bytes, meter.first_content_at, used, self.reusable

    @property
    def reusable(self) -> bool:
        return self.errand is not None and self.errand.answer.reusable


class Rode(Asked):
    """A ride, as far as it goes."""

    def __init__(
        self, road: Road, dialect: Dialect = "openai", slow: int = 0, limits: Limits = LIMITS
    ) -> None:
        super().__init__(dialect, slow, limits)
        known = SimpleNamespace(
            terms=lambda request_id: Terms(request_id, dialect=dialect),
            route=SimpleNamespace(dialect=dialect),
        )
        lane: Any = SimpleNamespace(known=known, streams=True, name="a")
        quiet = SimpleNamespace(leave=lambda ticket: None, acquit=lambda name: None, end=lambda: None)
        express: Any = SimpleNamespace(
            clock=lambda: 0.0,
            limits=limits,
            dispatch=quiet,
            fleet=quiet,
            books=self,
            unfolded=lambda hop: self._made(),
        )
        seen: Any = SimpleNamespace(stream=True)
        client: Any = self.client
        self.ride = Ride(express, lane, client, seen, 0.0)
        given: Any = (object(), road, self.link, quiet)
        self.ride.ticket, self.ride.road, self.ride.link, self.ride.claim = given
        self.link.listener = self.ride
        self.client.errand = self.ride

    def enter(self, hop: Ride, neuron: str, usage: Usage, over_at: float, now: float) -> None:
        """In the books."""
        self.used = usage
        self.kept.end = "done"

    @property
    def rode(self) -> bool:
        """Whether it did so to its end."""
        return self.used is not None

    @property
    def figures(self) -> tuple[object, ...]:
        if self.errand is not None:
            return Slow.figures.fget(self)  # type: ignore[attr-defined]
        ride, used = self.ride, self.used
        assert used is not None and self.client.stays
        return ride._events, ride._size, ride.first_at, (counts(used), used.estimated, True, False), True

    @property
    def reusable(self) -> bool:
        return self.errand is not None and self.errand.answer.reusable


def new_road() -> Road:
    pool = SimpleNamespace(taken_back=lambda link: None, lost=lambda link: None)
    waits = SimpleNamespace(begin=lambda one: None, end=lambda one: None)
    place = SimpleNamespace(name="n1", boot_id="b")
    return Road(place, None, pool, waits, True, b"")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def road() -> Road:
    """On which a stream has been."""
    known = new_road()
    Rode(known).hears([HEAD])
    assert known.opening is not None
    return known


def alike(road: Road, pieces: list[bytes], slow: int = 0) -> Rode:
    """The ride of a stream that was heard in `pieces`, which is as it would have been without."""
    other, rode = Slow(slow=slow).hears(pieces), Rode(road, slow=slow).hears(pieces)
    if rode.errand is None and not rode.rode:
        rode.ride.unfolded()
    for fact in ("end", "body", "head", "figures"):
        assert getattr(rode, fact) == getattr(other, fact), (fact, pieces)
    return rode


@pytest.mark.parametrize("last", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("events", [CHAT, PLAIN], ids=["with a comment", "plain"])
def test_a_stream_is_the_same_wherever_it_is_split(road: Road, events: list[bytes], last: bytes) -> None:
    stream = HEAD + framed(events) + last
    for at in range(1, len(stream)):
        for more in (stream[at:], stream[at : at + 40], stream[at : at + 150]):
            alike(road, list(filter(None, [stream[:at], more, stream[at + len(more) :]])))


@pytest.mark.parametrize("last", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("together", [1, 2, 3, 9])
@pytest.mark.parametrize("slow", [0, 1, 2, 3])
def test_a_plain_stream_rides_to_its_end(road: Road, last: bytes, together: int, slow: int) -> None:
    """Whatever the client holds up."""
    pieces = [framed(PLAIN[at : at + together]) for at in range(0, len(PLAIN), together)]
    apart = ([HEAD, *pieces, last], [HEAD, *pieces[:-1], pieces[-1] + last])
    for heard in (*apart, [HEAD + pieces[0], *pieces[1:], last], [HEAD + framed(PLAIN) + last]):
        rode = alike(road, heard, slow)
        assert rode.rode is (slow == 0 or slow > len(heard) or (heard[0] == HEAD and slow == len(heard)))


ODD = {
    "no mark": [framed(PLAIN[:-1]), ENDS["bare"]],
    "no mark in one": [framed(PLAIN[:-1]) + ENDS["bare"]],
    "an error": [framed(PLAIN[:3]), chunk(FAILURES["openai"]), ENDS["bare"]],
    "an error before the mark": [framed(PLAIN[:3]) + chunk(FAILURES["openai"] + PLAIN[-1]) + ENDS["bare"]],
    "an error at first": [chunk(FAILURES["openai"]), framed(PLAIN), ENDS["bare"]],
    "a named error": [framed(PLAIN[:3]), chunk(b"event: error\ndata: {}\n\n"), ENDS["bare"]],
    "a ping at first": [chunk(b"event: ping\ndata: {}\n\n"), framed(PLAIN), ENDS["bare"]],
    "more behind the mark": [framed(PLAIN), chunk(PLAIN[1]), ENDS["bare"]],
    "more behind the mark, then the mark": [framed(PLAIN), chunk(PLAIN[1]), chunk(PLAIN[-1]) + ENDS["bare"]],
    "like ones behind the mark": [framed(PLAIN[:2]), framed(PLAIN[2:]), chunk(PLAIN[1]), ENDS["bare"]],
    "the mark twice": [framed(PLAIN), chunk(PLAIN[-1]), ENDS["bare"]],
    "the mark twice in one": [framed(PLAIN + PLAIN[-1:]) + ENDS["bare"]],
    "the mark without a space": [framed(PLAIN[:-1]) + chunk(b"data:[DONE]\n\n") + ENDS["bare"]],
    "half a mark": [
        framed(PLAIN[:3]),
        framed(PLAIN[3:-1]) + chunk(b"event: x\ndata: a\ndata: [DONE]\n\n") + ENDS["bare"],
    ],
    "a named mark": [
        framed(PLAIN[:3]),
        framed(PLAIN[3:-1]) + chunk(b"event: x\ndata: [DONE]\n\n") + ENDS["bare"],
    ],
    "the end twice": [framed(PLAIN) + ENDS["bare"] * 2],
    "another answer": [framed(PLAIN) + ENDS["bare"] + HEAD],
    "another trailer": [framed(PLAIN) + b"0\r\nx-other: 1\r\n\r\n"],
    "two trailers": [framed(PLAIN) + b"0\r\nx-other: 1\r\nx-cortex-usage: prompt=1,completion=2\r\n\r\n"],
    "the usage twice": [framed(PLAIN) + ENDS["told"][:-2] + ENDS["told"][3:]],
    "an odd usage": [framed(PLAIN) + b"0\r\nx-cortex-usage: prompt=1\r\n\r\n"],
    "an estimate": [framed(PLAIN) + b"0\r\nx-cortex-usage: prompt=1,completion=2,estimated=1\r\n\r\n"],
    "a last chunk with more zeros": [framed(PLAIN) + b"000\r\n\r\n"],
    "ten for none": [framed(PLAIN) + b"10\r\n\r\n"],
    "a last chunk with an extension": [framed(PLAIN) + b"0;x=y\r\n\r\n"],
    "a close": [framed(PLAIN[:3]), b""],
    "a close behind the mark": [framed(PLAIN), b""],
    "no chunk": [framed(PLAIN[:3]), b"zz\r\n"],
    "no events": [chunk(b"<html>\n\n"), ENDS["bare"]],
    "nothing": [ENDS["bare"]],
    "a close at first": [b""],
    "what is said of errors": [
        framed(PLAIN[:2]),
        chunk(b'data: {"choices":[{"index":0,"delta":{"content":"an error, [DONE]"}}]}\n\n'),
        framed(PLAIN[2:]) + ENDS["bare"],
    ],
}


@pytest.mark.parametrize("pieces", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("slow", [0, 1, 2])
def test_an_odd_stream_is_as_odd(road: Road, pieces: list[bytes], slow: int) -> None:
    """Rows 14 to 19: what breaks off is a failure, and what a neuron says of itself is passed on."""
    alike(road, [HEAD, *pieces], slow)
    alike(road, [HEAD + pieces[0], *pieces[1:]], slow)


def test_who_talks_of_errors_and_ends_rides(road: Road) -> None:
    assert alike(road, [HEAD, *ODD["what is said of errors"]]).rode


HEADS = {
    "another date": HEAD.replace(b"05:02", b"17:21"),
    "another status": HEAD.replace(b"200 OK", b"206 Partial Content"),
    "another header": HEAD.replace(b"100%", b"99%"),
    "one more": HEAD.replace(b"\r\ndate", b"\r\nretry-after: 1\r\ndate"),
    "no more": HEAD.replace(b"\r\ndate", b"\r\nconnection: close\r\ndate"),
    "none of a kind": HEAD.replace(b"\r\ndate", b"\r\nx-request-id: a\r\ndate"),
    "an odd date": HEAD.replace(b"05:02", b"05\x0002"),
    "half a line end in the date": HEAD.replace(b"05:02", b"05\n02"),
    "an encoding": HEAD.replace(b"\r\ndate", b"\r\ncontent-encoding: gzip\r\ndate"),
    "a body by its close": HEAD.replace(b"transfer-encoding: chunked\r\n", b""),
    "another version": HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_head_is_as_the_parser_has_it(head: bytes, known: bool) -> None:
    road, odd = new_road(), {"odd": "is handed over"}
    if known:
        Rode(road).hears([HEAD])
    for _ in range(2):
        told = []
        for asked in (Slow(), Rode(road)):
            asked.kept.odd = lambda answer: odd.__setitem__("odd", str(answer.headers))  # type: ignore[attr-defined]
            asked.hears([head + framed(PLAIN) + ENDS["told"]])
            told.append((asked.end, asked.head, asked.client.sent and asked.body, odd["odd"]))
        assert told[0] == told[1]


def test_a_form_that_is_never_learnt_is_given_up() -> None:
    road = new_road()
    for _ in range(LESSONS + 1):
        alike(road, [HEADS["no more"] + framed(PLAIN) + ENDS["bare"]])
    assert not alike(road, [HEAD + framed(PLAIN) + ENDS["bare"]]).rode


def test_streams_of_other_dialects_do_not_ride() -> None:
    road = new_road()
    other, rode = (
        asked.hears([HEAD, framed(MESSAGES), ENDS["told"]])
        for asked in (Slow("anthropic"), Rode(road, "anthropic"))
    )
    assert road.opening is None
    assert (rode.end, rode.body, rode.head, rode.figures) == (
        other.end,
        other.body,
        other.head,
        other.figures,
    )


BEGINNINGS = {
    "plain": [HEAD, chunk(PLAIN[0])],
    "all in one": [HEAD + chunk(PLAIN[0])],
    "a ping": [HEAD, chunk(b"event: ping\ndata: {}\n\n")],
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("heard", range(6))
def test_a_silence_is_noticed_as_soon(road: Road, beginning: str, heard: int) -> None:
    """Rows 6 and 8: a stream has deadlines from its first moment on, and signs of life before it begins."""
    pieces = [*BEGINNINGS[beginning], *[chunk(PLAIN[1])] * 3][:heard]
    for times in ([1.0, 2.0, 11.0, 29.0, 30.0], [4.9, 5.0, 5.4, 5.6, 5.9], [6.2, 6.3], [9.0, 30.1], [31.0]):
        other, rode = Slow().hears(pieces), Rode(road).hears(pieces)
        for now in times:
            for asked in (other, rode):
                if not asked.kept.end:
                    asked.looked_at(now)
            assert (rode.end, rode.client.sent[1:]) == (other.end, other.client.sent[1:]), now
            assert rode.body == other.body if rode.client.sent else not other.client.sent


def test_a_deadline_that_is_nearer_than_the_one_before_is_told(road: Road) -> None:
    """Nobody looks before."""
    for pieces in ([HEAD + chunk(PLAIN[0])], [HEAD, framed(PLAIN[:2]), chunk(PLAIN[1])]):
        both = [asked.hears(pieces) for asked in (Slow(limits=HASTY), Rode(road, limits=HASTY))]
        first, second = (min(asked.client.looks) for asked in both)
        assert first == second == pytest.approx(PACE * len(pieces[:2]) + 0.1)


_PIECES = st.lists(
    st.one_of(
        st.sampled_from([chunk(event) for event in (*CHAT, FAILURES["openai"])]),
        st.sampled_from([*ENDS.values(), b"0", b"\r\n", b"", chunk(PLAIN[0] + PLAIN[1])]),
    ),
    max_size=7,
)


@given(_PIECES, st.integers(0, 7), st.integers(0, 4))
def test_whatever_comes_is_the_same(pieces: list[bytes], joint: int, slow: int) -> None:
    road = new_road()
    Rode(road).hears([HEAD])
    pieces = [HEAD, *pieces[:joint], b"".join(pieces[joint:])]
    other, rode = Slow(slow=slow).hears(pieces), Rode(road, slow=slow).hears(pieces)
    if rode.errand is None and not rode.rode:
        rode.ride.unfolded()
    assert (rode.end, rode.body, rode.figures) == (other.end, other.body, other.figures)
