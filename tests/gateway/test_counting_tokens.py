"""A count goes to whoever can tell, takes no seat, waits for nobody, and has nothing loaded for it."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from anthropic import Anthropic

from cortex.ask import Sampling
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.config.neuron import NeuronConfig
from cortex.demo import GGUF, MODEL_ID
from cortex.gateway.probation import STRIKES
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.keys import digest
from tests.calls import residents
from tests.fake_neuron import NOT_HERE, Open, fake_neuron, open_gateway, refusal
from tests.fake_upstream import Close, Hang, Received, Wait, script, whole
from tests.roles import MIB, demo_neuron, running_gateway

COUNT = "/v1/messages/count_tokens"
SEVEN = whole(200, b'{"input_tokens":7}')
HELLO: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


async def count(gateway: Open, model: str = "a", **headers: str) -> httpx.Response:
    return await gateway.http.post(COUNT, json={"model": model, "messages": HELLO}, headers=headers)


def value(received: Received, name: str) -> str | None:
    return next((text for key, text in received.headers if key.lower() == name), None)


async def test_a_neuron_that_has_the_model_is_asked_before_those_that_could_load_it() -> None:
    async with fake_neuron(known=["a"]) as first, fake_neuron("a", otherwise=SEVEN) as second:
        async with open_gateway(first, second) as gateway:
            told = await count(gateway)
            assert told.json() == {"input_tokens": 7} and told.headers["x-cortex-neuron"] == "n2"
            assert first.requests == [] and len(second.requests) == 1
            assert value(second.requests[0], "x-cortex-route") is not None


async def test_a_count_takes_no_seat_and_stands_in_no_line() -> None:
    gate = trio.Event()
    async with fake_neuron("a", otherwise=SEVEN) as neuron:
        neuron.has("a", slots=1, queue=0)
        neuron.scripts.append(neuron.plan(Wait(gate)))
        async with open_gateway(neuron) as gateway, trio.open_nursery() as nursery:
            nursery.start_soon(gateway.ask)
            await gateway.knows(lambda ledger: ledger.holders("a")[0][1].seats == 1)
            nursery.start_soon(gateway.ask)
            await gateway.knows(lambda ledger: ledger.waiting_for("a") == 1)
            assert (await count(gateway)).status_code == 200
            assert gateway.ledger.holders("a")[0][1].seats == 1 and gateway.ledger.waiting_for("a") == 1
            nursery.cancel_scope.cancel()


async def test_nothing_is_loaded_and_who_answered_is_asked_first_the_next_time() -> None:
    async with fake_neuron(otherwise=NOT_HERE) as first, fake_neuron(otherwise=SEVEN) as second:
        async with open_gateway(first, second, catalogue=["a"]) as gateway:
            for _ in range(3):
                told = await count(gateway)
                assert told.json() == {"input_tokens": 7} and told.headers["x-cortex-neuron"] == "n2"
            assert len(first.requests) == 1 and len(second.requests) == 3
            assert first.orders == second.orders == []
            page = await gateway.page()
            labels = 'dialect="anthropic_count",model="a",neuron="n2",outcome="ok"'
            assert f"cortex_requests_total{{{labels}}} 3.0" in page
            assert 'cortex_retries_total{reason="not_here_now"} 1.0' in page
            assert 'dialect="anthropic_messages"' not in page


async def test_a_neuron_is_told_what_the_gateways_catalogue_says_of_the_model() -> None:
    spec = ModelSpec("a", source="path:/mod\u00e8les/a.gguf", context=512, footprint=MIB, aliases=("short",))
    async with fake_neuron(known=["own"], otherwise=SEVEN) as neuron:
        async with open_gateway(neuron, catalogue=Catalogue({"a": spec}, {"short": "a"})) as gateway:
            told = await count(gateway, "short")
            entry = json.loads(value(neuron.requests[0], "x-cortex-spec") or "")
            assert entry["id"] == "a" and entry["source"] == spec.source and entry["context"] == 512
            assert json.loads(neuron.requests[0].body)["model"] == "a"
            assert told.headers["x-cortex-model"] == "a"
            # A client's own is none of ours, and of a neuron's own model nothing is known here.
            assert (await count(gateway, "own", **{"x-cortex-spec": '{"id":"x"}'})).status_code == 200
            assert value(neuron.requests[1], "x-cortex-spec") is None


async def test_an_entry_with_more_words_than_a_head_has_room_for_is_told_without_those_of_no_use() -> None:
    """What a neuron is not told of it cannot count for; sampling and other names have no part in a count."""
    sampling = Sampling(logit_bias=dict.fromkeys(range(3000), 1.5))
    aliases = tuple(f"alias-{number}" for number in range(1500))
    spec = ModelSpec("a", source="path:/models/a.gguf", context=512, aliases=aliases, sampling=sampling)
    async with fake_neuron(known=["own"], otherwise=SEVEN) as neuron:
        async with open_gateway(neuron, catalogue=Catalogue({"a": spec}, {"short": "a"})) as gateway:
            assert (await count(gateway)).status_code == 200
            entry = json.loads(value(neuron.requests[0], "x-cortex-spec") or "{}")
            assert entry == {"id": "a", "source": "path:/models/a.gguf", "context": 512}


@pytest.mark.parametrize("failure", [refusal(502, "engine_failed"), refusal(422, "unfit_model"), Close()])
async def test_a_count_that_fails_on_one_neuron_is_tried_on_another(failure: Any) -> None:
    async with fake_neuron("a", otherwise=failure) as first, fake_neuron("a", otherwise=SEVEN) as second:
        async with open_gateway(first, second) as gateway:
            told = await count(gateway)
            assert told.json() == {"input_tokens": 7} and told.headers["x-cortex-neuron"] == "n2"
            assert len(first.requests) == len(second.requests) == 1


async def test_what_fails_on_two_is_the_requests_own_and_is_told() -> None:
    broken = refusal(502, "engine_failed", message="it died")
    async with fake_neuron("a", otherwise=broken) as first, fake_neuron("a", otherwise=broken) as second:
        async with fake_neuron("a", otherwise=SEVEN) as third, open_gateway(first, second, third) as gateway:
            told = await count(gateway)
            assert told.status_code == 502 and "it died" in told.json()["error"]["message"]
            assert told.json()["type"] == "error" and third.requests == []


@pytest.mark.parametrize(
    "behind", [refusal(502, "upstream_failed", message="it hung up"), refusal(504, "upstream_timeout")]
)
async def test_a_neuron_whose_upstream_cannot_tell_is_sent_all_else(behind: bytes) -> None:
    async with fake_neuron("a", "b", otherwise=behind) as neuron, open_gateway(neuron) as gateway:
        for _ in range(STRIKES):
            assert (await count(gateway)).status_code in (502, 504)
        place = gateway.ledger.place("n1")
        assert place is not None and place.ready and not place.doubt and place.most is None


async def test_what_the_client_did_wrong_is_asked_of_one_neuron_alone() -> None:
    wrong = refusal(400, "invalid_request", message="'messages' is empty")
    async with fake_neuron("a", otherwise=wrong) as first, fake_neuron("a", otherwise=SEVEN) as second:
        async with open_gateway(first, second) as gateway:
            told = await count(gateway)
            assert told.status_code == 400 and second.requests == []


async def test_a_model_on_nobodys_disk_is_refused_with_the_remedy_and_not_asked_for_again_at_once() -> None:
    async with fake_neuron(otherwise=NOT_HERE) as first, fake_neuron(otherwise=NOT_HERE) as second:
        async with open_gateway(first, second, catalogue=["a"]) as gateway:
            for _ in range(3):
                told = await count(gateway)
                assert told.status_code == 404 and told.json()["error"]["type"] == "not_found_error"
                assert "on no neuron's disk" in told.json()["error"]["message"]
            assert len(first.requests) == len(second.requests) == 1
            assert first.orders == second.orders == []
            # Until somebody has it.
            first.has("a")
            first.otherwise = first.plan(SEVEN)
            await first.polled()
            assert (await count(gateway)).status_code == 200


async def test_where_nobody_is_there_a_count_is_refused_at_once() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        await neuron.die()
        await gateway.knows(lambda ledger: not ledger.holders("a"))
        told = await count(gateway)
        assert told.status_code in (503, 529) and "retry-after" in told.headers
        assert (await count(gateway, "nobody")).status_code in (404, 503)


async def test_neurons_that_do_not_speak_the_dialect_are_not_asked() -> None:
    async with fake_neuron("a") as neuron:
        neuron.dialects = ("openai_chat",)
        async with open_gateway(neuron) as gateway:
            told = await count(gateway)
            assert told.status_code == 400 and "does not speak" in told.json()["error"]["message"]
            assert neuron.requests == []


async def test_a_narrow_key_counts_for_its_models_alone_and_by_the_name_it_knows() -> None:
    key = Key("mine", digest("sk-mine"), models=("short",))
    config = GatewayConfig(keys=(key,))
    catalogue = Catalogue({"a": ModelSpec("a", footprint=MIB), "b": ModelSpec("b")}, {"short": "a"})
    async with fake_neuron(otherwise=NOT_HERE) as neuron:
        async with open_gateway(neuron, catalogue=catalogue, config=config) as gateway:
            bearer = {"authorization": "Bearer sk-mine"}
            assert (await count(gateway, "short")).status_code == 401
            assert (await count(gateway, "b", **bearer)).status_code == 404 and neuron.requests == []
            told = await count(gateway, "short", **bearer)
            message = told.json()["error"]["message"]
            assert told.status_code == 404 and "'short'" in message and "'a'" not in message


# -- with the real thing


@pytest.fixture
def _real() -> None:
    if (why_not := LlamaCppHarness().unavailable()) is not None:
        pytest.skip(str(why_not))


@pytest.mark.usefixtures("_real")
async def test_the_vendors_library_counts_through_a_gateway_before_anything_is_loaded() -> None:
    body: Any = {"model": MODEL_ID, "messages": HELLO, "system": "Be brief."}

    def counted(url: str) -> int:
        with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            return client.messages.count_tokens(**body).input_tokens

    def used(url: str) -> int:
        with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            usage = client.messages.create(**body, max_tokens=1).usage
            return usage.input_tokens + (usage.cache_read_input_tokens or 0)

    async with demo_neuron() as neuron, running_gateway(neuron) as gateway:
        told = await trio.to_thread.run_sync(counted, gateway.url)
        assert await residents(neuron) == {}
        assert told == await trio.to_thread.run_sync(used, gateway.url) > 10
        assert set(await residents(neuron)) == {MODEL_ID}


@pytest.mark.usefixtures("_real")
async def test_a_model_of_the_gateways_catalogue_is_counted_where_its_file_lies(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF.read_bytes())
    here = NeuronConfig(model_roots=(tmp_path,))
    spec = ModelSpec("org/m", source=f"path:{tmp_path / 'm.gguf'}", harness="llamacpp")
    async with demo_neuron() as without, demo_neuron(here) as having:
        async with running_gateway(without, having, catalogue=Catalogue({"org/m": spec})) as gateway:
            told = await gateway.http.post(COUNT, json={"model": "org/m", "messages": HELLO})
            assert told.status_code == 200, told.text
            assert told.headers["x-cortex-neuron"] == "n2" and told.json()["input_tokens"] > 5
            assert await residents(without) == await residents(having) == {}


async def test_a_key_needs_room_for_the_prompt_alone() -> None:
    """What an answer usually has, or may have, would be more than this key may: a count writes none."""
    limited = GatewayConfig(keys=(Key("ann", digest("sk-ann"), ("inference",), tokens_per_day=500),))
    body, key = {"model": "a", "messages": HELLO, "max_tokens": 64000}, {"x-api-key": "sk-ann"}
    async with fake_neuron("a", otherwise=SEVEN) as neuron, open_gateway(neuron, config=limited) as gateway:
        neuron.scripts.append(script(Hang()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: gateway.http.post(COUNT, json=body, headers=key))
            await neuron.seen(1)
            told = await gateway.http.post(COUNT, json=body, headers=key)
            assert told.json() == {"input_tokens": 7}
            nursery.cancel_scope.cancel()
