"""Events become the streams and responses that the clients of OpenAI's Responses dialect understand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.ask import Ask, Message, Sampling, Tool, ToolChoice
from cortex.errors import EngineFailed, Loading
from cortex.events import (
    Event,
    Failed,
    Prefilled,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from cortex.translator.openai_responses import read
from cortex.translator.responses_speech import speak, whole
from cortex.translator.responses_turns import sealed
from cortex.wire import faults
from cortex.wire.openai import Reply
from cortex.wire.responses_trail import Trail
from cortex.wire.sse import Frame, render
from tests.fake_openai import client
from tests.play import SCRIPT as CHAT
from tests.play import play, splits

GOLDEN = Path(__file__).parent / "golden" / "responses"
TOOLS = (
    Tool("weather"),
    Tool("agents__close", namespace="agents"),
    Tool("patch", free_form=True),
    Tool("agents__patch", namespace="agents", free_form=True),
)
ASK = Ask("m", (Message("user", "hi"),), tools=TOOLS)
REPLY = Reply("resp_1", "m", 1700000000, "req-1", ask=ASK)
SEALING = replace(REPLY, ask=replace(ASK, sealed_thoughts=True))
USED = Usage(7, 3, 9, 2)
SCRIPT: list[Event] = [
    *CHAT[:7],
    ToolCall("call_b", "agents__close", "{}"),
    ToolCall("call_c", "patch", '{"input": "a\\n"}'),
    Stopped("tool_calls", USED),
]
OUTPUT: list[dict[str, Any]] = [
    {
        "type": "reasoning",
        "id": "rs_1_0",
        "summary": [{"type": "summary_text", "text": "Let me see.\n"}],
        "encrypted_content": None,
    },
    {
        "type": "message",
        "id": "msg_1_1",
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": 'It is "18°" 😀\u2028', "annotations": [], "logprobs": []}
        ],
    },
    {
        "type": "function_call",
        "id": "fc_1_2",
        "status": "completed",
        "call_id": "call_a",
        "name": "weather",
        "arguments": '{"city":"Paris"}',
    },
    {
        "type": "function_call",
        "id": "fc_1_3",
        "status": "completed",
        "call_id": "call_b",
        "name": "close",
        "namespace": "agents",
        "arguments": "{}",
    },
    {
        "type": "custom_tool_call",
        "id": "ctc_1_4",
        "status": "completed",
        "call_id": "call_c",
        "name": "patch",
        "input": "a\n",
    },
]


def events(frames: list[Frame]) -> list[dict[str, Any]]:
    said = [json.loads(frame.data) for frame in frames]
    assert [each["type"] for each in said] == [frame.event for frame in frames], "each event has its name"
    assert [each["sequence_number"] for each in said] == list(range(len(said)))
    return said


def stream(*said: Event, reply: Reply = REPLY) -> list[dict[str, Any]]:
    return events(play(speak(reply), said))


def answer(*said: Event, reply: Reply = REPLY) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(whole(reply, said))
    return body


def test_a_stream_is_the_golden_one() -> None:
    """Every event with its number, its place and its ids, as the vendor's reference has them."""
    assert render(*play(speak(REPLY), SCRIPT)) == (GOLDEN / "stream.sse").read_bytes()


def test_a_whole_response_holds_all_that_was_said() -> None:
    assert answer(*SCRIPT) == {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "m",
        "output": OUTPUT,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
            "output_tokens": 9,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 16,
        },
    }


def test_the_last_event_holds_the_whole_response() -> None:
    assert stream(*SCRIPT)[-1]["response"] == answer(*SCRIPT)


def test_an_item_is_done_before_the_next_begins_and_is_as_the_response_has_it() -> None:
    """The client that takes nothing but finished items finds all of them."""
    said = stream(*SCRIPT)
    added = [each["output_index"] for each in said if each["type"] == "response.output_item.added"]
    done = [each for each in said if each["type"] == "response.output_item.done"]
    assert added == [each["output_index"] for each in done] == [0, 1, 2, 3, 4]
    assert [each["item"] for each in done] == OUTPUT
    at = [each["output_index"] for each in said if "output_index" in each]
    assert at == sorted(at)


def test_no_event_has_a_name_that_the_vendors_library_does_not_know() -> None:
    from openai.types.responses import response_stream_event

    known = {
        model.model_fields["type"].annotation.__args__[0]  # type: ignore[union-attr]
        for model in response_stream_event.ResponseStreamEvent.__origin__.__args__  # type: ignore[attr-defined]
    }
    failed = stream(Text("a"), Failed(EngineFailed("gone")))
    cut = stream(Text("a"), Stopped("length"))
    assert {each["type"] for each in [*stream(*SCRIPT), *failed, *cut]} <= known


def test_an_answer_that_was_cut_by_its_limit_is_incomplete() -> None:
    script = [Thought("a"), Text("b"), Stopped("length", USED)]
    last = stream(*script)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"] == answer(*script)
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][1]["status"] == "incomplete"


def test_what_was_asked_is_repeated_where_it_is_small() -> None:
    ask = Ask(
        "m",
        sampling=Sampling(temperature=0.5, top_p=0.9),
        max_tokens=9,
        tools=TOOLS,
        tool_choice=ToolChoice("named", "agents__patch"),
        parallel_tool_calls=False,
    )
    told = answer(Stopped("stop"), reply=replace(REPLY, ask=ask))
    assert (told["temperature"], told["top_p"], told["max_output_tokens"]) == (0.5, 0.9, 9)
    assert told["tool_choice"] == {"type": "custom", "name": "patch", "namespace": "agents"}
    assert told["parallel_tool_calls"] is False and told["output"] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("patch", {"type": "custom", "name": "patch"}),
        ("agents__close", {"type": "function", "name": "close", "namespace": "agents"}),
    ],
)
def test_a_choice_is_repeated_as_the_client_knows_the_tool(name: str, told: dict[str, str]) -> None:
    ask = Ask("m", tools=TOOLS, tool_choice=ToolChoice("named", name))
    assert answer(Stopped("stop"), reply=replace(REPLY, ask=ask))["tool_choice"] == told


def test_a_thought_is_sealed_where_that_was_asked_for() -> None:
    [item] = answer(Thought("a"), Thought("b"), Stopped("stop"), reply=SEALING)["output"]
    assert item["encrypted_content"] == sealed("ab") and item["summary"][0]["text"] == "ab"


@given(st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4), st.booleans())
def test_what_was_answered_is_understood_when_it_is_handed_back(thoughts: list[str], sealing: bool) -> None:
    reply = SEALING if sealing else REPLY
    said = [*map(Thought, thoughts), *SCRIPT[4:]]
    items = answer(*said, reply=reply)["output"]
    [turn] = read(json.dumps({"model": "m", "input": items}).encode()).messages
    assert turn.thought == "".join(thoughts) and turn.text == 'It is "18°" 😀\u2028'
    calls = [(use.id, use.name, json.loads(use.arguments)) for use in turn.tool_calls]
    assert calls == [
        ("call_a", "weather", {"city": "Paris"}),
        ("call_b", "agents__close", {}),
        ("call_c", "patch", {"input": "a\n"}),
    ]


def test_log_probabilities_stand_beside_their_text() -> None:
    probable = (TokenLogprob("a", -0.5, (("b", -1.0), ("c", -2.0))),)
    reply = replace(REPLY, logprobs=1)
    told = [
        {
            "token": "a",
            "logprob": -0.5,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}],
        }
    ]
    said = stream(Text("a", probable), Text("b"), Stopped("stop"), reply=reply)
    deltas = [each["logprobs"] for each in said if each["type"] == "response.output_text.delta"]
    assert deltas == [told, []]
    done = next(each for each in said if each["type"] == "response.output_text.done")
    assert done["logprobs"] == told == said[-1]["response"]["output"][0]["content"][0]["logprobs"]
    later = answer(Text("a", probable), Thought("b"), Text("c"), Stopped("stop"), reply=reply)["output"][2]
    assert later["content"][0]["logprobs"] == []
    assert stream(Text("a", probable), Stopped("stop"))[4]["logprobs"] == []


def call(name: str, arguments: str, reply: Reply = REPLY) -> dict[str, Any]:
    [item] = answer(ToolCall("c", name, arguments), Stopped("tool_calls"), reply=reply)["output"]
    found: dict[str, Any] = item
    return found


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("weather", ("function_call", "weather", None)),
        ("agents__close", ("function_call", "close", "agents")),
        ("close", ("function_call", "close", "agents")),
        ("agents__patch", ("custom_tool_call", "patch", "agents")),
        ("patch", ("custom_tool_call", "patch", None)),
        ("nobody", ("function_call", "nobody", None)),
    ],
)
def test_a_call_is_told_back_as_the_client_knows_the_tool(
    name: str, told: tuple[str, str, str | None]
) -> None:
    """A small model leaves a namespace out; it is understood where it can be meant for one tool alone."""
    item = call(name, "{}")
    assert (item["type"], item["name"], item.get("namespace")) == told


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input": "a"}', "a"), ('{"text": "a"}', '{"text": "a"}'), ('{"input": 5}', '{"input": 5}')],
)
def test_a_custom_call_without_its_one_argument_is_told_as_it_was_made(arguments: str, text: str) -> None:
    assert call("patch", arguments)["input"] == text


# -- failures


def test_a_failed_stream_ends_with_the_pair_that_all_clients_act_on() -> None:
    """S-ERR: some take `response.failed` alone, some `error` alone."""
    said = stream(Prefilled(7), Text("a"), Failed(Loading("still loading", retry_after_s=7)))
    failed, error = said[-2:]
    assert failed["type"] == "response.failed" and failed["response"]["id"] == "resp_1"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "model_loading", "message": "still loading"}
    assert error["type"] == "error" and error["code"] == "model_loading" and error["param"] is None
    assert error["error"]["type"] == "server_error" and error["error"]["retry_after"] == 7
    assert error["error"]["request_id"] == "req-1"


@pytest.mark.parametrize(("said", "inside"), [(Text, "content"), (Thought, "summary")])
def test_a_failed_response_has_what_was_said_and_no_item_in_progress(said: type, inside: str) -> None:
    events = stream(said("hel"), said("lo"), Failed(EngineFailed("gone")))
    [item] = events[-2]["response"]["output"]
    assert item[inside][0]["text"] == "hello" and item.get("status") in ("incomplete", None)
    assert not any(event["type"].endswith(".done") for event in events), "it is not told as done"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_a_failure_is_raised_and_an_answer_without_an_end_is_none() -> None:
    with pytest.raises(EngineFailed, match="gone"):
        whole(REPLY, [Text("a"), Failed(EngineFailed("gone"))])
    with pytest.raises(EngineFailed, match="without a reason"):
        whole(REPLY, [Text("a")])


def cut(at: int) -> tuple[bytes, Trail]:
    """The first events of a stream, and their trail."""
    passed = render(*play(speak(REPLY), SCRIPT)[:at])
    trail = Trail()
    trail.feed(passed)
    return passed, trail


@pytest.mark.parametrize("at", [0, 1, 2, 5, 9, 12])
def test_the_vendors_library_raises_what_ends_a_stream_that_others_began(at: int) -> None:
    """It takes no failure of a response that did not begin, or began under another id."""
    passed, trail = cut(at)
    end = render(*faults.frames(EngineFailed("the device is gone"), "responses", "req-1", trail))
    body = b": keep-alive\n\n" + passed + end
    numbers = [
        json.loads(line[6:])["sequence_number"] for line in body.splitlines() if line.startswith(b"data: ")
    ]
    assert numbers == list(range(len(numbers)))
    with (
        client(body, "text/event-stream").responses.stream(model="m", input="hi") as told,
        pytest.raises(openai.APIError, match="the device is gone") as caught,
    ):
        for _ in told:
            pass
    assert caught.value.code == "engine_failed"


def test_a_trail_is_the_same_however_the_bytes_are_cut() -> None:
    passed = b": keep-alive\n\n" + render(*play(speak(REPLY), SCRIPT)[:2])
    for pieces in list(splits(passed))[:: len(passed) // 50]:
        trail = Trail()
        for piece in pieces:
            trail.feed(piece)
        assert trail.response is not None and trail.response["id"] == "resp_1"


@pytest.mark.parametrize("data", [b"no stream\n\n", b"data: {\n\n", b'data: {"a": 1}\n\n', b"data: []\n\n"])
def test_what_is_no_such_stream_has_no_response(data: bytes) -> None:
    trail = Trail()
    trail.feed(data)
    trail.feed(render(*play(speak(REPLY), SCRIPT)[:1]))
    assert trail.response is None


# -- the vendor's library


pieces = st.one_of(
    st.builds(Text, st.text(min_size=1, max_size=5)),
    st.builds(Thought, st.text(min_size=1, max_size=5)),
    st.builds(
        ToolCall, st.uuids().map(str), st.sampled_from(["weather", "close", "patch"]), st.just('{"a": 1}')
    ),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(pieces, max_size=8), st.booleans())
def test_a_stream_adds_up_to_the_whole_response_in_the_vendors_library(
    said: list[Event], sealing: bool
) -> None:
    reply = SEALING if sealing else REPLY
    script = [Prefilled(5), *said, Stopped("stop", Usage(5, 0, 3))]
    body = render(*play(speak(reply), script))
    with client(body, "text/event-stream").responses.stream(model="m", input="hi") as told:
        added = told.get_final_response()
    at_once = client(whole(reply, script), "application/json").responses.parse(model="m", input="hi")
    assert added.to_dict() == at_once.to_dict()
    assert added.output_text == at_once.output_text == "".join(e.text for e in said if isinstance(e, Text))


@given(st.lists(pieces, max_size=8))
def test_the_deltas_alone_add_up_to_the_items(said: list[Event]) -> None:
    grown: dict[int, str] = {}
    told = stream(*said, Stopped("stop"))
    for each in told:
        if each["type"].endswith(".delta"):
            grown[each["output_index"]] = grown.get(each["output_index"], "") + each["delta"]
    output = told[-1]["response"]["output"]
    assert [grown[index] for index in range(len(output))] == [_inside(item) for item in output]


def _inside(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message":
            return str(item["content"][0]["text"])
        case "reasoning":
            return str(item["summary"][0]["text"])
        case "function_call":
            return str(item["arguments"])
        case _:
            return str(item["input"])
