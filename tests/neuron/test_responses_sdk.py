"""OpenAI's own library, in its Responses dialect, against a neuron and through a gateway."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio
from openai import OpenAI

from cortex.demo import MODEL_ID
from cortex.harness.scripted import Gate, Script
from tests.calls import calling, fault_of, figures
from tests.demo_questions import FIFTY
from tests.roles import Running, demo_neuron, running_gateway, running_neuron, specs

pytestmark = pytest.mark.client("openai")
T = TypeVar("T")
RESPONSES = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
HOMES: Any = {"type": "namespace", "name": "home", "description": "At home", "tools": [WEATHER]}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


@pytest.fixture(params=["directly", "through a gateway"])
async def demo(request: pytest.FixtureRequest):
    async with demo_neuron() as neuron:
        if request.param == "directly":
            yield neuron
            return
        async with running_gateway(neuron) as gateway:
            yield gateway


async def using(role: Running, deed: Callable[[OpenAI], T]) -> T:
    """What `deed` answers; the library is synchronous, so in a thread. It never tries again."""

    def run() -> T:
        with OpenAI(base_url=f"{role.url}/v1", api_key="none", max_retries=0) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


def asked(text: str, /, **more: Any) -> Any:
    return {"model": MODEL_ID, "input": text, "temperature": 0, **more}


def kinds(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def test_an_answer_is_the_same_streamed_and_whole(demo: Running) -> None:
    def deed(client: OpenAI):
        body = asked("Count to fifty.", max_output_tokens=400)
        whole = client.responses.create(**body)
        with client.responses.stream(**body) as stream:
            return whole, stream.get_final_response()

    whole, streamed = await using(demo, deed)
    for response in (whole, streamed):
        assert response.output_text == FIFTY and response.status == "completed"
        assert response.model == MODEL_ID and response.id.startswith("resp_")
        assert response.usage and response.usage.output_tokens > 50
        assert response.usage.input_tokens > 10
        assert response.max_output_tokens == 400


@pytest.mark.parametrize("tool", [WEATHER, HOMES], ids=["plain", "in a namespace"])
async def test_a_tool_turn_goes_round(demo: Running, tool: Any) -> None:
    def deed(client: OpenAI):
        body = asked("What is the weather in Paris?", tools=[tool], reasoning={"effort": "none"})
        first = client.responses.create(**body)
        call = next(item for item in first.output if item.type == "function_call")
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees, sunny"}
        body["input"] = [
            {"role": "user", "content": body["input"]},
            *(item.to_dict() for item in first.output),
            result,
        ]
        return call, client.responses.create(**body)

    call, second = await using(demo, deed)
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}
    assert call.namespace == ("home" if tool is HOMES else None)
    assert "18" in second.output_text


async def test_the_librarys_errors_are_told_apart(demo: Running) -> None:
    def deed(client: OpenAI):
        caught = []
        for change in ({"model": "nobody"}, {"store": True}, {"input": "word " * 20000}):
            with pytest.raises(openai.APIStatusError) as error:
                client.responses.create(**{**asked("hi"), **change})
            caught.append(error.value)
        return caught

    unknown, kept, long = await using(demo, deed)
    assert isinstance(unknown, openai.NotFoundError) and unknown.code == "model_not_found"
    assert isinstance(kept, openai.BadRequestError)
    assert (kept.code, kept.param) == ("unsupported_parameter", "store")
    assert isinstance(long, openai.BadRequestError) and long.code == "context_length_exceeded"


async def test_an_answer_that_its_limit_cut_says_so(demo: Running) -> None:
    def deed(client: OpenAI):
        return client.responses.create(**asked("Count to fifty.", max_output_tokens=5))

    response = await using(demo, deed)
    assert response.status == "incomplete" and response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_an_answer_may_be_held_to_a_schema(demo: Running) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": ["yes", "no"]}}, "required": ["n"]}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}

    def deed(client: OpenAI):
        return client.responses.create(**asked("Say a number", text={"format": form}, max_output_tokens=60))

    assert json.loads((await using(demo, deed)).output_text)["n"] in ("yes", "no")


async def test_with_a_schema_and_tools_the_model_calls_first_and_then_answers_in_it(demo: Running) -> None:
    """What `codex exec --output-schema` sends."""
    schema = {
        "type": "object",
        "properties": {"degrees": {"enum": [7, 18]}},
        "required": ["degrees"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "codex_output_schema", "schema": schema, "strict": True}

    def deed(client: OpenAI):
        body = asked("What is the weather in Paris?", tools=[WEATHER], text={"format": form})
        with client.responses.stream(**body) as stream:
            first = stream.get_final_response()
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees, sunny"}
        body["input"] = [{"role": "user", "content": body["input"]}, call.to_dict(), result]
        return call, client.responses.create(**body)

    call, second = await using(demo, deed)
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == {"city": "Paris"}
    assert json.loads(second.output_text)["degrees"] in (7, 18)
    assert second.output[-1].type == "message"


async def test_a_schema_that_cannot_be_held_is_refused_by_the_dialects_own_field(demo: Running) -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"not": {"type": "string"}}}

    def deed(client: OpenAI):
        with pytest.raises(openai.BadRequestError) as error:
            client.responses.create(**asked("Say a number", text={"format": form}))
        return error.value

    refused = await using(demo, deed)
    assert refused.param == "text.format"
    assert "text.format" in refused.message and "response_format" not in refused.message


async def test_a_stream_that_waits_sends_comments_and_then_the_response(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(reply="one two", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        await caller.ask(RESPONSES, {"model": "a", "input": "hi", "stream": True})
        await caller.until(b": keep-alive\n\n")
        gate.open()
        answer = await caller.all()
        assert answer.complete and answer.status == 200
        told = kinds(answer.body.decode())
        assert told[0] == "response.created" and told[-1] == "response.completed"
        assert await figures(role) == {"a": (0, 0)}


@pytest.mark.parametrize("gateway", [False, True], ids=["directly", "through a gateway"])
async def test_a_failure_in_the_middle_is_raised_by_the_library(tmp_path: Path, gateway: bool) -> None:
    """Row 3, S-ERR."""
    script = Script(reply="one two three four", fail_after=2)

    def deed(client: OpenAI):
        with (
            client.responses.stream(model="a", input="hi") as stream,
            pytest.raises(openai.APIError, match="scripted failure") as caught,
        ):
            for _ in stream:
                pass
        return caught.value

    async def fails(role: Running) -> None:
        error = await using(role, deed)
        assert error.code == "engine_failed"
        answer = await role.http.post(RESPONSES, json={"model": "a", "input": "hi", "stream": True})
        told = kinds(answer.text)
        assert told[:2] == ["response.created", "response.in_progress"]
        assert told[-2:] == ["response.failed", "error"] and "response.completed" not in told

    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        if not gateway:
            await fails(role)
            return
        async with running_gateway(role) as front:
            await fails(front)


async def test_what_is_refused_before_the_stream_is_in_openais_shape(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(reply="hi")) as role:
        refused = await role.http.post(
            RESPONSES, json={"model": "a", "input": "hi", "stream": True, "prompt": {}}
        )
        assert refused.status_code == 400 and fault_of(refused)["param"] == "prompt"
