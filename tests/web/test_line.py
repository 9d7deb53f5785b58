"""What a client may send ahead of its answer, and for how long; time is the mock clock's."""

import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from cortex.web.line import AHEAD, TIDY_S, Line

REQUEST = b"x" * (AHEAD + 36_000)  # as large as the first request of a coding agent


async def test_a_large_request_right_after_an_answer_is_kept(mock_clock: MockClock) -> None:
    """The client has the whole answer, and whoever served it is not done with the books."""
    ours, theirs = memory_stream_pair()
    line = Line(ours, stall_s=10.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.watch)
        await theirs.send_all(REQUEST)
        await wait_all_tasks_blocked()
        mock_clock.jump(TIDY_S * 0.9)
        await wait_all_tasks_blocked()
        assert line.alive
        nursery.cancel_scope.cancel()
    assert line.alive and len(line.buffer) > AHEAD
    while len(line.buffer) < len(REQUEST):
        assert await line.more()
    assert line.buffer == REQUEST


async def test_a_client_that_floods_while_it_is_served_is_cut(mock_clock: MockClock) -> None:
    """Row 31: what lies behind so many bytes might be its end, which nobody would see."""
    ours, theirs = memory_stream_pair()
    line, lost = Line(ours, stall_s=10.0), []
    line.on_lost = lambda: lost.append(True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.watch)
        await theirs.send_all(REQUEST)
        await wait_all_tasks_blocked()
        mock_clock.jump(TIDY_S)
        await wait_all_tasks_blocked()
    assert (lost, line.alive) == ([True], False)
