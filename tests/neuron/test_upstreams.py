"""A neuron that serves models of engines elsewhere: real sockets, an engine made of scripts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import msgspec
import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.config.upstream import UpstreamConfig
from tests.calls import CHAT, TEXT, calling, events, fault_of, figures, hello, residents, text_of, until
from tests.fake_engine import ANSWER, DONE, HELLO, FakeEngine, chunk, fake_engine, refusal, used
from tests.fake_upstream import STREAM_HEAD, Hang, Reset, Wait, chunks, last_chunk, script
from tests.fake_upstream import events as stream_of
from tests.roles import Running, demo_neuron, running_gateway

LOOK_S = 0.05


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@asynccontextmanager
async def bridge(engine: FakeEngine, catalogue: Catalogue = Catalogue(), **more) -> AsyncIterator[Running]:
    """A neuron that offers all of `engine`."""
    said = {"endpoints": (engine.url,), "look_s": LOOK_S, **more}
    config = replace(NeuronConfig(), upstream=UpstreamConfig(**said))
    async with demo_neuron(config, catalogue) as role:
        yield role


async def ask(role: Running, **more) -> httpx.Response:
    return await role.http.post(CHAT, json=hello("m", **more))


# -- what is there


async def test_models_of_an_endpoint_are_offered_and_served_whole_and_as_a_stream() -> None:
    async with fake_engine("m", "org/other") as engine, bridge(engine) as role:
        listed = (await role.http.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["m", "org/other"]
        answer = await ask(role)
        assert text_of(answer) == "Hello"
        assert answer.json()["usage"] == {
            "prompt_tokens": 9,
            "completion_tokens": 4,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        streamed = await ask(role, stream=True, stream_options={"include_usage": True})
        data = [msgspec.json.decode(each) for each in events(streamed.content)[:-1]]
        said = "".join(each["choices"][0]["delta"].get("content", "") for each in data if each["choices"])
        assert (said, data[-1]["usage"]["prompt_tokens"], events(streamed.content)[-1]) == (
            "Hello",
            9,
            "[DONE]",
        )
        (resident,) = (await role.http.get("/models")).json()["models"]
        assert (resident["harness"], resident["devices"], resident["bytes"]) == (
            "upstream",
            ["upstream"],
            {"upstream": 0},
        )
        assert resident["context_length"] == 4096
        entry = (await role.http.get("/v1/models/m")).json()
        assert (entry["state"], entry["context_length"]) == ("loaded", 4096)


@pytest.mark.parametrize("param", ["response_format", "response_format.json_schema.schema"])
async def test_what_is_refused_of_a_form_has_the_callers_name_for_it(param: str) -> None:
    schema = {"type": "object"}
    asked = {
        CHAT: hello("m", response_format={"type": "json_object"}),
        "/v1/responses": {
            "model": "m",
            "input": "hi",
            "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}},
        },
    }
    refused = script(refusal(400, "no such form", param=param))
    async with fake_engine("m", otherwise=None) as engine, bridge(engine) as role:
        for (path, body), name in zip(asked.items(), ("response_format", "text.format"), strict=True):
            engine.scripts.append(refused)
            answer = await role.http.post(path, json=body)
            assert (answer.status_code, fault_of(answer)["param"]) == (400, name)
            assert "no such form" in fault_of(answer)["message"]


async def test_no_device_is_made_of_a_place_without_memory() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        text_of(await ask(role))
        health = (await role.http.get("/health")).json()
        assert [device["name"] for device in health["devices"]] == ["cpu"]
        assert (health["status"], health["warnings"]) == ("ok", [])
        assert (health["models"][0]["kv_tokens_used"], health["models"][0]["kv_tokens_total"]) == (0, 0)
        harnesses = (await role.http.get("/discovery")).json()["harnesses"]
        assert [each["name"] for each in harnesses] == ["exllamav2", "llamacpp", "upstream"]


async def test_a_neuron_without_upstreams_has_no_place_for_them() -> None:
    async with demo_neuron() as role:
        harnesses = (await role.http.get("/discovery")).json()["harnesses"]
        assert [each["name"] for each in harnesses] == ["exllamav2", "llamacpp"]
        spec = {"id": "m", "source": "upstream:http://127.0.0.1:1/v1"}
        refused = await role.http.post("/models/load", json={"spec": spec})
        assert refused.status_code == 422


async def test_nobody_else_names_an_address() -> None:
    """A gateway's order may not have requests, let alone the key, sent to where it likes."""
    async with fake_engine("m") as engine, fake_engine("m") as stranger:
        async with bridge(engine, api_key="secret-key") as role:
            spec = {"id": "x", "source": f"upstream:{stranger.url}#m"}
            refused = await role.http.post("/models/load", json={"spec": spec})
            assert (refused.status_code, fault_of(refused)["code"]) == (422, "unfit_model")
            assert "no file of this neuron names" in fault_of(refused)["message"]
            assert (stranger.connections, engine.connections > 0) == (0, True)


async def test_a_gateways_order_for_a_known_address_is_obeyed() -> None:
    async with fake_engine("there") as engine, bridge(engine) as role:
        spec = {"id": "x", "source": f"upstream:{engine.url}#there"}
        loaded = await role.http.post("/models/load", json={"spec": spec})
        assert loaded.status_code == 200, loaded.text
        assert text_of(await role.http.post(CHAT, json=hello("x"))) == "Hello"
        assert engine.body["model"] == "there"


async def test_the_key_goes_to_the_endpoints_and_to_no_other_address() -> None:
    async with fake_engine("m") as engine, fake_engine("n") as other:
        catalogue = Catalogue({"n": ModelSpec("n", source=f"upstream:{other.url}")})
        async with bridge(engine, catalogue, api_key="secret-key") as role:
            for model in ("m", "n"):
                text_of(await role.http.post(CHAT, json=hello(model)))
            for received in (engine.look, engine.requests[-1]):
                assert ("Authorization".lower(), "Bearer secret-key") in [
                    (name.lower(), value) for name, value in received.headers
                ]
            for received in (other.look, other.requests[-1]):
                assert "authorization" not in [name.lower() for name, _ in received.headers]
                assert b"secret-key" not in received.raw


async def test_a_model_of_the_catalogue_comes_before_one_that_is_offered() -> None:
    async with fake_engine("m", "big") as engine:
        spec = ModelSpec("m", source=f"upstream:{engine.url}#big", slots=3, capabilities=("chat", "tools"))
        async with bridge(engine, Catalogue({"m": spec})) as role:
            text_of(await ask(role))
            assert engine.body["model"] == "big"
            row = (await residents(role))["m"]
            assert (row["slots"], row["capabilities"]) == (3, ["chat", "tools"])


@pytest.mark.parametrize(
    ("facts", "context", "shown"),
    [
        ({}, None, 4096),
        ({}, 300, 4096),
        ({"max_model_len": None}, 300, 300),
        ({"max_model_len": None}, None, None),
    ],
)
async def test_the_context_is_the_upstreams_else_the_catalogues_else_not_known(facts, context, shown) -> None:
    async with fake_engine("m", **facts) as engine:
        spec = ModelSpec("m", source=f"upstream:{engine.url}", context=context)
        async with bridge(engine, Catalogue({"m": spec})) as role:
            text_of(await ask(role))
            assert (await residents(role))["m"]["context_length"] == shown
            assert (await role.http.get("/v1/models/m")).json().get("context_length") == shown


async def test_a_name_that_is_not_there_fails_the_load_with_near_ones() -> None:
    async with fake_engine("qwen3-8b", "llama") as engine:
        catalogue = Catalogue({"m": ModelSpec("m", source=f"upstream:{engine.url}#qwen3-9b")})
        async with bridge(engine, catalogue) as role:
            failed = fault_of(await ask(role))
            assert failed["code"] == "load_failed"
            assert "serves no model 'qwen3-9b'; it has qwen3-8b" in failed["message"]


async def test_files_go_on_being_served_beside_upstreams(tmp_path) -> None:
    from cortex import demo

    async with fake_engine("m") as engine:
        spec = ModelSpec(demo.MODEL_ID, source=f"path:{demo.GGUF}", context=512)
        async with bridge(engine, Catalogue({spec.id: spec})) as role:
            for model in (spec.id, "m"):
                assert (await role.http.post(CHAT, json=hello(model))).status_code == 200
            rows = await residents(role)
            assert {model: row["devices"] for model, row in rows.items()} == {
                spec.id: ["cpu"],
                "m": ["upstream"],
            }


async def test_a_gateway_finds_and_loads_them_like_any_other_model() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role, running_gateway(role) as front:

        async def listed() -> bool:
            return "m" in [entry["id"] for entry in (await front.http.get("/v1/models")).json()["data"]]

        await until(listed, 5)
        assert text_of(await ask(front)) == "Hello"
        entry = (await front.http.get("/v1/models/m")).json()
        assert (entry["state"], entry["locations"][0]["devices"]) == ("loaded", ["upstream"])
        await engine.die()

        async def away() -> bool:
            return (await ask(front)).status_code == 503

        await until(away, 5)
        await engine.listen()

        async def back() -> bool:
            return (await ask(front)).status_code == 200

        await until(back, 5)


async def test_a_gateways_own_catalogue_may_name_one_of_an_address_that_the_neuron_knows() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        named = Catalogue({"ours": ModelSpec("ours", source=f"upstream:{engine.url}#m")})
        async with running_gateway(role, catalogue=named) as front:
            assert text_of(await front.http.post(CHAT, json=hello("ours"))) == "Hello"
            assert engine.body["model"] == "m"


# -- what is said to it


async def test_only_what_somebody_said_is_sent() -> None:
    """The engine's own template and defaults hold; those of models.toml stand under the request's."""
    async with fake_engine("m") as engine:
        from cortex.ask import Sampling

        spec = ModelSpec("m", source=f"upstream:{engine.url}", sampling=Sampling(top_k=5, temperature=0.1))
        async with bridge(engine, Catalogue({"m": spec})) as role:
            text_of(await role.http.post(CHAT, json=hello("m", temperature=0.5)))
            assert engine.body == {
                "model": "m",
                "messages": [{"role": "user", "content": "one two"}],
                "temperature": 0.5,
                "top_k": 5,
                "stream": True,
                "stream_options": {"include_usage": True},
            }


async def test_what_the_engine_would_ignore_is_refused_by_name() -> None:
    async with fake_engine("m", owned_by="library") as engine, bridge(engine) as role:
        refused = await ask(role, top_k=5)
        assert (refused.status_code, fault_of(refused)["code"]) == (400, "unsupported_parameter")
        assert fault_of(refused)["param"] == "top_k"
        assert engine.requests == []


async def test_several_answers_are_several_requests_with_seeds_that_follow() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        answer = (await ask(role, n=3, seed=7)).json()
        assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello"] * 3
        assert answer["usage"]["completion_tokens"] == 12
        seeds = sorted(msgspec.json.decode(each.body)["seed"] for each in engine.requests)
        assert seeds == [7, 8, 9]


async def test_a_prompt_is_repeated_here_and_not_asked_of_the_engine() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        body = {"model": "m", "prompt": ["one ", "two "], "echo": True}
        told = (await role.http.post(TEXT, json=body)).json()
        assert [choice["text"] for choice in told["choices"]] == ["one Hello", "two Hello"]
        assert [b"echo" in asked.body for asked in engine.requests] == [False, False]


@pytest.mark.parametrize(("prompt", "tokens"), [("x" * 40, 10), ([5, 6, 7], 3)])
async def test_a_stop_string_that_comes_before_the_counts_leaves_an_estimate(prompt, tokens: int) -> None:
    """The engine tells its counts at the end, which nobody waits for."""
    async with fake_engine("m") as engine, bridge(engine) as role:
        pieces = [b'data: {"choices":[{"index":0,"text":"%b"}]}\n\n' % word for word in (b"a", b"STOP")]
        engine.then(STREAM_HEAD + chunks(*pieces), Hang())
        answer = await role.http.post(TEXT, json={"model": "m", "prompt": prompt, "stop": "STOP"})
        usage = answer.json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (tokens, 2)
        assert usage["estimated"] is True
        await engine.until(hung_up=1)


async def test_usage_of_several_answers_is_theirs_together() -> None:
    """The prompt counts once, cached is what the first found, and one estimate makes it all one."""
    cached = {"prompt_tokens_details": {"cached_tokens": 8}}
    async with fake_engine("m") as engine, bridge(engine) as role:
        for told in ((used(9, 4),), (used(9, 3, **cached),)):
            engine.then(stream_of(*HELLO, chunk("stop"), *told, DONE))
        usage = (await ask(role, n=2)).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 7)
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0 and "estimated" not in usage
        engine.then(stream_of(*HELLO, chunk("stop"), DONE))
        assert (await ask(role, n=2)).json()["usage"]["estimated"] is True


async def test_a_request_is_followed_by_its_id_and_keeps_no_connection() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        answer = await role.http.post(CHAT, json=hello("m"), headers={"x-request-id": "mine"})
        assert text_of(answer) == "Hello"
        headers = dict(engine.requests[0].headers)
        assert headers["x-request-id"].startswith("mine") and headers["connection"] == "close"


async def test_calls_and_thoughts_come_through() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"a": 1}'}}
    said = (
        chunk(reasoning_content="hm"),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[more]),
        chunk("tool_calls"),
    )
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    async with fake_engine("m", otherwise=stream_of(*said, DONE)) as engine, bridge(engine) as role:
        (choice,) = (await ask(role, tools=tools, response_format={"type": "json_object"})).json()["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["reasoning_content"] == "hm"
        (told,) = choice["message"]["tool_calls"]
        assert (told["id"], told["function"]) == ("c1", {"name": "f", "arguments": '{"a": 1}'})
        # What forbids each other on an engine of ours need not do so there.
        assert (engine.body["tools"], engine.body["response_format"]) == (tools, {"type": "json_object"})


async def test_a_plain_completion_takes_no_template() -> None:
    said = [{"index": 0, "text": text, "finish_reason": None} for text in ("a", "b STOP", " c")]
    frames = [b"data: %b\n\n" % msgspec.json.encode({"choices": [choice]}) for choice in said]
    async with fake_engine("m", otherwise=stream_of(*frames, chunk("length"), DONE)) as engine:
        async with bridge(engine) as role:
            answer = await role.http.post(TEXT, json={"model": "m", "prompt": "x", "stop": "STOP"})
            assert answer.json()["choices"][0]["text"] == "ab "
            assert engine.requests[-1].head[0] == "POST /v1/completions HTTP/1.1"
            assert (engine.body["prompt"], engine.body["max_tokens"]) == ("x", 16)


async def test_usage_that_nobody_told_is_marked_as_an_estimate() -> None:
    async with fake_engine("m", otherwise=stream_of(*HELLO, chunk("stop"), DONE)) as engine:
        async with bridge(engine) as role:
            usage = (await ask(role)).json()["usage"]
            assert (usage["completion_tokens"], usage["estimated"]) == (2, True)
            assert usage["prompt_tokens"] > 0
            async with calling(role) as caller:
                await caller.ask(CHAT, hello("m", stream=True))
                answer = await caller.all()
            assert answer.trailers["x-cortex-usage"].endswith(",estimated=1")


async def test_a_limit_that_does_not_fit_beside_the_prompt_runs_to_the_end_of_the_context() -> None:
    too_large = (
        "'max_tokens' is too large: 4000. This model's maximum context length is 4096 tokens and your "
        "request has 1000 input tokens (4000 > 4096 - 1000)."
    )
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(refusal(400, too_large))
        assert text_of(await ask(role, max_tokens=4000)) == "Hello"
        limits = [msgspec.json.decode(each.body)["max_tokens"] for each in engine.requests]
        assert limits == [4000, 3096]


async def test_nobody_gets_more_than_he_asked_for_because_an_engine_miscounts() -> None:
    wrong = "maximum context length is 4096 tokens and your request has 1000 input tokens"
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(refusal(400, wrong))
        assert (await ask(role, max_tokens=5)).status_code == 400
        assert len(engine.requests) == 1


async def test_a_count_that_cannot_be_costs_no_answer() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(stream_of(*HELLO, chunk("stop"), used(-5, -2), DONE))
        answer = await ask(role)
        assert text_of(answer) == "Hello" and answer.json()["usage"]["estimated"]
        assert text_of(await ask(role)) == "Hello"


async def test_a_plain_completion_that_is_answered_as_a_chat_is_the_upstreams_fault() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(stream_of(chunk(reasoning_content="hm"), chunk("stop"), DONE))
        answer = await role.http.post(TEXT, json={"model": "m", "prompt": "x"})
        assert (answer.status_code, fault_of(answer)["code"]) == (502, "upstream_failed")
        assert text_of(await ask(role)) == "Hello"


@pytest.mark.parametrize(("path", "more"), [("tokenize", {"prompt": "x"}), ("detokenize", {"tokens": [1]})])
async def test_its_tokens_are_not_known_here(path: str, more) -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        text_of(await ask(role))
        refused = await role.http.post(f"/{path}", json={"model": "m", **more})
        assert refused.status_code == 400 and "ask the upstream" in fault_of(refused)["message"]


# -- leaving


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_up_reaches_the_upstream(stream: bool) -> None:
    """Row 30: the engine there sees it, and the seat is free."""
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(STREAM_HEAD + chunks(*HELLO), Hang())
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("m", stream=stream))
            await engine.seen(1)
            if stream:
                await caller.until(b"lo")
            await caller.leave()
        with trio.fail_after(2):
            await engine.until(hung_up=1)
        await until(lambda: _idle(role), 2)
        assert text_of(await ask(role)) == "Hello"


async def test_a_hang_up_before_the_head_reaches_the_upstream_too() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        engine.then(Hang())
        async with calling(role) as caller:
            await caller.ask(CHAT, hello("m", stream=True))
            await engine.seen(1)
            await caller.leave()
        with trio.fail_after(2):
            await engine.until(hung_up=1)
        await until(lambda: _idle(role), 2)
        assert text_of(await ask(role)) == "Hello"


async def _idle(role: Running) -> bool:
    return (await figures(role)).get("m") == (0, 0)


# -- coming and going


async def served(role: Running) -> bool:
    return (await residents(role))["m"]["servable"]["ok"]


async def not_served(role: Running) -> bool:
    return not await served(role)


async def test_an_upstream_that_goes_away_is_seen_and_one_that_comes_back_serves_again() -> None:
    """Without a request: nobody has to fail first. Its models stay in the list meanwhile."""
    async with fake_engine("m") as engine, bridge(engine) as role:
        text_of(await ask(role))
        await engine.die()
        await until(lambda: not_served(role), 5)
        reason = (await residents(role))["m"]["servable"]["reason"]
        assert f"the upstream {engine.url} is not there: " in reason and "refused" in reason
        health = (await role.http.get("/health")).json()
        assert health["status"] == "impaired"
        assert any(engine.url in warning for warning in health["warnings"])
        refused = await ask(role)
        assert (refused.status_code, fault_of(refused)["code"]) == (503, "no_capacity")
        assert "retry-after" in refused.headers
        assert (await role.http.get("/v1/models/m")).json()["state"] == "recovering"
        await engine.listen()
        await until(lambda: served(role), 5)
        assert text_of(await ask(role)) == "Hello"
        health = (await role.http.get("/health")).json()
        assert (health["status"], health["warnings"]) == ("ok", [])


async def test_an_upstream_that_dies_in_mid_stream_ends_the_stream_with_an_error() -> None:
    """Row 3: what was said stays said; then the error event, no [DONE], and the next look is at once."""
    async with fake_engine("m") as engine, bridge(engine, look_s=60.0) as role:
        text_of(await ask(role))
        looks = engine.looks
        engine.then(STREAM_HEAD + chunks(*HELLO), Reset())
        answer = await ask(role, stream=True)
        data = events(answer.content)
        assert '"content":"lo"' in data[-2]
        assert msgspec.json.decode(data[-1])["error"]["code"] in ("upstream_failed", "engine_failed")
        await engine.until(looks=looks + 1)
        await until(lambda: served(role), 5)
        await engine.die()
        assert (await ask(role)).status_code == 502
        await until(lambda: not_served(role), 5)


@pytest.mark.slow
async def test_a_model_that_is_gone_there_is_unloaded_and_loaded_anew() -> None:
    async with fake_engine("m") as engine, bridge(engine) as role:
        text_of(await ask(role))
        engine.models = {"m2": engine.models["m"]}
        engine.then(refusal(404, "no such model", code="model_not_found"))
        failed = await ask(role)
        assert (failed.status_code, fault_of(failed)["code"]) == (502, "upstream_failed")
        await until(lambda: not_served(role), 5)
        assert "serves no model 'm'; it has m2" in (await residents(role))["m"]["servable"]["reason"]

        async def gone() -> bool:
            return "m" not in await residents(role)

        await until(gone, 10)
        assert fault_of(await ask(role))["code"] == "model_not_found"
        engine.models["m"] = {"owned_by": "vllm", "max_model_len": 128}

        async def offered() -> bool:
            return (await role.http.get("/v1/models/m")).status_code == 200

        await until(offered, 5)
        assert text_of(await ask(role)) == "Hello"
        assert (await residents(role))["m"]["context_length"] == 128


async def test_an_upstream_that_is_not_there_at_the_start_delays_nothing_and_is_found_later() -> None:
    async with fake_engine("m") as engine:
        await engine.die()
        async with bridge(engine) as role:
            assert (await role.http.get("/readyz")).status_code in (200, 503)
            assert (await ask(role)).status_code == 404
            await engine.listen()

            async def offered() -> bool:
                return (await role.http.get("/v1/models")).json()["data"] != []

            await until(offered, 5)
            assert text_of(await ask(role)) == "Hello"


async def test_the_demo_does_not_stand_in_for_an_upstream_that_is_away() -> None:
    async with fake_engine("m") as engine:
        await engine.die()
        async with bridge(engine) as role:
            assert (await role.http.get("/v1/models")).json()["data"] == []


async def test_looks_are_not_on_the_path_of_requests() -> None:
    """A list that hangs costs requests nothing, as long as it may be there."""
    async with fake_engine("m") as engine, bridge(engine) as role:
        text_of(await ask(role))
        engine.listing.append(script(Hang()))
        looks = engine.looks
        await engine.until(looks=looks + 1)
        assert text_of(await ask(role)) == "Hello"


async def test_neighbours_speak_while_a_load_waits_for_its_upstream() -> None:
    """The place has one thread, and a load is on it."""
    async with fake_engine("m") as engine, fake_engine("slow") as other:
        go, listed = trio.Event(), trio.Event()
        catalogue = Catalogue({"slow": ModelSpec("slow", source=f"upstream:{other.url}")})
        async with bridge(engine, catalogue, look_s=60.0) as role:
            text_of(await ask(role))
            answer = other._list()
            other.listing.append(script(Wait(listed), answer))
            engine.then(STREAM_HEAD + chunks(*HELLO), Wait(go), chunks(*ANSWER[3:]) + last_chunk())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: role.http.post(CHAT, json=hello("slow")))
                await other.until(looks=2)
                async with calling(role) as caller:
                    await caller.ask(CHAT, hello("m", stream=True))
                    await caller.until(b"lo")
                    go.set()
                    assert (await caller.all()).data[-1] == "data: [DONE]"[6:]
                listed.set()


async def test_no_thread_and_no_connection_is_left() -> None:
    import threading

    async with fake_engine("m") as engine:
        async with bridge(engine) as role:
            text_of(await ask(role))
            assert any(thread.name.startswith("upstream-0") for thread in threading.enumerate())
            assert (await role.http.post("/models/unload", json={"id": "m"})).status_code == 200
            assert not any(thread.name.startswith("upstream-0-slot") for thread in threading.enumerate())
        await engine.until(open=0)
        assert not any(thread.name.startswith("upstream-0") for thread in threading.enumerate())
