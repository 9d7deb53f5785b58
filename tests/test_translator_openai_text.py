"""Text completions in the legacy shapes, streaming and whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from cortex.errors import EngineFailed
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator.openai_text import speak, whole
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame, render
from tests.fake_openai import client
from tests.play import play

GOLDEN = Path(__file__).parent / "golden" / "openai"
REPLY = Reply("cmpl-1", "m", 1700000000, "req-1")
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "m"}
LOGPROBS = (
    TokenLogprob("h", -0.5, (("h", -0.5), ("j", -1.5))),
    TokenLogprob("i😀", float("-inf"), (("i", -0.1),)),
)
SCRIPT: list[Event] = [
    Started(),
    Prefilled(2),
    Text("hi😀", LOGPROBS),
    Text("!", (TokenLogprob("!", -0.25, (("!", -0.25),)),)),
    Stopped("length", Usage(2, 1, 3)),
]


def kinds(frames: list[Frame]) -> list[str]:
    return [frame.kind for frame in frames]


def chunks(frames: list[Frame]) -> list[dict]:
    return [json.loads(frame.data) for frame in frames if frame.kind != "done"]


def choice(frame: Frame) -> dict:
    [only] = json.loads(frame.data)["choices"]
    return only


def test_a_stream_has_no_role_and_ends_with_its_reason_and_done() -> None:
    frames = play(speak(REPLY), [Started(), Prefilled(1), Text("hi"), Stopped("stop")])
    assert kinds(frames) == ["content", "finish", "done"]
    assert chunks(frames) == [
        HEAD | {"choices": [{"index": 0, "text": "hi", "finish_reason": None}]},
        HEAD | {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    ]


def test_a_stream_is_byte_for_byte_the_recorded_one() -> None:
    frames = play(speak(replace(REPLY, include_usage=True, logprobs=1)), SCRIPT)
    assert render(*frames) == (GOLDEN / "text-stream.sse").read_bytes()


def test_an_echo_comes_before_everything_else_for_each_choice() -> None:
    reply = replace(REPLY, n=2, each=2, echo=("once ",))
    opening = next(speak(reply))
    assert [(frame.kind, choice(frame)["index"], choice(frame)["text"]) for frame in opening] == [
        ("echo", 0, "once "),
        ("echo", 1, "once "),
    ]
    body = json.loads(
        whole(reply, [Text("a"), Stopped("stop"), Text("b", choice=1), Stopped("stop", choice=1)])
    )
    assert [part["text"] for part in body["choices"]] == ["once a", "once b"]


def test_choices_of_several_prompts_stand_in_their_order_and_repeat_their_own() -> None:
    """The second prompt is answered before the first: counts go by the choice, not by who ended first."""
    reply = replace(REPLY, n=4, each=2, echo=("a ", "b "), include_usage=True)
    counts = {0: Usage(5, 0, 1), 1: Usage(5, 5, 1), 2: Usage(7, 2, 1), 3: Usage(7, 7, 1)}
    said: list[Event] = []
    for at in (3, 0, 2, 1):
        said += [Text(str(at), choice=at), Stopped("stop", counts[at], choice=at)]
    body = json.loads(whole(reply, said))
    assert [(part["index"], part["text"]) for part in body["choices"]] == [
        (0, "a 0"),
        (1, "a 1"),
        (2, "b 2"),
        (3, "b 3"),
    ]
    frames = play(speak(reply), said)
    assert chunks(frames)[-1]["usage"] == body["usage"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (12, 4)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}


def test_a_thought_is_text_here() -> None:
    frames = play(speak(REPLY), [Thought("hm"), Stopped("stop")])
    assert choice(frames[0])["text"] == "hm"
    assert json.loads(whole(REPLY, [Thought("hm"), Stopped("stop")]))["choices"][0]["text"] == "hm"


def test_logprobs_are_lists_side_by_side_with_offsets_in_characters() -> None:
    frames = play(speak(replace(REPLY, logprobs=1)), SCRIPT)
    assert [choice(frame)["logprobs"] for frame in frames[:2]] == [
        {
            "tokens": ["h", "i😀"],
            "token_logprobs": [-0.5, -9999.0],
            "top_logprobs": [{"h": -0.5}, {"i": -0.1}],
            "text_offset": [0, 1],
        },
        {"tokens": ["!"], "token_logprobs": [-0.25], "top_logprobs": [{"!": -0.25}], "text_offset": [3]},
    ]
    assert "logprobs" not in choice(play(speak(REPLY), SCRIPT)[0])


@pytest.mark.parametrize(("asked", "top"), [(0, None), (1, [{"h": -0.5}, {"i": -0.1}, {"!": -0.25}])])
def test_a_whole_answer_holds_the_logprobs_of_all_its_text(asked: int, top: list | None) -> None:
    assert json.loads(whole(replace(REPLY, logprobs=asked), SCRIPT)) == HEAD | {
        "choices": [
            {
                "text": "hi😀!",
                "index": 0,
                "logprobs": {
                    "tokens": ["h", "i😀", "!"],
                    "token_logprobs": [-0.5, -9999.0, -0.25],
                    "top_logprobs": top,
                    "text_offset": [0, 1, 3],
                },
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_several_choices_end_once_when_all_have_stopped() -> None:
    machine = speak(replace(REPLY, n=2, each=2, include_usage=True))
    assert next(machine) == []
    assert kinds(machine.send(Stopped("stop", Usage(3, 0, 1)))) == ["finish"]
    assert choice(machine.send(Text("x", choice=1))[0])["index"] == 1
    last = machine.send(Stopped("length", Usage(3, 0, 2), choice=1))
    assert kinds(last) == ["finish", "usage", "done"]
    usage = json.loads(last[1].data)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 3)
    with pytest.raises(StopIteration):
        machine.send(Text("late"))


def test_a_failed_stream_ends_with_the_error_and_no_end_mark() -> None:
    machine = speak(REPLY)
    next(machine)
    [frame] = machine.send(Failed(EngineFailed("gone")))
    assert json.loads(frame.data)["error"]["code"] == "engine_failed"
    with pytest.raises(StopIteration):
        machine.send(Text("late"))
    with pytest.raises(EngineFailed, match="gone"):
        whole(REPLY, [Text("a"), Failed(EngineFailed("gone"))])
    with pytest.raises(EngineFailed, match="choice 0"):
        whole(REPLY, [Text("a")])


def test_a_tool_call_in_a_plain_completion_is_a_bug_and_not_dropped() -> None:
    call = ToolCall("c", "f", "{}")
    with pytest.raises(TypeError):
        play(speak(REPLY), [call])
    with pytest.raises(TypeError):
        whole(REPLY, [call])


TOKENS = st.lists(st.builds(TokenLogprob, st.text(max_size=2), st.floats(-50, 0)), max_size=2).map(tuple)


@given(
    st.lists(
        st.builds(Text, st.text(min_size=1), TOKENS) | st.builds(Thought, st.text(min_size=1)), max_size=8
    ),
    st.sampled_from([None, 0, 1, 5]),
    st.text(max_size=4),
)
def test_a_stream_adds_up_to_the_whole_answer(events: list[Event], logprobs: int | None, echo: str) -> None:
    reply = replace(REPLY, logprobs=logprobs, echo=(echo,), include_usage=True)
    events = [*events, Stopped("stop", Usage(1, 0, 2))]
    said = chunks(play(speak(reply), events))
    body = json.loads(whole(reply, events))
    Completion.model_validate(body)
    [part] = body["choices"]
    parts = [chunk["choices"][0] for chunk in said[:-1]]
    for chunk in said:
        for one in chunk["choices"]:  # the library's type knows no unfinished choice
            one["finish_reason"] = one["finish_reason"] or "stop"
        Completion.model_validate(chunk)
    assert "".join(one["text"] for one in parts) == part["text"]
    assert said[-1]["usage"] == body["usage"]
    for key in ("tokens", "token_logprobs", "text_offset"):
        listed = [value for one in parts for value in one.get("logprobs", {}).get(key, [])]
        assert listed == (part["logprobs"] or {key: []})[key]


def test_the_vendors_library_reads_a_stream_and_a_whole_answer() -> None:
    reply = replace(REPLY, include_usage=True, logprobs=1)
    body = render(*play(speak(reply), SCRIPT))
    with client(body, "text/event-stream").completions.create(model="m", prompt="p", stream=True) as stream:
        seen = list(stream)
    assert "".join(each.choices[0].text for each in seen[:-1]) == "hi😀!"
    assert seen[-1].usage is not None
    assert seen[-1].usage.total_tokens == 5
    final = client(whole(reply, SCRIPT), "application/json").completions.create(model="m", prompt="p")
    assert (final.choices[0].text, final.choices[0].finish_reason) == ("hi😀!", "length")
