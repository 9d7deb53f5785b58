"""pydantic-ai, which validates every answer."""

import asyncio

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.output import NativeOutput
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from scenarios import (
    COLD,
    CROWDED_URL,
    CROWDED_V1,
    DOOMED,
    FULL,
    FULL2,
    KEY,
    KEYED_URL,
    KEYED_V1,
    LONG,
    MODEL,
    NOBODY,
    SLOW,
    SMALL,
    SPENT,
    URL,
    V1,
    tell,
)


class Weather(BaseModel):
    city: str
    degrees: int


def chat(model=MODEL, base=V1, key="none", **more):
    return Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=base, api_key=key)), **more)


def messages(model=MODEL, base=URL, key="none", **more):
    return Agent(AnthropicModel(model, provider=AnthropicProvider(base_url=base, api_key=key)), **more)


def responses(model=MODEL, **more):
    return Agent(OpenAIResponsesModel(model, provider=OpenAIProvider(base_url=V1, api_key="none")), **more)


def turn(agent):
    called = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return f"rain in {city}"

    return [called, agent.run_sync("CALL it").output]


def structured(agent):
    return agent.run_sync("Hello").output.model_dump()


def streamed(agent):
    async def run():
        async with agent.run_stream("Hello") as answer:
            return [part async for part in answer.stream_text(delta=True)]

    return "".join(asyncio.run(run()))


tell(
    plain=lambda: chat().run_sync("Hello").output,
    stream=lambda: streamed(chat()),
    tool=lambda: turn(chat()),
    think=lambda: [part.content for part in chat().run_sync("THINK").response.parts],
    structured=lambda: structured(chat(output_type=Weather)),
    structured_native=lambda: structured(chat(output_type=NativeOutput(Weather))),
    usage=lambda: chat().run_sync("Hello").usage.output_tokens,
    messages_plain=lambda: messages().run_sync("Hello").output,
    messages_stream=lambda: streamed(messages()),
    messages_tool=lambda: turn(messages()),
    messages_think=lambda: [part.content for part in messages().run_sync("THINK").response.parts],
    messages_structured=lambda: structured(messages(output_type=Weather)),
    keyed=lambda: chat(base=KEYED_V1, key=KEY).run_sync("Hello").output,
    unauthorized=lambda: chat(base=KEYED_V1, key="wrong").run_sync("Hello"),
    messages_unauthorized=lambda: messages(base=KEYED_URL, key="wrong").run_sync("Hello"),
    unknown=lambda: chat(NOBODY).run_sync("Hello"),
    long=lambda: chat(SMALL).run_sync(LONG),
    messages_long=lambda: messages(SMALL).run_sync(LONG),
    slow=lambda: [chat(base=KEYED_V1, key=SLOW).run_sync("Hello").output for _ in range(2)],
    spent=lambda: [chat(base=KEYED_V1, key=SPENT).run_sync("Hello").output for _ in range(2)],
    messages_spent=lambda: messages(base=KEYED_URL, key=SPENT).run_sync("Hello").output,
    full=lambda: chat(FULL, base=CROWDED_V1).run_sync("Hello").output,
    messages_full=lambda: messages(FULL2, base=CROWDED_URL).run_sync("Hello").output,
    death=lambda: streamed(chat(DOOMED)),
    messages_death=lambda: streamed(messages(DOOMED)),
    responses=lambda: responses().run_sync("Hello").output,
    responses_stream=lambda: streamed(responses()),
    responses_tool=lambda: turn(responses()),
    responses_think=lambda: [part.content for part in responses().run_sync("THINK").response.parts],
    responses_structured=lambda: structured(responses(output_type=NativeOutput(Weather))),
    responses_long=lambda: responses(SMALL).run_sync(LONG),
    responses_death=lambda: streamed(responses(DOOMED)),
    cold=lambda: messages(COLD).run_sync("Hello").output,
)
