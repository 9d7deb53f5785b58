"""POST /v1/embeddings through a gateway: byte for byte, and in the books."""

import json
from functools import partial

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.gateway import passage
from cortex.keys import digest
from cortex.web.streaming import open_stream
from tests.fake_neuron import NOT_STARTED, fake_neuron, open_gateway, refusal
from tests.fake_upstream import Hang, script, whole

EMBEDDINGS = "/v1/embeddings"
# In an odd order, with an odd float and what nobody has heard of.
ODD = b'{ "input" :["caf\\u00e9", "b"], "new":{"a":[1.50]}, "encoding_format":"base64", "model": "a"}'
ANSWER = (
    b'{"object":"list", "data":[{"object":"embedding","index":0,"embedding":"AACAPw=="}],'
    b'"model":"a","usage":{"prompt_tokens":5,"total_tokens":5},"odd":1.50}'
)
WHOLE = whole(200, ANSWER)
OLD = ("openai_chat", "openai_text", "anthropic_messages")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


async def test_what_a_neuron_answers_passes_byte_for_byte_both_ways() -> None:
    async with fake_neuron("a", otherwise=WHOLE) as neuron, open_gateway(neuron) as gateway:
        told = await gateway.http.post(EMBEDDINGS, content=ODD)
        assert (told.status_code, told.content, told.headers["x-cortex-neuron"]) == (200, ANSWER, "n1")
        [received] = neuron.requests
        assert received.body == ODD
        assert received.head[0] == "POST /v1/embeddings HTTP/1.1"
        page = await gateway.page()
        labels = 'dialect="openai_embeddings",model="a",neuron="n1",outcome="ok"'
        assert f"cortex_requests_total{{{labels}}} 1.0" in page
        assert 'cortex_prompt_tokens_total{model="a",neuron="n1"} 5.0' in page
        assert "cortex_completion_tokens_total{" not in page


async def test_an_alias_is_rewritten_and_nothing_else() -> None:
    async with (
        fake_neuron("a", otherwise=WHOLE) as neuron,
        open_gateway(neuron, config=GatewayConfig(aliases={"embedder": "a"})) as gateway,
    ):
        body = ODD.replace(b'"model": "a"', b'"model": "embedder"')
        assert (await gateway.http.post(EMBEDDINGS, content=body)).content == ANSWER
        assert neuron.requests[0].body == ODD


async def test_a_neuron_that_does_not_speak_it_is_passed_by() -> None:
    async with fake_neuron("a") as old, fake_neuron("a", otherwise=WHOLE) as able:
        old.dialects = OLD
        async with open_gateway(old, able) as gateway:
            for _ in range(4):
                told = await gateway.http.post(EMBEDDINGS, content=ODD)
                assert told.headers["x-cortex-neuron"] == "n2"
        assert not old.requests


async def test_where_nobody_speaks_it_that_is_said() -> None:
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            told = await gateway.http.post(EMBEDDINGS, content=ODD)
            assert told.status_code == 400
            assert "does not speak /v1/embeddings" in told.json()["error"]["message"]
            assert not neuron.requests


async def test_the_file_may_say_that_a_neuron_speaks_it() -> None:
    async with fake_neuron("a", otherwise=WHOLE) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron, dialects=("openai_embeddings",)) as gateway:
            assert (await gateway.http.post(EMBEDDINGS, content=ODD)).content == ANSWER


async def test_a_refusal_that_proves_that_nothing_ran_is_tried_elsewhere() -> None:
    full = refusal(503, "overloaded", NOT_STARTED, "retry-after: 7", message="full")
    async with fake_neuron("a", otherwise=full) as busy, fake_neuron("a", otherwise=WHOLE) as free:
        async with open_gateway(busy, free) as gateway:
            for _ in range(4):
                assert (await gateway.http.post(EMBEDDINGS, content=ODD)).content == ANSWER
        assert free.requests


async def test_a_neurons_own_refusal_reaches_the_client() -> None:
    fault = {
        "message": "'input[1]' is empty",
        "type": "invalid_request_error",
        "param": "input[1]",
        "code": "x",
    }
    said = json.dumps({"error": fault}).encode()
    async with fake_neuron("a", otherwise=whole(400, said)) as neuron, open_gateway(neuron) as gateway:
        told = await gateway.http.post(EMBEDDINGS, content=ODD)
        assert (told.status_code, told.json()["error"]["param"]) == (400, "input[1]")


async def test_a_stream_is_never_begun_for_one_who_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neuron refuses it by name; a stream's head before would hide the status."""
    monkeypatch.setattr(passage, "open_stream", partial(open_stream, grace_s=0))
    said = whole(400, b'{"error":{"message":"no stream","param":"stream","code":"unsupported_parameter"}}')
    async with fake_neuron("a", otherwise=said) as neuron, open_gateway(neuron) as gateway:
        asked = {"model": "a", "input": "x", "stream": True}
        odd = {"connection": "close"}  # what goes by callbacks waits longer for a stream to begin
        told = await gateway.http.post(EMBEDDINGS, json=asked, headers=odd)
        assert (told.status_code, told.json()["error"]["param"]) == (400, "stream")
        told = await gateway.http.post("/v1/responses", json=asked, headers=odd)
        assert told.status_code == 200, "this shows nothing"


async def test_a_key_needs_room_for_the_inputs_alone() -> None:
    """What an answer usually has would be more than this key may have: vectors have no tokens."""
    limited = GatewayConfig(keys=(Key("ann", digest("sk-ann"), ("inference",), tokens_per_day=500),))
    key = {"authorization": "Bearer sk-ann"}
    async with fake_neuron("a", otherwise=WHOLE) as neuron, open_gateway(neuron, config=limited) as gateway:
        neuron.scripts.append(script(Hang()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: gateway.http.post(EMBEDDINGS, content=ODD, headers=key))
            await neuron.seen(1)
            assert (await gateway.http.post(EMBEDDINGS, content=ODD, headers=key)).content == ANSWER
            nursery.cancel_scope.cancel()
        assert 'cortex_key_tokens_total{key="ann"} 5.0' in await gateway.page()


async def test_a_key_needs_room_for_inputs_that_look_like_pictures_too() -> None:
    """A picture's bytes are no tokens; of inputs each is."""
    limited = GatewayConfig(keys=(Key("ann", digest("sk-ann"), ("inference",), tokens_per_day=2000),))
    key = {"authorization": "Bearer sk-ann"}
    body = {"model": "a", "input": "data:image/png;base64," + "A" * 8000}
    async with fake_neuron("a", otherwise=WHOLE) as neuron, open_gateway(neuron, config=limited) as gateway:
        neuron.scripts.append(script(Hang()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: gateway.http.post(EMBEDDINGS, json=body, headers=key))
            await neuron.seen(1)
            told = await gateway.http.post(EMBEDDINGS, content=ODD, headers=key)
            assert (told.status_code, told.json()["error"]["limit"]) == (429, "tokens_per_day")
            nursery.cancel_scope.cancel()


async def test_a_model_is_loaded_for_it() -> None:
    async with fake_neuron(otherwise=WHOLE) as neuron:
        async with open_gateway(neuron, catalogue=("a",)) as gateway:
            told = await gateway.http.post(EMBEDDINGS, content=ODD)
            assert told.content == ANSWER
            assert neuron.ordered("/models/load") == 1
