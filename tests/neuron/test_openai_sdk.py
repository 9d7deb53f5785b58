"""OpenAI's own library against a neuron, directly: what its users see."""

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import openai
import pydantic
import pytest
import trio
from openai import OpenAI

from cortex.demo import MODEL_ID
from tests.demo_questions import FIFTY, WEATHER
from tests.roles import Running, demo_neuron

pytestmark = pytest.mark.client("openai")
T = TypeVar("T")
Messages = list[Any]


@pytest.fixture
async def demo():
    with trio.fail_after(30):
        async with demo_neuron() as role:
            yield role


async def using(role: Running, deed: Callable[[OpenAI], T]) -> T:
    """What `deed` answers; the library is synchronous, so in a thread. It never tries again."""

    def run() -> T:
        with OpenAI(base_url=f"{role.url}/v1", api_key="none", max_retries=0) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


def user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


async def test_a_chat_streams_with_its_usage(demo: Running) -> None:
    def deed(client: OpenAI):
        chunks = client.chat.completions.create(
            model=MODEL_ID,
            messages=user("Count to fifty."),
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        return list(chunks)

    chunks = await using(demo, deed)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == FIFTY
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert chunks[-1].choices == []
    assert usage.prompt_tokens + usage.completion_tokens == usage.total_tokens
    assert usage.completion_tokens > 50


async def test_the_librarys_own_stream_helper_is_content(demo: Running) -> None:
    def deed(client: OpenAI):
        with client.chat.completions.stream(
            model=MODEL_ID, messages=user("What is 2 + 2?"), temperature=0
        ) as s:
            return s.until_done().get_final_completion()

    final = await using(demo, deed)
    assert final.choices[0].message.content == "2 + 2 = 4."
    assert final.choices[0].finish_reason == "stop"


async def test_a_tool_is_called_answered_and_used(demo: Running) -> None:
    def deed(client: OpenAI):
        messages: Messages = user("What is the weather in Oslo?")
        first = client.chat.completions.create(
            model=MODEL_ID, messages=messages, tools=[WEATHER], temperature=0
        )
        message = first.choices[0].message
        (call,) = message.tool_calls
        messages.append(message)
        result = '{"city": "Oslo", "weather": "sunny", "temperature": 21}'
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        second = client.chat.completions.create(
            model=MODEL_ID, messages=messages, tools=[WEATHER], temperature=0
        )
        return first, call, second

    first, call, second = await using(demo, deed)
    assert first.choices[0].finish_reason == "tool_calls"
    assert (call.type, call.function.name) == ("function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert second.choices[0].message.content == "It is sunny in Oslo, 21 degrees."


async def test_who_sends_functions_reads_a_function_call(demo: Running) -> None:
    def deed(client: OpenAI):
        messages: Messages = user("What is the weather in Oslo?")
        said: Any = {"model": MODEL_ID, "functions": [WEATHER["function"]], "temperature": 0}
        first = client.chat.completions.create(messages=messages, **said).choices[0]
        streamed = list(client.chat.completions.create(messages=messages, stream=True, **said))
        messages.append(first.message)
        result = '{"city": "Oslo", "weather": "sunny", "temperature": 21}'
        messages.append({"role": "function", "name": "get_weather", "content": result})
        return first, streamed, client.chat.completions.create(messages=messages, **said).choices[0]

    first, streamed, second = await using(demo, deed)
    assert (first.finish_reason, first.message.tool_calls) == ("function_call", None)
    assert first.message.function_call.name == "get_weather"
    assert json.loads(first.message.function_call.arguments) == {"city": "Oslo"}
    (call,) = (c.choices[0].delta.function_call for c in streamed if c.choices[0].delta.function_call)
    assert call == openai.types.chat.chat_completion_chunk.ChoiceDeltaFunctionCall(
        **first.message.function_call.to_dict()
    )
    assert streamed[-1].choices[0].finish_reason == "function_call"
    assert second.message.content == "It is sunny in Oslo, 21 degrees."


async def test_a_custom_tool_is_called_with_a_text_and_answered(demo: Running) -> None:
    def deed(client: OpenAI):
        messages: Messages = user("What is the weather in Oslo?")
        tool: Any = {"type": "custom", "custom": {"name": "note", "description": "Takes a note"}}
        said: Any = {"model": MODEL_ID, "tools": [tool], "temperature": 0, "max_tokens": 300}
        named: Any = {"type": "custom", "custom": {"name": "note"}}
        first = client.chat.completions.create(messages=messages, tool_choice=named, **said)
        (call,) = first.choices[0].message.tool_calls
        messages.append(first.choices[0].message)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "noted"})
        return first.choices[0], call, client.chat.completions.create(messages=messages, **said)

    first, call, second = await using(demo, deed)
    assert first.finish_reason == "tool_calls"
    assert (call.type, call.custom.name) == ("custom", "note")
    assert isinstance(call.custom.input, str)
    assert second.choices[0].finish_reason in ("stop", "length", "tool_calls")


class Weather(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sky: Literal["sunny", "rainy"]
    degrees: Literal[7, 21]


async def test_with_a_form_and_tools_the_model_calls_first_and_then_answers_in_the_form(
    demo: Running,
) -> None:
    def deed(client: OpenAI):
        function = {**WEATHER["function"], "strict": True}
        function["parameters"] = {**function["parameters"], "additionalProperties": False}
        strict = {**WEATHER, "function": function}
        messages: Messages = user("What is the weather in Oslo?")
        said: Any = {"model": MODEL_ID, "tools": [strict], "temperature": 0, "response_format": Weather}
        with client.chat.completions.stream(messages=messages, **said) as stream:
            first = stream.until_done().get_final_completion().choices[0]
        (call,) = first.message.tool_calls
        messages.append(first.message)
        result = '{"city": "Oslo", "weather": "sunny", "temperature": 21}'
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return first, call, client.chat.completions.parse(messages=messages, **said).choices[0]

    first, call, second = await using(demo, deed)
    assert first.finish_reason == "tool_calls" and not first.message.content
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    assert isinstance(second.message.parsed, Weather)
    assert second.finish_reason == "stop"


async def test_stop_and_usage_of_a_whole_answer(demo: Running) -> None:
    answer = await using(
        demo,
        lambda client: client.chat.completions.create(
            model=MODEL_ID, messages=user("Count to ten."), temperature=0, stop=[" 7 8"]
        ),
    )
    assert answer.choices[0].message.content == "1 2 3 4 5 6"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 5
    assert answer.model == MODEL_ID
    assert answer.id.startswith("chatcmpl-")


async def test_a_plain_completion(demo: Running) -> None:
    answer = await using(
        demo,
        lambda client: client.completions.create(
            model=MODEL_ID,
            prompt="<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
            temperature=0,
            max_tokens=30,
        ),
    )
    assert answer.choices[0].text == "Hello! How can I help you?"
    assert answer.id.startswith("cmpl-")


async def test_models_are_listed_and_found(demo: Running) -> None:
    def deed(client: OpenAI):
        before = client.models.retrieve(MODEL_ID)
        client.chat.completions.create(model=MODEL_ID, messages=user("Hello"), temperature=0)
        return before, client.models.retrieve(MODEL_ID), list(client.models.list())

    before, after, listed = await using(demo, deed)
    assert (before.id, before.object, before.state) == (MODEL_ID, "model", "unloaded")
    assert after.state == "loaded"
    assert after.context_length == after.max_model_len == 2048
    assert {"chat", "tools", "reasoning"} <= set(after.capabilities)
    assert after.created > 1_700_000_000
    assert [model.id for model in listed] == [MODEL_ID]


async def test_an_unknown_model_is_not_found_and_near_names_are_told(demo: Running) -> None:
    def ask(client: OpenAI):
        with pytest.raises(openai.NotFoundError) as chat:
            client.chat.completions.create(model="cortex-dmo", messages=user("Hello"))
        with pytest.raises(openai.NotFoundError) as model:
            client.models.retrieve("cortex-dmo")
        return chat.value, model.value

    for error in await using(demo, ask):
        assert (error.code, error.param) == ("model_not_found", "model")
        assert MODEL_ID in error.message


async def test_a_long_prompt_is_a_bad_request_also_when_streaming(demo: Running) -> None:
    def ask(client: OpenAI):
        caught = []
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as error:
                client.chat.completions.create(model=MODEL_ID, messages=user("word " * 3000), stream=stream)
            caught.append(error.value)
        return caught

    for error in await using(demo, ask):
        assert error.code == "context_length_exceeded"
        # LiteLLM looks for the first, LangChain for the second.
        assert "maximum context length" in error.message and "prompt is too long" in error.message
        assert error.request_id


async def test_an_unsupported_field_is_named(demo: Running) -> None:
    def ask(client: OpenAI):
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(
                model=MODEL_ID, messages=user("Hello"), modalities=["text", "audio"]
            )
        return error.value

    error = await using(demo, ask)
    assert (error.code, error.param) == ("unsupported_parameter", "modalities")
