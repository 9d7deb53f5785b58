"""OpenAI's own library for Python through a gateway, in every dialect that it speaks, waiting and not.

The vendor's words are held by `../neuron`; here is what its users see of keys, refusals, lines,
deaths and loads.
"""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.clients.fleet import (
    FULL,
    KEY,
    MINUTE,
    PLAIN,
    SLOW,
    SPENT,
    WIDTH,
    WRONG,
    Fleet,
    crowd,
    fleet,
)

pytestmark = pytest.mark.client("openai")
T = TypeVar("T")
LONG = "Hello, " * 100


class Weather(BaseModel):
    """What is asked for, and the tool that tells it."""

    city: str


GET_WEATHER: Any = openai.pydantic_function_tool(Weather, name="get_weather")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, cold_s=0.5) as gateway:
        yield gateway


@pytest.fixture
async def keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(MINUTE, 1.5)
    async with fleet(tmp_path, keyed=True) as gateway:
        yield gateway


async def using(site: Fleet, deed: Callable[[OpenAI], T], *, key: str = "none", tries: int = 2) -> T:
    """What `deed` answers; `tries` is how often the library asks again, as many as it does of its own."""

    def run() -> T:
        with OpenAI(base_url=site.v1, api_key=key, max_retries=tries) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


async def using_async(site: Fleet, deed: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
    """The same with the library's other half, in an event loop of its own."""

    async def run() -> T:
        async with AsyncOpenAI(base_url=site.v1, api_key="none") as client:
            return await deed(client)

    return await trio.to_thread.run_sync(lambda: asyncio.run(run()))


def asked(text: str = "Hello", model: str = "m") -> Any:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def chat(client: OpenAI, text: str = "Hello", model: str = "m") -> str | None:
    return client.chat.completions.create(**asked(text, model)).choices[0].message.content


async def fails(
    site: Fleet, kind: type[openai.APIError], deed: Callable[[OpenAI], object], **how: Any
) -> Any:
    """What `deed` raises."""

    def run(client: OpenAI) -> openai.APIError:
        with pytest.raises(kind) as caught:
            deed(client)
        return caught.value

    return await using(site, run, **how)


async def test_its_asynchronous_half_has_many_answers_at_once(site: Fleet) -> None:
    async def deed(client: AsyncOpenAI) -> list[object]:
        async def streamed() -> str:
            async with client.chat.completions.stream(**asked()) as stream:
                final = await stream.get_final_completion()
            return final.choices[0].message.content or ""

        async def response() -> str:
            async with client.responses.stream(model="m", input="Hello") as stream:
                return (await stream.get_final_response()).output_text

        async def text() -> str:
            chunks = await client.completions.create(model="m", prompt="<|user|>Hello<|end|>", stream=True)
            return "".join([chunk.choices[0].text async for chunk in chunks])

        async def listed() -> list[str]:
            return [model.id async for model in client.models.list()]

        return list(await asyncio.gather(streamed(), streamed(), response(), text(), listed()))

    *said, models = await using_async(site, deed)
    assert said == [PLAIN] * 4
    assert sorted(models) == ["cold", "doomed", "m", "mortal", "small", "vector"]


async def test_its_helpers_read_an_answer_into_a_class(site: Fleet) -> None:
    def deed(client: OpenAI) -> list[object]:
        parsed = client.chat.completions.parse(**asked(), response_format=Weather)
        response = client.responses.parse(model="m", input="Hello", text_format=Weather)
        with client.chat.completions.stream(**asked(), response_format=Weather) as stream:
            streamed = stream.get_final_completion().choices[0].message.parsed
        return [parsed.choices[0].message.parsed, response.output_parsed, streamed]

    assert await using(site, deed) == [Weather(city="Oslo")] * 3


async def test_its_stream_helper_follows_a_call_and_the_thoughts_before_an_answer(site: Fleet) -> None:
    def deed(client: OpenAI) -> tuple[Any, str]:
        with client.chat.completions.stream(**asked("CALL it"), tools=[GET_WEATHER]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion().choices[0]
        assert "tool_calls.function.arguments.delta" in kinds and final.finish_reason == "tool_calls"
        chunks = list(client.chat.completions.create(**asked("THINK"), stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        thoughts = "".join(getattr(delta, "reasoning_content", "") or "" for delta in deltas)
        return final.message.tool_calls[0].function, thoughts

    call, thoughts = await using(site, deed)
    assert (call.name, call.parsed_arguments) == ("get_weather", Weather(city="Oslo"))
    assert thoughts == "Two and two."


async def test_a_tool_turn_of_responses_goes_round_in_a_stream(site: Fleet) -> None:
    tool: Any = {"type": "function", "name": "get_weather", "parameters": Weather.model_json_schema()}

    def deed(client: OpenAI) -> tuple[str, str]:
        turns: list[Any] = [{"role": "user", "content": "CALL it"}]
        with client.responses.stream(model="m", input=turns, tools=[tool]) as stream:
            first = stream.get_final_response()
        call = next(item for item in first.output if item.type == "function_call")
        turns += [item.to_dict() for item in first.output]
        turns.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        return call.arguments, client.responses.create(model="m", input=turns, tools=[tool]).output_text

    arguments, said = await using(site, deed)
    assert json.loads(arguments) == {"city": "Oslo"} and said == "The tool said: rain"


async def test_vectors_are_the_same_in_numbers_and_in_bytes(site: Fleet) -> None:
    """The library asks for bytes of its own, and reads what it gets by what it asked for."""

    def deed(client: OpenAI) -> list[Any]:
        own = client.embeddings.create(model="vector", input=["Hello", "there"])
        numbers = client.embeddings.create(model="vector", input=["Hello", "there"], encoding_format="float")
        assert own.usage.prompt_tokens == numbers.usage.prompt_tokens > 0
        return [[array("f", row.embedding) for row in answer.data] for answer in (own, numbers)]

    own, numbers = await using(site, deed)
    assert own == numbers and [len(vector) for vector in own] == [WIDTH] * 2
    refused = await fails(
        site, openai.BadRequestError, lambda client: client.embeddings.create(model="m", input="Hello")
    )
    assert refused.request_id


async def test_a_refusal_has_what_a_program_acts_on(site: Fleet) -> None:
    unknown = await fails(site, openai.NotFoundError, lambda client: chat(client, model="nobody"))
    assert (unknown.status_code, unknown.code, unknown.param) == (404, "model_not_found", "model")
    assert unknown.type == "invalid_request_error" and unknown.request_id
    assert unknown.request_id == unknown.response.headers["x-request-id"]
    long = await fails(site, openai.BadRequestError, lambda client: chat(client, LONG, "small"))
    assert (long.code, long.param) == ("context_length_exceeded", "messages")
    assert long.body["prompt_tokens"] > long.body["context_length"] == 12
    response = await fails(
        site, openai.BadRequestError, lambda client: client.responses.create(model="small", input=LONG)
    )
    assert response.code == "context_length_exceeded"


async def test_a_wrong_key_is_tried_once(keyed: Fleet) -> None:
    assert await using(keyed, chat, key=KEY) == PLAIN
    refused = await fails(keyed, openai.AuthenticationError, chat, key=WRONG)
    assert refused.code == "invalid_api_key"
    assert await keyed.refusals("auth") == 1


@pytest.mark.slow
async def test_who_asks_too_often_waits_as_told_and_is_served(keyed: Fleet) -> None:
    assert (await keyed.ask(SLOW)).status_code == 200
    refused = await fails(keyed, openai.RateLimitError, chat, key=SLOW, tries=0)
    assert (refused.code, refused.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert refused.body["limit"] == "requests_per_minute"
    assert await using(keyed, chat, key=SLOW, tries=1) == PLAIN
    assert await keyed.refusals("rate_limit_exceeded") == 2


async def test_whose_day_is_used_up_is_told_so_once(keyed: Fleet) -> None:
    """It would ask again for a 429, at midnight."""
    assert (await keyed.ask(SPENT)).status_code == 200
    refused = await fails(keyed, openai.RateLimitError, chat, key=SPENT)
    assert refused.code == refused.type == "insufficient_quota"
    assert await keyed.refusals("insufficient_quota") == 1


@pytest.mark.slow
async def test_who_finds_no_place_comes_back_when_told_to(tmp_path: Path) -> None:
    async with crowd(tmp_path) as gateway:
        refused = await fails(
            gateway, openai.InternalServerError, lambda client: chat(client, model=FULL[0]), tries=0
        )
        assert (refused.status_code, refused.code) == (503, "overloaded")
        assert int(refused.response.headers["retry-after"]) >= 1
        assert await using(gateway, lambda client: chat(client, model=FULL[1]), tries=1) == PLAIN
        assert await gateway.requests(FULL[1], "cortex") == 1


@pytest.mark.parametrize("way", ["chat", "completions", "responses"])
async def test_half_an_answer_is_an_error_and_not_an_end(way: str, site: Fleet) -> None:
    """Rows 3 and 4."""
    heard: list[str] = []

    def deed(client: OpenAI) -> None:
        if way == "chat":
            for chunk in client.chat.completions.create(**asked(model="mortal"), stream=True):
                heard.append(chunk.choices[0].delta.content or "")
        elif way == "completions":
            for text in client.completions.create(model="mortal", prompt="Hello", stream=True):
                heard.append(text.choices[0].text)
        else:
            with client.responses.stream(model="mortal", input="Hello") as stream:
                for event in stream:
                    heard.append(event.delta if event.type == "response.output_text.delta" else "")

    broken = await fails(site, openai.APIError, deed)
    assert "".join(heard).startswith("one") and PLAIN not in "".join(heard)
    assert broken.code == "upstream_failed" and "closed the connection" in broken.message


async def test_a_cold_model_is_waited_for(site: Fleet) -> None:
    """Once each, whole and streamed: the library has nothing to ask again."""

    def deed(client: OpenAI) -> tuple[str | None, str]:
        chunks = client.chat.completions.create(**asked(model="cold"), stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return streamed, client.responses.create(model="cold", input="Hello").output_text

    assert await using(site, deed, tries=0) == (PLAIN, PLAIN)
    assert await site.requests("cold", "ok") == 2
