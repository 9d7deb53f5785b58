"""A client that leaves frees what was held for it, wherever its request was; and nothing else stops."""

import pytest
import trio

from tests.fake_neuron import DONE, STREAM, STREAMED, USAGE, WORDS, Open, body, fake_neuron, open_gateway
from tests.fake_upstream import STREAM_HEAD, Hang, Wait, chunks, last_chunk
from tests.fake_web import Client, ask, reset

CHAT = "/v1/chat/completions"
AHEAD = {"nothing": b"", "a line end": b"\r\n", "a request": ask(CHAT, body()), "half a one": b"POST /v1"}


async def finish(client: Client) -> None:
    await client.close()


async def vanish(client: Client) -> None:
    reset(client)


async def half_close(client: Client) -> None:
    await client.stream.send_eof()


WAYS = pytest.mark.parametrize("way", [finish, vanish, half_close])
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def books(gateway: Open) -> None:
    """All requests are over, and counted as left by their clients."""
    page = await gateway.page()
    assert 'cortex_in_flight{model="a"} 0.0' in page
    assert '\ncortex_waiting{model="a"} 0.0' in page
    assert 'outcome="hung_up"} 1.0' in page


@WAYS
@STREAMS
@pytest.mark.parametrize("ahead", AHEAD.values(), ids=AHEAD.keys())
async def test_the_neurons_connection_is_closed_at_once(way, stream: bool, ahead: bytes) -> None:
    """Rows 30, 31: while it computes, before a byte of the answer is there."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        before = repr(gateway.ledger)
        neuron.then(Hang())
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=stream)) + ahead)
        await neuron.seen(1)
        await gateway.knows(lambda ledger: "seats=1" in repr(ledger))
        await way(client)
        with trio.fail_after(2):
            await neuron.until(hung_up=1)
            await gateway.knows(lambda ledger: repr(ledger) == before)
        await books(gateway)
        assert len(neuron.requests) == 1, "what was sent ahead by one who left is not begun"


@WAYS
async def test_a_stream_is_stopped_at_the_neuron(way) -> None:
    """Row 30: in the middle of the events."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        before = repr(gateway.ledger)
        neuron.then(STREAM_HEAD, chunks(*WORDS), Hang())
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True)))
        await client.until(WORDS[-1])
        await way(client)
        with trio.fail_after(2):
            await neuron.until(hung_up=1)
            await gateway.knows(lambda ledger: repr(ledger) == before)
        page = await gateway.page()
        assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 3.0' in page, "counted by its events"
        await books(gateway)


@WAYS
async def test_who_leaves_with_the_end_mark_has_had_the_whole_answer(way) -> None:
    """OpenAI's own library for Python does, and Codex: neither waits for what comes after it."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        left = trio.Event()
        neuron.then(STREAM_HEAD, chunks(STREAM), Wait(left), last_chunk(USAGE))
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True)))
        await client.until(DONE)
        await way(client)
        left.set()
        await gateway.knows(lambda ledger: "seats=0" in repr(ledger))
        page = await gateway.page()
        assert 'outcome="ok"} 1.0' in page and 'outcome="hung_up"' not in page
        assert 'cortex_prompt_tokens_total{model="a",neuron="n1"} 7.0' in page, "as the neuron tells last"


@WAYS
@STREAMS
async def test_a_place_in_the_queue_is_given_up(way, stream: bool) -> None:
    """Row 29: the one behind moves up, and the neuron never hears of the one who left."""
    async with fake_neuron() as neuron:
        neuron.has("a", slots=1, queue=0)
        async with open_gateway(neuron) as gateway:
            neuron.then(Hang())
            first, second, third = [await gateway.dial() for _ in range(3)]
            await first.send(ask(CHAT, body()))
            await gateway.knows(lambda ledger: "seats=1 waiting=0" in repr(ledger))
            await second.send(ask(CHAT, body(stream=stream), x_request_id="second"))
            await gateway.knows(lambda ledger: "seats=1 waiting=1" in repr(ledger))
            await third.send(ask(CHAT, body(), x_request_id="third"))
            await gateway.knows(lambda ledger: "seats=1 waiting=2" in repr(ledger))
            assert '\ncortex_waiting{model="a"} 2.0' in await gateway.page()
            await way(second)
            await gateway.knows(lambda ledger: "seats=1 waiting=1" in repr(ledger))
            await first.close()
            assert (await third.answer()).status == 200
            ids = [
                value
                for request in neuron.requests
                for name, value in request.headers
                if name == "x-request-id"
            ]
            assert ids[1:] == ["third"]
            await gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))


@WAYS
@STREAMS
async def test_a_load_goes_on_when_who_asked_for_it_leaves(way, stream: bool) -> None:
    """Rows 29, 61: others wait for it, and the next one finds the model there."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            first, second = await gateway.dial(), await gateway.dial()
            await first.send(ask(CHAT, body(stream=stream)))
            await gateway.knows(lambda ledger: "waiting=1 loads=1" in repr(ledger))
            await second.send(ask(CHAT, body()))
            await gateway.knows(lambda ledger: "waiting=2 loads=1" in repr(ledger))
            await way(first)
            await gateway.knows(lambda ledger: "waiting=1 loads=1" in repr(ledger))
            neuron.loading.set()
            assert (await second.answer()).status == 200
            assert neuron.ordered("/models/load") == 1
            await gateway.knows(lambda ledger: "seats=0 waiting=0 loads=0" in repr(ledger))


async def test_a_load_goes_on_when_nobody_waits_for_it_any_more() -> None:
    """Row 61."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            await gateway.knows(lambda ledger: "waiting=1 loads=1" in repr(ledger))
            await client.close()
            await gateway.knows(lambda ledger: "waiting=0 loads=1" in repr(ledger))
            neuron.loading.set()
            await gateway.knows(lambda ledger: "residents=1 seats=0 waiting=0 loads=0" in repr(ledger))
            assert (await gateway.ask()).status_code == 200
            assert neuron.ordered("/models/load") == 1


async def test_a_retry_ends_with_its_client() -> None:
    async with fake_neuron("a", otherwise=Hang()) as one, fake_neuron("a", otherwise=Hang()) as two:
        async with open_gateway(one, two) as gateway:
            await one.die()
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            await two.seen(1)
            await client.close()
            await two.until(hung_up=1)
            await gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))
            assert (len(one.requests), len(two.requests)) == (0, 1)


async def test_neighbours_do_not_notice() -> None:
    """Many leave in all phases while others are answered: no seat is lost and no byte either."""
    async with fake_neuron(otherwise=STREAMED) as neuron:
        neuron.has("a", slots=8, queue=4)
        async with open_gateway(neuron) as gateway:
            before = repr(gateway.ledger)

            async def leave(number: int) -> None:
                client = await gateway.dial()
                request = ask(CHAT, body(stream=True))
                await client.send(request[: 1 + number * 7] if number % 3 == 0 else request)
                if number % 3 == 1:
                    await client.until(b"\r\n\r\n")
                reset(client)

            async def stay() -> None:
                assert (await gateway.ask(stream=True)).content == STREAM

            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(leave, number)
                    if number % 2:
                        nursery.start_soon(stay)
            await gateway.knows(lambda ledger: repr(ledger) == before)


async def test_a_client_that_leaves_a_control_request_leaves_nothing_in_the_log(caplog) -> None:
    """Neither at the door that it left, nor as a bug."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            for way in (finish, vanish, half_close):
                client = await gateway.dial()
                await client.send(
                    ask("/fleet/models/load", b'{"model":"a"}', content_type="application/json")
                )
                await gateway.knows(lambda ledger: "waiting=1" in repr(ledger))
                await way(client)
                await gateway.knows(lambda ledger: "waiting=0" in repr(ledger))
            neuron.loading.set()
            await gateway.knows(lambda ledger: "loads=0" in repr(ledger))
            for path in ("/fleet", "/health", "/v1/models"):
                for size in (1, 20):
                    client = await gateway.dial()
                    await client.send(ask(path, b"", "GET") * size)
                    reset(client)
            assert (await gateway.ask()).status_code == 200
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
