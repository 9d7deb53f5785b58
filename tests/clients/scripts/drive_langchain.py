"""LangChain's chat models for both dialects."""

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
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


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def chat(model=MODEL, base=V1, key="none", **more):
    return ChatOpenAI(model=model, base_url=base, api_key=key, **more)


def messages(model=MODEL, base=URL, key="none", **more):
    return ChatAnthropic(model=model, base_url=base, api_key=key, max_tokens=4000, **more)


def responses(model=MODEL, **more):
    return chat(model, use_responses_api=True, **more)


def turn(model):
    bound = model.bind_tools([get_weather])
    said = [HumanMessage("CALL it")]
    said.append(bound.invoke(said))
    [call] = said[-1].tool_calls
    said.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    return [call["name"], call["args"], bound.invoke(said).text]


def streamed(model):
    return "".join(chunk.text for chunk in model.stream("Hello"))


def streamed_call(model):
    whole = None
    for chunk in model.bind_tools([get_weather]).stream("CALL it"):
        whole = chunk if whole is None else whole + chunk
    return [(call["name"], call["args"]) for call in whole.tool_calls]


tell(
    plain=lambda: chat().invoke("Hello").text,
    stream=lambda: streamed(chat()),
    usage=lambda: [
        chunk.usage_metadata["output_tokens"]
        for chunk in chat(stream_usage=True).stream("Hello")
        if chunk.usage_metadata
    ],
    tool=lambda: turn(chat()),
    tool_stream=lambda: streamed_call(chat()),
    structured=lambda: chat().with_structured_output(Weather).invoke("Hello").model_dump(),
    structured_call=lambda: (
        chat().with_structured_output(Weather, method="function_calling").invoke("Hello").model_dump()
    ),
    messages_plain=lambda: messages().invoke("Hello").text,
    messages_stream=lambda: streamed(messages()),
    messages_tool=lambda: turn(messages()),
    messages_tool_stream=lambda: streamed_call(messages()),
    messages_think=lambda: (
        messages(thinking={"type": "enabled", "budget_tokens": 1024}).invoke("THINK").content
    ),
    messages_structured=lambda: messages().with_structured_output(Weather).invoke("Hello").model_dump(),
    messages_structured_schema=lambda: (
        messages().with_structured_output(Weather, method="json_schema").invoke("Hello").model_dump()
    ),
    messages_count=lambda: messages().get_num_tokens_from_messages([HumanMessage("Hello")]),
    keyed=lambda: chat(base=KEYED_V1, key=KEY).invoke("Hello").text,
    unauthorized=lambda: chat(base=KEYED_V1, key="wrong").invoke("Hello"),
    messages_unauthorized=lambda: messages(base=KEYED_URL, key="wrong").invoke("Hello"),
    unknown=lambda: chat(NOBODY).invoke("Hello"),
    long=lambda: chat(SMALL).invoke(LONG),
    messages_long=lambda: messages(SMALL).invoke(LONG),
    slow=lambda: [chat(base=KEYED_V1, key=SLOW).invoke("Hello").text for _ in range(2)],
    spent=lambda: [chat(base=KEYED_V1, key=SPENT).invoke("Hello").text for _ in range(2)],
    messages_spent=lambda: messages(base=KEYED_URL, key=SPENT).invoke("Hello").text,
    full=lambda: chat(FULL, base=CROWDED_V1).invoke("Hello").text,
    messages_full=lambda: messages(FULL2, base=CROWDED_URL).invoke("Hello").text,
    death=lambda: streamed(chat(DOOMED)),
    messages_death=lambda: streamed(messages(DOOMED)),
    embeddings=lambda: [
        len(vector)
        for vector in OpenAIEmbeddings(
            model="vector", base_url=V1, api_key="none", check_embedding_ctx_length=False
        ).embed_documents(["Hello", "there"])
    ],
    responses=lambda: responses().invoke("Hello").text,
    responses_stream=lambda: streamed(responses()),
    responses_tool=lambda: turn(responses()),
    responses_think=lambda: [
        block.get("reasoning") or block.get("text")
        for block in responses(reasoning={"summary": "auto"}).invoke("THINK").content_blocks
    ],
    responses_structured=lambda: responses().with_structured_output(Weather).invoke("Hello").model_dump(),
    responses_long=lambda: responses(SMALL).invoke(LONG),
    responses_death=lambda: streamed(responses(DOOMED)),
    cold=lambda: messages(COLD).invoke("Hello").text,
)
