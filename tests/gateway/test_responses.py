"""OpenAI's Responses dialect passes a gateway untouched, or is told in chat; what breaks is told."""

import json
from typing import Any

import openai
import pytest
import trio

from cortex.errors import EngineFailed
from cortex.events import Event, Failed, Prefilled, Stopped, Text, Thought, ToolCall, Usage
from cortex.translator import openai_chat, responses_speech
from cortex.wire.openai import Reply
from cortex.wire.sse import render
from tests.fake_neuron import USAGE, fake_neuron, open_gateway, refusal
from tests.fake_openai import client
from tests.fake_upstream import STREAM_HEAD, Close, chunks, last_chunk
from tests.play import play

RESPONSES = "/v1/responses"
# In an odd order, with an odd float and what nobody has heard of.
ODD = b'{ "input" :[{"role":"user","content":"caf\\u00e9"}], "new":{"a":[1.50]}, "stream":true, "model": "a"}'
TOOLS = [
    {"type": "namespace", "name": "ns", "description": "d", "tools": [{"type": "function", "name": "f"}]},
    {"type": "custom", "name": "patch"},
]
SAID: list[Event] = [
    Prefilled(7, 2),
    Thought("hm"),
    Text("caf\u00e9"),
    ToolCall("c1", "ns__f", '{"a": 1}'),
    ToolCall("c2", "patch", '{"input": "x"}'),
    Stopped("tool_calls", Usage(7, 2, 3)),
]
OLD = ("openai_chat", "openai_text", "anthropic_messages")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "a", "input": "hi", "instructions": "be kind", "tools": TOOLS, **more}


def chat() -> bytes:
    """What a neuron answers in OpenAI's chat."""
    stream = render(*play(openai_chat.speak(Reply("c", "a", 1, include_usage=True)), SAID))
    return STREAM_HEAD + chunks(stream) + last_chunk(USAGE)


def items(*, first: int | None = None) -> bytes:
    """What a neuron answers in Responses, or its first events."""
    return render(*play(responses_speech.speak(Reply("resp_9", "a", 1)), SAID)[:first])


async def test_what_a_neuron_speaks_passes_byte_for_byte_both_ways() -> None:
    answer = items()
    async with (
        fake_neuron("a", otherwise=STREAM_HEAD + chunks(answer) + last_chunk(USAGE)) as neuron,
        open_gateway(neuron) as gateway,
    ):
        told = await gateway.http.post(RESPONSES, content=ODD)
        assert told.content == answer and told.headers["x-cortex-neuron"] == "n1"
        [received] = neuron.requests
        assert received.body == ODD and received.head[0] == "POST /v1/responses HTTP/1.1"
        page = await gateway.page()
        labels = 'dialect="openai_responses",model="a",neuron="n1",outcome="ok"'
        assert f"cortex_requests_total{{{labels}}} 1.0" in page


@pytest.mark.parametrize("stream", [True, False])
async def test_a_neuron_that_speaks_chat_alone_is_told_in_it_and_its_answer_told_back(stream: bool) -> None:
    async with fake_neuron("a", otherwise=chat()) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            told = await gateway.http.post(RESPONSES, json=asked(stream=stream, max_output_tokens=9))
            assert told.status_code == 200
            [received] = neuron.requests
            assert received.head[0] == "POST /v1/chat/completions HTTP/1.1"
            sent = json.loads(received.body)
            assert sent["max_tokens"] == 9 and [turn["role"] for turn in sent["messages"]] == [
                "system",
                "user",
            ]
            assert [tool["function"]["name"] for tool in sent["tools"]] == ["ns__f", "patch"]
    if stream:
        last = json.loads(told.text.splitlines()[-2].removeprefix("data: "))
        assert last["type"] == "response.completed"
        response = last["response"]
    else:
        response = told.json()
    assert response["status"] == "completed" and response["usage"]["total_tokens"] == 10
    assert [item["type"] for item in response["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "custom_tool_call",
    ]
    _, _, function, custom = response["output"]
    assert (function["name"], function["namespace"], function["call_id"]) == ("f", "ns", "c1")
    assert (custom["name"], custom["input"]) == ("patch", "x")


@pytest.mark.parametrize("first", [1, 2, 6])
async def test_a_neuron_that_dies_in_the_middle_is_told_of_so_that_the_library_understands(
    first: int,
) -> None:
    """Row 4: the end is the gateway's own, under the id and the count of what the neuron began."""
    begun = items(first=first)
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD + chunks(begun), Close())
        told = await gateway.http.post(RESPONSES, json=asked(stream=True))
        assert told.text.startswith(begun.decode())
        said = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: ")]
        assert [each["sequence_number"] for each in said] == list(range(len(said)))
        assert [each["type"] for each in said[first:]] == ["response.failed", "error"]
        assert said[-2]["response"]["id"] == "resp_9" and said[-2]["response"]["model"] == "a"

    with (
        client(told.content, "text/event-stream").responses.stream(model="a", input="hi") as stream,
        pytest.raises(openai.APIError) as caught,
    ):
        for _ in stream:
            pass
    assert caught.value.code == said[-1]["error"]["code"]


async def test_what_cannot_be_read_is_the_clients_fault_and_reaches_no_neuron() -> None:
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            refused = await gateway.http.post(RESPONSES, json=asked(previous_response_id="resp_1"))
            error = refused.json()["error"]
            assert refused.status_code == 400 and error["param"] == "previous_response_id"
            assert error["code"] == "unsupported_parameter" and not neuron.requests


async def test_a_refusal_is_told_in_openais_shape() -> None:
    full = refusal(503, "overloaded", "x-cortex-not-started: 1", "retry-after: 7")
    async with fake_neuron("a", otherwise=full) as neuron, open_gateway(neuron) as gateway:
        refused = await gateway.http.post(RESPONSES, json=asked())
        assert refused.status_code == 503 and refused.headers["retry-after"] == "7"
        assert refused.json()["error"]["code"] == "overloaded"


async def test_a_failure_that_a_neuron_tells_itself_passes_untouched_and_is_in_the_books() -> None:
    broken: list[Event] = [Prefilled(7), Text("a"), Text("b"), Failed(EngineFailed("the device is gone"))]
    answer = render(*play(responses_speech.speak(Reply("resp_9", "a", 1)), broken))
    async with (
        fake_neuron("a", otherwise=STREAM_HEAD + chunks(answer) + last_chunk()) as neuron,
        open_gateway(neuron) as gateway,
    ):
        told = await gateway.http.post(RESPONSES, json=asked(stream=True))
        assert told.content == answer
        page = await gateway.page()
        labels = 'dialect="openai_responses",model="a",neuron="n1",outcome="engine"'
        assert f"cortex_requests_total{{{labels}}} 1.0" in page
        # Without figures of the neuron's, each piece of an answer counts as one token.
        assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 2.0' in page
