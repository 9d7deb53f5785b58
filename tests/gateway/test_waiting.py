"""What a request hears while it waits for a seat or for its model, and how waiting ends."""

import msgspec
import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.limits import Limits
from tests.fake_neuron import (
    ANSWER,
    STREAM,
    STREAMED,
    WHOLE,
    Open,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Hang, Wait, chunks
from tests.fake_web import ask
from tests.roles import patient

CHAT = "/v1/chat/completions"
COMMENT = b": keep-alive\n\n"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def waits(gateway: Open) -> None:
    await gateway.knows(lambda ledger: ledger.waiting == 1)


async def test_a_stream_that_waits_is_kept_alive_after_a_second_and_a_whole_answer_keeps_its_status() -> None:
    """Queue, load and prefill alike; the three wait side by side, since a second is a second."""
    ready = trio.Event()
    async with fake_neuron(known=["cold"]) as neuron:
        neuron.has("full", slots=1, queue=0)
        neuron.has("slow")
        neuron.loading = ready
        async with open_gateway(neuron, catalogue=["full", "slow", "cold"]) as gateway:
            began = trio.current_time()
            neuron.then(Hang())
            holder = await gateway.dial()
            await holder.send(ask(CHAT, body("full")))
            await neuron.seen(1)
            neuron.then(Wait(ready), STREAMED)  # slow
            neuron.otherwise = neuron.plan(STREAMED)
            streams = {}
            for model in ("slow", "full", "cold"):
                streams[model] = await gateway.dial()
                await streams[model].send(ask(CHAT, body(model, stream=True)))
                if model == "slow":
                    await neuron.seen(2)
            whole = await gateway.dial()
            await whole.send(ask(CHAT, body("cold")))
            for model, client in streams.items():
                head = await client.until(COMMENT)
                assert head.startswith(b"HTTP/1.1 200 OK") and b"text/event-stream" in head
                assert f"x-cortex-model: {model}".encode() in head
            assert 0.9 < trio.current_time() - began < 10
            await holder.close()
            ready.set()
            for client in streams.values():
                rest = await client.until(b"\r\n0\r\n\r\n")
                assert COMMENT not in rest, "from the head on the bytes are the neuron's alone"
                assert STREAM in rest
            answer = await whole.answer()
            assert answer.status == 200 and COMMENT not in answer.body


async def test_the_neurons_own_keep_alives_are_passed_on_and_are_no_first_token() -> None:
    limits = GatewayConfig(limits=Limits(first_token_s=0.4))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=limits) as gateway:
        neuron.then(STREAM_HEAD, chunks(COMMENT), Hang())
        answer = await gateway.ask(stream=True)
        assert answer.content.startswith(COMMENT + b'data: {"error":{')
        assert b"upstream_timeout" in answer.content


@pytest.mark.slow
async def test_the_gateways_own_keep_alives_do_not_put_off_the_first_token_either() -> None:
    limits = GatewayConfig(limits=Limits(first_token_s=1.3))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=limits) as gateway:
        neuron.then(Hang())
        began = trio.current_time()
        answer = await gateway.ask(stream=True)
        assert answer.content.startswith(COMMENT + b'data: {"error":{')
        assert b"upstream_timeout" in answer.content
        assert trio.current_time() - began < 2.2, "a second is the first keep-alive's"


async def test_patience_in_the_queue_ends_with_a_503_that_says_when_to_come_again() -> None:
    async with fake_neuron() as neuron:
        neuron.has("a", slots=1, queue=0)
        async with open_gateway(neuron, config=patient(queue_s=0.2)) as gateway:
            neuron.then(Hang())
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            await neuron.seen(1)
            for stream in (False, True):
                answer = await gateway.ask(stream=stream)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
                assert int(answer.headers["retry-after"]) >= 1
            await gateway.knows(lambda ledger: "seats=1 waiting=0" in repr(ledger))


async def test_a_full_queue_refuses_at_once_and_those_who_wait_are_served_in_order() -> None:
    """Row 60, the bound."""
    config = GatewayConfig(limits=Limits(queue=3))
    async with fake_neuron() as neuron:
        neuron.has("a", slots=1, queue=0)
        async with open_gateway(neuron, config=config) as gateway:
            go_on = trio.Event()
            neuron.then(Wait(go_on), WHOLE)
            clients = [await gateway.dial() for _ in range(4)]
            for number, client in enumerate(clients):
                await client.send(ask(CHAT, body(), x_request_id=f"r{number}"))
                await gateway.knows(lambda ledger, number=number: ledger.waiting == number)
                if number == 0:
                    await neuron.seen(1)
            refused = await gateway.ask()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            go_on.set()
            assert [(await client.answer()).status for client in clients] == [200] * 4
            ids = [dict(request.headers)["x-request-id"] for request in neuron.requests]
            assert ids == ["r0", "r1", "r2", "r3"]


async def test_a_load_that_outlasts_patience_goes_on_for_the_next_one() -> None:
    """Row 63: both forms of waiting are told, and the model is there for who comes again."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"], config=patient(load_s=0.2)) as gateway:
            for stream in (False, True):
                answer = await gateway.ask(stream=stream)
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
                assert int(answer.headers["retry-after"]) >= 1
            neuron.loading.set()
            await gateway.knows(lambda ledger: not ledger.loads)
            assert (await gateway.ask()).content == ANSWER
            assert neuron.ordered("/models/load") == 1


async def test_a_load_that_fails_is_told_once_to_each_and_not_begun_again_at_once() -> None:
    """Row 62: every waiter has the cause; who comes within the cool-down has it too, with the time."""
    damaged = refusal(422, "unfit_model", message="the file is damaged")
    async with fake_neuron() as neuron:
        ready = trio.Event()
        neuron.on["/models/load"].append(neuron.plan(Wait(ready), damaged))
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            answers = []

            async def one(stream: bool) -> None:
                answers.append(await gateway.ask(stream=stream))

            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(one, number % 2 == 0)
                await gateway.knows(lambda ledger: ledger.waiting == 6)
                ready.set()
            late = await gateway.ask()
            for answer in (*answers, late):
                assert answer.status_code == 422
                assert "the file is damaged" in answer.json()["error"]["message"]
            assert 1 <= int(late.headers["retry-after"]) <= 10
            assert neuron.ordered("/models/load") == 1
            # Until then everybody can see that it does not serve, and why.
            (entry,) = (await gateway.http.get("/v1/models")).json()["data"]
            assert entry["state"] == "unservable" and "the file is damaged" in entry["why"]
            fleet = (await gateway.http.get("/fleet")).json()
            assert fleet["status"] == "impaired" and fleet["models"][0]["why"] == entry["why"]
            assert (await gateway.http.get("/health")).json()["unservable"] == ["a"]


async def test_five_hundred_requests_for_one_cold_model_make_one_load() -> None:
    """Row 60: those beyond the neuron's seats and line wait at the gateway; none is lost."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            statuses: list[int] = []
            most = 0

            async def one(number: int) -> None:
                nonlocal most
                stream = number % 2 == 0
                client = await gateway.dial()
                await client.send(ask(CHAT, body(stream=stream)))
                answer = await client.answer()
                statuses.append(answer.status)
                assert answer.body.removeprefix(COMMENT) == (STREAM if stream else ANSWER)
                most = max(most, *(resident.seats for _, resident in gateway.ledger.holders("a")))

            neuron.answer = lambda raw: STREAMED if b'"stream":true' in raw else WHOLE
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(one, number)
                await gateway.knows(lambda ledger: ledger.waiting == 500)
                neuron.loading.set()
            assert statuses == [200] * 500
            assert neuron.ordered("/models/load") == 1 and len(neuron.requests) == 500
            assert most == 20, "slots and queue of the neuron"
            await gateway.knows(lambda ledger: "seats=0 waiting=0 loads=0" in repr(ledger))
            page = await gateway.page()
            assert 'cortex_cold_starts_total{model="a"} 1.0' in page


async def test_beyond_the_queue_a_herd_is_refused_cleanly() -> None:
    """Row 60: each of them has an answer, and the refused ones know when to come again."""
    config = GatewayConfig(limits=Limits(queue=40))
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"], config=config) as gateway:
            answers = []

            async def one() -> None:
                client = await gateway.dial()
                await client.send(ask(CHAT, body()))
                answers.append(await client.answer())

            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(one)
                await gateway.knows(lambda _: len(answers) == 60)
                assert {answer.status for answer in answers} == {503}
                assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
                neuron.loading.set()
            assert sorted(answer.status for answer in answers) == [200] * 40 + [503] * 60
            assert neuron.ordered("/models/load") == 1


def said(stream: bytes) -> dict[str, object]:
    return msgspec.json.decode(stream.partition(b"data: ")[2].partition(b"\n\n")[0])


async def test_a_failure_after_the_first_keep_alive_is_an_event_with_its_code() -> None:
    """The wait limit included; the status is out, so the code and the time are in the event."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"], config=patient(load_s=1.2)) as gateway:
            answer = await gateway.ask(stream=True)
            assert answer.status_code == 200 and answer.content.startswith(COMMENT)
            error = said(answer.content)["error"]
            assert error["code"] == "model_loading" and error["retry_after"] >= 1
            assert error["request_id"] == answer.headers["x-request-id"]
            assert b"[DONE]" not in answer.content
