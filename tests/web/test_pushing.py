"""What is pushed goes out at once; what does not is for a task, in order and within the stall limit."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.errors import EngineFailed
from cortex.web.connection import Reply
from cortex.web.framing import Terms
from cortex.web.line import Line
from cortex.web.streaming import open_stream
from cortex.wire.sse import COMMENT
from tests.fake_web import Client

EVENT = b'data: {"n": 1}\n\n'
BLOB = b"data: " + b"x" * 2**22 + b"\n\n"  # more than any socket holds


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@dataclass
class Ends:
    """A connection: the client's end, and ours with a reply on it."""

    client: Client
    line: Line
    reply: Reply
    theirs: socket.socket


@asynccontextmanager
async def connected(stall_s: float = 60.0) -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = Client(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
    line = Line(stream, stall_s, ours)
    async with stream, client.stream:
        yield Ends(client, line, Reply(line, Terms("id")), theirs)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_head_and_first_events_are_one_write_without_a_task() -> None:
    async with connected() as ends, open_stream(ends.reply, "openai", headers=[("x-a", "b")]) as stream:
        stream.hold(EVENT)
        assert stream.push(EVENT)
        data = await ends.client.stream.receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ") and b"x-a: b" in head
        assert body == chunk(EVENT + EVENT)
        assert stream.push(EVENT)
        assert await ends.client.stream.receive_some() == chunk(EVENT)
        await stream.finish()
        assert await ends.client.stream.receive_some() == b"0\r\n\r\n"


async def test_what_the_kernel_does_not_take_goes_before_all_else() -> None:
    async with (
        connected() as ends,
        open_stream(ends.reply, "openai") as stream,
        trio.open_nursery() as nursery,
    ):
        assert stream.push(EVENT)
        assert not stream.push(BLOB)
        nursery.start_soon(stream.settle)
        await wait_all_tasks_blocked()
        await ends.client.until(b"\r\n\r\n")
        assert await ends.client.until(chunk(EVENT)) == chunk(EVENT)
        assert await ends.client.until(chunk(BLOB)) == chunk(BLOB)
        assert stream.push(EVENT), "all of it is out"
        await stream.finish()
        assert await ends.client.until(b"0\r\n\r\n") == chunk(EVENT) + b"0\r\n\r\n"


async def test_an_error_event_goes_behind_what_the_kernel_has_not_taken_yet() -> None:
    """Row 33: whoever is stopped in the middle of an event gets the whole of it, and then why."""
    async with connected() as ends, trio.open_nursery() as nursery:
        async with open_stream(ends.reply, "openai") as stream:
            assert not stream.push(BLOB)
        nursery.start_soon(ends.reply.fail, EngineFailed("The engine broke."))
        await ends.client.until(b"\r\n\r\n")
        assert await ends.client.until(chunk(BLOB)) == chunk(BLOB)
        assert b"The engine broke." in await ends.client.until(b"0\r\n\r\n")


async def test_a_push_never_lands_inside_a_keep_alive() -> None:
    """Somebody else writes and is not done: what is pushed waits for that."""
    async with (
        connected() as ends,
        open_stream(ends.reply, "openai") as stream,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(stream.send, BLOB)
        await wait_all_tasks_blocked()
        # There is room again, and whoever writes has not noticed yet.
        ends.client.data += ends.theirs.recv(2**20)
        assert not stream.push(EVENT)
        nursery.start_soon(stream.settle)
        await ends.client.until(b"\r\n\r\n")
        assert await ends.client.until(chunk(BLOB)) == chunk(BLOB)
        assert await ends.client.until(chunk(EVENT)) == chunk(EVENT)


async def test_a_client_that_takes_nothing_stalls_whoever_settles() -> None:
    """Row 32: the limit is the one of every write."""
    async with connected(stall_s=0.05) as ends, open_stream(ends.reply, "openai") as stream:
        lost: list[bool] = []
        ends.line.on_lost = lambda: lost.append(True)
        assert not stream.push(BLOB)
        with pytest.raises(trio.BrokenResourceError):
            await stream.settle()
        assert lost and ends.reply.stalled
        assert not stream.push(EVENT), "nothing is tried on a line that is gone"


async def test_a_client_that_has_gone_is_found_out_by_whoever_settles() -> None:
    async with connected() as ends, open_stream(ends.reply, "openai") as stream:
        await ends.client.stream.aclose()
        assert not stream.push(EVENT)
        with pytest.raises(trio.BrokenResourceError):
            await stream.settle()
        assert ends.reply.lost and not ends.reply.stalled


async def test_a_push_puts_off_the_next_keep_alive(autojump_clock) -> None:
    async with connected() as ends, open_stream(ends.reply, "openai", grace_s=0.5, beat_s=1.0) as stream:
        for _ in range(5):
            assert stream.push(EVENT)
            await trio.sleep(0.9)
        said = await ends.client.stream.receive_some(2**20)
        assert said.count(EVENT) == 5 and COMMENT not in said
        await trio.sleep(0.2)
        assert await ends.client.stream.receive_some() == chunk(COMMENT)


async def test_a_line_without_a_socket_of_its_own_leaves_all_to_the_task() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    client, reply = Client(ours), Reply(Line(theirs, 60.0), Terms("id"))
    async with open_stream(reply, "openai") as stream:
        assert not stream.push(EVENT)
        await stream.settle()
        await client.until(b"\r\n\r\n")
        assert await client.until(chunk(EVENT)) == chunk(EVENT)
