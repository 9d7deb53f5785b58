"""LlamaIndex's OpenAI-like model, with a call of a tool."""

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from scenarios import (
    COLD,
    CROWDED_V1,
    DOOMED,
    FULL,
    KEY,
    KEYED_V1,
    LONG,
    MODEL,
    NOBODY,
    SLOW,
    SMALL,
    V1,
    tell,
)


def chat(model=MODEL, base=V1, key="none", **more):
    return OpenAILike(
        model=model,
        api_base=base,
        api_key=key,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=8192,
        **more,
    )


def responses(model=MODEL):
    return OpenAIResponses(model=model, api_base=V1, api_key="none", context_window=8192)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"rain in {city}"


def turn():
    tool, model = FunctionTool.from_defaults(get_weather), chat()
    answer = model.chat_with_tools([tool], user_msg="CALL it")
    [call] = model.get_tool_calls_from_response(answer)
    result = ChatMessage(role="tool", content="rain", additional_kwargs={"tool_call_id": call.tool_id})
    asked = [ChatMessage(role="user", content="CALL it"), answer.message, result]
    return [
        call.tool_name,
        call.tool_kwargs,
        model.chat_with_tools([tool], chat_history=asked).message.content,
    ]


tell(
    plain=lambda: chat().complete("Hello").text,
    stream=lambda: "".join(part.delta for part in chat().stream_complete("Hello")),
    text=lambda: (
        OpenAILike(model=MODEL, api_base=V1, api_key="none", is_chat_model=False).complete("Hello").text
    ),
    tool=turn,
    keyed=lambda: chat(base=KEYED_V1, key=KEY).complete("Hello").text,
    unauthorized=lambda: chat(base=KEYED_V1, key="wrong").complete("Hello").text,
    unknown=lambda: chat(NOBODY).complete("Hello").text,
    long=lambda: chat(SMALL).complete(LONG).text,
    slow=lambda: [chat(base=KEYED_V1, key=SLOW).complete("Hello").text for _ in range(2)],
    full=lambda: chat(FULL, base=CROWDED_V1).complete("Hello").text,
    responses=lambda: responses().complete("Hello").text,
    responses_stream=lambda: "".join(part.delta for part in responses().stream_complete("Hello")),
    death=lambda: "".join(part.delta for part in chat(DOOMED, max_retries=0).stream_complete("Hello")),
    cold=lambda: chat(COLD).complete("Hello").text,
)
