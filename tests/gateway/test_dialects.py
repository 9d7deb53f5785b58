"""A request reaches a neuron in the client's own bytes, or told in the dialect that the neuron speaks."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from anthropic import Anthropic

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.tables import GATEWAY_FILE
from cortex.demo import MODEL_ID
from cortex.errors import Stopping
from cortex.events import Failed, Prefilled, Stopped, Text, ToolCall, Usage
from cortex.translator import anthropic_messages, openai_chat
from cortex.translator.dialects import DIALECTS
from cortex.wire.openai import Reply
from cortex.wire.sse import render
from tests.fake_neuron import FULL, USAGE, fake_neuron, open_gateway
from tests.fake_upstream import STREAM_HEAD, Received, Wait, chunks, last_chunk, whole
from tests.play import play
from tests.roles import Running, demo_neuron, running_gateway

T = TypeVar("T")
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
VERSION = {"anthropic-version": "2023-06-01", "anthropic-beta": "b1"}
# In an odd order, with an odd float and what nobody has heard of.
ODD = (
    b'{ "max_tokens":9 ,"messages" :[{"role":"user","content":"caf\\u00e9"}],'
    b' "new":{"a":[1.50]}, "model": "%b"}'
)
SAID = [
    Prefilled(7, 2),
    Text("caf\u00e9"),
    ToolCall("c1", "f", '{"a": 1}'),
    Stopped("tool_calls", Usage(7, 2, 3)),
]
OLD = ("openai_chat", "openai_text")


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **more}


def chat(*, framed: bool = True) -> bytes:
    """What a neuron answers in OpenAI's chat."""
    stream = render(*play(openai_chat.speak(Reply("c", "a", 1, include_usage=True)), SAID))
    return STREAM_HEAD + chunks(stream) + last_chunk(USAGE)


def messages() -> bytes:
    """What a neuron answers in Anthropic's dialect."""
    return render(*play(anthropic_messages.speak(Reply("msg_1", "a", 1)), SAID))


def value(received: Received, name: str) -> str | None:
    return next((text for key, text in received.headers if key.lower() == name), None)


async def test_what_a_neuron_speaks_passes_byte_for_byte_both_ways() -> None:
    answer = messages()
    async with fake_neuron("a", otherwise=STREAM_HEAD + chunks(answer) + last_chunk(USAGE)) as neuron:
        async with open_gateway(neuron) as gateway:
            told = await gateway.http.post(MESSAGES, content=ODD % b"a", headers=VERSION)
            assert told.content == answer and told.headers["x-cortex-neuron"] == "n1"
            [received] = neuron.requests
            assert received.body == ODD % b"a" and received.head[0] == "POST /v1/messages HTTP/1.1"
            assert value(received, "anthropic-version") == "2023-06-01"
            counted = await gateway.http.post(COUNT + "?beta=true", content=ODD % b"a", headers=VERSION)
            assert counted.status_code == 200
            assert neuron.requests[1].head[0] == "POST /v1/messages/count_tokens HTTP/1.1"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_neuron_that_speaks_chat_alone_is_told_in_it_and_its_answer_told_back(stream: bool) -> None:
    async with fake_neuron("a", otherwise=chat()) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            system = "be kind"
            told = await gateway.http.post(
                MESSAGES, json=asked(stream=stream, system=system), headers=VERSION
            )
            assert told.status_code == 200 and told.headers["x-cortex-neuron"] == "n1"
            assert told.headers["request-id"] == told.headers["x-request-id"]
            [received] = neuron.requests
            assert received.head[0] == "POST /v1/chat/completions HTTP/1.1"
            assert value(received, "anthropic-version") is None
            assert value(received, "x-cortex-route") and value(received, "x-request-id")
            sent = json.loads(received.body)
            assert sent["model"] == "a" and sent["stream"] and sent["max_tokens"] == 9
            assert sent["messages"] == [
                {"role": "system", "content": system},
                {"role": "user", "content": "hi"},
            ]
            page = await gateway.page()
            labels = 'dialect="anthropic_messages",model="a",neuron="n1",outcome="ok"'
            assert f"cortex_requests_total{{{labels}}} 1.0" in page
            assert 'cortex_completion_tokens_total{model="a",neuron="n1"} 3.0' in page
    if stream:
        kinds = [line[7:] for line in told.text.splitlines() if line.startswith("event: ")]
        assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
        assert "caf\u00e9" in told.text
    else:
        message = told.json()
        assert message["content"] == [
            {"type": "text", "text": "caf\u00e9"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
        ]
        assert message["stop_reason"] == "tool_use" and message["usage"]["output_tokens"] == 3


async def test_the_alias_of_a_retold_request_is_the_models_id_there() -> None:
    catalogue = Catalogue({"a": ModelSpec("a")}, {"short": "a"})
    async with fake_neuron("a", otherwise=chat()) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron, catalogue=catalogue) as gateway:
            told = await gateway.http.post(MESSAGES, json=asked(model="short"))
            assert told.json()["model"] == "a"
            assert json.loads(neuron.requests[0].body)["model"] == "a"


async def test_a_neuron_that_speaks_the_dialect_and_one_that_does_not_serve_one_model() -> None:
    """Each is asked in its own way; the least busy is taken, whatever it speaks."""
    hold = trio.Event()
    old = chat()
    new = STREAM_HEAD + chunks(messages()) + last_chunk(USAGE)
    async with fake_neuron("a", otherwise=old) as one, fake_neuron("a", otherwise=new) as two:
        one.dialects = OLD
        one.then(Wait(hold), old)
        two.then(Wait(hold), new)
        async with open_gateway(one, two) as gateway, trio.open_nursery() as nursery:
            told = []

            async def ask() -> None:
                told.append(await gateway.http.post(MESSAGES, json=asked(stream=True)))

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await one.seen(1)
            await two.seen(1)
            hold.set()
    assert {answer.headers["x-cortex-neuron"] for answer in told} == {"n1", "n2"}
    assert all(answer.text.endswith('data: {"type":"message_stop"}\n\n') for answer in told)


async def test_what_no_neuron_with_the_model_can_be_asked_is_refused_with_the_remedy() -> None:
    async with fake_neuron("a") as neuron:
        neuron.dialects = ("openai_chat",)
        async with open_gateway(neuron) as gateway:
            for path, sent in ((COUNT, asked()), ("/v1/completions", {"model": "a", "prompt": "x"})):
                refused = await gateway.http.post(path, json=sent)
                assert refused.status_code == 400
                assert f"n1 has 'a' and does not speak {path}" in refused.json()["error"]["message"]
            assert not neuron.requests


async def test_a_request_goes_past_a_neuron_that_cannot_be_asked() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        one.dialects = ("openai_chat",)
        async with open_gateway(one, two) as gateway:
            for _ in range(3):
                told = await gateway.http.post("/v1/completions", json={"model": "a", "prompt": "x"})
                assert told.headers["x-cortex-neuron"] == "n2"


async def test_a_refusal_of_a_retold_request_is_tried_elsewhere_and_then_told_in_the_clients_dialect() -> (
    None
):
    """Row 19."""
    async with fake_neuron("a", otherwise=FULL) as one, fake_neuron("a", otherwise=chat()) as two:
        one.dialects = two.dialects = OLD
        async with open_gateway(one, two) as gateway:
            for _ in range(2):
                assert (await gateway.http.post(MESSAGES, json=asked())).status_code == 200
    async with fake_neuron("a", otherwise=FULL) as one:
        one.dialects = OLD
        async with open_gateway(one) as gateway:
            refused = await gateway.http.post(MESSAGES, json=asked())
            assert refused.status_code == 529 and refused.headers["retry-after"] == "7"
            assert refused.json()["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_a_neuron_breaks_off_is_not_asked_again_elsewhere(stream: bool) -> None:
    """A neuron that stops ends its streams so: the client has half of it, and it was computed."""
    half = render(*play(openai_chat.speak(Reply("c", "a", 1)), [Text("half"), Failed(Stopping("it goes"))]))
    broken = STREAM_HEAD + chunks(half) + last_chunk()
    async with fake_neuron("a", otherwise=broken) as one, fake_neuron("a", otherwise=broken) as two:
        one.dialects = two.dialects = OLD
        async with open_gateway(one, two) as gateway:
            told = await gateway.http.post(MESSAGES, json=asked(stream=stream))
            assert len(one.requests) + len(two.requests) == 1
    assert told.text.count('"message_start"') == (1 if stream else 0)
    assert told.status_code == (200 if stream else 529)


async def test_a_cold_model_that_nobody_can_be_asked_about_is_refused_with_the_remedy() -> None:
    async with fake_neuron(known=["a"]) as neuron:
        neuron.dialects = ("openai_chat",)
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            refused = await gateway.http.post(COUNT, json=asked())
            assert refused.status_code == 400 and f"No neuron speaks {COUNT}" in refused.text
            assert not neuron.orders, "nothing is loaded for it"
            unknown = await gateway.http.post(COUNT, json=asked(model="nobody"))
            assert unknown.status_code == 404


async def test_a_count_is_no_stream_whatever_its_body_says() -> None:
    counted = whole(200, b'{"input_tokens":3}')
    async with fake_neuron(otherwise=counted) as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        answer = await gateway.http.post(COUNT, json=asked(stream=True))
        assert (answer.status_code, answer.json()) == (200, {"input_tokens": 3})


async def test_what_cannot_be_read_is_the_clients_fault_and_reaches_no_neuron() -> None:
    async with fake_neuron("a") as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            refused = await gateway.http.post(MESSAGES, json=asked(tool_choice={"type": "any"}))
            assert refused.status_code == 400 and "tool_choice" in refused.json()["error"]["message"]
            assert refused.json()["type"] == "error" and not neuron.requests


async def test_the_file_may_say_what_a_neuron_is_asked_in() -> None:
    async with fake_neuron("a", otherwise=chat()) as neuron, open_gateway(neuron, dialects=OLD) as gateway:
        assert (await gateway.http.post(MESSAGES, json=asked())).status_code == 200
        assert neuron.requests[0].head[0] == "POST /v1/chat/completions HTTP/1.1"


def test_the_file_knows_the_dialects_that_there_are() -> None:
    known = GATEWAY_FILE.keys["neurons"].keys["dialects"].kind.schema["enum"]
    assert known == [dialect.name for dialect in DIALECTS]


async def test_a_neuron_that_learns_a_dialect_is_asked_in_it() -> None:
    async with fake_neuron("a", otherwise=chat()) as neuron:
        neuron.dialects = OLD
        async with open_gateway(neuron) as gateway:
            assert (await gateway.http.post(MESSAGES, json=asked())).status_code == 200
            neuron.dialects = (*OLD, "anthropic_messages")
            await neuron.restart()
            neuron.has("a")
            await neuron.polled(3)
            neuron.then(whole(200, b'{"type":"message"}'))
            await gateway.http.post(MESSAGES, json=asked())
            assert neuron.requests[-1].head[0] == "POST /v1/messages HTTP/1.1"


async def using(gateway: Running, deed: Callable[[Anthropic], T]) -> T:
    def run() -> T:
        with Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


async def test_the_vendors_library_speaks_through_a_gateway_to_a_real_model() -> None:
    def deed(client: Anthropic):
        body: Any = {
            "model": MODEL_ID,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "What is 2 + 2?"}],
            "extra_body": {"temperature": 0},
        }
        whole = client.messages.create(**body)
        with client.messages.stream(**body) as stream:
            streamed = stream.get_final_message()
        count = client.messages.count_tokens(model=MODEL_ID, messages=body["messages"])
        listed = [model.id for model in client.models.list()]
        with pytest.raises(anthropic.NotFoundError) as missing:
            client.messages.create(**{**body, "model": "nobody"})
        return whole, streamed, count, listed, missing.value

    with trio.fail_after(60):
        async with demo_neuron() as neuron, running_gateway(neuron) as gateway:
            whole, streamed, count, listed, missing = await using(gateway, deed)
    assert "4" in "".join(block.text for block in whole.content if block.type == "text")
    assert whole.to_dict()["content"] == streamed.to_dict()["content"]
    assert whole.stop_reason == streamed.stop_reason == "end_turn"
    used = whole.usage
    assert count.input_tokens == used.input_tokens + (used.cache_read_input_tokens or 0)
    assert listed == [MODEL_ID] and missing.request_id
