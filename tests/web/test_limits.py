"""Sizes and spans that a listener holds its clients to."""

import pytest
import trio

from tests.fake_web import CHAT, DONE, EVENT, KINDS, Client, ask, do, open_door, open_visit

BARE = b"POST /v1 HTTP/1.1\nHost: 127.0.0.1\n\n"
HEAD = ask(CHAT, b"").removesuffix(b"\r\n")  # all but the last empty line


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (b"POST /v1", b""), (HEAD, b"HTTP/1.1 408 ")])
async def test_a_head_has_ten_seconds_from_the_accept(sent: bytes, answer: bytes, autojump_clock):
    """Row 34: told so only if the request line was a valid one."""
    async with open_visit() as (client, stage):
        await client.send(sent)
        said = await client.rest()
        assert said.startswith(answer) and bool(said) is bool(answer)
        assert 10 <= trio.current_time() <= 11.1 and stage.began == []


@pytest.mark.parametrize("sent", [BARE, b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n", b"\n"])
async def test_what_cannot_become_a_head_is_refused_at_once(sent: bytes, autojump_clock):
    """Rows 34, 40, 41: nobody waits ten seconds for an end that will not come."""
    async with open_visit() as (client, _):
        await client.send(sent)
        assert (await client.answer()).status == 400 and trio.current_time() < 1


async def test_a_head_that_drips_does_not_gain_time(autojump_clock):
    """Row 34: the limit is on the whole head, not on each read."""
    async with open_visit() as (client, _), trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in HEAD:
                await trio.sleep(1)
                await client.send(bytes([byte]))

        nursery.start_soon(drip)
        await client.rest()
        assert trio.current_time() <= 11.1
        nursery.cancel_scope.cancel()


async def test_a_resting_connection_is_closed_and_a_later_head_has_its_own_time(autojump_clock):
    async with open_visit() as (client, _):
        await client.send(do("echo"))
        await client.answer()
        await trio.sleep(70)
        await client.send(b"\r\n")  # a stray line end is no request, and earns no time
        await client.send(do("echo")[:20])
        await trio.sleep(9)
        await client.send(do("echo")[20:])
        assert (await client.answer()).status == 200
        rested = trio.current_time()
        assert await client.gone()
        assert 75 <= trio.current_time() - rested <= 76.1


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.parametrize(
    ("size", "rate", "whole"),
    [(100_000, 1, False), (100_000, 1000, False), (100_000, 2500, False), (900_000, 20_000, True)],
)
async def test_a_body_comes_at_a_fair_rate_or_not_at_all(path, size, rate, whole, autojump_clock):
    """Row 35: a drip is cut in seconds, a slow body soon after 30, a big one over a fair line arrives."""
    async with open_visit() as (client, stage), trio.open_nursery() as nursery:

        async def upload() -> None:
            await client.send(ask(path, b"", content_length=str(size)))
            for _ in range(0, size, rate):
                await client.send(b"x" * rate)
                await trio.sleep(1)

        nursery.start_soon(upload)
        answer = await client.answer()
        nursery.cancel_scope.cancel()
        assert answer.status == (200 if whole else 408)
        assert bool(stage.began) is whole
        if not whole:
            assert answer.headers["x-should-retry"] == "false" and answer.headers["connection"] == "close"
            earliest, latest = {1: (5, 6.2), 1000: (31, 34), 2500: (34, 38)}[rate]
            assert earliest <= trio.current_time() <= latest


@pytest.mark.parametrize("path", KINDS)
async def test_a_head_that_is_too_big_is_refused(path: str):
    """Row 37."""
    with trio.fail_after(30):
        async with open_door(header=1000) as site:
            client = await site.dial()
            fitting = 1000 - len(ask(path, x_a=""))
            await client.send(ask(path, b"", x_a="y" * (fitting + 2)))
            assert (await client.answer()).status == 200
            for padding in (fitting + 3, 5000):
                client = await site.dial()
                await client.send(ask(path, b"", x_a="y" * padding))
                assert (await client.answer()).status == 431
                assert await client.gone()


@pytest.mark.parametrize("path", KINDS)
async def test_a_body_that_says_it_is_too_big_is_not_read(path: str):
    """Row 38."""
    with trio.fail_after(30):
        async with open_door(body=1000) as site:
            client = await site.dial()
            await client.send(ask(path, b"x" * 1000))
            assert (await client.answer()).status == 200
            await client.send(ask(path, b"", content_length="1001"))
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert answer.headers["x-should-retry"] == "false"
            assert len(site.stage.began) == 1


@pytest.mark.parametrize("path", KINDS)
async def test_a_refusal_reaches_a_client_that_is_still_sending(path: str):
    """Row 38: a close over unread bytes would be a reset, and take the answer with it."""
    with trio.fail_after(30):
        async with open_door(body=1000) as site:
            client = await site.dial()
            await client.send(ask(path, b"x" * 500_000))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await client.answer()).status == 413
            assert await client.stream.receive_some() == b""  # an orderly close


@pytest.mark.parametrize("path", KINDS)
async def test_a_chunked_body_is_refused_when_it_has_become_too_big(path: str):
    """Row 39."""
    with trio.fail_after(30):
        async with open_door(body=1000) as site:
            for chunk, count, status in (
                (b"a\r\n0123456789\r\n", 100, 200),
                (b"a\r\n0123456789\r\n", 101, 413),
            ):
                client = await site.dial()
                head = ask(path, b"", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
                await client.send(head + chunk * count + (b"0\r\n\r\n" if status == 200 else b""))
                assert (await client.answer()).status == status


async def test_framing_alone_does_not_make_a_body_endless():
    """Row 39: chunk extensions carry no content, and are bounded all the same."""
    with trio.fail_after(30):
        async with open_door(body=1000) as site:
            client = await site.dial()
            head = ask(transfer_encoding="chunked", body=b"").replace(b"content-length: 0\r\n", b"")
            await client.send(head + b"1;" + b"e" * 100_000)
            assert (await client.answer()).status == 413


async def test_a_control_body_is_at_most_a_mebibyte():
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(ask(KINDS[1], b"", content_length=str(2**20 + 1)))
            assert (await client.answer()).status == 413
            client = await site.dial()
            await client.send(ask(KINDS[1], b"x" * 2**20))
            assert (await client.answer()).status == 200


@pytest.mark.parametrize("path", KINDS)
async def test_a_client_that_stops_reading_is_cut_and_its_neighbours_are_not(path: str):
    """Row 32: the stall limit holds inside hypercorn's shielded writer, too."""
    with trio.fail_after(30):
        async with open_door(stall_s=0.1) as site:
            bystander = await site.dial()
            await bystander.send(do("pause", path))
            await bystander.until(EVENT)
            stuck = await site.dial_narrow()
            await stuck.send(do("flood", path))
            await site.stage.until(lambda: site.stage.left == ["flood"])
            site.stage.go_on.set()
            assert (await bystander.until(DONE)).endswith(DONE)


@pytest.mark.parametrize("path", KINDS)
async def test_a_slow_reader_that_goes_on_reading_is_not_cut(path: str):
    """Row 32: the limit is on standing still, not on the whole."""
    with trio.fail_after(30):
        async with open_door(stall_s=0.15) as site:
            client = await site.dial()
            await client.send(do("flood", path))
            began = trio.current_time()
            while trio.current_time() < began + 0.5:
                assert await client.stream.receive_some(65536)
                await trio.sleep(0.001)
            assert site.stage.left == []


async def test_the_newest_connection_over_the_limit_is_refused_and_the_others_live():
    """Row 36."""
    with trio.fail_after(30):
        async with open_door(connections=2) as site:
            clients: list[Client] = []
            for _ in range(2):
                clients.append(await site.dial())
                await clients[-1].send(do("echo"))
                await clients[-1].answer()
            newest = await site.dial()
            answer = await newest.answer()
            assert answer.status == 503 and answer.headers["retry-after"] and await newest.gone()
            for client in clients:
                await client.send(do("echo"))
                assert (await client.answer()).status == 200
            await clients[0].close()
            await site.until_connections(1)
            again = await site.dial()
            await again.send(do("echo"))
            assert (await again.answer()).status == 200


@pytest.mark.parametrize("path", KINDS)
async def test_many_idle_connections_are_answered_when_they_speak(path: str):
    """Row 36, in small."""
    with trio.fail_after(30):
        async with open_door() as site:
            clients = [await site.dial() for _ in range(200)]
            for client in reversed(clients):
                await client.send(do("echo", path))
                assert (await client.answer()).status == 200
