"""Anthropic's own library for Python through a gateway: tool turns, refusals, lines, deaths and loads."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from anthropic import Anthropic, AsyncAnthropic, beta_async_tool, beta_tool
from pydantic import BaseModel

from tests.clients.fleet import FULL, KEY, MINUTE, PLAIN, SLOW, SPENT, WRONG, Fleet, crowd, fleet

pytestmark = pytest.mark.client("anthropic")
T = TypeVar("T")
LONG = "Hello, " * 100
RAIN = "The tool said: rain in Oslo"


class Weather(BaseModel):
    """What is asked for."""

    city: str


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


async def using(site: Fleet, deed: Callable[[Anthropic], T], *, key: str = "none", tries: int = 2) -> T:
    """What `deed` answers; `tries` is how often the library asks again, as many as it does of its own."""

    def run() -> T:
        with Anthropic(base_url=site.url, api_key=key, max_retries=tries) as client:
            return deed(client)

    return await trio.to_thread.run_sync(run)


async def using_async(site: Fleet, deed: Callable[[AsyncAnthropic], Awaitable[T]]) -> T:
    """The same with the library's other half, in an event loop of its own."""

    async def run() -> T:
        async with AsyncAnthropic(base_url=site.url, api_key="none") as client:
            return await deed(client)

    return await trio.to_thread.run_sync(lambda: asyncio.run(run()))


def asked(text: str = "Hello", model: str = "m") -> Any:
    return {"model": model, "max_tokens": 4000, "messages": [{"role": "user", "content": text}]}


def say(client: Anthropic, text: str = "Hello", model: str = "m") -> str:
    return text_of(client.messages.create(**asked(text, model)))


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def fails(
    site: Fleet, kind: type[anthropic.APIError], deed: Callable[[Anthropic], object], **how: Any
) -> Any:
    """What `deed` raises."""

    def run(client: Anthropic) -> anthropic.APIError:
        with pytest.raises(kind) as caught:
            deed(client)
        return caught.value

    return await using(site, run, **how)


@beta_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_its_runner_of_tools_goes_on_without_a_thread(site: Fleet, stream: bool) -> None:
    """It asks the vendor's server to remember the conversation, and sends all of it again when it is
    told in the one code for that: it would send a result alone otherwise."""

    def deed(client: Anthropic) -> list[Any]:
        runner = client.beta.messages.tool_runner(**asked("CALL it"), tools=[get_weather], stream=stream)
        return [turn.get_final_message() if stream else turn for turn in runner]

    first, second = await using(site, deed, tries=0)
    assert first.stop_reason == "tool_use" and text_of(second) == RAIN
    assert await site.requests("m", "caller") == 1, "refused once, and not asked for any more"
    assert await site.requests("m", "ok") == 2


async def test_its_asynchronous_half_has_many_answers_at_once(site: Fleet) -> None:
    @beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    async def deed(client: AsyncAnthropic) -> list[Any]:
        async def streamed() -> str:
            async with client.messages.stream(**asked()) as stream:
                return "".join([text async for text in stream.text_stream])

        async def ran() -> str:
            runner = client.beta.messages.tool_runner(**asked("CALL it"), tools=[get_weather])
            return text_of(await runner.until_done())

        async def listed() -> list[str]:
            return [model.id async for model in client.models.list()]

        async def counted() -> int:
            told = await client.messages.count_tokens(model="m", messages=asked()["messages"])
            return told.input_tokens

        return list(await asyncio.gather(streamed(), streamed(), ran(), listed(), counted()))

    one, two, ran, models, count = await using_async(site, deed)
    assert (one, two, ran) == (PLAIN, PLAIN, RAIN)
    assert sorted(models) == ["cold", "doomed", "m", "mortal", "small", "vector"] and count > 0


async def test_thoughts_come_signed_and_may_be_sent_back(site: Fleet) -> None:
    def deed(client: Anthropic) -> tuple[Any, Any]:
        body = {**asked("THINK"), "thinking": {"type": "enabled", "budget_tokens": 1024}}
        with client.messages.stream(**body) as stream:
            kinds = {event.type for event in stream}
            first = stream.get_final_message()
        assert {"thinking", "signature", "text"} <= kinds
        body["messages"] += [
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
            {"role": "user", "content": "Hello"},
        ]
        return first, client.messages.create(**body)

    first, second = await using(site, deed)
    thought, text = first.content
    assert (thought.thinking, text.text) == ("Two and two.", PLAIN) and thought.signature
    assert text_of(second) == PLAIN


async def test_its_helpers_read_an_answer_into_a_class(site: Fleet) -> None:
    def deed(client: Anthropic) -> Any:
        return client.messages.parse(**asked(), output_format=Weather).parsed_output

    assert await using(site, deed) == Weather(city="Oslo")


async def test_a_refusal_has_what_a_program_acts_on(site: Fleet) -> None:
    unknown = await fails(site, anthropic.NotFoundError, lambda client: say(client, model="nobody"))
    assert unknown.status_code == 404 and unknown.body["error"]["type"] == "not_found_error"
    assert unknown.request_id == unknown.body["request_id"] == unknown.response.headers["request-id"]
    long = await fails(site, anthropic.BadRequestError, lambda client: say(client, LONG, "small"))
    assert long.body["error"]["message"] == "prompt is too long: 106 tokens > 12 maximum"
    for odd in (lambda client: client.beta.files.list(), lambda client: client.messages.batches.list()):
        await fails(site, anthropic.NotFoundError, odd)


async def test_a_wrong_key_is_tried_once(keyed: Fleet) -> None:
    assert await using(keyed, say, key=KEY) == PLAIN
    refused = await fails(keyed, anthropic.AuthenticationError, say, key=WRONG)
    assert refused.body["error"]["type"] == "authentication_error"
    assert await keyed.refusals("auth") == 1


@pytest.mark.slow
async def test_who_asks_too_often_waits_as_told_and_is_served(keyed: Fleet) -> None:
    assert (await keyed.ask(SLOW)).status_code == 200
    refused = await fails(keyed, anthropic.RateLimitError, say, key=SLOW, tries=0)
    assert refused.body["error"]["details"]["limit"] == "requests_per_minute"
    assert await using(keyed, say, key=SLOW, tries=1) == PLAIN
    assert await keyed.refusals("rate_limit_exceeded") == 2


async def test_whose_day_is_used_up_is_told_so_once(keyed: Fleet) -> None:
    """It would ask again for a 429, at midnight."""
    assert (await keyed.ask(SPENT)).status_code == 200
    refused = await fails(keyed, anthropic.RateLimitError, say, key=SPENT)
    assert refused.body["error"]["details"]["error_code"] == "insufficient_quota"
    assert await keyed.refusals("insufficient_quota") == 1


@pytest.mark.slow
async def test_who_finds_no_place_comes_back_when_told_to(tmp_path: Path) -> None:
    async with crowd(tmp_path) as gateway:
        refused = await fails(
            gateway, anthropic.APIStatusError, lambda client: say(client, model=FULL[0]), tries=0
        )
        assert refused.status_code == 529 and refused.body["error"]["type"] == "overloaded_error"
        assert int(refused.response.headers["retry-after"]) >= 1
        assert await using(gateway, lambda client: say(client, model=FULL[1]), tries=1) == PLAIN
        assert await gateway.requests(FULL[1], "cortex") == 1


async def test_half_an_answer_is_an_error_and_not_an_end(site: Fleet) -> None:
    """Rows 3 and 4."""
    heard: list[str] = []

    def deed(client: Anthropic) -> None:
        with client.messages.stream(**asked(model="mortal")) as stream:
            heard.extend(stream.text_stream)

    broken = await fails(site, anthropic.APIStatusError, deed)
    assert "".join(heard).startswith("one") and PLAIN not in "".join(heard)
    assert broken.body["error"]["type"] == "api_error" and "closed the connection" in broken.message


async def test_a_cold_model_is_waited_for(site: Fleet) -> None:
    """Once each, whole and streamed: the library has nothing to ask again."""

    def deed(client: Anthropic) -> tuple[str, str]:
        with client.messages.stream(**asked(model="cold")) as stream:
            return stream.get_final_text(), say(client, model="cold")

    assert await using(site, deed, tries=0) == (PLAIN, PLAIN)
    assert await site.requests("cold", "ok") == 2
