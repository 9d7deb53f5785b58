"""Chat events become the chunks and answers that OpenAI's clients understand."""

import json
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageCustomToolCall

from cortex.ask import Ask, Tool
from cortex.errors import EngineFailed, Loading
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    StopReason,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator.openai_chat import speak, whole
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame, render
from tests.fake_openai import client
from tests.play import SCRIPT, play

GOLDEN = Path(__file__).parent / "golden" / "openai"
REPLY = Reply("chatcmpl-1", "m", 1700000000, "req-1")
HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}


def kinds(frames: list[Frame]) -> list[str]:
    return [frame.kind for frame in frames]


def chunks(frames: list[Frame]) -> list[dict]:
    return [json.loads(frame.data) for frame in frames if frame.kind != "done"]


def choice(frame: Frame) -> dict:
    [only] = json.loads(frame.data)["choices"]
    return only


# Streams


def test_a_stream_begins_with_the_role_and_ends_with_its_reason_and_done() -> None:
    frames = play(speak(REPLY), [Text("hi"), Stopped("length")])
    assert kinds(frames) == ["role", "content", "finish", "done"]
    assert chunks(frames) == [
        HEAD | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "hi"}, None),
            ({}, "length"),
        )
    ]
    assert frames[-1].data == b"[DONE]"


def test_the_role_is_said_before_any_event() -> None:
    assert kinds(next(speak(REPLY))) == ["role"]


def test_a_stream_is_byte_for_byte_the_recorded_one() -> None:
    frames = play(speak(replace(REPLY, include_usage=True)), SCRIPT)
    assert render(*frames) == (GOLDEN / "chat-stream.sse").read_bytes()


def test_nothing_is_said_of_starting_and_prefilling() -> None:
    machine = speak(REPLY)
    next(machine)
    assert machine.send(Started()) == []
    assert machine.send(Prefilled(5)) == []


def test_thoughts_are_reasoning_content() -> None:
    frames = play(speak(REPLY), [Thought("hm"), Text("a"), Stopped("stop")])
    assert kinds(frames) == ["role", "thought", "content", "finish", "done"]
    assert choice(frames[1])["delta"] == {"reasoning_content": "hm"}


def test_a_tool_call_is_one_delta_with_its_place_in_line() -> None:
    frames = play(speak(REPLY), SCRIPT)
    calls = [choice(frame)["delta"]["tool_calls"] for frame in frames if frame.kind == "tool_call"]
    assert calls == [
        [
            {
                "index": index,
                "id": f"call_{letter}",
                "type": "function",
                "function": {
                    "name": "weather",
                    "arguments": json.dumps({"city": city}, separators=(",", ":")),
                },
            }
        ]
        for index, letter, city in ((0, "a", "Paris"), (1, "b", "Rome"))
    ]
    assert choice(frames[-2])["finish_reason"] == "tool_calls"


def test_usage_is_the_last_chunk_and_only_on_request() -> None:
    events = [Text("a"), Stopped("stop", Usage(7, 3, 9, 2))]
    assert "usage" not in kinds(play(speak(REPLY), events))
    assert all("usage" not in chunk for chunk in chunks(play(speak(REPLY), events)))
    frames = play(speak(replace(REPLY, include_usage=True)), events)
    assert kinds(frames)[-3:] == ["finish", "usage", "done"]
    assert [chunk["usage"] for chunk in chunks(frames)[:-1]] == [None] * 3
    assert chunks(frames)[-1] == HEAD | {
        "choices": [],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 9,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def test_several_choices_end_once_when_all_have_stopped() -> None:
    machine = speak(replace(REPLY, n=2, include_usage=True))
    opening = next(machine)
    assert [(frame.kind, choice(frame)["index"]) for frame in opening] == [("role", 0), ("role", 1)]
    [text] = machine.send(Text("b", choice=1))
    assert choice(text)["index"] == 1
    [call] = machine.send(ToolCall("c", "f", "{}", choice=1))
    assert choice(call)["delta"]["tool_calls"][0]["index"] == 0
    first = machine.send(Stopped("stop", Usage(7, 0, 4), choice=1))
    assert [(frame.kind, choice(frame)["index"]) for frame in first] == [("finish", 1)]
    [call] = machine.send(ToolCall("d", "f", "{}", choice=0))
    assert choice(call)["delta"]["tool_calls"][0]["index"] == 0
    last = machine.send(Stopped("length", Usage(7, 7, 5), choice=0))
    assert kinds(last) == ["finish", "usage", "done"]
    assert choice(last[0]) == {"index": 0, "delta": {}, "finish_reason": "length"}
    usage = json.loads(last[1].data)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 9, 16)
    with pytest.raises(StopIteration):
        machine.send(Text("late"))


def test_a_failed_stream_ends_with_the_error_and_no_end_mark() -> None:
    """Section 2.1 of the faults: never a fake finish reason."""
    machine = speak(replace(REPLY, n=2, include_usage=True))
    next(machine)
    machine.send(Stopped("stop"))
    [frame] = machine.send(Failed(EngineFailed("the device is gone; try again"), choice=1))
    assert frame.kind == "error"
    assert json.loads(frame.data)["error"] == {
        "message": "the device is gone; try again",
        "type": "server_error",
        "code": "engine_failed",
        "param": None,
        "request_id": "req-1",
    }
    with pytest.raises(StopIteration):
        machine.send(Text("late"))


LOGPROBS = (
    TokenLogprob("h", -0.5, (("h", -0.5), ("j", -1.5), ("k", -2.5))),
    TokenLogprob("i", float("-inf"), (("i", -0.1),)),
)


def test_logprobs_stand_beside_their_text_when_they_were_asked_for() -> None:
    events = [Text("hi", LOGPROBS), Text("!"), Stopped("stop")]
    frames = play(speak(replace(REPLY, logprobs=2)), events)
    assert choice(frames[1])["logprobs"] == {
        "content": [
            {
                "token": "h",
                "logprob": -0.5,
                "bytes": [104],
                "top_logprobs": [
                    {"token": "h", "logprob": -0.5, "bytes": [104]},
                    {"token": "j", "logprob": -1.5, "bytes": [106]},
                ],
            },
            {
                "token": "i",
                "logprob": -9999.0,
                "bytes": [105],
                "top_logprobs": [{"token": "i", "logprob": -0.1, "bytes": [105]}],
            },
        ],
        "refusal": None,
    }
    assert "logprobs" not in choice(frames[2])
    assert "logprobs" not in choice(play(speak(REPLY), events)[1])


# Whole answers


def test_a_whole_answer_holds_all_that_was_said() -> None:
    assert json.loads(whole(REPLY, SCRIPT)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": 'It is "18°" 😀\u2028',
                    "refusal": None,
                    "reasoning_content": "Let me see.\n",
                    "tool_calls": [
                        {
                            "id": f"call_{letter}",
                            "type": "function",
                            "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'},
                        }
                        for letter, city in (("a", "Paris"), ("b", "Rome"))
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 9,
            "total_tokens": 16,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def test_content_is_null_beside_calls_and_empty_text_otherwise() -> None:
    calls = json.loads(whole(REPLY, [ToolCall("c", "f", "{}"), Stopped("tool_calls")]))
    assert calls["choices"][0]["message"]["content"] is None
    silent = json.loads(whole(REPLY, [Stopped("stop")]))
    assert silent["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_a_failure_is_raised_whatever_was_said_before() -> None:
    with pytest.raises(Loading):
        whole(replace(REPLY, n=2), [Text("a"), Stopped("stop"), Failed(Loading("wait"), choice=1)])


def test_an_answer_that_never_stopped_is_no_answer() -> None:
    with pytest.raises(EngineFailed, match="choice 1"):
        whole(replace(REPLY, n=2), [Text("a"), Stopped("stop"), Text("b", choice=1)])


# Both ways say the same


def pieces(n: int) -> st.SearchStrategy[Event]:
    at = st.integers(0, n - 1)
    logprobs = st.lists(st.builds(TokenLogprob, st.text(max_size=2), st.floats(-50, 0)), max_size=2).map(
        tuple
    )
    text = st.text(min_size=1, max_size=4)
    return st.one_of(
        st.builds(Text, text, logprobs, choice=at),
        st.builds(Thought, text, choice=at),
        st.builds(ToolCall, text, text, text, choice=at),
        st.builds(Started, choice=at),
        st.builds(Prefilled, st.integers(0, 9), choice=at),
    )


@st.composite
def scripts(draw: st.DrawFn) -> tuple[int, list[Event]]:
    n = draw(st.integers(1, 3))
    usages = st.builds(Usage, *[st.integers(0, 99)] * 4)
    reasons = st.sampled_from(["stop", "length", "tool_calls"])
    ends = [Stopped(draw(reasons), draw(usages), choice=index) for index in range(n)]
    return n, [*draw(st.lists(pieces(n), max_size=12)), *draw(st.permutations(ends))]


@given(scripts(), st.none() | st.integers(0, 3))
def test_a_stream_adds_up_to_the_whole_answer(script: tuple[int, list[Event]], logprobs: int | None) -> None:
    n, events = script
    reply = replace(REPLY, n=n, include_usage=True, logprobs=logprobs)
    added: list[dict] = [
        {"content": "", "reasoning_content": "", "tool_calls": [], "logprobs": []} for _ in range(n)
    ]
    said = chunks(play(speak(reply), events))
    for chunk in said:
        ChatCompletionChunk.model_validate(chunk)
        for part in chunk["choices"]:
            sums = added[part["index"]]
            for key in ("content", "reasoning_content", "tool_calls"):
                sums[key] += part["delta"].get(key, type(sums[key])())
            sums["logprobs"] += (part.get("logprobs") or {"content": []})["content"]
            sums["finish"] = part["finish_reason"]
    body = json.loads(whole(reply, events))
    ChatCompletion.model_validate(body)
    assert said[-1]["usage"] == body["usage"]
    for sums, part in zip(added, body["choices"], strict=True):
        message = part["message"]
        calls = [dict(call) for call in sums["tool_calls"]]
        assert [call.pop("index") for call in calls] == list(range(len(calls)))
        assert calls == message.get("tool_calls", [])
        assert sums["content"] == (message["content"] or "")
        assert sums["reasoning_content"] == message.get("reasoning_content", "")
        assert sums["logprobs"] == (part["logprobs"] or {"content": []})["content"]
        assert sums["finish"] == part["finish_reason"]


# The vendor's library understands both


def test_the_vendors_helper_adds_a_stream_up() -> None:
    body = render(*play(speak(replace(REPLY, include_usage=True)), SCRIPT))
    with client(body, "text/event-stream").chat.completions.stream(model="m", messages=[]) as stream:
        final = stream.get_final_completion()
    [only] = final.choices
    assert only.message.content == 'It is "18°" 😀\u2028'
    assert [call.id for call in only.message.tool_calls or []] == ["call_a", "call_b"]
    assert [call.function.arguments for call in only.message.tool_calls or []] == [
        '{"city":"Paris"}',
        '{"city":"Rome"}',
    ]
    assert only.finish_reason == "tool_calls"
    assert final.usage is not None
    assert final.usage.total_tokens == 16


def test_a_line_end_of_unicode_does_not_cut_an_event_in_two() -> None:
    body = render(*play(speak(REPLY), [Text("a\x85b\u2028c\u2029d"), Stopped("stop")]))
    lines = list(httpx.Response(200, content=body).iter_lines())
    assert {line[:6] for line in lines} == {"data: ", ""}
    assert json.loads(lines[2][6:])["choices"][0]["delta"] == {"content": "a\x85b\u2028c\u2029d"}


def test_the_vendors_library_raises_what_a_failed_stream_says() -> None:
    body = render(*play(speak(REPLY), [Text("a"), Failed(EngineFailed("the device is gone"))]))
    with (
        client(body, "text/event-stream").chat.completions.create(
            model="m", messages=[], stream=True
        ) as stream,
        pytest.raises(openai.APIError, match="the device is gone") as caught,
    ):
        list(stream)
    assert caught.value.code == "engine_failed"


def test_the_vendors_library_reads_a_whole_answer() -> None:
    body = whole(replace(REPLY, logprobs=1), [Text("hi", LOGPROBS), Stopped("stop", Usage(7, 3, 9, 2))])
    final = client(body, "application/json").chat.completions.create(model="m", messages=[])
    ChatCompletion.model_validate(final.model_dump())
    assert final.choices[0].message.content == "hi"
    assert final.choices[0].logprobs is not None
    assert final.choices[0].logprobs.content is not None
    assert final.choices[0].logprobs.content[1].logprob == -9999.0
    assert final.usage is not None
    assert final.usage.prompt_tokens_details is not None
    assert final.usage.prompt_tokens_details.cached_tokens == 3


LEGACY = replace(REPLY, ask=Ask("m", tools=(Tool("f", legacy=True),)))
CUSTOM = replace(REPLY, ask=Ask("m", tools=(Tool("patch", free_form=True), Tool("f"))))


def test_who_sent_functions_reads_the_one_function_call_of_the_message() -> None:
    """A client from before `tools` looks for nothing else, and its loop goes by the finish_reason."""
    said = [ToolCall("call_a", "f", '{"a": 1}'), Stopped("tool_calls", Usage(1, 0, 1))]
    called = {"name": "f", "arguments": '{"a": 1}'}
    frames = play(speak(LEGACY), said)
    assert kinds(frames) == ["role", "tool_call", "finish", "done"]
    assert choice(frames[1])["delta"] == {"function_call": called}
    assert choice(frames[2])["finish_reason"] == "function_call"
    (answered,) = json.loads(whole(LEGACY, said))["choices"]
    assert answered["message"]["function_call"] == called
    assert "tool_calls" not in answered["message"] and answered["message"]["content"] is None
    assert answered["finish_reason"] == "function_call"


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_an_answer_without_a_call_is_the_same_to_who_sent_functions(reason: StopReason) -> None:
    said = [Text("hm"), Stopped(reason, Usage(1, 0, 1))]
    assert play(speak(LEGACY), said) == play(speak(REPLY), said)
    assert whole(LEGACY, said) == whole(REPLY, said)


def test_a_custom_tool_is_called_with_its_text_beside_functions() -> None:
    said = [
        ToolCall("call_a", "patch", '{"input": "*** Begin\\n"}'),
        ToolCall("call_b", "f", "{}"),
        Stopped("tool_calls", Usage(1, 0, 1)),
    ]
    custom = {"id": "call_a", "type": "custom", "custom": {"name": "patch", "input": "*** Begin\n"}}
    function = {"id": "call_b", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    frames = play(speak(CUSTOM), said)
    assert [choice(frame)["delta"]["tool_calls"] for frame in frames[1:3]] == [
        [{"index": 0, **custom}],
        [{"index": 1, **function}],
    ]
    (answered,) = json.loads(whole(CUSTOM, said))["choices"]
    assert answered["message"]["tool_calls"] == [custom, function]
    assert answered["finish_reason"] == "tool_calls"


def test_the_vendors_library_reads_calls_in_the_legacy_form_and_of_custom_tools() -> None:
    end = Stopped("tool_calls", Usage(1, 0, 1))
    body = render(*play(speak(LEGACY), [ToolCall("call_a", "f", '{"a": 1}'), end]))
    asked: dict = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with client(body, "text/event-stream").chat.completions.stream(**asked) as stream:
        [part] = stream.until_done().get_final_completion().choices
    called = part.message.function_call
    assert called is not None and (called.name, called.arguments) == ("f", '{"a": 1}')
    assert (part.finish_reason, part.message.tool_calls) == ("function_call", None)
    # Of custom tools' calls in a stream the library has no type: they are as they were sent.
    body = render(*play(speak(CUSTOM), [ToolCall("call_a", "patch", '{"input": "x"}'), end]))
    with client(body, "text/event-stream").chat.completions.create(**asked, stream=True) as chunks_:
        [call] = [each for chunk in chunks_ for each in chunk.choices[0].delta.tool_calls or ()]
    assert (call.index, call.id, call.to_dict()["custom"]) == (0, "call_a", {"name": "patch", "input": "x"})
    answer = whole(CUSTOM, [ToolCall("call_a", "patch", '{"input": "x"}'), end])
    final = client(answer, "application/json").chat.completions.create(**asked)
    [typed] = final.choices[0].message.tool_calls or ()
    assert isinstance(typed, ChatCompletionMessageCustomToolCall) and typed.custom.input == "x"
