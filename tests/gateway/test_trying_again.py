"""What is tried once more, and what never is: counted at the neurons."""

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import Poll
from cortex.wire.neuron import ModelLoad, Servable
from tests.fake_neuron import (
    ANSWER,
    FULL,
    NOT_HERE,
    OPENING,
    STOPPING,
    STREAM,
    STREAMED,
    WHOLE,
    FakeNeuron,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Close, Reset, Wait, chunks, script, whole
from tests.fake_web import ask
from tests.roles import MIB

# Only a look that a request causes comes within a test.
SLOW = Poll(interval_s=60.0, timeout_s=2.0)
BUSY = ModelLoad(id="a", in_flight=3)
STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def counts(*neurons: FakeNeuron) -> list[int]:
    return [len(neuron.requests) for neuron in neurons]


# -- tried again


@STREAMS
async def test_a_refused_connection_leads_to_the_other_replica(stream: bool) -> None:
    """Row 8."""
    said, content = (STREAMED, STREAM) if stream else (WHOLE, ANSWER)
    async with fake_neuron("a") as one, fake_neuron("a", otherwise=said) as two:
        two.loads["a"] = BUSY
        async with open_gateway(one, two, poll=SLOW) as gateway:
            await one.die()
            answers = [await gateway.ask(stream=stream) for _ in range(4)]
            assert {answer.headers["x-cortex-neuron"] for answer in answers} == {"n2"}
            assert {answer.content for answer in answers} == {content}
            assert counts(one, two) == [0, 4]


@STREAMS
@pytest.mark.parametrize(
    "said", [FULL, STOPPING, refusal(429, "rate_limit_exceeded", "x-cortex-not-started: 1")]
)
async def test_a_typed_refusal_leads_to_the_other_replica_once(said: bytes, stream: bool) -> None:
    """Rows 18, 19."""
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(said)
            neuron.then(STREAMED)
        answer = await gateway.ask(stream=stream)
        assert answer.status_code == int(said.split()[1]), "both refused: no third try"
        assert counts(one, two) == [1, 1]
        assert len(gateway.ledger.loads) == 0 and not one.orders and not two.orders
        answer = await gateway.ask(stream=stream)
        assert answer.content == STREAM


async def test_each_try_is_counted_by_its_reason() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(FULL)
        await gateway.ask()
        page = await gateway.page()
        assert 'cortex_retries_total{reason="overloaded"} 1.0' in page


async def test_a_connection_that_breaks_before_the_body_was_read_is_tried_elsewhere() -> None:
    """Row 1: the neuron took some of a big body, so it cannot have run it."""
    big = body(content="x" * 32 * MIB)
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(Reset(), read="head")
        client = await gateway.dial()
        await client.send(ask("/v1/chat/completions", big))
        answer = await client.answer()
        assert counts(one, two) == [1, 1]
        assert answer.status == 503
        assert b"no_capacity" in answer.body and answer.headers["retry-after"] == "5"


# -- never tried again


@STREAMS
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
async def test_a_connection_that_breaks_after_the_body_is_a_502_and_is_not_repeated(
    end, stream: bool
) -> None:
    """Rows 2, 10: it may have run, and may be what broke the neuron."""
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(end)
        answer = await gateway.ask(stream=stream)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_failed"
        assert sum(counts(one, two)) == 1
        assert answer.headers["x-cortex-neuron"] == ("n1" if counts(one) == [1] else "n2")


async def test_a_stream_that_breaks_is_not_repeated() -> None:
    """Row 3."""
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(STREAM_HEAD + chunks(OPENING), Close())
        answer = await gateway.ask(stream=True)
        assert answer.status_code == 200
        assert answer.content.startswith(OPENING + b'data: {"error":{') and b"[DONE]" not in answer.content
        assert sum(counts(one, two)) == 1


@pytest.mark.parametrize("status", [503, 529, 429])
async def test_backpressure_that_proves_nothing_reaches_the_client_byte_for_byte(status: int) -> None:
    said = b'{"error": {"message":"later",  "code":"overloaded"}}'
    async with fake_neuron("a") as one, fake_neuron("a") as two, open_gateway(one, two) as gateway:
        for neuron in (one, two):
            neuron.then(whole(status, said, "retry-after: 17"))
        answer = await gateway.ask()
        assert (answer.status_code, answer.content) == (status, said)
        assert answer.headers["retry-after"] == "17"
        assert sum(counts(one, two)) == 1


@STREAMS
async def test_backpressure_reaches_the_client_intact_when_there_is_no_other_replica(stream: bool) -> None:
    """Row 19: a queue is no reason to load a second copy, though there would be room for one."""
    async with fake_neuron("a") as one, fake_neuron(known=["a"]) as two:
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            one.then(FULL)
            answer = await gateway.ask(stream=stream)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "overloaded"
            assert answer.json()["error"]["message"] == "the neuron is full"
            assert answer.headers["retry-after"] == "7"
            assert counts(one, two) == [1, 0] and not two.orders


async def test_backpressure_of_a_late_stream_is_an_event_with_its_code() -> None:
    ready = trio.Event()
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(Wait(ready), FULL)
        async with gateway.http.stream("POST", "/v1/chat/completions", content=body(stream=True)) as answer:
            pieces = answer.aiter_bytes()
            assert await anext(pieces) == b": keep-alive\n\n"
            ready.set()
            rest = b"".join([piece async for piece in pieces])
        assert rest.startswith(b'data: {"error":{"message":"the neuron is full"')
        assert b'"code":"overloaded"' in rest and b'"retry_after":7' in rest and b"[DONE]" not in rest


# -- placed anew


@STREAMS
async def test_a_neuron_without_the_model_is_forgotten_and_the_request_placed_anew(stream: bool) -> None:
    """A stale route: the model is loaded again, here because there is nowhere else."""
    said, content = (STREAMED, STREAM) if stream else (WHOLE, ANSWER)
    async with fake_neuron("a", otherwise=said) as neuron:
        async with open_gateway(neuron, catalogue=["a"], poll=SLOW) as gateway:
            neuron.residents.clear()
            neuron.then(NOT_HERE)
            assert (await gateway.ask(stream=stream)).content == content
            assert counts(neuron) == [2] and neuron.ordered("/models/load") == 1


async def test_a_stale_route_leads_to_where_the_model_is() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        two.loads["a"] = BUSY
        async with open_gateway(one, two, catalogue=["a"], poll=SLOW) as gateway:
            one.residents.clear()
            one.then(NOT_HERE)
            for _ in range(2):
                assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
            assert counts(one, two) == [1, 2]
            assert not one.orders and not two.orders


async def test_a_stale_route_is_forgotten_though_the_neuron_cannot_be_asked() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"], poll=SLOW) as gateway:
        neuron.residents.clear()
        neuron.then(NOT_HERE)
        neuron.on["/models"].append(script(b"no report", Close()))
        assert (await gateway.ask()).content == ANSWER
        assert neuron.ordered("/models/load") == 1


async def test_a_broken_replica_that_a_stale_route_finds_out_is_not_copied() -> None:
    """Spec, routing 3: between two polls the engine broke; there would be room elsewhere."""
    async with fake_neuron("a") as one, fake_neuron(known=["a"]) as two:
        async with open_gateway(one, two, catalogue=["a"], poll=SLOW) as gateway:
            one.then(NOT_HERE)
            one.has("a", servable=Servable(ok=False, reason="the engine broke"))
            answer = await gateway.ask()
            assert answer.status_code == 503
            assert "the engine broke" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) >= 1
            assert not one.orders and not two.orders


async def test_a_fleet_in_motion_is_told_as_such_after_three_tries() -> None:
    async with fake_neuron("a", otherwise=NOT_HERE) as neuron, open_gateway(neuron) as gateway:
        answer = await gateway.ask()
        assert answer.status_code == 503
        assert "moving" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after"]) >= 1
        assert counts(neuron) == [3]
        await gateway.knows(lambda ledger: "seats=0 waiting=0" in repr(ledger))


# -- nobody left


@STREAMS
async def test_a_fleet_that_is_down_is_told_at_once(stream: bool) -> None:
    """Row 27: alive, not ready, and every model of the fleet is asked to be tried later."""
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        async with open_gateway(one, two, catalogue=["a", "b"]) as gateway:
            assert (await gateway.http.get("/readyz")).status_code == 200
            await one.die()
            await two.die()
            for model in ("a", "b", "a"):
                answer = await gateway.ask(model, stream=stream)
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] == "no_capacity"
                assert int(answer.headers["retry-after"]) >= 1
                assert "x-should-retry" not in answer.headers
            await gateway.knows(lambda ledger: not any(place.ready for place in ledger))
            assert (await gateway.http.get("/readyz")).status_code == 503
            assert (await gateway.http.get("/livez")).status_code == 200
            assert (await gateway.http.get("/health")).json()["status"] == "impaired"


async def test_a_gateway_without_a_living_neuron_starts_and_says_later() -> None:
    """Row 27: what exists is not known, so nothing is refused for good."""
    async with fake_neuron("a") as neuron:
        await neuron.die()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            for model in ("a", "only-neurons-know"):
                answer = await gateway.ask(model)
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "no_capacity"
                assert int(answer.headers["retry-after"]) >= 1
            await neuron.listen()
            await gateway.knows(lambda ledger: ledger.holders("a"))
            assert (await gateway.ask("a")).status_code == 200
            assert (await gateway.ask("only-neurons-know")).status_code == 404


async def test_an_unknown_model_is_a_404_that_names_who_was_not_asked() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        await two.die()
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            answer = await gateway.ask("b")
            assert answer.status_code == 404
            assert "not asked: n2" in answer.json()["error"]["message"]
            assert (await gateway.ask("../b")).status_code == 400, "no neuron could know such a name"
            await two.listen()
            await gateway.knows(lambda ledger: ledger.place("n2").ready)
            assert "n2" not in (await gateway.ask("b")).json()["error"]["message"]


async def test_what_a_neuron_knew_is_remembered_while_it_is_away() -> None:
    """Spec, routing 5: 503 and not 404, also for what only that neuron knows."""
    async with fake_neuron("a", known=["b"]) as neuron, open_gateway(neuron) as gateway:
        await neuron.die()
        for model in ("a", "b", "a"):
            answer = await gateway.ask(model)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        await gateway.knows(lambda ledger: not any(place.ready for place in ledger))
        listed = (await gateway.http.get("/v1/models")).json()["data"]
        assert [(model["id"], model["state"]) for model in listed] == [
            ("a", "unservable"),
            ("b", "unservable"),
        ]


async def test_a_dead_replicas_requests_all_find_the_other_one() -> None:
    """R3: no error at all, since a refused connection proves that nothing ran."""
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        for neuron in (one, two):
            neuron.has("a", slots=64)
        async with open_gateway(one, two) as gateway, trio.open_nursery() as nursery:
            await one.die()

            async def one_more() -> None:
                assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"

            for _ in range(40):
                nursery.start_soon(one_more)
        assert counts(two) == [40]


# -- a neuron that spoils everything


async def test_a_neuron_that_fails_again_and_again_is_left_to_those_who_have_no_choice() -> None:
    """Row 17: it fails at once, so it is always the least busy; health and reports are fine."""
    async with fake_neuron("a", "b", otherwise=whole(500, b"{}")) as one, fake_neuron("a") as two:
        two.loads["a"] = BUSY
        async with open_gateway(one, two) as gateway:

            async def status(model: str) -> int:
                await gateway.knows(lambda ledger: all(place.ready for place in ledger))
                return (await gateway.ask(model)).status_code

            assert [await status("a") for _ in range(8)] == [502] * 3 + [200] * 5
            assert await status("b") == 502
            assert counts(one, two) == [4, 5]


async def test_failures_with_a_success_between_are_not_in_a_row() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        two.loads["a"] = BUSY
        bad, good = script(whole(500, b"{}")), script(WHOLE)
        one.scripts.extend([bad, bad, good] * 3)
        async with open_gateway(one, two) as gateway:
            for status in [502, 502, 200] * 3:
                await gateway.knows(lambda ledger: all(place.ready for place in ledger))
                assert (await gateway.ask()).status_code == status
            assert counts(one, two) == [9, 0]


async def test_the_only_replica_is_used_however_often_it_fails() -> None:
    async with fake_neuron("a", otherwise=whole(500, b"{}")) as neuron, open_gateway(neuron) as gateway:
        assert [(await gateway.ask()).status_code for _ in range(5)] == [502] * 5
        assert counts(neuron) == [5]
        neuron.then(STREAMED)
        assert (await gateway.ask(stream=True)).content == STREAM


# -- loads


async def test_a_neuron_that_breaks_over_a_load_is_replaced_by_another() -> None:
    """Row 24: who waits is sent elsewhere."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.on["/models/load"].append(script(Close()))
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            answer = await gateway.ask()
            assert answer.headers["x-cortex-neuron"] == "n2"
            assert one.ordered("/models/load") == two.ordered("/models/load") == 1


async def test_a_neuron_that_is_gone_when_it_should_load_is_looked_at_at_once() -> None:
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory *= 2
        async with open_gateway(one, two, catalogue=["a"], poll=SLOW) as gateway:
            await one.die()
            assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
            await gateway.knows(lambda ledger: not ledger.place("n1").ready)
            assert two.ordered("/models/load") == 1


async def test_a_model_that_came_in_is_not_suspected_any_more() -> None:
    async with fake_neuron() as one, fake_neuron() as two, fake_neuron() as three:
        one.memory, two.memory = one.memory * 4, two.memory * 2  # asked in this order
        one.on["/models/load"].append(script(Close()))
        async with open_gateway(one, two, three, catalogue=["a"]) as gateway:
            assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
            assert (await gateway.http.post("/fleet/models/unload", json={"model": "a"})).status_code == 200
            two.on["/models/load"].append(script(Close()))
            assert (await gateway.ask()).headers["x-cortex-neuron"] == "n3"


async def test_a_model_that_breaks_a_second_neuron_is_not_carried_through_the_fleet() -> None:
    async with fake_neuron() as one, fake_neuron() as two, fake_neuron() as three:
        for neuron in (one, two, three):
            neuron.on["/models/load"].append(script(Reset()))
        async with open_gateway(one, two, three, catalogue=["a"]) as gateway:
            answer = await gateway.ask()
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "load_failed")
            assert sum(neuron.ordered("/models/load") for neuron in (one, two, three)) == 2


@pytest.mark.parametrize(
    "said",
    [
        refusal(507, "does_not_fit", message="too small"),
        refusal(409, "busy", message="all seated"),
        STOPPING,
    ],
)
async def test_a_neuron_that_refuses_a_load_is_replaced_by_another(said: bytes) -> None:
    """Row 70."""
    async with fake_neuron() as one, fake_neuron() as two:
        one.memory *= 2  # the most free bytes: asked first
        one.on["/models/load"].append(script(said))
        async with open_gateway(one, two, catalogue=["a"]) as gateway:
            assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
            assert one.ordered("/models/load") == 1


async def test_the_refusal_of_the_last_neuron_is_told() -> None:
    async with fake_neuron() as neuron:
        neuron.on["/models/load"].append(script(refusal(507, "does_not_fit", message="17 GiB short")))
        catalogue = Catalogue({"a": ModelSpec("a")})
        async with open_gateway(neuron, catalogue=catalogue) as gateway:
            answer = await gateway.ask()
            assert answer.status_code == 503
            assert "17 GiB short" in answer.json()["error"]["message"]
            assert "n1" in answer.json()["error"]["message"]
