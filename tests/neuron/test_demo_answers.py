"""The bundled model behind a real neuron: every answer it was taught, word for word."""

import json

import pytest
import trio

from cortex.demo import CONTEXT, MODEL_ID
from tests.calls import CHAT, TEXT, Json, events, fault_of, figures, residents
from tests.demo_questions import FIFTY, QUESTIONS, STORY, TIME, WEATHER, Question
from tests.roles import Running, demo_neuron


@pytest.fixture
async def demo():
    with trio.fail_after(30):
        async with demo_neuron() as role:
            yield role


def body(question: Question, **more: object) -> Json:
    asked: Json = {
        "model": MODEL_ID,
        "messages": list(question.messages),
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": question.thinking},
        **more,
    }
    return {**asked, "tools": list(question.tools)} if question.tools else asked


def user(text: str, **more: object) -> Json:
    return {"model": MODEL_ID, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def joined(stream: bytes) -> tuple[Json, str]:
    """The message that the chunks of one stream add up to, and its finish_reason."""
    data = events(stream)
    assert data[-1] == "[DONE]"
    message: Json = {"content": "", "reasoning_content": "", "tool_calls": []}
    reason = ""
    for chunk in map(json.loads, data[:-1]):
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content", "")
            message["tool_calls"] += delta.get("tool_calls", [])
            reason = choice["finish_reason"] or reason
    return message, reason


def holds(question: Question, message: Json, reason: str) -> None:
    name = question.name
    assert (message["content"] or "") == question.answer, name
    assert (message.get("reasoning_content") or "") == question.thought, name
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []
    ]
    assert calls == list(question.tool_calls), name
    assert reason == ("tool_calls" if question.tool_calls else "stop"), name


async def test_every_taught_answer_comes_word_for_word_streamed_and_not(demo: Running) -> None:
    """Many at once over four slots: more requests than slots, and none disturbs another."""

    line = trio.CapacityLimiter(32)  # fewer than may wait for a slot

    async def ask(question: Question) -> None:
        async with line:
            answer = await demo.http.post(CHAT, json=body(question))
            assert answer.status_code == 200, (question.name, answer.text)
            choice = answer.json()["choices"][0]
            holds(question, choice["message"], choice["finish_reason"])
            streamed = await demo.http.post(CHAT, json=body(question, stream=True))
        holds(question, *joined(streamed.content))

    async with trio.open_nursery() as nursery:
        for question in QUESTIONS:
            nursery.start_soon(ask, question)
    assert await figures(demo) == {MODEL_ID: (0, 0)}


async def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers_streamed_or_not(
    demo: Running,
) -> None:
    """Row 47: 400 before the first byte, and the words that clients look for."""
    for stream in (False, True):
        answer = await demo.http.post(CHAT, json=user("word " * 3000, stream=stream))
        assert answer.status_code == 400
        fault = fault_of(answer)
        assert fault["code"] == "context_length_exceeded"
        assert fault["context_length"] == CONTEXT
        assert fault["prompt_tokens"] > 3000
        assert f"{fault['prompt_tokens']} tokens" in fault["message"]
        assert f"maximum context length is {CONTEXT} tokens" in fault["message"]
    assert await figures(demo) == {MODEL_ID: (0, 0)}


async def test_max_tokens_ends_the_answer_with_length(demo: Running) -> None:
    answer = (await demo.http.post(CHAT, json=user("Count to fifty.", max_tokens=5))).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert FIFTY.startswith(answer["choices"][0]["message"]["content"])


async def test_max_tokens_beyond_the_context_is_no_error(demo: Running) -> None:
    answer = await demo.http.post(CHAT, json=user("Thank you", max_tokens=1_000_000))
    assert answer.json()["choices"][0]["message"]["content"] == "You are welcome."


@pytest.mark.parametrize("stop", [" lived", "ved in", [" page", "quiet mach"]])
async def test_a_stop_string_ends_the_text_though_it_is_split_over_tokens(demo: Running, stop) -> None:
    stops = [stop] if isinstance(stop, str) else stop
    wanted = STORY[: min(STORY.index(each) for each in stops)]
    for stream in (False, True):
        answer = await demo.http.post(CHAT, json=user("Tell me a story.", stop=stop, stream=stream))
        if stream:
            message, reason = joined(answer.content)
        else:
            choice = answer.json()["choices"][0]
            message, reason = choice["message"], choice["finish_reason"]
        assert (message["content"], reason) == (wanted, "stop")


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ("required", {"get_weather", "get_time"}),
        ({"type": "function", "function": {"name": "get_time"}}, {"get_time"}),
    ],
    ids=["required", "named"],
)
async def test_a_forced_call_is_a_call_although_the_model_would_rather_talk(
    demo: Running, choice: object, allowed: set[str]
) -> None:
    for stream in (False, True):
        asked = user("Say hello in Oslo.", tools=[WEATHER, TIME], tool_choice=choice, stream=stream)
        answer = await demo.http.post(CHAT, json={**asked, "max_tokens": 200})
        assert answer.status_code == 200, answer.text
        if stream:
            message, reason = joined(answer.content)
        else:
            message, reason = (
                answer.json()["choices"][0]["message"],
                answer.json()["choices"][0]["finish_reason"],
            )
        assert reason == "tool_calls"
        (call,) = message["tool_calls"]
        assert call["function"]["name"] in allowed
        assert set(json.loads(call["function"]["arguments"])) == {"city"}
        assert not message["content"]


async def test_tools_that_may_not_be_called_are_not_shown_to_the_model(demo: Running) -> None:
    asked = user("What is the weather in Oslo?", tools=[WEATHER], tool_choice="none")
    answer = (await demo.http.post(CHAT, json=asked)).json()
    assert answer["choices"][0]["message"]["content"] == "I need a tool to find that out."


async def test_a_json_schema_holds_the_answer(demo: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "big": {"type": "boolean"}},
        "required": ["colour", "big"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    answer = await demo.http.post(CHAT, json=user("Hello", response_format=shape))
    said = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert said["colour"] in ("red", "blue")
    assert type(said["big"]) is bool
    plain = await demo.http.post(
        CHAT, json=user("Give me a JSON object.", response_format={"type": "json_object"})
    )
    assert isinstance(json.loads(plain.json()["choices"][0]["message"]["content"]), dict)


async def test_several_prompts_are_answered_in_their_order_though_there_are_fewer_slots(
    demo: Running,
) -> None:
    """The model has four slots."""
    asked = ["Thank you", "Count to ten.", "What is 2 + 2?", "Hello", "Thank you", "Hello"]
    prompts = [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        for text in asked
    ]
    body = {"model": MODEL_ID, "prompt": prompts, "temperature": 0, "max_tokens": 30, "n": 2}
    told = (await demo.http.post(TEXT, json=body)).json()
    assert [choice["index"] for choice in told["choices"]] == list(range(12))
    said = [choice["text"] for choice in told["choices"]]
    alone = [
        (await demo.http.post(TEXT, json={**body, "prompt": prompt, "n": 1})).json() for prompt in prompts
    ]
    assert said == [one["choices"][0]["text"] for one in alone for _ in range(2)]
    assert told["usage"]["prompt_tokens"] == sum(one["usage"]["prompt_tokens"] for one in alone)
    assert told["usage"]["completion_tokens"] == 2 * sum(one["usage"]["completion_tokens"] for one in alone)
    streamed = await demo.http.post(
        TEXT, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    pieces = [""] * 12
    chunks = [json.loads(data) for data in events(streamed.content)[:-1]]
    for chunk in chunks[:-1]:
        for choice in chunk["choices"]:
            pieces[choice["index"]] += choice["text"]
    assert pieces == said
    assert chunks[-1]["usage"]["total_tokens"] == told["usage"]["total_tokens"]
    assert await figures(demo) == {MODEL_ID: (0, 0)}


async def test_two_choices_with_one_seed_are_two_answers_and_repeatable(demo: Running) -> None:
    # As hot as may be: the model is sure of what it was taught.
    asked = user("Tell me a joke.", n=2, seed=7, max_tokens=12) | {"temperature": 2}
    first = (await demo.http.post(CHAT, json=asked)).json()
    again = (await demo.http.post(CHAT, json=asked)).json()
    said = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1]
    assert said[0] != said[1]
    assert said == [choice["message"]["content"] for choice in again["choices"]]
    assert first["usage"]["completion_tokens"] > 12
    other = (await demo.http.post(CHAT, json={**asked, "seed": 8})).json()
    assert [choice["message"]["content"] for choice in other["choices"]] != said


async def test_more_choices_than_slots_are_refused_before_anything_is_loaded(demo: Running) -> None:
    answer = await demo.http.post(CHAT, json=user("Hello", n=5))
    assert (answer.status_code, fault_of(answer)["param"]) == (400, "n")
    assert "4 slots" in fault_of(answer)["message"]
    assert await residents(demo) == {}


async def test_log_probabilities_come_beside_their_text(demo: Running) -> None:
    asked = user("Thank you", logprobs=True, top_logprobs=3)
    choice = (await demo.http.post(CHAT, json=asked)).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == "You are welcome."
    for token in content:
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        assert token["bytes"] == list(token["token"].encode())
    legacy = {"model": MODEL_ID, "prompt": "Thank you", "logprobs": 2, "max_tokens": 4, "temperature": 0}
    shown = (await demo.http.post(TEXT, json=legacy)).json()["choices"][0]
    lists = shown["logprobs"]
    assert "".join(lists["tokens"]) == shown["text"]
    assert len(lists["token_logprobs"]) == len(lists["tokens"]) == len(lists["text_offset"])
    assert all(len(row) <= 2 for row in lists["top_logprobs"])


async def test_a_plain_completion_says_the_prompt_again_when_asked_to(demo: Running) -> None:
    prompt = "<|im_start|>user\nThank you<|im_end|>\n<|im_start|>assistant\n"
    asked = {"model": MODEL_ID, "prompt": prompt, "temperature": 0, "max_tokens": 40}
    plain = (await demo.http.post(TEXT, json=asked)).json()["choices"][0]
    assert (plain["text"], plain["finish_reason"]) == ("You are welcome.", "stop")
    echoed = (await demo.http.post(TEXT, json={**asked, "echo": True})).json()["choices"][0]
    assert echoed["text"] == prompt + "You are welcome."
    stopped = (await demo.http.post(TEXT, json={**asked, "stop": ["elcom"]})).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("You are w", "stop")
    default = (await demo.http.post(TEXT, json={"model": MODEL_ID, "prompt": prompt + "1 2 3"})).json()
    assert default["usage"]["completion_tokens"] <= 16


async def test_a_plain_completion_takes_token_ids(demo: Running) -> None:
    """The same ids are the same prompt: as many tokens, and the same greedy text."""
    asked = {"model": MODEL_ID, "prompt": [40, 41, 42, 43], "temperature": 0, "max_tokens": 8}
    one = (await demo.http.post(TEXT, json=asked)).json()
    other = (await demo.http.post(TEXT, json={**asked, "prompt": [[40, 41, 42, 43]]})).json()
    assert one["usage"]["prompt_tokens"] == 4
    assert one["choices"][0]["text"] == other["choices"][0]["text"]


async def test_a_field_that_no_engine_obeys_is_named(demo: Running) -> None:
    for field, value in (("suffix", "x"), ("best_of", 3)):
        answer = await demo.http.post(TEXT, json={"model": MODEL_ID, "prompt": "a", field: value})
        assert (answer.status_code, fault_of(answer)["param"]) == (400, field)
        assert fault_of(answer)["code"] == "unsupported_parameter"


async def test_a_schema_that_the_engine_cannot_hold_is_refused_by_name(demo: Running) -> None:
    """Row 48: never an answer that only looks as if it had been held."""
    schema = {"type": "object", "properties": {"a": {"$ref": "#/definitely/not/here"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await demo.http.post(CHAT, json=user("Hello", response_format=shape))
    assert answer.status_code == 400
    assert fault_of(answer)["param"] == "response_format"
    assert await figures(demo) == {MODEL_ID: (0, 0)}


async def test_the_caller_may_begin_the_answer(demo: Running) -> None:
    asked = user("Thank you")
    asked["messages"].append({"role": "assistant", "content": "You are"})
    answer = (await demo.http.post(CHAT, json=asked)).json()
    assert answer["choices"][0]["message"]["content"] == " welcome."
