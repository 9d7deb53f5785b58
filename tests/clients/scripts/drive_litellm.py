"""LiteLLM's SDK over both dialects."""

import litellm
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
    WEATHER,
    tell,
)

litellm.telemetry = False
litellm.suppress_debug_info = True
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]


def chat(text, model=MODEL, base=V1, key="none", way="openai", **more):
    return litellm.completion(
        model=f"{way}/{model}",
        api_base=base,
        api_key=key,
        messages=[{"role": "user", "content": text}],
        **more,
    )


def said(answer):
    return answer.choices[0].message.content


def streamed(answer):
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


def response(text, model=MODEL, **more):
    return litellm.responses(model=f"openai/{model}", api_base=V1, api_key="none", input=text, **more)


def told(answer):
    return "".join(part.text for item in answer.output if item.type == "message" for part in item.content)


def turn(way, base):
    first = chat("CALL it", tools=TOOLS, way=way, base=base).choices[0].message
    call = first.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    second = litellm.completion(
        model=f"{way}/{MODEL}",
        api_base=base,
        api_key="none",
        tools=TOOLS,
        messages=[{"role": "user", "content": "CALL it"}, first.model_dump(), result],
    )
    return [call.function.name, call.function.arguments, said(second)]


def thought(way, base):
    message = (
        chat("THINK", way=way, base=base, **({} if way == "openai" else {"max_tokens": 4000}))
        .choices[0]
        .message
    )
    return [message.reasoning_content, message.content]


tell(
    plain=lambda: said(chat("Hello")),
    stream=lambda: streamed(chat("Hello", stream=True)),
    usage=lambda: [
        chunk.usage.completion_tokens
        for chunk in chat("Hello", stream=True, stream_options={"include_usage": True})
        if getattr(chunk, "usage", None)
    ],
    tool=lambda: turn("openai", V1),
    think=lambda: thought("openai", V1),
    messages_plain=lambda: said(chat("Hello", way="anthropic", base=URL)),
    messages_stream=lambda: streamed(chat("Hello", way="anthropic", base=URL, stream=True)),
    messages_tool=lambda: turn("anthropic", URL),
    messages_think=lambda: thought("anthropic", URL),
    vllm=lambda: said(chat("Hello", way="hosted_vllm", reasoning_effort="low")),
    keyed=lambda: said(chat("Hello", base=KEYED_V1, key=KEY)),
    unauthorized=lambda: chat("Hello", base=KEYED_V1, key="wrong"),
    messages_unauthorized=lambda: chat(
        "Hello", way="anthropic", base=KEYED_V1.removesuffix("/v1"), key="wrong"
    ),
    unknown=lambda: chat("Hello", NOBODY),
    long=lambda: chat(LONG, SMALL),
    messages_long=lambda: chat(LONG, SMALL, way="anthropic", base=URL),
    slow=lambda: [said(chat("Hello", base=KEYED_V1, key=SLOW)) for _ in range(2)],
    spent=lambda: [said(chat("Hello", base=KEYED_V1, key=SPENT)) for _ in range(2)],
    messages_spent=lambda: said(chat("Hello", way="anthropic", base=KEYED_URL, key=SPENT)),
    full=lambda: said(chat("Hello", FULL, base=CROWDED_V1)),
    messages_full=lambda: said(chat("Hello", FULL2, way="anthropic", base=CROWDED_URL)),
    death=lambda: streamed(chat("Hello", DOOMED, stream=True)),
    messages_death=lambda: streamed(chat("Hello", DOOMED, way="anthropic", base=URL, stream=True)),
    embeddings=lambda: [
        len(row["embedding"])
        for row in litellm.embedding(
            model="openai/vector", api_base=V1, api_key="none", input=["Hello", "there"]
        ).data
    ],
    responses=lambda: told(response("Hello")),
    responses_stream=lambda: "".join(
        getattr(event, "delta", "")
        for event in response("Hello", stream=True)
        if event.type == "response.output_text.delta"
    ),
    responses_long=lambda: response(LONG, SMALL),
    responses_death=lambda: list(response("Hello", DOOMED, stream=True)),
    cold=lambda: said(chat("Hello", COLD)),
)
