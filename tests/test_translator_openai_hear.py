"""Streams of OpenAI-compatible engines become events: golden scripts, cuts at every byte, garbage."""

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import BadAsk, EngineFailed, Overloaded, PromptTooLong, Unsupported, UpstreamFailed
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
from cortex.translator import openai_chat
from cortex.translator.openai_hear import MOST_CALL_BYTES, Hearing, hear
from cortex.wire.openai import Reply
from cortex.wire.sse import render
from cortex.wire.sse_reading import EventReader

DONE = b"[DONE]"


def chunk(delta: dict | None = None, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | more
    return msgspec.json.encode({"id": "x", "object": "chat.completion.chunk", "choices": [choice]})


def usage(prompt: int, completion: int, **more: object) -> bytes:
    said = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return msgspec.json.encode({"choices": [], "usage": said})


def call(index: int | None, arguments: str | None = None, **more: object) -> dict:
    function = {name: value for name, value in (("name", more.pop("name", None)), ("arguments", arguments))}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def heard(*data: bytes | None, hearing: Hearing = Hearing()) -> list[Event]:
    """What the machine says to `data`; without an end of its own, the stream ends after it."""
    machine = hear(hearing)
    events = [*next(machine)]
    for each in (*data, None):
        events += machine.send(each)
        if isinstance(events[-1], Stopped | Failed):
            break
    with pytest.raises(StopIteration):
        machine.send(b"")
    return events


def failure(*data: bytes | None, hearing: Hearing = Hearing()) -> Exception:
    last = heard(*data, hearing=hearing)[-1]
    assert isinstance(last, Failed), last
    return last.error


def test_a_chat_as_vllm_streams_it() -> None:
    assert heard(
        chunk({"role": "assistant", "content": ""}),
        b"",
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        chunk({"content": ""}, "stop", stop_reason="END"),
        usage(
            9,
            4,
            prompt_tokens_details={"cached_tokens": 8},
            completion_tokens_details={"reasoning_tokens": 2},
        ),
        DONE,
    ) == [
        Started(),
        Prefilled(0),
        Thought("hm"),
        Text("Hel"),
        Text("lo"),
        Stopped("stop", Usage(9, 8, 4, 2), "END"),
    ]


def test_reasoning_has_two_names_and_its_tokens_may_be_counted_by_nobody() -> None:
    events = heard(
        chunk({"reasoning": "a"}), chunk({"reasoning": "b"}), chunk({}, "length"), usage(3, 9), DONE
    )
    assert events[2:] == [Thought("a"), Thought("b"), Stopped("length", Usage(3, 0, 9, 2))]


def test_usage_may_come_with_the_last_chunk_and_sglang_counts_thoughts_outside() -> None:
    last = msgspec.json.encode(
        {
            "choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "matched_stop": 151645}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "reasoning_tokens": 1},
        }
    )
    assert heard(chunk({"content": "a"}), last)[-1] == Stopped("stop", Usage(3, 0, 5, 1))


def test_without_usage_counts_are_estimates_and_marked_so() -> None:
    hearing = Hearing(prompt_bytes=41)
    events = heard(chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"), DONE, hearing=hearing)
    assert events[-1] == Stopped("stop", Usage(11, 0, 2, 0, estimated=True))


@pytest.mark.parametrize("counts", [(None, 2), (-5, 2), (3, -2), (2**63, 2), (3, 2**63)])
def test_counts_that_cannot_be_are_counts_that_nobody_told(counts: tuple[int, int]) -> None:
    events = heard(chunk({"content": "a"}), chunk({}, "stop"), usage(*counts), DONE)
    assert events[-1] == Stopped("stop", Usage(0, 0, 1, 0, estimated=True))


def test_parts_of_a_count_are_never_more_than_all_of_it() -> None:
    """Else a client who takes one from the other has less than nothing."""
    said = usage(
        3, 2, prompt_tokens_details={"cached_tokens": 9}, completion_tokens_details={"reasoning_tokens": 9}
    )
    assert heard(chunk({"content": "a"}), chunk({}, "stop"), said)[-1] == Stopped("stop", Usage(3, 3, 2, 2))


def test_parts_of_a_count_are_never_less_than_nothing() -> None:
    said = usage(
        3, 2, prompt_tokens_details={"cached_tokens": -1}, completion_tokens_details={"reasoning_tokens": -1}
    )
    assert heard(chunk({"content": "a"}), chunk({}, "stop"), said)[-1] == Stopped("stop", Usage(3, 0, 2, 0))


def test_an_end_mark_may_have_blanks_around_it() -> None:
    assert heard(chunk({}, "stop"), b"[DONE] ")[-1] == Stopped("stop", Usage(0, 0, 0, 0, estimated=True))


def test_an_estimate_of_the_engines_own_stays_one() -> None:
    events = heard(chunk({"content": "a"}), chunk({}, "stop"), usage(3, 1, estimated=True), DONE)
    assert events[-1] == Stopped("stop", Usage(3, 0, 1, estimated=True))


def test_a_call_that_comes_in_pieces_is_said_whole() -> None:
    assert heard(
        chunk(call(0, "", id="c1", name="weather", type="function")),
        chunk(call(0, '{"city"')),
        chunk(call(0, ':"Rome"}')),
        chunk(call(1, '{"x":1}', id="c2", name="news")),
        chunk({}, "tool_calls"),
        DONE,
    )[1:] == [
        Prefilled(0),
        ToolCall("c1", "weather", '{"city":"Rome"}'),
        ToolCall("c2", "news", '{"x":1}'),
        Stopped("tool_calls", Usage(0, 0, 4, 0, estimated=True)),
    ]


def test_calls_that_are_all_numbered_0_are_told_apart_by_their_ids() -> None:
    """Ollama sends whole calls, each with the index 0; others send none."""
    for index in (0, None):
        events = heard(
            chunk(call(index, "{}", id="a", name="x")),
            chunk(call(index, "{}", id="b", name="y")),
            chunk({}, "stop"),
        )
        assert [event for event in events if isinstance(event, ToolCall)] == [
            ToolCall("a", "x", "{}"),
            ToolCall("b", "y", "{}"),
        ]
        assert events[-1].reason == "tool_calls"


def test_a_call_without_an_id_or_arguments_gets_them() -> None:
    hearing = Hearing(new_id=lambda: "made")
    events = heard(chunk(call(0, None, name="x")), chunk({}, "tool_calls"), hearing=hearing)
    assert ToolCall("made", "x", "{}") in events


@pytest.mark.parametrize("index", [0, None])
def test_calls_without_ids_are_told_apart_by_their_names(index: int | None) -> None:
    """Their arguments run together would be no JSON."""
    pieces = [call(index, "{}", name="x"), call(index, "{}", name="y"), call(index, '{"a":1}', name="y")]
    together = {"tool_calls": [piece["tool_calls"][0] for piece in pieces]}
    for data in (list(map(chunk, pieces)), [chunk(together)]):
        events = heard(*data, chunk({}, "tool_calls"))
        told = [(event.name, event.arguments) for event in events if isinstance(event, ToolCall)]
        assert told == [("x", "{}"), ("y", "{}"), ("y", '{"a":1}')]


def test_a_call_whose_pieces_have_ids_of_their_own_is_one_call() -> None:
    """Older vLLM makes up an id for each piece; others say the name each time."""
    for more in ({}, {"name": "x"}):
        pieces = [("a", '{"q"'), ("b", ":1"), ("c", "}")]
        first, *rest = [call(0, text, id=word) for word, text in pieces]
        first["tool_calls"][0]["function"]["name"] = "x"
        for each in rest:
            each["tool_calls"][0]["function"].update(more)
            each["tool_calls"][0]["id"] = "a" if more else each["tool_calls"][0]["id"]
        events = heard(*map(chunk, [first, *rest]), chunk({}, "tool_calls"))
        assert [event for event in events if isinstance(event, ToolCall)] == [ToolCall("a", "x", '{"q":1}')]


def test_where_one_call_is_wanted_the_first_is_it() -> None:
    data = (
        chunk(call(0, "{}", id="a", name="x")),
        chunk(call(1, "{}", id="b", name="y")),
        chunk({}, "tool_calls"),
    )
    told = [event for event in heard(*data, hearing=Hearing(parallel=False)) if isinstance(event, ToolCall)]
    assert told == [ToolCall("a", "x", "{}")]
    assert sum(isinstance(event, ToolCall) for event in heard(*data)) == 2


def test_a_call_without_a_name_is_a_failure() -> None:
    assert isinstance(failure(chunk(call(0, "{}")), chunk({}, "tool_calls")), UpstreamFailed)


def test_a_call_that_the_length_cuts_is_text_and_no_call() -> None:
    said = heard(
        chunk(call(0, '{"a": 1}', id="c1", name="f")),
        chunk(call(1, '{"city": "Be', id="c2", name="g")),
        chunk({}, "length"),
        b"[DONE]",
    )
    calls = [event for event in said if isinstance(event, ToolCall)]
    assert [(one.name, one.arguments) for one in calls] == [("f", '{"a": 1}')]
    assert [event.text for event in said if isinstance(event, Text)] == ['g {"city": "Be']
    whole = heard(chunk(call(0, '{"a": 1}', id="c1", name="f"), "length"), b"[DONE]")
    assert [type(event) for event in whole][-2:] == [ToolCall, Stopped]


@pytest.mark.parametrize("arguments", ['{"a":', "[1]", "Oslo", '{"a": 1} and more'])
def test_a_call_whose_arguments_are_no_object_is_text_and_no_call(arguments: str) -> None:
    """Engines that hold no call to a grammar send what their model wrote; the vendor's library for
    Python raises ValueError for the whole answer where it is no JSON."""
    for pieces in ([arguments], list(arguments)):
        events = heard(
            chunk(call(0, "", id="c1", name="f")),
            *(chunk(call(0, piece)) for piece in pieces),
            chunk({}, "tool_calls"),
            DONE,
        )
        assert [event for event in events if isinstance(event, ToolCall)] == []
        assert "".join(event.text for event in events if isinstance(event, Text)) == f"f {arguments}"
        assert isinstance(events[-1], Stopped) and events[-1].reason == "stop"
    events = heard(
        chunk(call(0, arguments, id="c1", name="f")),
        chunk(call(1, "{}", id="c2", name="g")),
        chunk({}, "tool_calls"),
        DONE,
    )
    assert [event.id for event in events if isinstance(event, ToolCall)] == ["c2"]
    assert isinstance(events[-1], Stopped) and events[-1].reason == "tool_calls"


def test_calls_without_end_are_cut() -> None:
    piece = chunk(call(0, "x" * 2**19, name="x"))
    error = failure(*[piece] * (MOST_CALL_BYTES // 2**19 + 2))
    assert isinstance(error, UpstreamFailed) and "longer than" in error.message


@pytest.mark.parametrize(("delta", "times"), [({"content": "x" * 2**19}, 65), ({"reasoning": "x"}, 2**19)])
def test_an_answer_without_end_is_cut(delta: dict, times: int) -> None:
    """Who reads slowly would have it all in our memory, as no engine waits for him."""
    data = chunk(delta)
    error = failure(*[data] * times, chunk({}, "stop"))
    assert isinstance(error, UpstreamFailed) and "longer than" in error.message
    # As many pieces as the largest answers of today have tokens.
    assert isinstance(heard(*[chunk({"content": "four"})] * 2**18, chunk({}, "stop"))[-1], Stopped)


def test_log_probabilities_ride_with_the_text_and_not_with_thoughts() -> None:
    token = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}] * 3}
    null = {"token": "b", "logprob": None, "bytes": [98]}
    events = heard(
        chunk({"reasoning": "x"}, logprobs={"content": [token]}),
        chunk({"content": "a"}, logprobs={"content": [token]}),
        chunk({"content": "b"}, logprobs={"content": [null]}),
        chunk({}, "stop", logprobs={"content": [token]}),
        hearing=Hearing(logprobs=1),
    )
    assert events[3:5] == [
        Text("a", (TokenLogprob("a", -0.5, (("a", -0.5),)),)),
        Text("b", (TokenLogprob("b", -9999.0),)),
    ]


def test_log_probabilities_in_the_legacy_form_are_read() -> None:
    legacy = {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, None],
        "top_logprobs": [{"x": -3.0, "a": -0.5, "y": -1.0}, None],
        "text_offset": [0, 1],
    }
    data = {"choices": [{"index": 0, "text": "ab", "logprobs": legacy, "finish_reason": "length"}]}
    events = heard(msgspec.json.encode(data), hearing=Hearing(logprobs=2))
    assert events[2] == Text(
        "ab", (TokenLogprob("a", -0.5, (("a", -0.5), ("y", -1.0))), TokenLogprob("b", -9999.0))
    )


def test_log_probabilities_that_were_asked_for_and_do_not_come_are_a_failure() -> None:
    error = failure(chunk({"content": "a"}), hearing=Hearing(logprobs=0))
    assert isinstance(error, Unsupported) and error.param == "logprobs"


def test_log_probabilities_that_nobody_asked_for_are_left_out() -> None:
    token = {"token": "a", "logprob": -0.5}
    assert heard(chunk({"content": "a"}, "stop", logprobs={"content": [token]}))[2] == Text("a")


@pytest.mark.parametrize("end", [None, DONE])
def test_a_stream_without_a_reason_is_a_failure(end: bytes | None) -> None:
    """Row 16: neither a closed connection nor [DONE] alone makes an answer complete."""
    events = heard(chunk({"content": "a"}), end)
    assert events[2] == Text("a")
    assert isinstance(events[-1], Failed) and isinstance(events[-1].error, EngineFailed)


def test_a_reason_and_the_end_of_the_stream_are_an_end() -> None:
    assert isinstance(heard(chunk({"content": "a"}, "stop"), None)[-1], Stopped)


@pytest.mark.parametrize("reason", ["content_filter", "abort", "error", "x" * 1000])
def test_an_answer_that_was_broken_off_is_a_failure(reason: str) -> None:
    error = failure(chunk({"content": "a"}), chunk({}, reason))
    assert isinstance(error, EngineFailed) and len(error.message) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"hello",
        b'{"choices":7}',
        b'{"choices":[{"index":1,"delta":{"content":"x"}}]}',
        b'{"choices":[{"delta":{"content":["x"]}}]}',
    ],
)
def test_garbage_is_a_failure_after_all_that_came_before_it(data: bytes) -> None:
    """Rows 12 and 14."""
    events = heard(chunk({"content": "a"}), data)
    assert events[2] == Text("a") and isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UpstreamFailed)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "boom: /secret/path", "type": "internal_error", "code": 500}, EngineFailed),
        ("boom: /secret/path", EngineFailed),
        ({"message": None}, EngineFailed),
        ({"message": "bad schema", "code": 400, "param": "response_format"}, BadAsk),
        ({"message": "no", "type": "invalid_request_error"}, BadAsk),
        ({"message": "full", "code": "overloaded", "retry_after": 7}, Overloaded),
        ({"message": "full", "type": "rate_limit_error"}, Overloaded),
        (
            {
                "code": 400,
                "message": "x",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 600,
                "n_ctx": 512,
            },
            PromptTooLong,
        ),
    ],
)
def test_an_error_in_mid_stream_is_that_error(error: object, kind: type[Exception]) -> None:
    told = failure(chunk({"content": "a"}), msgspec.json.encode({"error": error}))
    assert type(told) is kind
    assert "secret" not in told.message
    if kind is Overloaded:
        assert not told.not_started
    if kind is PromptTooLong:
        assert told.facts == {"prompt_tokens": 600, "context_length": 512}


def test_an_error_may_stand_outside_as_older_engines_have_it() -> None:
    data = b'{"object":"error","message":"too bad","code":400}'
    assert isinstance(failure(data), BadAsk)


# -- our own direction and this one agree, wherever the bytes are cut

REPLY = Reply("id", "m", 0, include_usage=True, logprobs=1)
SPOKEN: list[Event] = [
    Started(),
    Prefilled(5, 2),
    Thought("hm Ж"),
    Text("Κα 😀", (TokenLogprob("Κα 😀", -0.5, (("x", -1.0),)),)),
    ToolCall("c1", "weather", '{"a": "ü"}'),
    ToolCall("c2", "news", "{}"),
    Stopped("tool_calls", Usage(5, 2, 6, 1)),
]


def spoken(events: Iterable[Event], reply: Reply) -> bytes:
    machine = openai_chat.speak(reply)
    frames = next(machine)
    for event in events:
        frames += machine.send(event)
    return render(*frames)


def played(pieces: Iterable[bytes]) -> list[Event]:
    reader, machine = EventReader(), hear(Hearing(logprobs=1))
    events = [*next(machine)]
    for piece in pieces:
        for data in reader.feed(piece):
            events += machine.send(data)
    return events


BYTES = spoken(SPOKEN, REPLY)
HEARD = [Started(), Prefilled(0), *SPOKEN[2:]]


def test_what_is_spoken_is_heard_wherever_it_is_cut() -> None:
    for at in range(len(BYTES) + 1):
        assert played([BYTES[:at], BYTES[at:]]) == HEARD, at


@given(st.lists(st.integers(0, len(BYTES)), max_size=30))
def test_and_however_often(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BYTES)]
    assert played(BYTES[a:b] for a, b in pairwise(edges)) == HEARD


def test_a_stream_that_is_cut_anywhere_does_not_look_finished() -> None:
    """Row 16, at every byte up to the end mark: only once the reason was heard is it an answer."""
    for at in range(len(BYTES) - len(b"data: [DONE]\n\n")):
        reader, machine = EventReader(), hear(Hearing(logprobs=1))
        next(machine)
        events: list[Event] = []
        for data in reader.feed(BYTES[:at]):
            events += machine.send(data)
        events += machine.send(None)
        reasoned = b'"finish_reason":"tool_calls"' in BYTES[:at].rpartition(b"\n\n")[0]
        assert isinstance(events[-1], Stopped if reasoned else Failed), at


@given(st.binary(max_size=200))
def test_any_bytes_end_in_one_end(data: bytes) -> None:
    machine, ends = hear(Hearing()), 0
    next(machine)
    try:
        for piece in [*data.split(b"|"), None]:
            ends += sum(isinstance(event, Stopped | Failed) for event in machine.send(piece))
    except StopIteration:
        pass
    assert ends == 1
