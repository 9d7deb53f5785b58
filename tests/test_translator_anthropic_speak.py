"""Events become the streams and messages that Anthropic's clients understand."""

import json
from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import EngineFailed, Loading, NoThreads, PromptTooLong
from cortex.events import Event, Failed, Prefilled, Started, Stopped, Text, Thought, ToolCall, Usage
from cortex.translator.anthropic_messages import speak, whole
from cortex.wire import faults
from cortex.wire.anthropic_answers import SIGNATURE
from cortex.wire.openai import Reply
from cortex.wire.sse import Frame, render
from tests.fake_anthropic import client
from tests.play import SCRIPT, play

REPLY = Reply("msg_1", "m", 1700000000, "req-1")
CONTENT = [
    {"type": "thinking", "thinking": "Let me see.\n", "signature": SIGNATURE},
    {"type": "text", "text": 'It is "18°" 😀\u2028'},
    {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Paris"}},
    {"type": "tool_use", "id": "call_b", "name": "weather", "input": {"city": "Rome"}},
]
ASKED: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def events(frames: list[Frame]) -> list[dict[str, Any]]:
    said = [json.loads(frame.data) for frame in frames]
    assert [each["type"] for each in said] == [frame.event for frame in frames], "each event has its name"
    return said


def test_a_stream_begins_with_the_message_and_ends_with_its_reason() -> None:
    said = events(
        play(speak(REPLY), [Started(), Prefilled(7, 3), Text("hi"), Stopped("stop", Usage(7, 3, 1))])
    )
    first = {"input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3}
    assert said == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "m",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {**first, "output_tokens": 0},
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {**first, "output_tokens": 1},
        },
        {"type": "message_stop"},
    ]


def test_nothing_is_said_before_the_prompt_is_counted() -> None:
    machine = speak(REPLY)
    assert next(machine) == [] and machine.send(Started()) == []
    assert [frame.event for frame in machine.send(Prefilled(7))] == ["message_start"]


@pytest.mark.parametrize("first", [Text("a"), Thought("a"), ToolCall("i", "f", "{}"), Stopped("stop")])
def test_an_engine_that_does_not_count_first_begins_all_the_same(first: Event) -> None:
    machine = speak(REPLY)
    next(machine)
    assert machine.send(first)[0].event == "message_start"


def test_blocks_have_indices_in_order_and_one_is_open_at_a_time() -> None:
    opened: list[int] = []
    closed: list[int] = []
    for said in events(play(speak(REPLY), SCRIPT)):
        match said["type"]:
            case "content_block_start":
                assert opened == closed
                opened.append(said["index"])
            case "content_block_delta":
                assert said["index"] == opened[-1] and len(opened) == len(closed) + 1
            case "content_block_stop":
                closed.append(said["index"])
            case "message_delta" | "message_stop":
                assert opened == closed
    assert opened == closed == [0, 1, 2, 3]


def test_a_thought_is_signed_before_it_ends() -> None:
    said = events(play(speak(REPLY), [Thought("a"), Text("b"), Thought("c"), Stopped("stop")]))
    deltas = [
        (each["index"], each["delta"]["type"]) for each in said if each["type"] == "content_block_delta"
    ]
    assert deltas == [
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (1, "text_delta"),
        (2, "thinking_delta"),
        (2, "signature_delta"),
    ]


@pytest.mark.parametrize(
    ("stopped", "reason", "sequence"),
    [
        (Stopped("stop"), "end_turn", None),
        (Stopped("length"), "max_tokens", None),
        (Stopped("tool_calls"), "tool_use", None),
        (Stopped("stop", stop="END"), "stop_sequence", "END"),
    ],
)
def test_the_reason_is_said_in_the_dialects_words(
    stopped: Stopped, reason: str, sequence: str | None
) -> None:
    delta = events(play(speak(REPLY), [Text("a"), stopped]))[-2]["delta"]
    body = json.loads(whole(REPLY, [Text("a"), stopped]))
    for said in (delta, body):
        assert (said["stop_reason"], said["stop_sequence"]) == (reason, sequence)


def test_a_failed_stream_ends_with_a_named_error_and_no_end_mark() -> None:
    """S-ERR: the dialect's clients skip nameless events."""
    frames = play(speak(REPLY), [Text("a"), Failed(Loading("still loading", retry_after_s=7))])
    assert [frame.event for frame in frames][-2:] == ["content_block_delta", "error"]
    last = json.loads(frames[-1].data)
    assert last["type"] == "error" and last["request_id"] == "req-1"
    assert last["error"]["type"] == "overloaded_error" and last["error"]["retry_after"] == 7
    assert last["error"]["details"]["error_code"] == "model_loading"


def test_a_whole_message_holds_all_that_was_said() -> None:
    assert json.loads(whole(REPLY, SCRIPT)) == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": CONTENT,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 3,
            "output_tokens": 9,
        },
    }


def test_a_failure_is_raised_and_an_answer_without_an_end_is_none() -> None:
    with pytest.raises(EngineFailed, match="gone"):
        whole(REPLY, [Text("a"), Failed(EngineFailed("gone"))])
    with pytest.raises(EngineFailed, match="without a reason"):
        whole(REPLY, [Text("a")])


def test_a_call_that_is_no_object_is_no_part_of_a_whole_message() -> None:
    for arguments in ('{"a": "x', "[1]", ""):
        with pytest.raises(EngineFailed, match="'f'"):
            whole(REPLY, [ToolCall("i", "f", arguments), Stopped("tool_calls")])


pieces = st.one_of(
    st.builds(Text, st.text(min_size=1, max_size=5)),
    st.builds(Thought, st.text(min_size=1, max_size=5)),
    st.builds(ToolCall, st.text(min_size=1, max_size=5), st.just("f"), st.just('{"a": 1}')),
)


@given(st.lists(pieces, max_size=8))
def test_a_stream_adds_up_to_the_whole_message_in_the_vendors_library(said: list[Event]) -> None:
    script = [Prefilled(5), *said, Stopped("stop", Usage(5, 0, 3))]
    body = render(*play(speak(REPLY), script))
    with client(body, "text/event-stream").messages.stream(**ASKED) as stream:
        added = stream.get_final_message()
    at_once = client(whole(REPLY, script), "application/json").messages.create(**ASKED)
    assert added.to_dict(mode="json")["content"] == at_once.to_dict(mode="json")["content"]
    assert (added.stop_reason, added.usage.output_tokens) == (
        at_once.stop_reason,
        at_once.usage.output_tokens,
    )
    assert added.usage.input_tokens == at_once.usage.input_tokens == 5


def test_the_vendors_library_understands_the_stream() -> None:
    body = render(*play(speak(REPLY), SCRIPT))
    with client(body, "text/event-stream").messages.stream(**ASKED) as stream:
        final = stream.get_final_message()
    assert final.to_dict(mode="json")["content"] == CONTENT
    assert final.stop_reason == "tool_use" and final.usage.cache_read_input_tokens == 3


def test_the_vendors_library_raises_what_a_failed_stream_says() -> None:
    body = render(*play(speak(REPLY), [Text("a"), Failed(EngineFailed("the device is gone"))]))
    with (
        client(body, "text/event-stream").messages.stream(**ASKED) as stream,
        pytest.raises(anthropic.APIStatusError, match="the device is gone"),
    ):
        stream.get_final_message()


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_claude_code_reads() -> None:
    frames = play(speak(REPLY), [Failed(PromptTooLong.of(200001, 4096))])
    error = json.loads(frames[-1].data)["error"]
    assert error["message"] == "prompt is too long: 200001 tokens > 4096 maximum"
    assert error["type"] == "invalid_request_error"


def test_the_vendors_library_sends_a_thread_again_without_it() -> None:
    """It goes by this code and this list: an error without them is raised to the user."""
    answer = faults.body(NoThreads("no"), "anthropic", "req-1")
    with pytest.raises(anthropic.BadRequestError) as caught:
        client(answer, "application/json", faults.status(NoThreads("no"), "anthropic")).messages.create(
            **ASKED
        )
    body: Any = caught.value.body
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def test_an_error_has_its_code_and_facts_where_programs_look() -> None:
    error = Loading("still loading", retry_after_s=7, facts={"loading_for_s": 2.5})
    told = json.loads(faults.body(error, "anthropic", "req-1"))["error"]
    assert told["details"] == {"error_code": "model_loading", "loading_for_s": 2.5}
