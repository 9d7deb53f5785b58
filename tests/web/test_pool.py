"""The pool's promises, on real sockets: reuse, what failures prove, and that nothing is left behind."""

import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from random import Random

import pytest
import trio
import trio.testing

from cortex.errors import TooSlow, Unreachable, UpstreamFailed
from cortex.web.answer import HEAD_LIMIT, Answer
from cortex.web.link import Link
from cortex.web.names import Address
from cortex.web.pool import Pool
from cortex.web.reactor import GONE, Reactor
from tests.fake_upstream import (
    STREAM_HEAD,
    Close,
    Drip,
    FakeUpstream,
    Hang,
    Reset,
    Script,
    Send,
    Wait,
    chunks,
    events,
    fake_upstream,
    head,
    last_chunk,
    script,
    whole,
)

OK = whole(200, b'{"ok":true}')
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: neuron\r\ncontent-length: 2\r\n\r\n{}"
BIG = b"POST /v1/messages HTTP/1.1\r\nhost: neuron\r\ncontent-length: 33554432\r\n\r\n" + bytes(32 * 2**20)


@asynccontextmanager
async def pool_of(upstream: FakeUpstream, **settings: float) -> AsyncIterator[Pool]:
    pool = Pool("127.0.0.1", upstream.port, **settings)
    try:
        yield pool
    finally:
        pool.close()


@asynccontextmanager
async def answered(plan: Script) -> AsyncIterator[Answer]:
    """The answer to one request that meets `plan`."""
    async with (
        fake_upstream(plan) as upstream,
        pool_of(upstream) as pool,
        pool.exchange(REQUEST, first_byte_s=9) as answer,
    ):
        yield answer


async def ask(pool: Pool, request: bytes = REQUEST, first_byte_s: float = 20) -> tuple[int, bytes]:
    async with pool.exchange(request, first_byte_s=first_byte_s) as answer:
        return answer.status, await read(answer)


async def read(answer: Answer) -> bytes:
    body = b""
    while data := await answer.receive():
        body += data
    return body


def counts(pool: Pool) -> str:
    return repr(pool).partition(" idle")[2].rstrip(">")


# --- the plain path ---------------------------------------------------------------------


async def test_a_request_arrives_byte_for_byte_and_its_answer_comes_back() -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(OK)) as upstream, pool_of(upstream) as pool:
            assert await ask(pool) == (200, b'{"ok":true}')
            assert upstream.requests[0].raw == REQUEST


async def test_headers_are_lower_case_and_repeated_ones_are_joined() -> None:
    with trio.fail_after(30):
        said = whole(200, b"{}", "X-Cortex-Model: m", "Via: a", "via:  b ")
        async with answered(script(said)) as answer:
            assert answer.headers["x-cortex-model"] == "m"
            assert answer.headers["via"] == "a, b"


async def test_trailers_are_there_when_the_answer_is_complete_and_not_before() -> None:
    with trio.fail_after(30):
        go = trio.Event()
        plan = script(STREAM_HEAD + chunks(b"data: 1\n\n"), Wait(go), last_chunk("X-Cortex-Usage: prompt=1"))
        async with answered(plan) as answer:
            assert await answer.receive() == b"data: 1\n\n"
            assert not answer.complete
            assert answer.trailers == {}
            go.set()
            assert await answer.receive() == b""
            assert answer.complete
            assert answer.trailers == {"x-cortex-usage": "prompt=1"}
            assert "x-cortex-usage" not in answer.headers


async def test_chunks_that_came_in_one_read_are_received_as_one() -> None:
    with trio.fail_after(30):
        async with answered(script(events(b"a", b"b", b"c"))) as answer:
            assert await answer.receive() == b"abc"
            assert answer.complete


async def test_interim_answers_are_skipped_with_their_headers() -> None:
    with trio.fail_after(30):
        interim = head(100) + head(103, "link: </x>", "x-cortex-model: wrong")
        async with answered(script(interim + OK)) as answer:
            assert answer.status == 200
            assert "link" not in answer.headers
            assert await read(answer) == b'{"ok":true}'


@pytest.mark.parametrize("position", range(1, len(OK)))
async def test_an_answer_may_be_split_anywhere(position: int) -> None:
    with trio.fail_after(30):
        plan = script(Drip(OK, at=(position,)))
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            assert await ask(pool) == (200, b'{"ok":true}')
            assert counts(pool) == "=1 active=0"


# --- reuse ------------------------------------------------------------------------------


async def test_requests_one_after_another_share_a_connection() -> None:
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            for _ in range(5):
                await ask(pool)
            assert upstream.connections == 1
            assert repr(pool) == f"<Pool 127.0.0.1:{upstream.port} idle=1 active=0>"


async def test_an_exchange_under_way_counts_as_active() -> None:
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9):
                assert counts(pool) == "=0 active=1"
            assert counts(pool) == "=1 active=0"


async def test_nobody_waits_for_a_connection_and_the_last_one_used_is_taken_first() -> None:
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            async with (
                pool.exchange(REQUEST, first_byte_s=9) as first,
                pool.exchange(REQUEST, first_byte_s=9) as second,
            ):
                await read(first), await read(second)
            # The inner exchange was left first, so the outer one's connection is on top.
            await ask(pool)
            await ask(pool)
            assert upstream.connections == 2
            assert {request.connection for request in upstream.requests[2:]} == {0}


async def test_an_answer_that_has_arrived_whole_keeps_its_connection_even_unread() -> None:
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9):
                pass
            await ask(pool)
            assert upstream.connections == 1


async def test_an_idle_connection_that_the_neuron_closed_is_not_used() -> None:
    with trio.fail_after(30):
        async with (
            fake_upstream(script(OK, Close()), otherwise=script(OK)) as upstream,
            pool_of(upstream) as pool,
        ):
            await ask(pool)
            await upstream.until(open=0)
            assert await ask(pool) == (200, b'{"ok":true}')
            assert upstream.connections == 2
            assert counts(pool) == "=1 active=0"


async def test_an_idle_connection_that_says_something_unasked_is_not_used() -> None:
    with trio.fail_after(30):
        plan = script(OK, Drip(b"HTTP/1.1 200 Smuggled\r\ncontent-length: 0\r\n\r\n", size=999))
        async with fake_upstream(plan, otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                await read(answer)
            await trio.testing.wait_all_tasks_blocked()
            assert await ask(pool) == (200, b'{"ok":true}')
            assert upstream.connections == 2


async def test_a_closed_connection_is_stale_though_another_socket_has_its_number() -> None:
    ours, theirs = socket.socketpair()
    link, number = Link(ours), ours.fileno()
    assert not link.stale
    link.close()
    others = socket.socketpair()
    assert number in (others[0].fileno(), others[1].fileno()) and link.stale
    for each in (theirs, *others):
        each.close()


@pytest.mark.parametrize(
    "said",
    [
        OK + b"HTTP/1.1 200 Smuggled\r\n",
        OK + whole(500, b"smuggled"),
        OK + b"x",
        whole(200, b"{}", "connection: close"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ],
    ids=["second head", "second answer", "stray byte", "close announced", "old protocol"],
)
async def test_an_answer_after_which_the_connection_is_unclear_is_whole_but_not_reused(said: bytes) -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(said), otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                await read(answer)
                assert (answer.status, answer.trailers) == (200, {})
            assert counts(pool) == "=0 active=0"
            assert await ask(pool) == (200, b'{"ok":true}')


async def test_a_pooled_connection_that_breaks_while_it_is_written_to_is_replaced() -> None:
    """Row 1: the break before the last byte proves that nothing ran."""
    with trio.fail_after(30):
        plans = (script(OK), script(Reset(), read="head"), script(OK))
        async with fake_upstream(*plans) as upstream, pool_of(upstream) as pool:
            await ask(pool)
            assert await ask(pool, BIG) == (200, b'{"ok":true}')
            assert upstream.connections == 2
            assert upstream.requests[2].raw == BIG


async def test_a_connection_that_idled_too_long_is_closed(mock_clock: trio.testing.MockClock) -> None:
    async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream, idle_s=30) as pool:
        await ask(pool)
        mock_clock.jump(29.9)
        pool.sweep()
        assert counts(pool) == "=1 active=0"
        mock_clock.jump(0.2)
        pool.sweep()
        assert counts(pool) == "=0 active=0"
        await upstream.until(open=0)


async def test_only_the_connections_that_idled_too_long_are_closed(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fake_upstream(otherwise=script(OK)) as upstream, pool_of(upstream, idle_s=30) as pool:
        async with pool.exchange(REQUEST, first_byte_s=9):
            async with pool.exchange(REQUEST, first_byte_s=9):
                pass
            mock_clock.jump(20)
        mock_clock.jump(20)
        await ask(pool)
        assert upstream.connections == 2
        assert counts(pool) == "=1 active=0"


# --- leaving ----------------------------------------------------------------------------


async def test_leaving_early_hangs_up_on_the_neuron() -> None:
    """Row 30: the closed connection is the neuron's sign to stop."""
    with trio.fail_after(30):
        plan = script(STREAM_HEAD + chunks(b"data: 1\n\n"), Hang())
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                await answer.receive()
            await upstream.until(hung_up=1, open=0)
            assert counts(pool) == "=0 active=0"


@pytest.mark.parametrize("plan", [script(Hang()), script(STREAM_HEAD, Hang())], ids=["head", "body"])
async def test_a_cancelled_exchange_hangs_up_on_the_neuron(plan) -> None:
    with trio.fail_after(30):
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, pool)
                await upstream.until(open=1)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await upstream.until(hung_up=1)
            assert counts(pool) == "=0 active=0"


@asynccontextmanager
async def slow_to_let_go(answer: bytes, lets_go: trio.Event) -> AsyncIterator[int]:
    """The port of a neuron that says `answer` and closes when it is told to, whatever it hears."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(answer)
            await lets_go.wait()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


LEAVE = pytest.mark.parametrize("said", [b"", STREAM_HEAD + chunks(b"data: 1\n\n")], ids=["head", "body"])


@LEAVE
async def test_who_leaves_has_left_once_the_neuron_has_let_go(said: bytes) -> None:
    """Whoever gets the seat next must not be refused because it is still taken there."""
    lets_go = trio.Event()
    with trio.fail_after(30):
        async with slow_to_let_go(said, lets_go) as port, trio.open_nursery() as nursery:
            pool, over = Pool("127.0.0.1", port), trio.Event()

            async def leave() -> None:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel, scope)
                    await ask(pool)
                over.set()

            async def cancel(scope: trio.CancelScope) -> None:
                while counts(pool) != "=0 active=1":
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert not over.is_set() and counts(pool) == "=0 active=1"
                lets_go.set()

            nursery.start_soon(leave)
            await over.wait()
            assert counts(pool) == "=0 active=0"


@LEAVE
async def test_a_neuron_that_does_not_let_go_keeps_nobody_for_long(said: bytes) -> None:
    """Row 30: a quarter of a second, though it is frozen."""
    with trio.fail_after(30):
        async with slow_to_let_go(said, trio.Event()) as port:
            pool = Pool("127.0.0.1", port)
            with trio.move_on_after(0.1):
                await ask(pool)
            assert counts(pool) == "=0 active=0"


async def test_a_closed_pool_ends_what_is_under_way_and_begins_nothing() -> None:
    with trio.fail_after(30):
        plan = script(STREAM_HEAD, Hang())
        async with fake_upstream(script(OK), plan) as upstream, pool_of(upstream) as pool:
            await ask(pool)
            async with trio.open_nursery() as nursery:

                async def cut() -> None:
                    with pytest.raises(UpstreamFailed) as caught:
                        await ask(pool)
                    assert not caught.value.not_started

                nursery.start_soon(cut)
                await upstream.until(open=1)
                await trio.testing.wait_all_tasks_blocked()
                pool.close()
            with pytest.raises(Unreachable):
                await ask(pool)
            assert counts(pool) == "=0 active=0"


async def test_a_pool_that_was_closed_in_an_exchange_keeps_nothing() -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(OK)) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                await read(answer)
                pool.close()
            assert counts(pool) == "=0 active=0"
            await upstream.until(open=0)


@pytest.mark.slow
async def test_cancel_churn_leaves_no_connection_behind_and_the_next_request_passes() -> None:
    """Annex B 4: the pool of a common client library is stuck for ever after this."""
    with trio.fail_after(30):
        async with (
            fake_upstream(
                otherwise=script(Drip(events(b"data: 1\n\n", b"data: 2\n\n"), size=60))
            ) as upstream,
            pool_of(upstream) as pool,
        ):
            await ask(pool)
            files = len(os.listdir("/proc/self/fd"))

            async def churn(seed: int) -> None:
                dice = Random(seed)
                for _ in range(15):
                    with trio.move_on_after(dice.choice([0, 0.0005, 0.002, 0.005, 0.02])):
                        await ask(pool)

            async with trio.open_nursery() as nursery:
                for seed in range(20):
                    nursery.start_soon(churn, seed)
            assert counts(pool).endswith("active=0")
            assert await ask(pool) == (200, b"data: 1\n\ndata: 2\n\n")
            pool.close()
            await upstream.until(open=0)
            assert len(os.listdir("/proc/self/fd")) <= files


# --- what failures prove ----------------------------------------------------------------


async def test_a_refused_connection_proves_that_nothing_ran() -> None:
    """Row 8."""
    with trio.fail_after(30), socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: refuses, and nobody else gets the port
        pool = Pool("127.0.0.1", reserved.getsockname()[1])
        with pytest.raises(Unreachable, match="refused") as caught:
            await ask(pool)
        assert caught.value.not_started
        assert counts(pool) == "=0 active=0"


async def test_a_connection_that_hangs_is_given_up_after_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 9."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for filler in (first, second):  # a full backlog swallows the next SYN
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        pool = Pool("127.0.0.1", full.getsockname()[1])
        began = trio.current_time()
        with pytest.raises(Unreachable, match=r"in 1 s") as caught:
            await ask(pool)
        assert trio.current_time() - began == pytest.approx(1.0)
        assert caught.value.not_started


async def test_what_was_told_of_a_socket_that_is_closed_connects_no_other_one() -> None:
    """Of what one look at all sockets found the last may be about one whose number another one has since. A
    link that counted as connected for it would have no second to connect in, nor be dialled elsewhere."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        socket.socket() as first,
        socket.socket() as second,
        closing(Reactor()) as reactor,
    ):
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        link = Link.dial(Address(socket.AF_INET, full.getsockname()), reactor)
        link.push(b"GET / HTTP/1.1\r\n\r\n")
        link.ready(GONE)
        assert link.dialling and not link.clean
        link.close()


async def test_a_break_before_the_last_request_byte_proves_that_nothing_ran() -> None:
    """Row 1: the neuron dies while the request is still being written."""
    with trio.fail_after(30):
        plan = script(Reset(), read="head")
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            with pytest.raises(Unreachable) as caught:
                await ask(pool, BIG)
            assert caught.value.not_started
            assert counts(pool) == "=0 active=0"


async def test_a_neuron_that_takes_no_more_of_a_request_is_left_and_nothing_ran(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 4: stopped, or swapping; the request has not arrived whole, so it cannot run."""
    never = trio.Event()
    async with fake_upstream(script(Wait(never), read="head")) as upstream, pool_of(upstream) as pool:
        began = trio.current_time()
        with pytest.raises(Unreachable, match="took no byte"):
            await ask(pool, BIG)
        assert trio.current_time() - began == pytest.approx(15)
        assert counts(pool) == "=0 active=0"


async def test_a_refusal_that_comes_before_the_whole_request_was_sent_is_heard() -> None:
    """Its connection still waits for the rest of the body, whatever the refusal says of it."""
    with trio.fail_after(30):
        plan = script(whole(413, b'{"error":{}}'), Close(), read="head")
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            assert await ask(pool, BIG) == (413, b'{"error":{}}')
            assert counts(pool) == "=0 active=0"


@pytest.mark.parametrize("end", [Reset(), Close()], ids=["reset", "closed"])
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-ty"], ids=["nothing", "half a head"])
async def test_a_break_after_the_request_was_sent_proves_nothing(end, said: bytes) -> None:
    """Rows 2 and 10: it may have run, so it is not repeated."""
    with trio.fail_after(30):
        steps = (Send(said), end) if said else (end,)
        async with fake_upstream(script(*steps), otherwise=script(OK)) as upstream, pool_of(upstream) as pool:
            with pytest.raises(UpstreamFailed, match="before it answered") as caught:
                await ask(pool)
            assert not caught.value.not_started
            assert type(caught.value) is UpstreamFailed
            assert len(upstream.requests) == 1


async def test_a_break_on_a_reused_connection_is_not_repeated_either() -> None:
    """Row 10: the request was written whole, over a connection that had looked alive."""
    with trio.fail_after(30):
        plans = (script(OK), script(Reset()), script(OK))
        async with fake_upstream(*plans) as upstream, pool_of(upstream) as pool:
            await ask(pool)
            with pytest.raises(UpstreamFailed) as caught:
                await ask(pool)
            assert not caught.value.not_started
            assert len(upstream.requests) == 2


@pytest.mark.parametrize("end", [Reset(), Close()], ids=["reset", "closed"])
async def test_what_came_before_a_break_is_handed_over_first(end) -> None:
    """Row 3."""
    with trio.fail_after(30):
        plan = script(Drip(STREAM_HEAD + chunks(b"data: 1\n\n") + b"5\r\ndat", size=4096), end)
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                assert await answer.receive() == b"data: 1\n\ndat"
                with pytest.raises(UpstreamFailed, match="in the middle"):
                    await answer.receive()
                assert not answer.complete
            assert counts(pool) == "=0 active=0"


async def test_what_came_before_broken_framing_is_handed_over_first() -> None:
    with trio.fail_after(30):
        plan = script(STREAM_HEAD + chunks(b"data: 1\n\n") + b"zz\r\n", Hang())
        async with fake_upstream(plan) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                assert await answer.receive() == b"data: 1\n\n"
                with pytest.raises(UpstreamFailed, match="does not speak HTTP"):
                    await answer.receive()
            await upstream.until(hung_up=1)


async def test_a_body_shorter_than_its_length_is_not_complete() -> None:
    with trio.fail_after(30):
        plan = script(head(200, "content-length: 10") + b"{}", Close())
        async with answered(plan) as answer:
            assert await answer.receive() == b"{}"
            with pytest.raises(UpstreamFailed):
                await answer.receive()


async def test_a_body_that_only_the_close_ends_says_so() -> None:
    """Row 16."""
    with trio.fail_after(30):
        async with fake_upstream(script(head(200) + b"{}", Close())) as upstream, pool_of(upstream) as pool:
            async with pool.exchange(REQUEST, first_byte_s=9) as answer:
                assert await read(answer) == b"{}"
                assert answer.complete
                assert answer.by_close
            assert counts(pool) == "=0 active=0"


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_plain_http_is_refused(said: bytes) -> None:
    with trio.fail_after(30):
        async with fake_upstream(script(said, Hang())) as upstream, pool_of(upstream) as pool:
            with pytest.raises(UpstreamFailed) as caught:
                await ask(pool)
            assert not caught.value.not_started
            await upstream.until(open=0)
            assert counts(pool) == "=0 active=0"


async def test_a_head_without_end_is_cut_at_its_limit() -> None:
    with trio.fail_after(30):
        endless = b"HTTP/1.1 200 OK\r\nx: " + b"a" * (4 * HEAD_LIMIT)
        async with fake_upstream(script(endless, Hang())) as upstream, pool_of(upstream) as pool:
            with pytest.raises(UpstreamFailed, match="headers"):
                await ask(pool)


async def test_trailers_without_end_are_cut_at_their_limit() -> None:
    with trio.fail_after(30):
        endless = STREAM_HEAD + chunks(b"data: 1\n\n") + b"0\r\n" + b"x: aaaaaaaaaaaaaaaaaa\r\n" * HEAD_LIMIT
        async with answered(script(endless, Hang())) as answer:
            assert await answer.receive() == b"data: 1\n\n"
            with pytest.raises(UpstreamFailed, match="headers"):
                await answer.receive()


async def test_a_body_of_any_size_is_no_head() -> None:
    with trio.fail_after(30):
        body = bytes(3 * HEAD_LIMIT)
        async with fake_upstream(script(whole(200, body))) as upstream, pool_of(upstream) as pool:
            assert await ask(pool) == (200, body)


async def test_a_neuron_that_does_not_answer_in_time_is_too_slow(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Row 5."""
    async with fake_upstream(script(Hang())) as upstream, pool_of(upstream) as pool:
        began = trio.current_time()
        with pytest.raises(TooSlow):
            await ask(pool, first_byte_s=120)
        assert trio.current_time() - began == pytest.approx(120)
        await upstream.until(hung_up=1)
        assert counts(pool) == "=0 active=0"


async def test_half_open_peers_are_found_by_the_kernel() -> None:
    """Row 7: unanswered bytes and unanswered probes both end the connection within 15 s or so."""
    with trio.fail_after(30):
        async with answered(script(OK)) as answer:
            sock = answer.link._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5


# --- names ------------------------------------------------------------------------------


class Resolver:
    """Answers, fails or hangs as told; counts what it was asked."""

    def __init__(self, port: int) -> None:
        self.found = [Address(socket.AF_INET, ("127.0.0.1", port))]
        self.mood = "answers"
        self.asked = 0
        self.release = threading.Event()

    def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        if self.mood == "hangs":
            self.release.wait(60)
        if self.mood != "answers":
            raise OSError("no such host")
        return self.found


@asynccontextmanager
async def named_pool(upstream: FakeUpstream) -> AsyncIterator[tuple[Pool, Resolver]]:
    resolver = Resolver(upstream.port)
    pool = Pool("neuron.example", upstream.port, dns_s=0.1, lookup=resolver)
    try:
        yield pool, resolver
    finally:
        resolver.release.set()
        pool.close()


@pytest.mark.parametrize("mood", ["fails", "hangs"])
async def test_a_name_that_was_never_found_is_unreachable_and_nothing_ran(mood: str) -> None:
    """Row 23."""
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
            resolver.mood = mood
            with pytest.raises(Unreachable, match=r"neuron\.example") as caught:
                await ask(pool)
            assert caught.value.not_started


async def test_a_dead_resolver_is_asked_once_for_all_who_wait() -> None:
    with trio.fail_after(30):
        async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
            resolver.mood = "hangs"

            async def refused() -> None:
                with pytest.raises(Unreachable):
                    await ask(pool)

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(refused)
                await trio.testing.wait_all_tasks_blocked()
                # Threads that hang are not taken from those who read files.
                assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert resolver.asked == 1


async def test_a_name_that_was_not_found_is_asked_for_again_after_a_second(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
        resolver.mood = "fails"
        with pytest.raises(Unreachable):
            await ask(pool)
        resolver.mood = "answers"
        mock_clock.jump(0.9)
        with pytest.raises(Unreachable):
            await ask(pool)
        mock_clock.jump(0.2)
        assert await ask(pool) == (200, b'{"ok":true}')


async def test_a_known_address_is_used_while_lookups_fail(mock_clock: trio.testing.MockClock) -> None:
    """Row 23: the cached address is kept."""
    async with (
        fake_upstream(otherwise=script(OK, Close())) as upstream,
        named_pool(upstream) as (pool, resolver),
    ):
        await ask(pool)
        await upstream.until(open=0)
        await ask(pool)
        assert resolver.asked == 1
        resolver.mood = "fails"
        mock_clock.jump(60)
        await pool.names.refresh()
        assert resolver.asked == 2
        assert await ask(pool) == (200, b'{"ok":true}')


async def test_who_knows_an_address_does_not_wait_for_a_resolver_that_hangs(
    mock_clock: trio.testing.MockClock,
) -> None:
    """Row 23: a report must not be late because of DNS."""
    async with (
        fake_upstream(otherwise=script(OK, Close())) as upstream,
        named_pool(upstream) as (pool, resolver),
        trio.open_nursery() as nursery,
    ):
        await ask(pool)
        resolver.mood = "hangs"
        mock_clock.jump(60)
        nursery.start_soon(pool.names.refresh)
        while resolver.asked < 2:
            await trio.lowlevel.checkpoint()
        began = trio.current_time()
        assert await ask(pool) == (200, b'{"ok":true}')
        assert trio.current_time() == began
        mock_clock.jump(1)


async def test_the_address_that_worked_stays_the_first_when_the_name_is_looked_up_again(
    mock_clock: trio.testing.MockClock,
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        dead = Address(socket.AF_INET, reserved.getsockname())
        async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
            resolver.found = [dead, *resolver.found]
            await ask(pool)
            mock_clock.jump(60)
            await pool.names.refresh()
            assert resolver.asked == 2 and (await pool.names.addresses())[-1] == dead


async def test_an_address_where_nobody_answers_is_looked_up_again(mock_clock: trio.testing.MockClock) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
            right, resolver.found = resolver.found, [Address(socket.AF_INET, reserved.getsockname())]
            with pytest.raises(Unreachable):
                await ask(pool)
            resolver.found = right
            mock_clock.jump(1.1)
            await pool.names.refresh()
            assert await ask(pool) == (200, b'{"ok":true}')


async def test_the_next_address_of_a_name_is_tried_and_remembered() -> None:
    with trio.fail_after(30), socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        dead = Address(socket.AF_INET, reserved.getsockname())
        async with fake_upstream(otherwise=script(OK)) as upstream, named_pool(upstream) as (pool, resolver):
            resolver.found = [dead, *resolver.found]
            await ask(pool)
            assert (await pool.names.addresses())[-1] == dead


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_literal_is_never_looked_up(host: str) -> None:
    def forbidden(host: str, port: int) -> list[Address]:
        raise AssertionError("looked up")

    async def main() -> None:
        pool = Pool(host, 1, lookup=forbidden)
        assert [address.sockaddr[0] for address in await pool.names.addresses()] == [host]

    trio.run(main)


@pytest.mark.parametrize(("host", "authority"), [("gpu-1", "gpu-1:13131"), ("fd00::1", "[fd00::1]:13131")])
def test_the_authority_is_what_a_host_header_says(host: str, authority: str) -> None:
    async def main() -> None:
        assert Pool(host, 13131).authority == authority

    trio.run(main)
