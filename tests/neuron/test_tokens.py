"""/tokenize and /detokenize: the model's own tokens, and the count that a request is charged for."""

import threading
from pathlib import Path

import pytest
import trio

from cortex.demo import MODEL_ID
from cortex.harness.hosts import Host
from cortex.harness.orders import Order, Tokenise
from cortex.harness.scripted import Script, ScriptedEngine, tokens_of
from cortex.harness.worker import DeviceWorker
from tests.calls import CHAT, calling, fault_of, residents
from tests.roles import MIB, demo_neuron, eventually, running_neuron, specs

CHAT_BODY = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Καλημέρα, what is the capital of France?"},
    ]
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.mark.parametrize(
    "more", [{}, {"tools": [TOOL]}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
async def test_the_count_of_a_chat_is_what_its_completion_is_charged_for(more: dict[str, object]) -> None:
    body = {"model": MODEL_ID, **CHAT_BODY, **more}
    async with demo_neuron() as role:
        told = (await role.http.post("/tokenize", json=body)).json()
        said = await role.http.post(CHAT, json={**body, "max_tokens": 1})
        assert told["count"] == len(told["tokens"]) == said.json()["usage"]["prompt_tokens"]
        assert told["max_model_len"] > told["count"]


@pytest.mark.parametrize("text", ["", "one two", " Καλημέρα 😀\n", "<|im_start|>user\nhi<|im_end|>"])
async def test_a_text_comes_back_from_its_tokens(text: str) -> None:
    async with demo_neuron() as role:
        told = (await role.http.post("/tokenize", json={"model": MODEL_ID, "prompt": text})).json()
        back = await role.http.post("/detokenize", json={"model": MODEL_ID, "tokens": told["tokens"]})
        assert back.json() == {"prompt": text}


async def test_a_loaded_model_is_asked_itself_and_no_slot_is_taken(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(bytes=MIB)) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        (tmp_path / "a.gguf").unlink()
        told = (await role.http.post("/tokenize", json={"model": "a", "prompt": "one two"})).json()
        assert told["count"] == 2 and set(await residents(role)) == {"a"}
        assert role.engines["a"].jobs == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "a"}, "prompt"),
        ({"model": "a", "prompt": "x", "messages": []}, "prompt"),
        ({"model": "a", "messages": []}, "messages"),
        ({"model": "a", "prompt": "x", "return_token_strs": True}, "return_token_strs"),
        ({"model": "a", **CHAT_BODY, "add_special_tokens": True}, "add_special_tokens"),
    ],
)
async def test_a_body_that_says_nothing_or_too_much_is_refused_by_name(
    tmp_path: Path, body: dict[str, object], param: str
) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        answer = await role.http.post("/tokenize", json=body)
        assert (answer.status_code, fault_of(answer)["param"]) == (400, param)


async def test_tokens_that_the_model_has_not_are_refused() -> None:
    async with demo_neuron() as role:
        answer = await role.http.post("/detokenize", json={"model": MODEL_ID, "tokens": [10**9]})
        assert (answer.status_code, fault_of(answer)["param"]) == (400, "tokens")
        answer = await role.http.post("/tokenize", json={"model": "nobody", "prompt": "x"})
        assert (answer.status_code, fault_of(answer)["code"]) == (404, "model_not_found")


async def test_a_model_tells_where_it_answers_and_what_it_can_do() -> None:
    async with demo_neuron() as role:
        can = (await role.http.get(f"/models/{MODEL_ID}/capabilities")).json()
        assert can == {"capabilities": ["completion", "chat", "tools", "reasoning"]}
        cold = await role.http.get(f"/models/{MODEL_ID}/endpoint")
        assert (cold.status_code, fault_of(cold)["code"]) == (404, "not_resident")
        await role.http.post("/models/load", json={"spec": {"id": MODEL_ID}})
        assert (await role.http.get(f"/models/{MODEL_ID}/endpoint")).json() == {"url": f"{role.url}/v1"}
        assert (await role.http.get(f"/models/{MODEL_ID}/capabilities")).json() == can
        for what in ("endpoint", "capabilities"):
            assert (await role.http.get(f"/models/a%2Fb/{what}")).status_code == 404


@pytest.mark.parametrize("loaded", [False, True])
async def test_what_would_take_an_engine_as_long_as_a_hang_to_count_is_not_counted(
    loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be ended for it, and its file held for what breaks processes."""
    async with demo_neuron() as role:
        if loaded:
            await role.http.post("/models/load", json={"spec": {"id": MODEL_ID}})
        long = {"model": MODEL_ID, "messages": [{"role": "user", "content": "x " * 400_000}]}
        cold = await role.http.post("/v1/messages/count_tokens", json=long)
        sent = await role.http.post("/v1/messages", json={**long, "max_tokens": 1})
        assert cold.status_code == sent.status_code == 400
        assert cold.json()["error"] == sent.json()["error"]
        assert "prompt is too long: 3126 tokens" in cold.json()["error"]["message"]

        monkeypatch.setattr("cortex.neuron.budget.MOST_CHARACTERS", 1000)
        chat = {"model": MODEL_ID, "messages": [{"role": "user", "content": "x" * 1001}]}
        for body, param in ((chat, "messages"), ({"model": MODEL_ID, "prompt": "x" * 1001}, "prompt")):
            told = await role.http.post("/tokenize", json=body)
            assert (told.status_code, fault_of(told)["param"]) == (400, param)
        assert (
            await role.http.post("/tokenize", json={"model": MODEL_ID, "prompt": "x" * 1000})
        ).status_code == 200


async def test_who_asks_and_leaves_has_an_engine_answer_one_question_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts may be long, and what was asked is answered on the thread that takes the turns."""
    go, sent, put = threading.Event(), list[str](), DeviceWorker._put

    def tokenise(engine: ScriptedEngine, text: str) -> tuple[int, ...]:
        go.wait(20)
        return tokens_of(text)

    def noted(worker: DeviceWorker, host: Host, order: Order) -> None:
        if isinstance(order, Tokenise):
            sent.append(order.text.split()[0])
        put(worker, host, order)

    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        monkeypatch.setattr(ScriptedEngine, "tokenise", tokenise)
        monkeypatch.setattr(DeviceWorker, "_put", noted)

        async def begun() -> bool:
            return bool(sent)

        async def settled() -> None:
            """Whoever would get to the engine has got there, the first one at any rate."""
            for _ in range(3):
                await role.http.get("/health")
            await eventually(begun)

        for number in range(5):
            async with calling(role) as client:
                await client.ask("/tokenize", {"model": "a", "prompt": f"leaves {number}"})
                await settled()
        async with trio.open_nursery() as staying:
            for number in range(5):
                body = {"model": "a", "prompt": f"stays {number}"}
                staying.start_soon(lambda body=body: role.http.post("/tokenize", json=body))
            await settled()
            assert sent == ["leaves"]
            go.set()
        assert sent == ["leaves", *["stays"] * 5]
