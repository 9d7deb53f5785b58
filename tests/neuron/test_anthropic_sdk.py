"""Anthropic's own library against a neuron, directly, and the route that counts for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from anthropic import Anthropic

from cortex.demo import MODEL_ID
from cortex.harness.scripted import Gate, Script
from tests.calls import calling, fault_of, figures
from tests.demo_questions import FIFTY
from tests.roles import MIB, Running, demo_neuron, running_neuron, specs

pytestmark = pytest.mark.client("anthropic")
T = TypeVar("T")
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TOOL: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SURE: Any = {
    "type": "object",
    "properties": {"degrees": {"enum": [7, 18]}},
    "required": ["degrees"],
    "additionalProperties": False,
}
FORM: Any = {"format": {"type": "json_schema", "schema": SURE}}
# The library has no word for it any more, and servers still obey it.
GREEDY = {"temperature": 0}
HELLO: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture
async def demo():
    async with demo_neuron() as role:
        yield role


async def using(role: Running, deed: Callable[[Anthropic], T]) -> T:
    """What `deed` answers; the library is synchronous, so in a thread. It never tries again."""

    def run() -> T:
        with Anthropic(base_url=role.url, api_key="none", max_retries=0) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


def asked(text: str, **more: Any) -> Any:
    return {
        "model": MODEL_ID,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


async def test_an_answer_is_the_same_streamed_and_whole(demo: Running) -> None:
    def deed(client: Anthropic):
        body = asked("Count to fifty.")
        whole = client.messages.create(**body, extra_body=GREEDY)
        with client.messages.stream(**body, extra_body=GREEDY) as stream:
            return whole, stream.get_final_message()

    whole, streamed = await using(demo, deed)
    for message in (whole, streamed):
        assert [block.text for block in message.content if block.type == "text"] == [FIFTY]
        assert message.stop_reason == "end_turn" and message.usage.output_tokens > 50
        assert message.model == MODEL_ID
    used = [
        message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
        for message in (whole, streamed)
    ]
    assert used[0] == used[1] > 10


async def test_a_tool_turn_goes_round(demo: Running) -> None:
    def deed(client: Anthropic):
        body = asked("What is the weather in Paris?", tools=[TOOL], thinking={"type": "disabled"})
        first = client.messages.create(**body, extra_body=GREEDY)
        call = next(block for block in first.content if block.type == "tool_use")
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees, sunny"}
        body["messages"] += [
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {"role": "user", "content": [result]},
        ]
        return first, call, client.messages.create(**body, extra_body=GREEDY)

    first, call, second = await using(demo, deed)
    assert first.stop_reason == "tool_use"
    assert call.name == "get_weather" and call.input == {"city": "Paris"}
    assert second.stop_reason == "end_turn"
    assert "18" in "".join(block.text for block in second.content if block.type == "text")


async def test_with_a_schema_and_tools_the_model_calls_first_and_then_answers_in_it(demo: Running) -> None:
    def deed(client: Anthropic):
        body = asked("What is the weather in Paris?", tools=[TOOL], output_config=FORM, extra_body=GREEDY)
        with client.messages.stream(**body) as stream:
            first = stream.get_final_message()
        (call,) = first.content
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "18 degrees, sunny"}
        body["messages"] += [
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        return first, call, client.messages.create(**body)

    first, call, second = await using(demo, deed)
    assert (first.stop_reason, call.type, call.input) == ("tool_use", "tool_use", {"city": "Paris"})
    (text,) = second.content
    assert json.loads(text.text)["degrees"] in (7, 18)


async def test_a_schema_that_cannot_be_held_is_refused_by_the_dialects_own_field(demo: Running) -> None:
    form = {"format": {"type": "json_schema", "schema": {"not": {"type": "string"}}}}

    def deed(client: Anthropic):
        with pytest.raises(anthropic.BadRequestError) as error:
            client.messages.create(**asked("Say a number", output_config=form))
        return error.value

    refused = await using(demo, deed)
    assert "output_config.format" in refused.message and "response_format" not in refused.message


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tools": [TOOL]},
        {"system": "Be brief.", "thinking": {"type": "adaptive"}},
        {"tools": [TOOL], "tool_choice": {"type": "any"}, "thinking": {"type": "adaptive"}},
        {"output_config": FORM, "thinking": {"type": "adaptive"}},
        {"output_config": FORM, "tools": [TOOL]},
    ],
)
async def test_the_count_is_what_the_same_body_is_charged_for(demo: Running, more: dict[str, Any]) -> None:
    body = asked("Καλημέρα, what is the capital of France?", **more)
    counted = await demo.http.post(COUNT, json=body)
    usage = (await demo.http.post(MESSAGES, json=body)).json()["usage"]
    assert counted.status_code == 200
    assert counted.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert counted.headers["x-cortex-model"] == MODEL_ID


@pytest.mark.parametrize("version", [None, "2023-01-01", "2026-10-21", "2099-12-31", "tomorrow"])
async def test_any_version_and_any_beta_is_the_dialect_that_there_is(
    demo: Running, version: str | None
) -> None:
    """Clients say the date of their own library, and betas that nobody has heard of."""
    headers = {"anthropic-beta": "context-1m-2025-08-07,never-heard-of-2031-01-01"}
    if version is not None:
        headers["anthropic-version"] = version
    plain = await demo.http.post(MESSAGES, json=asked("hi", **GREEDY))
    for path in (MESSAGES, MESSAGES + "?beta=true"):
        answer = await demo.http.post(path, json=asked("hi", **GREEDY), headers=headers)
        assert answer.status_code == 200
        assert answer.json()["content"] == plain.json()["content"]
    refused = await demo.http.post(MESSAGES + "?beta=true", json=asked("hi", n=2), headers=headers)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_the_librarys_errors_are_told_apart(demo: Running) -> None:
    def deed(client: Anthropic):
        caught = []
        for change in ({"model": "nobody"}, {"messages": []}, {"messages": HELLO * 3000}):
            with pytest.raises(anthropic.APIStatusError) as error:
                client.messages.create(**{**asked("hi"), **change})
            caught.append(error.value)
        return caught

    unknown, empty, long = await using(demo, deed)
    assert isinstance(unknown, anthropic.NotFoundError) and "nobody" in unknown.message
    assert isinstance(empty, anthropic.BadRequestError) and "messages" in empty.message
    assert isinstance(long, anthropic.BadRequestError)
    assert unknown.request_id


async def test_a_prompt_that_is_too_long_is_told_with_both_numbers(demo: Running) -> None:
    refused = await demo.http.post(MESSAGES, json=asked("word " * 20000))
    assert refused.status_code == 400
    error = fault_of(refused)
    assert error["type"] == "invalid_request_error" and refused.json()["request_id"]
    words = error["message"].split()
    assert words[:4] == ["prompt", "is", "too", "long:"] and words[5:7] == ["tokens", ">"]


async def test_a_stream_that_waits_sends_pings_and_then_the_message(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(reply="one two", hold=gate)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role, calling(role) as caller:
        await caller.ask(MESSAGES, {"model": "a", "max_tokens": 9, "messages": HELLO, "stream": True})
        await caller.until(b"event: ping\n")
        gate.open()
        answer = await caller.all()
        assert answer.complete and answer.status == 200
        assert answer.body.endswith(b'data: {"type":"message_stop"}\n\n')
        assert await figures(role) == {"a": (0, 0)}


async def test_a_failure_in_the_middle_is_a_named_event_without_an_end_mark(tmp_path: Path) -> None:
    """Row 3, S-ERR."""
    script = Script(reply="one two three four", fail_after=2)
    async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
        body = {"model": "a", "max_tokens": 9, "messages": HELLO, "stream": True}
        answer = await role.http.post(MESSAGES, json=body)
        events = [
            line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")
        ]
        assert events[0] == "message_start" and events[-1] == "error" and "message_stop" not in events


async def test_the_dialect_is_among_those_that_discovery_tells(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), memory=256 * MIB) as role:
        told = (await role.http.get("/discovery")).json()["dialects"]
        assert told == [
            "openai_chat",
            "openai_text",
            "openai_responses",
            "openai_embeddings",
            "anthropic_messages",
        ]


async def test_the_list_of_models_is_in_the_librarys_own_shape(demo: Running) -> None:
    def deed(client: Anthropic):
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("nobody")
        return client.models.list(), client.models.retrieve(MODEL_ID)

    page, entry = await using(demo, deed)
    assert [model.id for model in page.data] == [MODEL_ID] and not page.has_more
    assert page.first_id == page.last_id == MODEL_ID
    assert entry.display_name == MODEL_ID and entry.type == "model"
