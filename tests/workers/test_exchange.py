"""Words between workers: who is asked, who answers, and what is kept of who is gone."""

import socket

import pytest
import trio

from cortex.gateway.fellows import Fellows
from cortex.metrics import Metrics
from cortex.workers.crew import Worker
from cortex.workers.line import Line
from cortex.workers.words import PAGE
from tests.workers.linked import linked, until

COUNT = b"# TYPE c counter\nc 5.0\n"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(10):
        yield


def answers(said: bytes):
    async def answer(body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return said + body

    return answer


async def test_all_others_are_asked_and_nobody_else() -> None:
    async with linked(3) as (_, (one, two, three)):
        for worker, said in ((one, b"1"), (two, b"2"), (three, b"3")):
            worker.answers["x"] = answers(said)
        assert sorted(await one.gather("x", b"?")) == [b"2?", b"3?"]
        assert sorted(await three.gather("x")) == [b"1", b"2"]


async def test_who_hangs_is_not_waited_for_beyond_the_bound(autojump_clock) -> None:
    async with linked(3) as (_, (one, two, three)):
        two.answers["x"] = answers(b"2")

        async def never(body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        three.answers["x"] = never
        began = trio.current_time()
        assert await one.gather("x") == [b"2"]
        assert trio.current_time() - began == pytest.approx(0.5)


async def test_a_worker_whose_answer_fails_is_one_that_did_not_answer(autojump_clock) -> None:
    async with linked(2) as (_, (one, two)):

        async def fails(body: bytes) -> bytes:
            raise ValueError(body)

        two.answers["x"] = fails
        assert await one.gather("x") == []
        two.answers["x"] = answers(b"2")
        assert await one.gather("x") == [b"2"]


async def test_the_page_of_who_is_gone_or_hangs_stands() -> None:
    async with linked(3) as (exchange, (one, two, three)):
        two.answers[PAGE] = answers(COUNT)
        three.answers[PAGE] = answers(COUNT)
        _, buried, *pages = await one.gather(PAGE, b"")
        assert (buried, pages) == (b"", [COUNT, COUNT])
        exchange.bury(exchange.members[1])
        own, buried, *pages = await one.gather(PAGE, b"")
        assert (buried, pages) == (COUNT, [COUNT])
        assert b'cortex_worker_up{worker="2"} 0.0' in own
        assert b'cortex_worker_up{worker="3"} 1.0' in own
        # Who asks is heard, too: the next one who asks has its page, should it go.
        await three.gather(PAGE, b"# TYPE c counter\nc 6.0\n")
        exchange.bury(exchange.members[1])
        assert (await one.gather(PAGE, b""))[1] == b"# TYPE c counter\nc 11.0\n"


async def test_a_claim_is_one_workers_until_it_lets_go_or_is_gone() -> None:
    async with linked(3) as (exchange, (one, two, three)):
        assert await one.claim("m", "n1") == "n1"
        assert await two.claim("m", "n2") == "n1", "it is told where"
        assert await two.claim("other", "n2") == "n2"
        assert await three.claim("m", "n1") == "n1", "the same word may be several's"
        one.release("m")
        assert await two.claim("m", "n2") == "n1"
        exchange.bury(exchange.members[2])
        assert await two.claim("m", "n2") == "n2"


async def test_a_note_comes_to_all_others() -> None:
    async with linked(3) as (_, crew):
        heard: list[tuple[int, bytes]] = []
        for worker in crew:
            worker.hears["x"] = lambda body, index=worker.index: heard.append((index, body))
        crew[1].note("x", b"news")
        await until(lambda: len(heard) == 2)
        assert sorted(heard) == [(0, b"news"), (2, b"news")]


async def test_a_supervisor_that_hangs_keeps_nobody_waiting(autojump_clock) -> None:
    """Nor does it have a sum told that lacks the others."""
    ours, theirs = socket.socketpair()
    with ours:
        worker = Worker(Line(theirs), 0, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.run)
            began = trio.current_time()
            assert await Fellows(worker, Metrics(lambda model: True)).whole(COUNT) is None
            assert await worker.claim("m", "n1") == "n1"
            assert trio.current_time() - began == pytest.approx(6.0)
            nursery.cancel_scope.cancel()


async def test_the_last_page_of_a_worker_stands_against_one_that_was_under_way() -> None:
    async with linked(2) as (exchange, (one, two)):
        began, go = trio.Event(), trio.Event()

        async def late(body: bytes) -> bytes:
            began.set()
            await go.wait()
            return b"# TYPE c counter\nc 4.0\n"

        two.answers[PAGE] = late
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.gather, PAGE, b"")
            await began.wait()
            await two.farewell(lambda: COUNT)
            go.set()
        assert exchange.members[1].page == COUNT
