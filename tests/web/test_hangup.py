"""A client that leaves ends what was done for it, in whatever way it leaves."""

import pytest
import trio

from tests.fake_web import CHAT, EVENT, KINDS, Client, ask, do, open_door, reset


async def finish(client: Client) -> None:
    await client.close()


async def vanish(client: Client) -> None:
    reset(client)


async def half_close(client: Client) -> None:
    await client.stream.send_eof()


WAYS = [finish, vanish, half_close]
# What hides a hang-up from a server that has stopped reading.
AHEAD = {
    "nothing": b"",
    "a stray line end": b"\r\n",
    "a pipelined request": ask(CHAT, b"", "GET"),
    "half a request": b"POST /v1",
    "several": ask(CHAT) * 50,
}


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ahead", AHEAD.values(), ids=AHEAD.keys())
async def test_a_stream_ends_when_its_client_leaves(path: str, way, ahead: bytes):
    """Rows 30, 31, Annex B 3: with bytes sent ahead, too."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("hang", path) + ahead)
            await client.until(EVENT)
            await way(client)
            await site.stage.until(lambda: site.stage.left == ["hang"])
            assert site.stage.began == ["hang"]


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ahead", AHEAD.values(), ids=AHEAD.keys())
async def test_a_waiting_request_ends_when_its_client_leaves(path: str, way, ahead: bytes):
    """Row 29: not a byte of an answer is out yet."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("wait", path) + ahead)
            await site.stage.until(lambda: site.stage.began == ["wait"])
            await way(client)
            await site.stage.until(lambda: site.stage.left == ["wait"])
            assert site.door.in_flight == 0


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("way", WAYS)
async def test_nothing_begins_for_a_request_that_does_not_arrive_whole(path: str, way):
    """Row 28: left in every phase of head and body."""
    whole = ask(path, b"x" * 20)
    with trio.fail_after(30):
        async with open_door() as site:
            for cut in range(0, len(whole), 7):
                client = await site.dial()
                await client.send(whole[:cut])
                await way(client)
            await site.until_connections(0)
            assert site.stage.began == []


@pytest.mark.parametrize("path", KINDS)
async def test_a_client_that_sends_without_end_while_it_waits_is_cut(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("wait", path))
            await site.stage.until(lambda: site.stage.began == ["wait"])
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await client.send(b"x" * 4096)
            assert site.stage.left == ["wait"]


@pytest.mark.parametrize("path", KINDS)
async def test_the_connection_is_forgotten_when_its_client_has_left(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            for what in ("echo", "stream", "fail-late"):
                client = await site.dial()
                await client.send(do(what, path))
                await client.answer()
                await client.close()
            await site.until_connections(0)
            assert site.door.in_flight == 0


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves_at_any_moment_leaves_no_bug_in_the_log(path: str, way, caplog):
    """Among those moments is the one between head and body of its answer."""
    with trio.fail_after(30):
        async with open_door() as site:
            for steps in range(80):
                client = await site.dial()
                await client.send(ask(path, b"x"))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                await way(client)
            await site.until_connections(0)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
