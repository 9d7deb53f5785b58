"""What goes to the engine, and what comes back: prompts untouched, ends told, usage last."""

import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from cortex.ask import Ask, Sampling
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig
from cortex.config.limits import Limits
from cortex.harness.base import Job
from cortex.harness.scripted import SCRIPT_TEMPLATE, Gate, Script
from cortex.neuron import speech
from cortex.translator import openai_chat
from cortex.web.streaming import open_stream
from cortex.wire.neuron import parse_usage
from tests.calls import CHAT, TEXT, Json, calling, events, fault_of, figures, hello, settings, text_of
from tests.roles import Running, demo_neuron, running_gateway, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def jobs(role: Running, model: str = "a") -> list[Job]:
    return role.engines[model].jobs


@pytest.mark.parametrize("n", [1, 2])
async def test_a_stream_ends_with_its_usage_as_a_trailer(n: int) -> None:
    """The same figures as the client's own chunk: a gateway counts by the trailer."""
    async with demo_neuron() as role, calling(role) as caller:
        asked = {
            "model": "cortex-demo",
            "messages": [{"role": "user", "content": "What is 2 + 2?"}],
            "temperature": 0,
            "n": n,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        await caller.ask(CHAT, asked)
        answer = await caller.all()
        assert answer.headers["trailer"] == "x-cortex-usage"
        assert answer.data[-1] == "[DONE]"
        told = json.loads(answer.data[-2])["usage"]
        usage = parse_usage(answer.trailers["x-cortex-usage"])
        assert usage is not None
        assert (usage.prompt, usage.completion) == (told["prompt_tokens"], told["completion_tokens"])
        assert usage.cached == told["prompt_tokens_details"]["cached_tokens"]
        assert told["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_usage_is_counted_though_the_client_did_not_ask_for_it(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="one two three")) as role:
        async with calling(role) as caller:
            await caller.ask(CHAT, hello(stream=True))
            answer = await caller.all()
        assert not any("usage" in json.loads(data) for data in answer.data[:-1])
        assert parse_usage(answer.trailers["x-cortex-usage"]).completion == 3
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 3.0' in page


async def test_the_prompt_reaches_the_engine_as_the_template_wrote_it(tmp_path: Path) -> None:
    text = "  two  spaces,\ttabs,\r\n\n\nlines, 🙂, \u2028 and <|im_end|> \ud7ff"
    messages = [{"role": "system", "content": "be brief "}, {"role": "user", "content": text}]
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        for stream in (False, True):
            answer = await role.http.post(CHAT, json={"model": "a", "messages": messages, "stream": stream})
            assert answer.status_code == 200
        plain = await role.http.post(TEXT, json={"model": "a", "prompt": text})
        ids = await role.http.post(TEXT, json={"model": "a", "prompt": [5, 6, 7]})
        assert plain.status_code == ids.status_code == 200
        rendered = f"<system> be brief \n<user> {text}\n<assistant> "
        assert [job.prompt for job in jobs(role)] == [rendered, rendered, text, (5, 6, 7)]


async def test_sampling_is_the_requests_then_the_catalogues_then_temperature_0_7(tmp_path: Path) -> None:
    known = specs(tmp_path, "a")
    sampling = replace(known.specs["a"].sampling, temperature=0.3, top_k=11)
    catalogue = Catalogue({"a": replace(known.specs["a"], sampling=sampling)})
    async with running_neuron(tmp_path, catalogue, Script(reply="hi")) as role:
        (tmp_path / "b.gguf").touch()
        for asked in (hello(temperature=1.2, seed=5), hello(), hello("b")):
            body = {key: value for key, value in asked.items() if value != 0}
            assert (await role.http.post(CHAT, json=body)).status_code == 200
        first, second, third = (job.sampling for job in (*jobs(role), *jobs(role, "b")))
        assert (first.temperature, first.top_k, first.seed) == (1.2, 11, 5)
        assert (second.temperature, second.top_k, second.seed) == (0.3, 11, None)
        assert (third.temperature, third.top_k, third.top_p, third.min_p) == (0.7, 0, 1.0, 0.0)
        assert (third.repetition_penalty, third.presence_penalty, third.frequency_penalty) == (1.0, 0.0, 0.0)


async def test_an_alias_samples_between_the_request_and_the_model(tmp_path: Path) -> None:
    """Said by the neuron's own catalogue for who comes to it, and by a gateway for its own clients."""
    known = specs(tmp_path, "a")
    entry = replace(known.specs["a"], sampling=Sampling(temperature=0.3, top_k=11))
    catalogue = Catalogue({"a": entry}, {"warm": "a"}, {"warm": Sampling(temperature=1.5, seed=4)})
    header = {"x-cortex-sampling": '{"temperature": 2.5}'}
    async with running_neuron(tmp_path, catalogue, Script(reply="hi")) as role:
        for name, headers in (("warm", {}), ("a", {"x-cortex-route": "gw", **header}), ("a", header)):
            for more in ({}, {"seed": 5, "temperature": 1.0}):
                asked = {"model": name, "messages": [{"role": "user", "content": "hi"}], **more}
                assert (await role.http.post(CHAT, json=asked, headers=headers)).status_code == 200
        used = [(job.sampling.temperature, job.sampling.seed, job.sampling.top_k) for job in jobs(role)]
        assert used == [
            (1.5, 4, 11),
            (1.0, 5, 11),
            (2.5, None, 11),
            (1.0, 5, 11),
            (0.3, None, 11),
            (1.0, 5, 11),
        ]
        wrong = {"x-cortex-route": "gw", "x-cortex-sampling": '{"top_k": -1}'}
        answer = await role.http.post(CHAT, json=hello(), headers=wrong)
        assert answer.status_code == 400 and "sampling of the alias" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("stop", [[], ["two!"]], ids=["sent", "held"])
async def test_what_was_said_before_a_failure_is_delivered_before_it(
    tmp_path: Path, path: str, stop: list[str]
) -> None:
    """Row 3, S-ERR: the tokens so far, also those that a stop string held back, an error event,
    no end mark, and no fake reason. Tokens and failure come in one turn here."""
    script = Script(reply="one two three four", fail_after=2, tokens_per_turn=10)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        asked = hello(stream=True) if path == CHAT else {"model": "a", "prompt": "x", "stream": True}
        await caller.ask(path, {**asked, "stop": stop})
        answer = await caller.all()
        assert answer.complete
        *said, last = map(json.loads, answer.data)
        pieces = [choice.get("delta", choice) for chunk in said for choice in chunk["choices"]]
        assert "".join(piece.get("content", piece.get("text", "")) for piece in pieces) == "one two"
        assert all(choice["finish_reason"] is None for chunk in said for choice in chunk["choices"])
        assert last["error"]["code"] == "engine_failed"
        assert answer.trailers == {}
        assert await figures(role) == {"a": (0, 0)}
        page = (await role.http.get(role.metrics_url)).text
        assert 'outcome="engine"} 1.0' in page


async def test_a_failure_of_a_whole_answer_is_its_status(tmp_path: Path) -> None:
    """Row 69: that request alone; the next one is served."""
    script = Script(reply=lambda job: "bad" if "two" in str(job.prompt) else "good", fail_after=2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), replace(script, fail_after=0)) as role:
        answer = await role.http.post(CHAT, json=hello())
        assert (answer.status_code, fault_of(answer)["code"]) == (502, "engine_failed")
        assert (await role.http.get("/health")).json()["status"] == "ok"


async def test_no_code_point_is_split_in_a_stream(tmp_path: Path) -> None:
    """Row 13: the engine's tokens are single bytes."""
    script = Script(reply="Καλημέρα 🙂!", split=True)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        answer = await role.http.post(CHAT, json=hello(stream=True))
        deltas = [json.loads(data)["choices"][0]["delta"] for data in events(answer.content)[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == "Καλημέρα 🙂!"
        assert "�" not in answer.text


async def test_a_first_token_is_sent_when_it_is_made(tmp_path: Path) -> None:
    gate = Gate(1)
    script = Script(reply="one two", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        await caller.ask(CHAT, hello(stream=True))
        await caller.until(b'"content":"one"')
        gate.open()
        assert (await caller.all()).data[-1] == "[DONE]"


async def test_an_alias_is_answered_under_the_models_own_name(tmp_path: Path) -> None:
    spec = specs(tmp_path, "a").specs["a"]
    catalogue = Catalogue({"a": spec}, {"fast/one": "a"})
    async with running_neuron(tmp_path, catalogue, Script(reply="hi")) as role:
        answer = await role.http.post(CHAT, json=hello("fast/one"))
        assert (text_of(answer), answer.json()["model"]) == ("hi", "a")
        assert (answer.headers["x-cortex-model"], answer.headers["x-cortex-neuron"]) == ("a", "n1")
        entry = (await role.http.get("/v1/models/fast%2Fone")).json()
        assert (entry["id"], entry["aliases"]) == ("a", ["fast/one"])
        gone = await role.http.post("/models/unload", json={"id": "fast/one"})
        assert gone.json() == {"id": "fast/one", "unloaded": True}


async def test_a_model_id_with_a_slash_is_found_in_both_spellings(tmp_path: Path) -> None:
    """Finding 11 of the client captures."""
    (tmp_path / "x.gguf").touch()
    spec = ModelSpec("org/name:q4", source=f"path:{tmp_path}/x.gguf", context=512)
    async with running_neuron(tmp_path, Catalogue({spec.id: spec}), Script(reply="hi")) as role:
        for path in ("/v1/models/org/name:q4", "/v1/models/org%2Fname:q4", "/v1/models/org%2Fname%3Aq4"):
            entry = (await role.http.get(path)).json()
            assert (entry["id"], entry["context_length"]) == (spec.id, 512)
        assert text_of(await role.http.post(CHAT, json=hello(spec.id))) == "hi"


async def test_a_model_name_is_never_a_path(tmp_path: Path) -> None:
    """Row 53."""
    (tmp_path / "roots").mkdir()
    (tmp_path / "secret.gguf").touch()
    async with running_neuron(tmp_path / "roots", Catalogue(), Script()) as role:
        for name in ("../secret", str(tmp_path / "secret"), "a/../../secret", "%2e%2e/secret", "a\0b", "é"):
            answer = await role.http.post(CHAT, json=hello(name))
            assert (answer.status_code, fault_of(answer)["param"]) == (400, "model"), name


# -- while a tool call is written, which goes out only when it is whole

CALL = '<tool_call>\n{"name": "f", "arguments": {"x": "' + "word " * 50 + '"}}\n</tool_call>'
TOOL: Json = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
# Who names the tag in the template writes calls in it.
TOOL_TEMPLATE = "{% if tools %}{{ tools }}<tool_call>{% endif %}" + SCRIPT_TEMPLATE


@pytest.mark.slow
@pytest.mark.parametrize("reply", [CALL, "Sure. " + CALL], ids=["first", "after words"])
async def test_a_long_tool_call_is_not_taken_for_a_stall(
    reply: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 5 and 11: neither limit of the gateway passes while the neuron says that it lives."""
    monkeypatch.setattr(speech, "open_stream", partial(open_stream, grace_s=0.05, beat_s=0.05))
    gate = Gate(6)
    script = Script(reply=reply, hold=gate, template=TOOL_TEMPLATE)
    hasty = GatewayConfig(limits=Limits(first_token_s=0.8, upstream_stall_s=0.8))
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        async with running_gateway(role, config=hasty) as gateway, calling(gateway) as caller:
            await caller.ask(CHAT, hello(stream=True, tools=[TOOL]))
            with trio.fail_after(10):
                await caller.until(b'"role"')
                await caller.until(b": keep-alive\n\n" * 40)
            assert b"tool_calls" not in caller.answer.body
            gate.open()
            answer = await caller.all()
        assert answer.data[-1] == "[DONE]" and b'"finish_reason":"tool_calls"' in answer.body


async def test_a_long_prompt_is_read_beside_keep_alives_which_a_gateway_passes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "open_stream", partial(open_stream, grace_s=0.05, beat_s=0.05))
    gate = Gate()
    script = Script(reply="hi", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        async with running_gateway(role) as gateway, calling(role) as near, calling(gateway) as far:
            for caller in (near, far):
                await caller.ask(CHAT, hello(stream=True))
            for caller in (near, far):
                with trio.fail_after(10):
                    await caller.until(b": keep-alive\n\n" * 5)
                assert caller.answer.data == [], "nothing is read yet"
            gate.open()
            for caller in (near, far):
                answer = await caller.all()
                assert answer.data[-1] == "[DONE]" and answer.complete


async def test_who_asks_a_neuron_for_progress_sees_the_load_that_the_request_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "open_stream", partial(open_stream, grace_s=0.05, beat_s=0.05))
    loaded = threading.Event()
    script = Script(reply="hi", slow_load=loaded, bytes=4 * 2**20)
    shown = {"x_cortex_progress": "reasoning"}
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        try:
            await caller.ask(CHAT, hello(stream=True), **shown)
            with trio.fail_after(10):
                await caller.until(b'"reasoning_content":"Loading a on cpu')
        finally:
            loaded.set()
        answer = await caller.all()
        said = [json.loads(data)["choices"][0]["delta"] for data in answer.data[:-1]]
        thoughts = [delta["reasoning_content"] for delta in said if "reasoning_content" in delta]
        assert thoughts[-1].startswith("Loading a on cpu") and thoughts[-1].endswith("\n")
        assert "".join(delta.get("content", "") for delta in said) == "hi"
        warm = await role.http.post(CHAT, json=hello(stream=True), headers={"x-cortex-progress": "reasoning"})
        assert "Loading" not in warm.text and "[DONE]" in warm.text
        for path, body in ((TEXT, {"model": "a", "prompt": "x", "stream": True}), (CHAT, hello())):
            said_so = "reasoning" if path == TEXT else "loud"
            refused = await role.http.post(path, json=body, headers={"x-cortex-progress": said_so})
            assert (refused.status_code, fault_of(refused)["param"]) == (400, "x-cortex-progress")


async def test_an_engine_that_fails_at_its_first_word_still_gets_its_status(tmp_path: Path) -> None:
    """The answer is opened by its first words, or by a keep-alive: a quick failure has its own status."""
    gate = Gate(1)
    script = Script(reply="", split=True, fail_after=0, hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        refused = await role.http.post(CHAT, json=hello(stream=True))
        assert (refused.status_code, fault_of(refused)["code"]) == (502, "engine_failed")


# -- the body is read off the loop


async def test_a_large_body_is_read_in_a_thread_while_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health answers while the reading is held up; a small body is not worth a thread."""
    loop, reading, go = threading.current_thread(), threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def read(body: bytes) -> Ask:
        threads.append(threading.current_thread())
        if threads[-1] is not loop:
            reading.set()
            assert go.wait(20)
        return openai_chat.read(body)

    monkeypatch.setattr(speech, "CHAT", replace(speech.CHAT, read=read))
    big: Json = {"model": "a", "messages": [{"role": "user", "content": "word " * 20_000}]}
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        assert text_of(await role.http.post(CHAT, json=hello())) == "hi"
        assert threads == [loop]
        async with calling(role) as caller:
            await caller.ask(CHAT, big)
            assert await trio.to_thread.run_sync(reading.wait, 20)
            assert (await role.http.get("/health")).status_code == 200
            go.set()
            answer = await caller.all()
        assert fault_of_body(answer.body)["code"] == "context_length_exceeded"
        assert threads[1] is not loop


async def test_a_fault_in_a_large_body_is_told_as_in_a_small_one(tmp_path: Path) -> None:
    """Row 43, and it counts as a rejection."""
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        for padding in ("", " " * 100_000):
            answer = await role.http.post(CHAT, content='{"model": "a", ' + padding + "oops}")
            assert (answer.status_code, fault_of(answer)["code"]) == (400, "invalid_request")
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_rejections_total{reason="invalid_request"} 2.0' in page
        assert 'cortex_in_flight{model="other"} 0.0' in page


async def test_an_empty_prompt_is_the_callers_fault(tmp_path: Path) -> None:
    script = Script(reply="hi", template="")
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script, config=settings()) as role:
        refused = await role.http.post(CHAT, json=hello())
        assert (refused.status_code, fault_of(refused)["code"]) == (422, "unfit_model")
        assert "template" in fault_of(refused)["message"]
        async with running_neuron(tmp_path, specs(tmp_path, "b"), Script(template=None)) as mute:
            refused = await mute.http.post(CHAT, json=hello("b"))
            assert refused.status_code == 422
            assert "/v1/completions" in fault_of(refused)["message"]
            assert (await mute.http.post(TEXT, json={"model": "b", "prompt": "x"})).status_code == 200


def fault_of_body(body: bytes) -> Json:
    return json.loads(body)["error"]
