"""Tokens of an upstream's model are counted where the request would be answered, or refused by name."""

from dataclasses import replace
from typing import Any

import pytest
import trio

from cortex.config.neuron import NeuronConfig
from cortex.config.upstream import UpstreamConfig
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.neuron.tokens import AT_ONCE
from tests.calls import fault_of, residents
from tests.fake_engine import fake_engine, refusal
from tests.fake_upstream import Hang, script, whole
from tests.neuron.test_counting_unloaded import BODIES, COUNT, MESSAGES, asked, charged
from tests.neuron.test_upstreams import bridge
from tests.roles import demo_neuron, eventually

IDS = whole(200, b'{"count":3,"max_model_len":4096,"tokens":[5,6,7]}')


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


async def test_a_neuron_behind_a_neuron_counts_what_the_same_request_is_charged_for() -> None:
    if (why_not := LlamaCppHarness().unavailable()) is not None:
        pytest.skip(str(why_not))
    async with demo_neuron() as behind:
        config = replace(NeuronConfig(), upstream=UpstreamConfig(endpoints=(f"{behind.url}/v1",)))
        async with demo_neuron(config) as role:
            before: dict[str, int] = {}
            for name, more in BODIES.items():
                answer = await role.http.post(COUNT, json=asked(**more))
                assert answer.status_code == 200, (name, answer.text)
                before[name] = answer.json()["input_tokens"]
            assert await residents(role) == await residents(behind) == {}
            for name, more in BODIES.items():
                assert charged(await role.http.post(MESSAGES, json=asked(**more))) == before[name], name
            assert len(set(before.values())) > 5


async def test_vllm_is_asked_beside_its_v1_with_the_body_of_the_request() -> None:
    async with fake_engine("m") as engine, bridge(engine, api_key="k1") as role:
        engine.then(IDS)
        body: dict[str, Any] = asked("m", system="be kind", thinking={"type": "disabled"}, **BODIES["tools"])
        answer = await role.http.post(COUNT, json=body)
        assert answer.status_code == 200 and answer.json() == {"input_tokens": 3}
        [received] = engine.requests
        assert received.head[0] == "POST /tokenize HTTP/1.1"
        assert ("authorization", "Bearer k1") in [(name.lower(), said) for name, said in received.headers]
        assert [turn["role"] for turn in engine.body["messages"]] == ["system", "user"]
        assert engine.body["model"] == "m" and engine.body["tools"][0]["function"]["name"] == "get_weather"
        assert engine.body["chat_template_kwargs"] == {"enable_thinking": False}
        assert await residents(role) == {}


@pytest.mark.parametrize(
    ("owner", "script", "status", "said"),
    [
        ("library", IDS, 400, "ask the upstream"),
        ("vllm", refusal(404), 400, "ask the upstream"),
        ("vllm", refusal(400, "tools are wrong"), 400, "tools are wrong"),
        ("vllm", refusal(503), 503, "full"),
        ("vllm", whole(200, b'{"count":3}'), 502, "no tokens"),
        ("vllm", refusal(500), 502, ""),
    ],
)
async def test_what_goes_wrong_there_is_told_and_loads_nothing(
    owner: str, script: bytes, status: int, said: str
) -> None:
    async with fake_engine("m", owned_by=owner) as engine, bridge(engine) as role:
        engine.then(script)
        refused = await role.http.post("/tokenize", json={"model": "m", "messages": asked("m")["messages"]})
        assert refused.status_code == status and said in fault_of(refused)["message"], refused.text
        assert await residents(role) == {}


async def test_an_upstream_that_hangs_takes_no_threads_that_all_share() -> None:
    shared = trio.to_thread.current_default_thread_limiter()
    async with (
        fake_engine("m", owned_by="vllm") as engine,
        bridge(engine) as role,
        trio.open_nursery() as nursery,
    ):
        engine.scripts.extend([script(Hang())] * 20)
        for _ in range(20):
            nursery.start_soon(lambda: role.http.post(COUNT, json=asked("m")))
        await engine.seen(AT_ONCE)

        async def free() -> bool:
            return shared.borrowed_tokens == 0  # bodies are read there, and that ends

        await eventually(free)
        assert len(engine.requests) == AT_ONCE
        nursery.cancel_scope.cancel()
