"""A stream has a polite beginning: quick failures keep their status, slow ones keep the line warm."""

import pytest
import trio
from trio.testing import memory_stream_pair

from cortex.errors import Loading
from cortex.web.connection import Reply
from cortex.web.framing import Terms
from cortex.web.line import Line
from cortex.web.streaming import PING, Stream, open_stream
from cortex.wire import sse
from cortex.wire.sse import DONE, Frame
from tests.fake_web import Client

BEATS = {"openai": sse.COMMENT, "responses": sse.COMMENT, "anthropic": PING}


def pair(dialect="openai") -> tuple[Client, Reply]:
    ours, theirs = memory_stream_pair()
    return Client(ours), Reply(Line(theirs, 60.0), Terms("id", dialect))


async def said(client: Client) -> bytes:
    """What has been sent by now."""
    await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(0.001):
        await client.until(b"never")
    taken, client.data = client.data, b""
    return taken


def sends_slowly(reply: Reply) -> None:
    slow = reply._line._stream.send_stream
    passed_on = slow.send_all_hook

    async def slowly() -> None:
        await trio.sleep(5)
        await passed_on()

    slow.send_all_hook = slowly


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_the_ping_is_the_event_that_anthropic_clients_know():
    assert PING == b'event: ping\ndata: {"type": "ping"}\n\n'


async def test_a_failure_within_the_grace_keeps_its_status(autojump_clock):
    client, reply = pair()
    with pytest.raises(Loading) as caught:  # as itself, not in a group
        async with open_stream(reply, "openai"):
            await trio.sleep(0.9)
            raise Loading("Later.")
    assert await said(client) == b"" and not reply.started
    await reply.fail(caught.value)
    assert (await said(client)).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("dialect", BEATS)
async def test_the_line_is_kept_warm_whenever_nothing_is_said(dialect, autojump_clock):
    client, reply = pair(dialect)
    beat = chunk(BEATS[dialect])
    async with open_stream(reply, dialect, headers=[("x-cortex-model", "m")]) as stream:
        await trio.sleep(1.1)
        first = await said(client)
        assert first.startswith(b"HTTP/1.1 200 ") and b"x-cortex-model: m" in first and first.endswith(beat)
        await trio.sleep(9.8)
        assert await said(client) == b""
        await trio.sleep(10.2)
        assert await said(client) == beat * 2
        await stream.send(Frame(b"{}", "content"))
        await trio.sleep(9.9)
        assert await said(client) == chunk(b"data: {}\n\n")
        await trio.sleep(20.2)
        assert await said(client) == beat * 3
        await stream.finish(DONE)
        ended = await said(client)
        assert ended.endswith(b"[DONE]\n\n\r\n0\r\n\r\n") and reply.done
        await trio.sleep(100)
    assert await said(client) == b""


async def test_a_stream_that_says_something_in_time_has_no_keep_alive(autojump_clock):
    client, reply = pair()
    async with open_stream(reply, "openai") as stream:
        for _ in range(20):
            await stream.send(b"data: 1\n\n")
            await trio.sleep(9)
        await stream.finish(DONE)
    assert sse.COMMENT not in await said(client)


async def test_what_is_held_goes_out_with_the_next_frame(autojump_clock):
    client, reply = pair()
    async with open_stream(reply, "openai") as stream:
        stream.hold(b"data: role\n\n")
        await trio.sleep(0.9)
        assert await said(client) == b""  # a quick failure may still have its status
        await stream.send(b"data: 1\n\n")
        await stream.finish(DONE)
    words = await said(client)
    assert words.count(b"role") == 1 and chunk(b"data: role\n\ndata: 1\n\n") in words


async def test_what_is_held_takes_the_place_of_a_keep_alive(autojump_clock):
    client, reply = pair()
    async with open_stream(reply, "openai") as stream:
        await trio.sleep(2)
        stream.hold(b"data: role\n\n")
        await trio.sleep(10)
        assert (await said(client)).endswith(chunk(sse.COMMENT) + chunk(b"data: role\n\n"))
        await trio.sleep(10)
        assert await said(client) == chunk(sse.COMMENT)
        await stream.finish(DONE)
    assert (await said(client)).startswith(chunk(b"data: [DONE]\n\n"))


async def test_news_is_said_in_the_place_of_keep_alives_until_the_stream_is_taken(autojump_clock):
    client, reply = pair()
    news = iter([b"data: 1\n\n", b"", b"data: 2\n\n", *[b""] * 5, b"data: 3\n\n", b"data: never\n\n"])
    stream = open_stream(reply, "openai")
    stream.murmur(lambda: next(news), 2.0)
    async with stream:
        await trio.sleep(0.9)
        assert await said(client) == b"", "a quick failure may still have its status"
        await trio.sleep(0.2)
        assert (await said(client)).endswith(chunk(b"data: 1\n\n"))
        await trio.sleep(4)  # asked at 3 s, and at 5
        assert await said(client) == chunk(b"data: 2\n\n")
        await trio.sleep(9.8)  # at 7, 9, 11 and 13 there was nothing
        assert await said(client) == b""
        await trio.sleep(0.5)
        assert await said(client) == chunk(sse.COMMENT)
        await trio.sleep(2)
        assert await said(client) == chunk(b"data: 3\n\n")
        await stream.hand_over()
        await trio.sleep(60)
        assert await said(client) == b""


async def test_a_failure_after_the_grace_is_the_error_event(autojump_clock):
    client, reply = pair("anthropic")
    with pytest.raises(Loading) as caught:
        async with open_stream(reply, "anthropic"):
            await trio.sleep(300)
            raise Loading("The wait limit passed.", retry_after_s=7)
    await reply.fail(caught.value)
    words = await said(client)
    assert words.count(PING) == 30 and b"event: error" in words and words.endswith(b"0\r\n\r\n")


async def test_a_stream_that_is_quick_has_no_keep_alive(autojump_clock):
    client, reply = pair()
    async with open_stream(reply, "openai", headers=[("x-a", "b")]) as stream:
        assert stream.announce([("x-c", "d")], trailers=["x-cortex-usage"])
        await stream.send(b"data: 1\n\n", Frame(b"2", "content"))
        assert not stream.announce([("x-e", "f")])
        await stream.finish(trailers=[("x-cortex-usage", "1")])
    words = await said(client)
    head, body = words.split(b"\r\n\r\n", 1)
    assert b"x-a: b\r\nx-c: d" in head and b"trailer: x-cortex-usage" in head and b"x-e" not in head
    assert body == chunk(b"data: 1\n\ndata: 2\n\n") + b"0\r\nx-cortex-usage: 1\r\n\r\n"


@pytest.mark.parametrize("waited", [0.5, 5.0])
async def test_whoever_takes_the_reply_over_has_it_alone(waited: float, autojump_clock):
    """A relay writes the neuron's own head, or only its bytes when a head is out already."""
    client, reply = pair()
    async with open_stream(reply, "openai") as stream:
        await trio.sleep(waited)
        opened = await stream.hand_over()
        assert opened is (waited > 1)
        if not opened:
            await reply.start(202)
        await trio.sleep(60)
        await reply.write(b"data: 1\n\n")
        await reply.end()
    words = await said(client)
    assert words.startswith(b"HTTP/1.1 200 " if opened else b"HTTP/1.1 202 ")
    assert words.count(sse.COMMENT) == int(opened)


async def test_a_keep_alive_under_way_is_let_out_whole_before_the_first_frame(autojump_clock):
    """Two writers at once would mix their chunks."""
    client, reply = pair()
    sends_slowly(reply)
    async with open_stream(reply, "openai") as stream:
        await trio.sleep(2)  # in the middle of the first keep-alive
        await stream.finish(DONE)
    assert (await said(client)).endswith(chunk(sse.COMMENT) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def test_a_failure_lets_a_keep_alive_under_way_out_whole(autojump_clock):
    """Torn in its middle, the answer could carry neither what was pushed meanwhile nor the error (S-ERR)."""
    client, reply = pair()
    sends_slowly(reply)
    with pytest.raises(Loading) as caught:
        async with open_stream(reply, "openai") as stream:
            await trio.sleep(2)  # in the middle of the first keep-alive
            assert not stream.push(b"data: 1\n\n")
            raise Loading("Later.")
    await reply.fail(caught.value)
    words = await said(client)
    assert chunk(sse.COMMENT) + chunk(b"data: 1\n\n") in words and b'"error"' in words
    assert words.endswith(b"0\r\n\r\n")


async def test_a_keep_alive_waits_for_a_frame_under_way_and_is_not_needed_then(autojump_clock):
    client, reply = pair()
    slow = reply._line._stream.send_stream
    passed_on = slow.send_all_hook

    async def slowly() -> None:
        await trio.sleep(15)
        await passed_on()

    async with open_stream(reply, "openai") as stream:
        slow.send_all_hook = slowly
        await stream.send(b"data: 1\n\n")  # the grace, and a beat, pass meanwhile
        slow.send_all_hook = passed_on
        await trio.sleep(9.9)
        await stream.finish(DONE)
    assert (await said(client)).endswith(chunk(b"data: 1\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def test_a_frame_moves_no_other_task(autojump_clock):
    """One store of a time is all that a keep-alive costs a frame."""
    _, reply = pair()

    class Steps(trio.abc.Instrument):
        def __init__(self) -> None:
            self.tasks: set[str] = set()

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.tasks.add(task.name)

    async with open_stream(reply, "openai") as stream:
        await trio.testing.wait_all_tasks_blocked()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(50):
            await stream.send(b"data: 1\n\n")
        trio.lowlevel.remove_instrument(steps)
        await stream.finish(DONE)
    assert not [name for name in steps.tasks if "_keep_alive" in name]


async def test_a_block_left_early_leaves_the_reply_unfinished(autojump_clock):
    client, reply = pair()
    async with open_stream(reply, "openai", grace_s=0.1, beat_s=1.0):
        await trio.sleep(2)
    assert reply.started and not reply.done
    await trio.sleep(60)
    assert (await said(client)).count(sse.COMMENT) == 2


async def test_a_cancelled_stream_stops_its_keep_alives(autojump_clock):
    client, reply = pair()
    with trio.move_on_after(5) as scope:
        async with open_stream(reply, "openai") as stream:
            assert isinstance(stream, Stream)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await trio.sleep(60)
    assert (await said(client)).count(sse.COMMENT) == 1
