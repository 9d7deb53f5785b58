"""Tokens are counted of a model that is not loaded, exactly, and nothing is loaded for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from anthropic import Anthropic

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.models import spec_to_text
from cortex.config.neuron import Devices, NeuronConfig
from cortex.demo import GGUF, MODEL_ID
from cortex.harness.exllamav2 import ExLlamaV2Harness
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.scripted import Script, ScriptedHarness
from tests import fake_bert
from tests.calls import fault_of, hello, residents
from tests.fake_checkpoints import checkpoint
from tests.fake_vocabularies import bpe, model, spm
from tests.roles import MIB, Running, demo_neuron, running_neuron, specs

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "18 degrees"}
BODIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "system": {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
    "tools": {"tools": [TOOL]},
    "a forced tool": {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}},
    "no thinking": {"thinking": {"type": "disabled"}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1500},
    "a form": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    "a prefill": {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The capital of"}]
    },
    "a turn with a tool": {
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": [{"type": "text", "text": "I look."}, USE]},
            {"role": "user", "content": [RESULT]},
        ],
    },
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}


@pytest.fixture(autouse=True)
async def _hang_guard():
    if (why_not := LlamaCppHarness().unavailable()) is not None:
        pytest.skip(str(why_not))
    with trio.fail_after(60):
        yield


def asked(name: str = MODEL_ID, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Καλημέρα, what is the capital of France? 😀"}]
    return {"model": name, "max_tokens": 1, "messages": messages, **more}


def charged(answer: Any) -> int:
    usage = answer.json()["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"])


async def counted(role: Running, name: str = MODEL_ID, **more: Any) -> int:
    answer = await role.http.post(COUNT, json=asked(name, **more))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["input_tokens"])


async def test_a_count_is_what_the_same_request_is_charged_for_once_its_model_is_loaded() -> None:
    async with demo_neuron() as role:
        before = {name: await counted(role, **more) for name, more in BODIES.items()}
        assert await residents(role) == {}
        for name, more in BODIES.items():
            answer = await role.http.post(MESSAGES, json=asked(**more))
            assert answer.status_code == 200, (name, answer.text)
            assert charged(answer) == before[name] == await counted(role, **more), name
        assert len(set(before.values())) > 6, "these bodies show nothing"


async def test_tokens_and_texts_are_those_of_the_loaded_model() -> None:
    text = " Καλημέρα 😀\n<|im_start|>user"
    chat = {**hello(MODEL_ID), "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}
    async with demo_neuron() as role:

        async def told() -> list[Any]:
            asked = ({"model": MODEL_ID, "prompt": text}, chat)
            one, two = [(await role.http.post("/tokenize", json=body)).json() for body in asked]
            back = await role.http.post("/detokenize", json={"model": MODEL_ID, "tokens": one["tokens"]})
            return [one, two, back.json()]

        unloaded = await told()
        assert await residents(role) == {} and unloaded[2] == {"prompt": text}
        await role.http.post("/models/load", json={"spec": {"id": MODEL_ID}})
        assert await told() == unloaded


async def test_what_a_generation_refuses_is_refused_alike() -> None:
    content = [{"type": "text", "text": "What is this?"}, IMAGE]
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": content}]},
        {"messages": []},
        {"messages": [{"role": "robot", "content": "hi"}]},
    ]
    async with demo_neuron() as role:
        for more in bodies:
            cold, warm = [await role.http.post(path, json=asked(**more)) for path in (COUNT, MESSAGES)]
            assert cold.status_code == warm.status_code == 400, (cold.text, warm.text)
            assert fault_of(cold) == fault_of(warm)
        assert await residents(role) == {}


async def test_a_model_without_room_a_seat_or_hope_is_counted_all_the_same(tmp_path: Path) -> None:
    """The device is too small for it, for ever."""
    config = NeuronConfig(devices=Devices(memory_limit=MIB, memory_headroom=0))
    async with demo_neuron(config) as role:
        assert (await role.http.post(MESSAGES, json=asked())).status_code in (503, 507)
        assert await counted(role) > 10
        health = (await role.http.get("/health")).json()
        assert health["models"] == [] and health["status"] == "ok"


async def test_nobody_makes_room_for_a_count(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a", "b"), Script(bytes=MIB), memory=MIB) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        assert await counted(role, "b") > 0
        assert set(await residents(role)) == {"a"}
        assert await counted(role, "a") > 0 and role.engines["a"].jobs == []


async def test_a_broken_engine_is_not_asked(tmp_path: Path) -> None:
    """What it came to is for its next request; its file is as good as before."""
    script = Script(bytes=MIB, crash_after=0, resets=False)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        assert (await role.http.post(MESSAGES, json=asked("a"))).status_code == 502
        assert not (await residents(role))["a"]["servable"]["ok"]
        assert await counted(role, "a") > 0


async def test_a_gateways_count_is_answered_from_the_disk_by_the_entry_that_it_sent(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF.read_bytes())
    entry = spec_to_text(ModelSpec("org/theirs", source=f"path:{tmp_path / 'm.gguf'}"))
    routed = {"x-cortex-route": "gw"}
    config = NeuronConfig(model_roots=(tmp_path,))
    async with demo_neuron(config) as role:
        for name in ("org/theirs", "nobody"):
            refused = await role.http.post(COUNT, json=asked(name), headers=routed)
            assert refused.status_code == 409 and refused.headers["x-cortex-not-started"] == "1"
        told = await role.http.post(
            COUNT, json=asked("org/theirs"), headers={**routed, "x-cortex-spec": entry}
        )
        assert told.status_code == 200 and told.json()["input_tokens"] == await counted(role, "m")
        wrong = {**routed, "x-cortex-spec": '{"id": 3}'}
        assert (await role.http.post(COUNT, json=asked("org/theirs"), headers=wrong)).status_code == 400
        assert await residents(role) == {}


@pytest.mark.parametrize(
    ("entry", "status", "said"),
    [
        ({"id": "m", "harness": "llamacpp", "source": "path:/etc/passwd"}, 422, "is not below"),
        ({"id": "m", "source": f"path:{GGUF.parent}/../m.gguf"}, 422, "is not below"),
        ({"id": "m", "source": "upstream:http://127.0.0.1:1/v1"}, 422, "wants harness 'upstream'"),
        # What is known of a model that is here, its crashes among it, is not for others to change.
        ({"id": MODEL_ID, "source": f"path:{GGUF}"}, 400, "another model"),
    ],
)
async def test_whoever_sends_an_entry_has_no_other_file_read_and_nobody_else_asked(
    entry: dict[str, str], status: int, said: str
) -> None:
    headers = {"x-cortex-route": "gw", "x-cortex-spec": json.dumps(entry)}
    async with demo_neuron() as role:
        refused = await role.http.post(COUNT, json=asked("m"), headers=headers)
        assert refused.status_code == status and said in fault_of(refused)["message"], refused.text


async def test_a_model_that_is_yet_to_be_downloaded_is_refused_with_the_remedy(tmp_path: Path) -> None:
    catalogue = Catalogue({"org/m": ModelSpec("org/m", harness="llamacpp")})
    async with demo_neuron(catalogue=catalogue) as role:
        refused = await role.http.post(COUNT, json=asked("org/m"))
        assert refused.status_code == 404 and "cortex models pull org/m" in fault_of(refused)["message"]
        refused = await role.http.post(COUNT, json=asked("org/m"), headers={"x-cortex-route": "gw"})
        assert refused.status_code == 409 and refused.headers["x-cortex-not-started"] == "1"
        assert (await role.http.get("/models/jobs")).json()["jobs"] == []


async def test_a_file_that_was_replaced_is_read_anew_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(model(bpe("qwen2")))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    async with demo_neuron(NeuronConfig(model_roots=(tmp_path,))) as role:
        first = await role.http.post("/tokenize", json={"model": "m", "prompt": "the quick brown fox"})
        path.with_name("n.gguf.part").write_bytes(model(spm()))
        path.with_name("n.gguf.part").replace(path)
        second = await role.http.post("/tokenize", json={"model": "m", "prompt": "the quick brown fox"})
        assert first.json()["tokens"] != second.json()["tokens"]
        await role.http.post("/models/load", json={"spec": {"id": "m"}})
        loaded = await role.http.post("/tokenize", json={"model": "m", "prompt": "the quick brown fox"})
        assert loaded.json()["tokens"] == second.json()["tokens"]
        await role.http.post("/models/unload", json={"id": "m"})
        path.write_bytes(path.read_bytes()[:-100])
        refused = await role.http.post(COUNT, json=asked("m"))
        assert refused.status_code == 422 and str(path) in fault_of(refused)["message"]


async def test_a_model_that_crashes_its_tokens_child_twice_is_quarantined(tmp_path: Path) -> None:
    """Row 73: abort there is quarantine, and the neuron lives."""
    harness = ScriptedHarness(factory="tests.fake_children:aborts_at_tokens")
    (tmp_path / "a.gguf").touch()
    config = NeuronConfig(model_roots=(tmp_path,))
    async with demo_neuron(config, specs(tmp_path, "a"), {"llamacpp": harness}) as role:
        for status in (502, 502, 422):
            refused = await role.http.post(COUNT, json=asked("a"))
            assert refused.status_code == status, refused.text
        assert "quarantine" in fault_of(refused)["message"]
        crash = (await role.http.get("/discovery")).json()["last_crash"]
        assert (crash["device"], crash["models"]) == ("vocabulary-0", ["a"])
        assert (await role.http.get("/livez")).status_code == 200


async def test_a_folder_of_safetensors_is_counted_without_a_device(tmp_path: Path) -> None:
    """By the vocabulary that the engine itself has, on a host that has neither torch nor a GPU."""
    vocabulary = Vocabulary.read(checkpoint(tmp_path / "m"))
    text = "abc <|im_end|>"
    async with demo_neuron(
        NeuronConfig(model_roots=(tmp_path,)), harnesses={"exllamav2": ExLlamaV2Harness()}
    ) as role:
        told = (await role.http.post("/tokenize", json={"model": "m", "prompt": text})).json()
        begin = (vocabulary.bos,) if vocabulary.adds_bos else ()
        assert tuple(told["tokens"]) == (*begin, *vocabulary.encode(text)) and told["count"] > 3
        back = await role.http.post("/detokenize", json={"model": "m", "tokens": told["tokens"]})
        assert back.json() == {"prompt": vocabulary.text(told["tokens"])}


async def test_the_vendors_library_counts_before_its_first_message() -> None:
    def run(url: str) -> tuple[int, int]:
        with Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            body: Any = asked()
            count = client.messages.count_tokens(model=MODEL_ID, messages=body["messages"], tools=[TOOL])
            usage = client.messages.create(**body, tools=[TOOL]).usage
            return count.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens or 0)

    async with demo_neuron() as role:
        count, used = await trio.to_thread.run_sync(run, role.url)
    assert count == used


async def test_the_tokens_of_an_encoder_are_those_that_it_has_when_it_is_loaded(tmp_path: Path) -> None:
    fake_bert.put(tmp_path, "b.gguf")
    text = {"model": "b", "prompt": "one two three unheard"}
    async with demo_neuron(NeuronConfig(model_roots=(tmp_path,))) as role:
        cold = (await role.http.post("/tokenize", json=text)).json()
        assert await residents(role) == {} and cold["count"] > 2
        await role.http.post("/models/load", json={"spec": {"id": "b"}})
        assert (await role.http.post("/tokenize", json=text)).json() == cold
