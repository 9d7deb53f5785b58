"""What goes in from a neuron comes out to the client, byte for byte; what is missing is told."""

import tracemalloc
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing

from cortex import errors
from cortex.config.limits import Limits
from cortex.errors import CortexError, TooSlow, UpstreamFailed
from cortex.events import Usage
from cortex.web import connection, faults, relay
from cortex.web.forwarding import Reply, forward
from cortex.web.line import Line
from cortex.web.meter import Meter
from cortex.web.pool import Pool
from cortex.web.refusal import refusal
from cortex.web.relay import Destination
from cortex.web.tail import EVENT_LIMIT
from cortex.wire.faults import Dialect
from tests.fake_replies import Recorder, reacting
from tests.fake_streams import CHAT, FAILURES, MESSAGES, STREAMS
from tests.fake_upstream import (
    STREAM_HEAD,
    Close,
    Drip,
    FakeUpstream,
    Hang,
    Reset,
    Script,
    Wait,
    chunks,
    events,
    fake_upstream,
    head,
    last_chunk,
    script,
    whole,
)

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: neuron\r\ncontent-length: 2\r\n\r\n{}"
USAGE = "x-cortex-usage: prompt=12,cached=0,completion=34"
CHAT_BYTES = b"".join(CHAT)


async def relayed(
    upstream: FakeUpstream,
    reply: Reply,
    *,
    dialect: Dialect = "openai",
    limits: Limits | None = None,
    extra: Sequence[tuple[str, str]] = (),
) -> Meter:
    """One request through a pool of its own; errors of the relay are raised."""
    meter, limits = Meter(dialect), limits or Limits()
    async with reacting() as reactor:
        pool = Pool("127.0.0.1", upstream.port, reactor=reactor)
        try:
            async with pool.exchange(REQUEST, first_byte_s=100) as answer:
                await forward(answer, reply, reactor, meter=meter, limits=limits, extra_headers=extra)
        finally:
            pool.close()
    return meter


async def failing(plan: Script, reply: Reply, **settings) -> CortexError:
    """The error that the relay raises for `plan`."""
    async with fake_upstream(plan) as upstream:
        with pytest.raises(CortexError) as caught:
            await relayed(upstream, reply, **settings)
    return caught.value


# --- byte for byte ----------------------------------------------------------------------


@pytest.mark.parametrize("dialect", list(STREAMS))
async def test_a_stream_comes_out_as_it_went_in(dialect: Dialect) -> None:
    with trio.fail_after(30):
        plan = script(events(*STREAMS[dialect], trailers=[USAGE]))
        async with fake_upstream(plan) as upstream:
            reply = Recorder()
            meter = await relayed(upstream, reply, dialect=dialect)
        assert bytes(reply.body) == b"".join(STREAMS[dialect])
        assert reply.ended
        assert (reply.status, reply.content_type) == (200, "text/event-stream; charset=utf-8")
        assert meter.usage == Usage(12, 0, 34)
        assert not meter.estimated
        assert (meter.complete, meter.failed, meter.bytes) == (True, False, len(reply.body))
        assert meter.events == 2
        assert meter.first_content_at is not None


@pytest.mark.slow
@pytest.mark.parametrize("dialect", list(STREAMS))
async def test_a_stream_comes_out_as_it_went_in_wherever_it_is_split(dialect: Dialect) -> None:
    """Row 13: the split falls into the head, chunk sizes, code points, events and trailers."""
    with trio.fail_after(60):
        stream = b"".join(STREAMS[dialect])
        wire = events(*STREAMS[dialect], trailers=[USAGE])
        async with fake_upstream() as upstream, reacting() as reactor:
            pool = Pool("127.0.0.1", upstream.port, reactor=reactor)
            for position in range(1, len(wire)):
                upstream.then(Drip(wire, at=(position,)))
                reply, meter = Recorder(), Meter(dialect)
                async with pool.exchange(REQUEST, first_byte_s=100) as answer:
                    await forward(answer, reply, reactor, meter=meter, limits=Limits())
                assert bytes(reply.body) == stream, position
                assert reply.ended
                assert (meter.events, meter.usage.completion) == (2, 34)
            assert upstream.connections == 1
            pool.close()


async def test_a_stream_comes_out_as_it_went_in_byte_by_byte() -> None:
    """Row 11: a slow drip is legal."""
    with trio.fail_after(30):
        async with fake_upstream(script(Drip(events(*CHAT)))) as upstream:
            reply = Recorder()
            meter = await relayed(upstream, reply)
        assert bytes(reply.body) == CHAT_BYTES
        assert meter.events == 2


async def test_invalid_utf8_is_passed_as_it_is() -> None:
    """Row 13: the relay decodes nothing, so it cannot crash on it."""
    with trio.fail_after(30):
        odd = b'data: {"choices":[{"delta":{"content":"\xff\xc3"}}]}\n\n'
        async with fake_upstream(script(events(CHAT[0], odd, CHAT[-1]))) as upstream:
            reply = Recorder()
            await relayed(upstream, reply)
        assert bytes(reply.body) == CHAT[0] + odd + CHAT[-1]


async def test_events_reach_the_client_before_the_next_ones_are_written() -> None:
    with trio.fail_after(30):
        go = trio.Event()
        plan = script(STREAM_HEAD + chunks(*CHAT[:3]), Wait(go), chunks(*CHAT[3:]) + last_chunk())
        async with fake_upstream(plan) as upstream, trio.open_nursery() as nursery:
            reply = Recorder()
            nursery.start_soon(relayed, upstream, reply)
            await upstream.until(connections=1)
            while len(reply.body) < len(b"".join(CHAT[:3])):
                await trio.testing.wait_all_tasks_blocked()
            assert not reply.ended
            go.set()


@pytest.mark.parametrize("status", [200, 400, 413, 422, 429, 502, 503, 504, 507, 529])
async def test_a_whole_answer_comes_out_with_its_status_and_bytes(status: int) -> None:
    """Backpressure and the client's own faults pass intact."""
    with trio.fail_after(30):
        body = b'{ "error": {"message": "m",\n "code": "x"}, "usage": {"prompt_tokens": 2} }'
        said = whole(status, body, "retry-after: 7", "x-should-retry: false", content_type="application/json")
        async with fake_upstream(script(Drip(said, size=50))) as upstream:
            reply = Recorder()
            meter = await relayed(upstream, reply)
        assert (reply.status, bytes(reply.body)) == (status, body)
        assert reply.content_type == "application/json"
        assert reply.headers == {"retry-after": "7", "x-should-retry": "false"}
        assert meter.complete
        assert meter.bytes == len(body)
        assert meter.usage == (Usage(2) if status == 200 else Usage())
        assert not meter.estimated


async def test_a_chunked_whole_answer_is_passed_too() -> None:
    with trio.fail_after(30):
        said = head(200, "content-type: application/json; charset=utf-8", "transfer-encoding: chunked")
        plan = script(said + chunks(b'{"a":', b"1}") + last_chunk())
        async with fake_upstream(plan) as upstream:
            reply = Recorder()
            await relayed(upstream, reply)
        assert bytes(reply.body) == b'{"a":1}'


async def test_the_real_reply_sends_head_and_chunks_and_end() -> None:
    with trio.fail_after(30):
        near, far = trio.testing.memory_stream_pair()
        reply = connection.Reply(Line(near, 5), connection.Terms("r-1", extra=(("x-cortex-gateway", "g"),)))
        said = events(*CHAT, trailers=[USAGE]).replace(b"\r\n", b"\r\ncache-control: no-cache\r\n", 1)
        async with fake_upstream(script(said)) as upstream:
            await relayed(upstream, reply, extra=[("x-cortex-neuron", "n1")])
        assert reply.done
        sent = bytes(await far.receive_some())
        top, _, rest = sent.partition(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 200 OK\r\n")
        assert top.count(b"cache-control:") == 1
        assert b"x-cortex-neuron: n1" in top
        assert b"x-cortex-usage" not in sent
        assert rest.endswith(b"0\r\n\r\n")
        assert CHAT_BYTES in rest  # all of it arrived in one read, so it is one chunk


# --- headers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "passes"),
    [
        ("cache-control: no-store", True),
        ("retry-after: 3", True),
        ("x-should-retry: false", True),
        ("x-cortex-model: m", True),
        ("X-Cortex-Queue: 4", True),
        ("x-cortex-usage: prompt=1", False),
        ("x-cortex-not-started: 1", False),
        ("x-cortex-route: boot", False),
        ("x-cortex-key-name: k", False),
        ("connection: keep-alive", False),
        ("keep-alive: timeout=5", False),
        ("trailer: x-cortex-usage", False),
        ("date: today", False),
        ("server: secret/1.0", False),
        ("set-cookie: a=b", False),
        ("x-request-id: the-neurons", False),
        ("location: http://elsewhere/", False),
        ("access-control-allow-origin: *", False),
    ],
)
async def test_of_a_neurons_headers_only_those_for_clients_go_on(header: str, passes: bool) -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(whole(200, b"{}", header))) as upstream:
            reply = Recorder()
            await relayed(upstream, reply)
        name, _, value = header.partition(": ")
        assert reply.headers == ({name.lower(): value} if passes else {})


async def test_the_gateways_headers_are_added_and_win() -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(whole(200, b"{}", "x-cortex-model: long/name"))) as upstream:
            reply = Recorder()
            await relayed(upstream, reply, extra=[("X-Cortex-Model", "alias"), ("x-cortex-neuron", "n1")])
        assert reply.headers == {"x-cortex-model": "alias", "x-cortex-neuron": "n1"}


@pytest.mark.parametrize(
    ("header", "passes"),
    [
        (("content-type", "application/json"), True),
        (("Accept", "text/event-stream"), True),
        (("anthropic-version", "2023-06-01"), True),
        (("anthropic-beta", "a,b"), True),
        (("x-request-id", "r1"), True),
        (("X-Cortex-Session", "s"), True),
        (("x-cortex-route", "boot"), False),
        (("X-Cortex-Not-Started", "1"), False),
        (("x-cortex-key-name", "someone else"), False),
        (("x-cortex-usage", "prompt=0"), False),
        (("authorization", "Bearer client"), False),
        (("Authorization", "Bearer client"), False),
        (("x-api-key", "client"), False),
        (("cookie", "session=1"), False),
        (("proxy-authorization", "x"), False),
        (("accept-encoding", "gzip"), False),
        (("content-length", "999"), False),
        (("transfer-encoding", "chunked"), False),
        (("connection", "close"), False),
        (("host", "evil"), False),
        (("expect", "100-continue"), False),
        (("x-forwarded-for", "1.2.3.4"), False),
        (("user-agent", "curl"), False),
        (("origin", "http://web"), False),
    ],
)
def test_of_a_clients_headers_only_those_for_engines_go_on(header: tuple[str, str], passes: bool) -> None:
    """Row 22: identity only. No credential of a client ever leaves the gateway."""
    said = relay.request_bytes("POST", "/v1/x", [header], b"{}", to=Destination("n:1"), own={})
    lines = said.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert lines[0] == "POST /v1/x HTTP/1.1"
    expected = {"host: n:1", "accept-encoding: identity", "content-length: 2"}
    assert set(lines[1:]) == expected | ({f"{header[0].lower()}: {header[1]}"} if passes else set())
    assert len(lines) == len(set(lines))


def test_the_fleet_token_takes_the_place_of_the_clients_credentials() -> None:
    said = relay.request_bytes(
        "POST",
        "/v1/messages?beta=true",
        [("authorization", "Bearer client"), ("x-cortex-key-name", "fake"), ("x-request-id", "theirs")],
        b"body \x00\xff",
        to=Destination("[::1]:13131", token="fleet"),
        own={"x-cortex-route": "boot-1", "x-cortex-key-name": "alice", "X-Request-Id": "ours"},
    )
    top, _, body = said.partition(b"\r\n\r\n")
    assert body == b"body \x00\xff"
    assert sorted(top.split(b"\r\n")[1:]) == [
        b"accept-encoding: identity",
        b"authorization: Bearer fleet",
        b"content-length: 7",
        b"host: [::1]:13131",
        b"x-cortex-key-name: alice",
        b"x-cortex-route: boot-1",
        b"x-request-id: ours",
    ]
    assert b"client" not in said


def test_a_repeated_header_is_joined_and_latin_1_survives() -> None:
    headers = [("anthropic-beta", "a"), ("Anthropic-Beta", "b"), ("x-cortex-session", "caf\xe9")]
    said = relay.request_bytes("POST", "/", headers, b"", to=Destination("n"), own={})
    assert b"anthropic-beta: a, b\r\n" in said
    assert b"x-cortex-session: caf\xe9\r\n" in said


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\ny", "a\0b"])
def test_no_header_can_begin_another(value: str) -> None:
    with pytest.raises(ValueError, match="control"):
        relay.request_bytes("POST", "/", [], b"", to=Destination("n"), own={"x-cortex-key-name": value})


def test_a_token_is_not_shown() -> None:
    assert "fleet" not in repr(Destination("n", token="fleet"))


# --- streams that break -----------------------------------------------------------------


@pytest.mark.parametrize("end", [Reset(), Close()], ids=["reset", "closed"])
@pytest.mark.parametrize("dialect", list(STREAMS))
async def test_a_neuron_that_dies_in_a_stream_is_told_after_all_that_came(dialect: Dialect, end) -> None:
    """Row 3: kill -9 in mid-stream."""
    with trio.fail_after(30):
        pieces = STREAMS[dialect][:-1]
        reply = Recorder()
        plan = script(Drip(STREAM_HEAD + chunks(*pieces), size=50), end)
        error = await failing(plan, reply, dialect=dialect)
        assert type(error) is UpstreamFailed
        assert not error.not_started
        assert bytes(reply.body) == b"".join(pieces)
        assert not reply.ended


@pytest.mark.parametrize("end", [Reset(), Close()], ids=["reset", "closed"])
async def test_a_close_that_comes_too_early_cuts_nothing_once_the_end_mark_has_passed(end) -> None:
    with trio.fail_after(30):
        reply = Recorder()
        async with fake_upstream(script(Drip(STREAM_HEAD + chunks(*CHAT), size=9999), end)) as upstream:
            meter = await relayed(upstream, reply)
        assert bytes(reply.body) == CHAT_BYTES
        assert reply.ended
        assert meter.estimated  # the trailer was lost with the close


@pytest.mark.slow
async def test_a_cut_at_any_byte_leaves_whole_events_for_the_error_event_to_follow() -> None:
    """Rows 3 and 14: half an event would swallow the error event, so it does not go on."""
    with trio.fail_after(60):
        for position in range(1, len(CHAT_BYTES), 3):
            reply = Recorder()
            said = STREAM_HEAD + chunks(CHAT_BYTES[:position])
            await failing(script(Drip(said, size=9999), Close()), reply)
            whole = CHAT_BYTES[:position].rpartition(b"\n\n")
            assert bytes(reply.body) == whole[0] + whole[1]
            assert not reply.ended


@pytest.mark.parametrize("dialect", list(STREAMS))
async def test_a_stream_that_closes_in_good_order_without_its_end_mark_has_failed(dialect: Dialect) -> None:
    """Annex B 7, and row 14: the framing is right, the answer is not."""
    with trio.fail_after(30):
        pieces = STREAMS[dialect][:-1]
        reply = Recorder()
        error = await failing(script(events(*pieces)), reply, dialect=dialect)
        assert "end mark" in error.message
        assert bytes(reply.body) == b"".join(pieces)
        assert not reply.ended


async def test_a_stream_without_any_event_fails_before_its_head_is_out() -> None:
    """Row 2: the client still gets a status."""
    with trio.fail_after(30):
        reply = Recorder()
        await failing(script(events()), reply)
        assert not reply.started


@pytest.mark.parametrize(("pieces", "complete"), [(CHAT, True), (CHAT[:-1], False)], ids=["mark", "no mark"])
async def test_a_stream_that_only_the_close_ends_needs_its_end_mark(
    pieces: list[bytes], complete: bool
) -> None:
    """Row 16: an HTTP/1.0 style reply."""
    with trio.fail_after(30):
        said = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(pieces)
        reply = Recorder()
        async with fake_upstream(script(said, Close())) as upstream:
            with suppress(UpstreamFailed):
                await relayed(upstream, reply)
        assert bytes(reply.body) == b"".join(pieces)
        assert reply.ended is complete


@pytest.mark.parametrize("dialect", list(STREAMS))
async def test_an_error_event_of_the_neurons_own_is_passed_and_ends_the_stream(dialect: Dialect) -> None:
    with trio.fail_after(30):
        pieces = [STREAMS[dialect][0], FAILURES[dialect]]
        async with fake_upstream(script(events(*pieces))) as upstream:
            reply = Recorder()
            meter = await relayed(upstream, reply, dialect=dialect)
        assert bytes(reply.body) == b"".join(pieces)
        assert reply.ended
        assert (meter.complete, meter.failed, meter.estimated) == (True, True, True)


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe\x01\n\n", b"<html>oops</html>\n\n", b"nonsense\n\n"])
async def test_garbage_in_a_stream_ends_it_and_the_connection(garbage: bytes) -> None:
    """Row 12."""
    with trio.fail_after(30):
        plan = script(STREAM_HEAD + chunks(*CHAT[:3], garbage, *CHAT[3:]), Hang())
        async with fake_upstream(plan) as upstream:
            reply = Recorder()
            with pytest.raises(UpstreamFailed):
                await relayed(upstream, reply)
            await upstream.until(open=0)
        assert bytes(reply.body) == b"".join(CHAT[:3])
        assert not reply.ended


async def test_an_endless_event_is_cut_at_its_limit_with_flat_memory() -> None:
    """Row 15: 10 MB in one event, of which nothing goes on."""
    with trio.fail_after(30):
        stream = STREAM_HEAD + b"a00000\r\ndata: " + b"x" * (10 * 2**20)
        async with fake_upstream(script(stream)) as upstream:
            reply = Recorder()
            tracemalloc.start()
            try:
                with pytest.raises(UpstreamFailed, match="too big"):
                    await relayed(upstream, reply)
                assert tracemalloc.get_traced_memory()[1] < 5 * EVENT_LIMIT
            finally:
                tracemalloc.stop()
        assert not reply.body


async def test_a_client_that_leaves_hangs_up_on_the_neuron() -> None:
    """Row 30."""
    with trio.fail_after(30):
        plan = script(STREAM_HEAD + chunks(*CHAT[:3]), Hang())
        async with fake_upstream(plan) as upstream, trio.open_nursery() as nursery:
            nursery.start_soon(relayed, upstream, Recorder())
            await upstream.until(open=1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await upstream.until(hung_up=1)
                assert len(upstream.requests) == 1


# --- time -------------------------------------------------------------------------------


async def test_a_stream_that_stops_is_given_up_after_the_stall_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 5: SIGSTOP in mid-stream."""
    reply = Recorder()
    began = trio.current_time()
    plan = script(STREAM_HEAD + chunks(*CHAT[:3]), Hang())
    async with fake_upstream(plan) as upstream:
        with pytest.raises(TooSlow):
            await relayed(upstream, reply)
        assert trio.current_time() - began == pytest.approx(30)
        await upstream.until(hung_up=1)
    assert bytes(reply.body) == b"".join(CHAT[:3])
    assert not reply.ended


@pytest.mark.parametrize(("dialect", "beat"), [("openai", CHAT[1]), ("anthropic", MESSAGES[1])])
async def test_keep_alives_do_not_put_off_the_first_token_limit(
    dialect: Dialect, beat: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Row 5: 120 s until the neuron opens its answer, comments and pings notwithstanding."""
    reply = Recorder()
    began = trio.current_time()
    alive = Drip(chunks(*[beat] * 100), size=len(chunks(beat)), pause_s=10)
    async with fake_upstream(script(STREAM_HEAD, alive)) as upstream:
        with pytest.raises(TooSlow):
            await relayed(upstream, reply, dialect=dialect)
        assert trio.current_time() - began == pytest.approx(120, abs=1)  # connecting takes a moment


@pytest.mark.parametrize("opening", [[CHAT[0]], [CHAT[0], CHAT[2]]], ids=["opened", "has spoken"])
async def test_keep_alives_after_the_first_event_are_signs_of_life(
    opening: list[bytes], autojump_clock: trio.testing.MockClock
) -> None:
    """A long tool call is held back by the neuron until it is whole."""
    pieces = [CHAT[1], *opening, *[CHAT[1]] * 20, CHAT[3], CHAT[-1]]
    plan = script(
        STREAM_HEAD, *(Drip(chunks(piece), size=9999, pause_s=10) for piece in pieces), last_chunk()
    )
    reply = Recorder()
    async with fake_upstream(plan) as upstream:
        meter = await relayed(upstream, reply)
    assert bytes(reply.body) == b"".join(pieces)
    assert reply.ended and meter.events == len(opening)


async def test_a_neuron_that_opens_its_answer_and_goes_silent_is_given_up_after_the_stall_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 5: an answer is opened when its prompt is read, and keep-alives are due from then on."""
    reply = Recorder()
    began = trio.current_time()
    async with fake_upstream(script(STREAM_HEAD + chunks(CHAT[0]), Hang())) as upstream:
        with pytest.raises(TooSlow):
            await relayed(upstream, reply)
    assert trio.current_time() - began == pytest.approx(30)


async def test_an_event_that_drips_for_longer_than_the_stall_limit_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 11: a byte a second is legal only while whole events arrive in time."""
    reply = Recorder()
    began = trio.current_time()
    plan = script(STREAM_HEAD + chunks(*CHAT[:3]) + b"100\r\n", Drip(b"data: " + b"x" * 200, pause_s=1))
    async with fake_upstream(plan) as upstream:
        with pytest.raises(TooSlow):
            await relayed(upstream, reply)
    assert trio.current_time() - began == pytest.approx(30, abs=1)
    assert bytes(reply.body) == b"".join(CHAT[:3])


async def test_events_that_drip_but_arrive_in_time_are_legal(autojump_clock: trio.testing.MockClock) -> None:
    """Row 11."""
    small = [b'data: {"delta":%d}\n\n' % number for number in range(10)]
    reply = Recorder()
    drip = Drip(chunks(*small), pause_s=1)
    async with fake_upstream(script(STREAM_HEAD, drip, chunks(CHAT[-1]) + last_chunk())) as upstream:
        await relayed(upstream, reply)
    assert bytes(reply.body) == b"".join(small) + CHAT[-1]


async def test_a_slow_client_is_not_held_against_the_neuron(autojump_clock: trio.testing.MockClock) -> None:
    """The neuron goes on only when the client has taken what came: the time counts for neither limit."""
    pieces = [CHAT[0], CHAT[1], CHAT[1], CHAT[2], CHAT[3], CHAT[-1]]
    reply = Recorder()
    reply.pause_s = 50
    reply.taken = [trio.Event() for _ in pieces]
    steps = [
        step
        for piece, taken in zip(pieces, reply.taken, strict=True)
        for step in (chunks(piece), Wait(taken))
    ]
    async with fake_upstream(script(STREAM_HEAD, *steps, last_chunk())) as upstream:
        await relayed(upstream, reply)
    assert bytes(reply.body) == b"".join(pieces)


async def test_a_whole_answer_that_stops_is_given_up_and_nothing_was_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    reply = Recorder()
    said = head(200, "content-type: application/json", "content-length: 9") + b"{"
    began = trio.current_time()
    error = await failing(script(said, Hang()), reply)
    assert type(error) is TooSlow
    assert trio.current_time() - began == pytest.approx(30)
    assert not reply.started


async def test_a_stream_may_last_longer_than_any_limit(autojump_clock: trio.testing.MockClock) -> None:
    """Annex B 5: what some stacks cut after 60 s."""
    pieces = [CHAT[0], *[CHAT[2]] * 40, CHAT[-1]]
    plan = script(
        STREAM_HEAD, *(Drip(chunks(piece), size=9999, pause_s=25) for piece in pieces), last_chunk()
    )
    reply = Recorder()
    async with fake_upstream(plan) as upstream:
        meter = await relayed(upstream, reply)
    assert meter.events == 40
    assert reply.ended


# --- whole answers that are none --------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """Row 21."""
    with trio.fail_after(30):
        reply = Recorder()
        plan = script(whole(status, b"{}", "location: http://127.0.0.1:1/"))
        error = await failing(plan, reply)
        assert type(error) is UpstreamFailed
        assert not reply.started


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip"])
async def test_an_encoded_answer_is_refused(coding: str) -> None:
    """Row 22."""
    with trio.fail_after(30):
        reply = Recorder()
        error = await failing(script(whole(200, b"{}", f"content-encoding: {coding}")), reply)
        assert type(error) is UpstreamFailed
        assert not reply.started


@pytest.mark.parametrize(
    "said",
    [
        whole(200, b"<html>", content_type="text/html"),
        whole(200, b"{}", content_type="text/plain"),
        whole(200, b'{"choices":['),
        whole(204, b""),
        whole(503, CHAT_BYTES, content_type="text/event-stream"),
        whole(502, b"<html>Bad Gateway</html>", content_type="text/html"),
    ],
    ids=["page", "text", "half a body", "nothing", "stream with a bad status", "page of a proxy"],
)
async def test_an_answer_that_no_neuron_gives_is_not_passed(said: bytes) -> None:
    """Rows 14 and 17."""
    with trio.fail_after(30):
        reply = Recorder()
        error = await failing(script(said), reply)
        assert type(error) is UpstreamFailed
        assert "html" not in error.message
        assert ("502" in error.message) == (b" 502 " in said)
        assert not reply.started


async def test_a_body_over_the_limit_is_refused() -> None:
    with trio.fail_after(30):
        reply = Recorder()
        error = await failing(script(whole(200, b'"' + b"x" * 999 + b'"')), reply, limits=Limits(body=1000))
        assert "1000" in error.message
        assert not reply.started


@pytest.mark.parametrize(
    "said",
    [
        head(200, "content-type: application/json", "content-length: 9") + b'{"a":1}',
        head(200, "content-type: application/json", "transfer-encoding: chunked") + chunks(b'{"a":1}'),
        head(200, "content-type: application/json") + b'{"a":1}',
    ],
    ids=["short", "no last chunk", "no length"],
)
async def test_a_body_that_may_have_been_cut_is_not_passed(said: bytes) -> None:
    """Rows 2 and 16."""
    with trio.fail_after(30):
        reply = Recorder()
        error = await failing(script(Drip(said, size=9999), Close()), reply)
        assert type(error) is UpstreamFailed
        assert not reply.started


# --- refusals ---------------------------------------------------------------------------


def refused(status: int, code: str, *headers: str, message: str = "words") -> bytes:
    body = b'{"error":{"message":"%b","type":"server_error","code":"%b","param":null,"request_id":"r"}}'
    return whole(status, body % (message.encode(), code.encode()), *headers)


async def refusal_of(said: bytes) -> CortexError:
    async with fake_upstream(script(said)) as upstream:
        pool = Pool("127.0.0.1", upstream.port)
        async with pool.exchange(REQUEST, first_byte_s=9) as answer:
            error = await refusal(answer, Limits())
        assert repr(pool).endswith("idle=1 active=0>")
        pool.close()
    return error


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", errors.BadAsk),
        (400, "unsupported_parameter", errors.Unsupported),
        (400, "context_length_exceeded", errors.PromptTooLong),
        (409, "not_here_now", errors.NotHereNow),
        (413, "request_too_large", errors.TooBig),
        (429, "rate_limit_exceeded", errors.TooMuch),
        (502, "engine_failed", errors.EngineFailed),
        (503, "overloaded", errors.Overloaded),
        (503, "model_loading", errors.Loading),
        (503, "shutting_down", errors.Stopping),
        (504, "upstream_timeout", errors.TooSlow),
    ],
)
async def test_a_refusal_is_read_back_into_its_error(status: int, code: str, kind: type[CortexError]) -> None:
    with trio.fail_after(30):
        error = await refusal_of(refused(status, code, "retry-after: 17"))
        assert type(error) is kind
        assert error.message == "words"
        assert error.retry_after_s == 17


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "invalid_api_key"),
        (403, "not_allowed"),
        (404, "not_found"),
        (404, "model_not_found"),
        (405, "method_not_allowed"),
        (408, "request_timeout"),
        (426, "upgrade_refused"),
        (431, "headers_too_large"),
        (400, "bad_request"),
        (500, "internal"),
        (503, "invented"),
        (200, "overloaded"),
    ],
)
async def test_what_the_client_cannot_have_caused_is_not_held_against_it(status: int, code: str) -> None:
    """Rows 17 and 20: a bug, or builds and tokens that do not fit each other."""
    with trio.fail_after(30):
        error = await refusal_of(refused(status, code))
        assert type(error) is UpstreamFailed
        assert error.status == 502


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 409, 426, 431, 500])
async def test_such_an_answer_is_raised_and_not_passed(status: int) -> None:
    """Rows 17 and 20; and 409, which a gateway answers by trying elsewhere."""
    with trio.fail_after(30):
        reply = Recorder()
        await failing(script(refused(status, "not_here_now")), reply)
        assert not reply.started


@pytest.mark.parametrize("marked", [True, False])
async def test_only_the_neurons_word_says_that_nothing_ran(marked: bool) -> None:
    """Row 18: the class alone does not allow a second try."""
    with trio.fail_after(30):
        error = await refusal_of(refused(503, "overloaded", *(["x-cortex-not-started: 1"] if marked else [])))
        assert type(error) is errors.Overloaded
        assert error.not_started is marked


@pytest.mark.parametrize("final", [True, False])
async def test_only_the_neurons_word_forbids_a_second_try_of_the_client(final: bool) -> None:
    with trio.fail_after(30):
        error = await refusal_of(
            refused(413, "request_too_large", *(["x-should-retry: false"] if final else []))
        )
        assert type(error) is errors.TooBig
        assert error.final is final


async def test_a_refusal_for_ever_stays_one() -> None:
    with trio.fail_after(30):
        error = await refusal_of(refused(503, "no_capacity", "x-should-retry: false"))
        assert type(error) is errors.NeverFits
        assert error.final
        assert error.retry_after_s is None


async def test_the_numbers_of_a_prompt_that_is_too_long_are_kept() -> None:
    with trio.fail_after(30):
        body = (
            b'{"error":{"message":"m","type":"t","code":"context_length_exceeded","param":"messages",'
            b'"prompt_tokens":9,"context_length":4}}'
        )
        error = await refusal_of(whole(400, body))
        assert type(error) is errors.PromptTooLong
        assert error.facts == {"prompt_tokens": 9, "context_length": 4}
        assert error.param == "messages"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.BadAsk),
        (409, errors.NotHereNow),
        (413, errors.TooBig),
        (429, errors.TooMuch),
        (502, UpstreamFailed),
        (503, errors.NeverFits),
        (504, errors.TooSlow),
        (529, errors.Overloaded),
    ],
)
async def test_a_refusal_in_the_anthropic_shape_goes_by_its_status(
    status: int, kind: type[CortexError]
) -> None:
    with trio.fail_after(30):
        body = b'{"type":"error","error":{"type":"some_error","message":"words"},"request_id":"r"}'
        error = await refusal_of(whole(status, body, "x-cortex-not-started: 1"))
        assert type(error) is kind
        assert error.message == "words"
        assert error.not_started


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_refusal_comes_back_whole_from_either_dialect(dialect: Dialect) -> None:
    facts: dict[str, errors.Fact] = {"queue_position": 3, "eta_s": 2.5, "blocked_by": ["a"]}
    said = errors.Overloaded("many wait", retry_after_s=7, facts=facts)
    told = faults.response(said, dialect, "req-1")
    headers = [f"{name}: {text}" for name, text in told.headers]
    with trio.fail_after(30):
        error = await refusal_of(whole(told.status, told.body, *headers))
    assert type(error) is errors.Overloaded and error.message == "many wait"
    assert (error.facts, error.retry_after_s) == (facts, 7)


async def test_what_a_bug_says_of_itself_is_not_passed_on() -> None:
    """Row 17."""
    with trio.fail_after(30):
        error = await refusal_of(whole(500, b'{"error":{"message":"/srv/secret.py","code":"internal"}}'))
        assert type(error) is UpstreamFailed and "secret" not in error.message


@pytest.mark.parametrize(
    "said",
    [
        whole(503, b"<html>nginx</html>", content_type="text/html"),
        whole(503, b"not json"),
        whole(503, b'{"detail":"other software"}'),
        whole(503, b'{"error":"a string"}'),
        whole(503, b'{"error":{"message":7}}'),
        whole(503, b'{"error":' * 50_00),
    ],
)
async def test_an_error_that_no_neuron_wrote_is_not_quoted(said: bytes) -> None:
    """Row 17."""
    with trio.fail_after(30):
        error = await refusal_of(said)
        assert type(error) is UpstreamFailed
        assert "503" in error.message
        assert "nginx" not in error.message


@pytest.mark.parametrize("text", ["", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "9" * 400, "²"])
async def test_a_retry_after_that_is_no_number_leaves_the_default(text: str) -> None:
    with trio.fail_after(30):
        said = refused(503, "overloaded", f"retry-after: {text}")
        error = await refusal_of(said)
        assert error.retry_after_s == errors.Overloaded.default_retry_after_s


# --- a reply that has begun -------------------------------------------------------------


async def test_a_stream_goes_on_behind_keep_alives_without_a_second_head() -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(events(*CHAT))) as upstream:
            reply = Recorder(started=True)
            reply.body += b": keep-alive\n\n"
            await relayed(upstream, reply)
        assert bytes(reply.body) == b": keep-alive\n\n" + CHAT_BYTES
        assert reply.ended


async def test_a_refusal_behind_keep_alives_is_raised_for_the_error_event() -> None:
    with trio.fail_after(30):
        reply = Recorder(started=True)
        plan = script(refused(503, "overloaded", "retry-after: 5", "x-cortex-not-started: 1"))
        error = await failing(plan, reply)
        assert type(error) is errors.Overloaded
        assert (error.message, error.retry_after_s, error.not_started) == ("words", 5, True)
        assert not reply.body
        assert not reply.ended


async def test_a_whole_answer_behind_keep_alives_is_a_breach() -> None:
    with trio.fail_after(30):
        reply = Recorder(started=True)
        error = await failing(script(whole(200, b"{}")), reply)
        assert type(error) is UpstreamFailed
        assert not reply.body
