"""Every client gets an end, and the door closes in time whatever its clients do."""

import pytest
import trio

from tests.fake_web import CHAT, CONTROL, DONE, EVENT, KINDS, MESSAGES, Client, do, open_door

LATE_S = 3.0  # far below what a stuck reader costs without force, far above what a busy host adds


@pytest.mark.parametrize("path", KINDS)
@pytest.mark.slow
async def test_a_stuck_reader_does_not_hold_the_door_open(path: str):
    """Row 33, Annex B 2: nor does the shielded writer of hypercorn."""
    with trio.fail_after(30):
        async with open_door() as site:
            stuck = await site.dial_narrow()
            await stuck.send(do("flood", path))
            await site.stage.until(lambda: site.stage.began == ["flood"])
            await trio.testing.wait_all_tasks_blocked(0.05)  # the socket is full
            before = trio.current_time()
            await site.door.drain(0.05)
            assert trio.current_time() - before < LATE_S
            await site.until_connections(0)
            assert site.stage.left == ["flood"]


@pytest.mark.parametrize("path", [*KINDS, MESSAGES])
async def test_a_stream_cut_by_the_deadline_ends_with_the_error_event(path: str):
    """Row 87."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("hang", path))
            await site.stage.until(lambda: site.stage.began == ["hang"])
            await site.door.drain(0.05)
            answer = await client.answer()
            assert answer.body.startswith(EVENT)
            assert (b"event: error" in answer.body) is (path == MESSAGES)
            assert b"shutting down" in answer.body
            assert await client.gone() and site.stage.left == ["hang"]


@pytest.mark.parametrize("path", [*KINDS, MESSAGES])
async def test_a_request_without_an_answer_yet_gets_its_status_and_may_have_run(path: str):
    """Row 87: so it does not say that another neuron may be tried."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("wait", path))
            await site.stage.until(lambda: site.stage.began == ["wait"])
            await site.door.drain(0.05)
            answer = await client.answer()
            assert answer.status == (529 if path == MESSAGES else 503)
            assert answer.headers["connection"] == "close" and answer.headers["retry-after"]
            assert "x-cortex-not-started" not in answer.headers
            assert site.stage.left == ["wait"]


async def test_what_finishes_in_time_is_not_cut_and_the_door_does_not_wait_longer():
    """Row 87."""
    with trio.fail_after(30):
        async with open_door() as site, trio.open_nursery() as nursery:
            client = await site.dial()
            await client.send(do("pause"))
            await client.until(EVENT)
            nursery.start_soon(site.door.drain, 100)
            await trio.testing.wait_all_tasks_blocked()
            assert site.door.draining and site.door.in_flight == 1
            site.stage.go_on.set()
            assert await client.until(DONE)
            await client.rest()


@pytest.mark.slow
async def test_while_it_drains_inference_is_refused_and_control_answers():
    with trio.fail_after(30):
        async with open_door() as site, trio.open_nursery() as nursery:
            running = await site.dial()
            await running.send(do("pause"))
            await running.until(EVENT)
            kept = await site.dial()
            await kept.send(do("echo"))
            await kept.answer()
            await trio.testing.wait_all_tasks_blocked()  # the door waits for its next request
            nursery.start_soon(site.door.drain, 100)
            assert await kept.gone()  # idle connections are closed at once
            for path, status in ((CHAT, 503), (MESSAGES, 529), (CONTROL, 200)):
                client = await site.dial()
                await client.send(do("echo", path))
                answer = await client.answer()
                assert (answer.status, answer.headers["connection"]) == (status, "close")
                if path != CONTROL:
                    assert b"shutting" in answer.body and answer.headers["x-cortex-not-started"] == "1"
                assert await client.gone()
            site.stage.go_on.set()
            await running.until(DONE)


async def test_an_event_stream_of_a_control_route_does_not_hold_a_drain():
    """It lasts as long as its client: a dashboard that is open must not cost the whole grace."""
    with trio.fail_after(30):
        async with open_door() as site:
            client = await site.dial()
            await client.send(do("hang", CONTROL))
            await client.until(EVENT)
            before = trio.current_time()
            await site.door.drain(100)
            assert trio.current_time() - before < LATE_S
            assert b"shutting down" in await client.rest()


@pytest.mark.slow
async def test_a_request_that_is_still_arriving_is_told_too():
    """Row 87: at every phase there is an end."""
    with trio.fail_after(30):
        async with open_door() as site:
            half_body = await site.dial()
            await half_body.send(do("echo", content_length="100"))
            half_head = await site.dial()
            await half_head.send(b"POST /v1")
            silent = await site.dial()
            await site.until_connections(3)
            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            await site.door.drain(100)
            assert trio.current_time() - before < LATE_S
            answer = await half_body.answer()
            assert (answer.status, answer.headers["x-cortex-not-started"]) == (503, "1")
            for client in (half_body, half_head, silent):
                assert await client.gone()
            assert site.stage.began == []


async def test_a_drained_door_stops_listening_and_returns():
    with trio.fail_after(30):
        async with open_door() as site:
            await site.door.drain(0)
            with pytest.raises(OSError):
                await trio.open_tcp_stream(site.host, site.port)


@pytest.mark.parametrize("path", KINDS)
async def test_many_clients_all_get_their_end_within_the_second(path: str):
    with trio.fail_after(30):
        async with open_door() as site:
            clients: list[Client] = []
            for _ in range(50):
                clients.append(await site.dial())
                await clients[-1].send(do("hang", path))
            await site.stage.until(lambda: len(site.stage.began) == 50)
            await site.door.drain(0.05)
            for client in clients:
                assert (await client.rest()).endswith(b"0\r\n\r\n")
