"""POST /v1/embeddings of a neuron: real vectors by OpenAI's own library, upstreams, and who leaves."""

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from openai import OpenAI

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.config.upstream import UpstreamConfig
from cortex.demo import GGUF, MODEL_ID
from cortex.harness.scripted import Gate, Script
from cortex.neuron import vectors as vectors_of_neurons
from tests import fake_bert
from tests.calls import CHAT, calling, fault_of, figures, hello
from tests.fake_bert import CLS, CONTEXT, SEP, WIDTH
from tests.fake_engine import FakeEngine, fake_engine, refusal
from tests.fake_upstream import Hang, script, whole
from tests.roles import Running, demo_neuron, eventually, running_gateway, running_neuron, specs

EMBEDDINGS = "/v1/embeddings"
# The engine looks its activation up in a table of half precision.
CLOSE = 1e-3
HELLO = (CLS, 4, 5, SEP)
CAT = (CLS, 6, 7, SEP)


@pytest.fixture(autouse=True)
async def _hang_guard() -> AsyncIterator[None]:
    with trio.fail_after(30):
        yield


@asynccontextmanager
async def tiny(folder: Path, **known: Any) -> AsyncIterator[Running]:
    """A neuron with the tiny model as `tiny`, which is also called `alias`, and with one that writes."""
    config = NeuronConfig(model_roots=(folder, GGUF.parent))
    config = replace(config, llamacpp=replace(config.llamacpp, **known))
    async with demo_neuron(config, both(fake_bert.put(folder))) as role:
        yield role


def both(path: Path) -> Catalogue:
    spec = ModelSpec("tiny", source=f"path:{path}", slots=2)
    demo = ModelSpec(MODEL_ID, source=f"path:{GGUF}", harness="llamacpp")
    return Catalogue({"tiny": spec, MODEL_ID: demo}, {"alias": "tiny"})


async def doing(role: Running, **wanted: tuple[int, int]) -> None:
    """Models have so many seats taken, and requests waiting."""

    async def holds() -> bool:
        return await figures(role) == wanted

    await eventually(holds)


def vectors(*inputs: tuple[int, ...]) -> list[Any]:
    return [pytest.approx(fake_bert.vector(ids), abs=CLOSE) for ids in inputs]


async def using(role: Running, **asked: Any) -> openai.types.CreateEmbeddingResponse:
    """What OpenAI's library makes of the answer; it asks for base64 by itself."""

    def run() -> openai.types.CreateEmbeddingResponse:
        with OpenAI(base_url=f"{role.url}/v1", api_key="none", max_retries=0) as client:
            return client.embeddings.create(**{"model": "tiny", **asked})

    return await trio.to_thread.run_sync(run)


@pytest.mark.parametrize("behind_a_gateway", [False, True])
async def test_openais_library_gets_the_vectors_that_the_weights_make(
    tmp_path: Path, behind_a_gateway: bool
) -> None:
    known = both(tmp_path / "tiny-bert.gguf")
    async with tiny(tmp_path) as neuron, running_gateway(neuron, catalogue=known) as gateway:
        role = gateway if behind_a_gateway else neuron
        for more in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
            said = await using(role, input=["hello world", "a cat"], **more)
            told = [each.embedding for each in said.data]
            if more == {"encoding_format": "base64"}:
                told = [list(struct.unpack(f"<{WIDTH}f", b64decode(each))) for each in told]  # type: ignore[arg-type]
            assert told == vectors(HELLO, CAT)
            assert [each.index for each in said.data] == [0, 1]
            assert (said.model, said.object) == ("tiny", "list")
            assert (said.usage.prompt_tokens, said.usage.total_tokens) == (8, 8)
        ids = await using(role, input=[list(CAT), list(HELLO)])
        assert [each.embedding for each in ids.data] == vectors(CAT, HELLO)
        one = await using(role, input=list(HELLO), model="alias", dimensions=WIDTH, user="u")
        assert [each.embedding for each in one.data] == vectors(HELLO)


async def test_many_inputs_come_back_in_their_order_from_a_process_of_their_own(tmp_path: Path) -> None:
    inputs = [[CLS, 4 + number % 9, SEP] for number in range(25)]
    async with tiny(tmp_path, isolation="process") as role:
        said = await using(role, input=inputs)
        known = {word: fake_bert.vector((CLS, word, SEP)) for word in range(4, 13)}
        assert [each.embedding for each in said.data] == [
            pytest.approx(known[ids[1]], abs=CLOSE) for ids in inputs
        ]
        assert said.usage.prompt_tokens == 75


@pytest.mark.parametrize(
    ("asked", "code", "param", "says"),
    [
        ({"dimensions": 8}, "unsupported_parameter", "dimensions", "have 32 numbers"),
        (
            {"input": ["a", "cat " * CONTEXT]},
            "context_length_exceeded",
            "input[1]",
            "'input[1]' has 130 tokens",
        ),
        ({"input": "cat" * 256 * CONTEXT}, "context_length_exceeded", "input", "384 tokens or more"),
        ({"input": [[4], [15]]}, "invalid_request", "input[1]", "tokens 0 to 14"),
        ({"model": MODEL_ID}, "unsupported_parameter", "model", "makes no embeddings"),
        ({"encoding_format": "int8"}, "unsupported_parameter", "encoding_format", "float or base64"),
        ({"stream": True}, "unsupported_parameter", "stream", "leave it out"),
        ({"input": ["a", ""]}, "invalid_request", "input[1]", "empty"),
        ({"model": "tinny"}, "model_not_found", None, "tiny"),
    ],
)
async def test_what_cannot_be_done_is_refused_by_name(
    tmp_path: Path, asked: dict[str, Any], code: str, param: str | None, says: str
) -> None:
    async with tiny(tmp_path) as role:
        answer = await role.http.post(EMBEDDINGS, json={"model": "tiny", "input": "a", **asked})
        fault = fault_of(answer)
        assert (answer.status_code, fault["code"]) == (404 if code == "model_not_found" else 400, code)
        assert param is None or fault["param"] == param
        assert says in fault["message"]
        if asked.get("model") == MODEL_ID:  # nothing was loaded for it
            assert await figures(role) == {}


async def test_a_model_that_makes_vectors_writes_nothing(tmp_path: Path) -> None:
    async with tiny(tmp_path) as role:
        for path, body in (
            (CHAT, hello("tiny")),
            ("/v1/completions", {"model": "tiny", "prompt": "a"}),
            ("/v1/responses", {"model": "tiny", "input": "a"}),
            ("/v1/messages", {**hello("tiny"), "max_tokens": 1}),
        ):
            answer = await role.http.post(path, json=body)
            assert answer.status_code == 400, answer.text
            assert "/v1/embeddings" in fault_of(answer)["message"]
        assert await figures(role) == {}  # nor is it loaded for that
        for _ in range(2):
            answer = await role.http.post("/v1/messages/count_tokens", json=hello("tiny"))
            assert answer.status_code == 400 and "/v1/embeddings" in fault_of(answer)["message"]
            await role.http.post("/models/load", json={"spec": {"id": "tiny"}})
        counted = {"model": "tiny", "prompt": "hello", "add_special_tokens": False}
        assert (await role.http.post("/tokenize", json=counted)).json()["tokens"] == [4]


async def test_what_a_model_can_do_is_told(tmp_path: Path) -> None:
    async with tiny(tmp_path) as role:
        assert (await role.http.get("/models/tiny/capabilities")).json() == {"capabilities": ["embeddings"]}
        await using(role, input="a")
        assert (await role.http.get("/models/tiny/capabilities")).json() == {"capabilities": ["embeddings"]}
        entry = (await role.http.get("/v1/models/tiny")).json()
        assert (entry["capabilities"], entry["tool_call"], entry["context_length"]) == (
            ["embeddings"],
            False,
            CONTEXT,
        )
        (resident,) = (await role.http.get("/models")).json()["models"]
        assert (resident["capabilities"], resident["cache_bytes"]) == (["embeddings"], 0)


async def test_the_books_have_each_request_with_its_tokens(tmp_path: Path) -> None:
    async with tiny(tmp_path) as role:
        headers = {"x-cortex-key-name": "ann", "x-cortex-route": "boot"}
        await using(role, input="a")
        body = {"model": "tiny", "input": ["hello world", "a cat"]}
        assert (await role.http.post(EMBEDDINGS, json=body, headers=headers)).status_code == 200
        page = (await role.http.get(role.metrics_url)).text
        labels = 'dialect="openai_embeddings",model="tiny",neuron="n1",outcome="ok"'
        assert f"cortex_requests_total{{{labels}}} 2.0" in page
        assert 'cortex_prompt_tokens_total{model="tiny",neuron="n1"} 11.0' in page
        health = (await role.http.get("/health")).json()
        assert health["key_tokens"]["keys"] == {"ann": {"prompt": 8, "cached": 0, "completion": 0}}


async def test_an_answer_that_would_be_too_long_is_refused_before_it_is_computed(tmp_path: Path) -> None:
    """A gateway would not pass it on."""
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(embeds=4096)) as role:
        asked = {"model": "a", "input": ["x"] * 1000}
        refused = await role.http.post(EMBEDDINGS, json=asked)
        assert (refused.status_code, fault_of(refused)["param"]) == (400, "input")
        assert "at most 767 at once" in fault_of(refused)["message"]
        assert not role.engines["a"].jobs
        packed = await role.http.post(EMBEDDINGS, json={**asked, "encoding_format": "base64"})
        assert len(packed.json()["data"]) == 1000


# -- who leaves, and whose turn it is


async def test_a_client_that_leaves_frees_its_slots(tmp_path: Path) -> None:
    gate = Gate()
    async with running_neuron(tmp_path, specs(tmp_path, "a", slots=2), Script(embeds=4, hold=gate)) as role:
        async with calling(role) as client:
            await client.ask(EMBEDDINGS, {"model": "a", "input": ["one", "two", "three"]})
            await doing(role, a=(1, 0))
        await doing(role, a=(0, 0))
        gate.let(100)
        answer = await role.http.post(EMBEDDINGS, json={"model": "a", "input": ["four", "five"]})
        assert [each["index"] for each in answer.json()["data"]] == [0, 1]
        taken = [job.prompt for job in role.engines["a"].jobs]
        assert "three" not in taken  # it had no slot yet, and was never handed over


async def test_a_request_with_many_inputs_lets_others_have_their_turn(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        running_neuron(tmp_path, specs(tmp_path, "a", slots=2), Script(embeds=4, hold=gate)) as role,
        trio.open_nursery() as nursery,
    ):
        many = [f"many{number}" for number in range(20)]
        nursery.start_soon(lambda: role.http.post(EMBEDDINGS, json={"model": "a", "input": many}))
        await doing(role, a=(1, 0))
        nursery.start_soon(lambda: role.http.post(EMBEDDINGS, json={"model": "a", "input": "few"}))
        await doing(role, a=(2, 0))
        gate.let(100)
        await doing(role, a=(0, 0))
        order = [job.prompt for job in role.engines["a"].jobs]
        assert order.index("few") <= 4


# -- upstreams


@asynccontextmanager
async def bridge(engine: FakeEngine, **known: Any) -> AsyncIterator[Running]:
    spec = ModelSpec("m", source=f"upstream:{engine.url}#there", **known)
    config = replace(NeuronConfig(), upstream=UpstreamConfig(look_s=0.05))
    async with demo_neuron(config, Catalogue({"m": spec})) as role:
        yield role


def answered(*embeddings: object, **usage: int) -> bytes:
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in enumerate(embeddings)]
    said = {"object": "list", "model": "there", "data": data[::-1]} | ({"usage": usage} if usage else {})
    return whole(200, json.dumps(said).encode())


PACKED = b64encode(struct.pack("<2f", 0.25, -1)).decode()


@pytest.mark.parametrize("form", ["numbers", "base64"])
async def test_an_upstreams_vectors_are_told_in_the_form_that_was_asked_for(form: str) -> None:
    first = [0.25, -1] if form == "numbers" else PACKED
    async with fake_engine(
        "there", otherwise=answered(first, [0.5, 2], prompt_tokens=7, total_tokens=7)
    ) as engine:
        async with bridge(engine, capabilities=("embeddings",)) as role:
            asked = {"model": "m", "input": ["a", "b"], "dimensions": 2}
            told = (await role.http.post(EMBEDDINGS, json=asked)).json()
            assert [each["embedding"] for each in told["data"]] == [[0.25, -1], [0.5, 2]]
            assert (told["model"], told["usage"]) == ("m", {"prompt_tokens": 7, "total_tokens": 7})
            assert engine.requests[-1].head[0] == "POST /v1/embeddings HTTP/1.1"
            assert engine.body == {
                "model": "there",
                "input": ["a", "b"],
                "encoding_format": "float",
                "dimensions": 2,
            }
            packed = (await role.http.post(EMBEDDINGS, json={**asked, "encoding_format": "base64"})).json()
            assert packed["data"][0]["embedding"] == PACKED


async def test_an_upstream_may_tell_what_its_model_can_do() -> None:
    ids = {"model": "m", "input": [[1, 2]]}
    async with fake_engine("there", capabilities=["embeddings"], otherwise=answered([1.0])) as engine:
        async with bridge(engine) as role:
            told = (await role.http.post(EMBEDDINGS, json=ids)).json()
            assert engine.body["input"] == [[1, 2]]
            assert told["usage"]["estimated"] is True  # no counts came
            refused = await role.http.post(CHAT, json=hello("m"))
            assert (refused.status_code, fault_of(refused)["param"]) == (400, "model")
    async with fake_engine("there", capabilities=["chat", "embeddings"]) as engine, bridge(engine) as role:
        assert (await role.http.post(CHAT, json=hello("m"))).status_code == 200
        engine.scripts.append(script(answered([1.0])))
        assert (await role.http.post(EMBEDDINGS, json=ids)).status_code == 200
    for odd in ({"odd": 1}, ["tools"], None):
        async with fake_engine("there", capabilities=odd) as engine, bridge(engine) as role:
            refused = await role.http.post(EMBEDDINGS, json=ids)
            assert refused.status_code == 400
            assert 'capabilities = ["embeddings"]' in fault_of(refused)["message"]
            assert not engine.requests
            assert (await role.http.post(CHAT, json=hello("m"))).status_code == 200


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (answered([1.0]), 502, "upstream_failed"),
        (answered([1.0], [2.0], [3.0]), 502, "upstream_failed"),
        (answered([1.0], [2.0, 3.0]), 502, "upstream_failed"),
        (answered("!!", "!!"), 502, "upstream_failed"),
        (answered([], []), 502, "upstream_failed"),
        (answered([1e300], [1.0]), 502, "upstream_failed"),
        (answered([1.0], b64encode(struct.pack("<f", float("nan"))).decode()), 502, "upstream_failed"),
        (whole(200, b"<html>"), 502, "upstream_failed"),
        (
            whole(200, b'{"data":[{"index":1,"embedding":[1]},{"index":2,"embedding":[1]}]}'),
            502,
            "upstream_failed",
        ),
        (refusal(404, "no route"), 502, "upstream_failed"),
        (refusal(400, "dimensions is wrong", param="dimensions"), 400, "invalid_request"),
        (
            refusal(400, "maximum context length is 8 tokens, your input has 9 tokens"),
            400,
            "context_length_exceeded",
        ),
        (refusal(429, "slow down", "retry-after: 3"), 503, "overloaded"),
        (refusal(500, "secret"), 502, "upstream_failed"),
    ],
)
async def test_what_an_upstream_gets_wrong_is_told(answer: bytes, status: int, code: str) -> None:
    async with fake_engine("there", otherwise=answer) as engine:
        async with bridge(engine, capabilities=("embeddings",)) as role:
            told = await role.http.post(EMBEDDINGS, json={"model": "m", "input": ["a", "b"]})
            assert (told.status_code, fault_of(told)["code"]) == (status, code)
            assert "secret" not in told.text


async def test_an_upstream_that_ignores_how_long_vectors_are_to_be_is_found_out() -> None:
    async with fake_engine("there", otherwise=answered([0.5, 2, 3])) as engine:
        async with bridge(engine, capabilities=("embeddings",)) as role:
            asked = {"model": "m", "input": "a", "dimensions": 2}
            refused = await role.http.post(EMBEDDINGS, json=asked)
            assert (refused.status_code, fault_of(refused)["param"]) == (400, "dimensions")
            assert "of 3 numbers" in fault_of(refused)["message"]
            assert (await role.http.post(EMBEDDINGS, json={**asked, "dimensions": 3})).status_code == 200


async def test_more_vectors_of_an_upstream_than_a_gateway_passes_on_are_refused_with_how_many_may_be() -> (
    None
):
    """Only the answer tells how long they are."""
    async with fake_engine("there", otherwise=answered(*[[0.5] * 20] * 10)) as engine:
        async with bridge(engine, capabilities=("embeddings",)) as role:
            asked = {"model": "m", "input": ["x"] * 10}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(vectors_of_neurons, "MOST_ANSWER_BYTES", 2000)
                refused = await role.http.post(EMBEDDINGS, json=asked)
                assert (refused.status_code, fault_of(refused)["param"]) == (400, "input")
                assert "at most 5 at once" in fault_of(refused)["message"]
                packed = await role.http.post(EMBEDDINGS, json={**asked, "encoding_format": "base64"})
                assert len(packed.json()["data"]) == 10
            assert len((await role.http.post(EMBEDDINGS, json=asked)).json()["data"]) == 10


async def test_an_upstream_hears_at_once_that_the_client_left() -> None:
    async with fake_engine("there", otherwise=None) as engine:
        engine.scripts.append(script(Hang()))
        async with bridge(engine, capabilities=("embeddings",)) as role:
            async with calling(role) as client:
                await client.ask(EMBEDDINGS, {"model": "m", "input": "a"})
                await engine.seen(1)
            await doing(role, m=(0, 0))
