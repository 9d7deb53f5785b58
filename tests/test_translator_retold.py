"""A chat told in another dialect is what its neutral events make of it, however quickly it was told.

`slowly` is the long way: each event read, heard, spoken and rendered by itself. Whatever is not like the
chunk before it must go that way, and what is like it must say the same without.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.ask import Ask
from cortex.errors import CortexError
from cortex.events import Event, Failed, Prefilled, Started, Stopped, Usage
from cortex.translator import openai_hear
from cortex.translator.dialects import CHAT, MESSAGES, RESPONSES, Dialect
from cortex.translator.openai_hear import Ear, Hearing, hear
from cortex.translator.openai_moulds import Mould, mould
from cortex.translator.retold import Retold
from cortex.wire import refusals, sse
from cortex.wire.openai import Reply
from cortex.wire.sse_reading import EventReader
from tests.fake_streams import CHAT as SMALL
from tests.play import SCRIPT, play, speaking, splits

GOLDEN: Final = Path(__file__).parent / "golden" / "openai" / "chat-stream.sse"
BEAT: Final = b"<beat>\n\n"
DONE: Final = b"data: [DONE]\n\n"
TOLD: Final = (MESSAGES, RESPONSES)
thoroughly: Final = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


@dataclass
class Outcome:
    """All that is to be seen of one answer."""

    out: bytes
    whole: Any
    ended: bool
    spoken: bool
    usage: Usage
    fault: tuple[str, str] | None


def new_id() -> Callable[[], str]:
    return map("call_{}".format, itertools.count()).__next__


def told(dialect: Dialect, stream: bool, pieces: Iterable[bytes], logprobs: int | None = None) -> Outcome:
    ask = Ask("m", stream=stream, logprobs=logprobs)
    retold = Retold(
        dialect, ask, Reply("id_1", "m", 1, logprobs=logprobs, ask=ask), beat=BEAT, new_id=new_id()
    )
    out = retold.take()
    for piece in pieces:
        if retold.fault is None:
            retold.feed(piece)
            out += retold.take()
    if retold.fault is None:
        retold.close()
        out += retold.take()
    fault = retold.fault and (retold.fault.code, retold.fault.message)
    whole = None
    if retold.ended and not stream:
        whole = json.loads(retold.answer())
    return Outcome(out, whole, retold.ended, retold.spoken, retold.usage, fault)


def slowly(dialect: Dialect, stream: bool, data: bytes, logprobs: int | None = None) -> Outcome:
    """The same by events; those before a line that is none of an event stream are told."""
    ask = Ask("m", stream=stream, logprobs=logprobs)
    frame, machine = (
        Reply("id_1", "m", 1, logprobs=logprobs, ask=ask),
        hear(Hearing(logprobs=logprobs, new_id=new_id())),
    )
    speech, said = speaking(dialect, frame), list(next(machine))
    out = sse.render(*next(speech)) if stream else b""
    fault: CortexError | None = None
    for event in [*_read(data), None]:
        if isinstance(event, CortexError):
            fault = event
        elif event == b"":
            out += BEAT if stream else b""
            continue
        elif event is not None:
            fault = refusals.in_stream(event)
        for each in machine.send(event) if fault is None else ():
            if isinstance(each, Failed):
                fault = each.error
                break
            said.append(each)
            out += sse.render(*speech.send(each)) if stream else b""
        if fault is not None or isinstance(said[-1], Stopped):
            break
    ended = isinstance(said[-1], Stopped)
    whole = json.loads(dialect.whole(frame, said)) if ended and not stream else None
    spoken = any(not isinstance(each, Started | Prefilled | Stopped) for each in said)
    usage = said[-1].usage if isinstance(said[-1], Stopped) else Usage()
    return Outcome(out, whole, ended, spoken, usage, fault and (fault.code, fault.message))


def by_event(data: bytes) -> list[bytes]:
    """As a stream comes that takes its time."""
    *events, rest = data.split(b"\n\n")
    return [*(event + b"\n\n" for event in events), rest]


def _read(data: bytes) -> Iterable[bytes | CortexError]:
    reader = EventReader()
    try:
        for at in range(len(data)):
            yield from reader.feed(data[at : at + 1])
    except CortexError as error:
        yield error


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }


# What engines send, and some of what none should.
TEXTS: Final = st.text(max_size=6) | st.sampled_from(
    ['"', "\\", "\n", '","', '"content":"x"', "\u2028", "\u0085", "😀", "%b %d", "\x7f", "}]}"]
)
DELTAS: Final = st.one_of(
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"content": text}),
    TEXTS.map(lambda text: {"content": text, "reasoning_content": None, "tool_calls": None}),
    TEXTS.map(lambda text: {"reasoning_content": text}),
    TEXTS.map(lambda text: {"reasoning": text, "content": ""}),
    TEXTS.map(lambda text: {"refusal": text}),
    st.tuples(TEXTS, TEXTS).map(lambda pair: {"content": pair[0], "reasoning_content": pair[1]}),
    st.tuples(TEXTS, TEXTS).map(lambda pair: {"content": pair[0], "x": {"content": pair[1]}}),
    st.tuples(st.integers(0, 1), TEXTS).map(
        lambda pair: {"tool_calls": [{"index": pair[0], "function": {"arguments": pair[1]}}]}
    ),
    st.integers(0, 2).map(
        lambda n: {"tool_calls": [{"index": n, "id": f"i{n}", "function": {"name": f"f{n}"}}]}
    ),
    st.just({"role": "assistant", "content": ""}),
    st.just({}),
)
USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3}
CHUNKS: Final = st.one_of(
    DELTAS.map(chunk),
    DELTAS.map(chunk),
    DELTAS.map(chunk),
    st.tuples(DELTAS, st.integers(0, 1)).map(lambda pair: chunk(pair[0], created=pair[1])),
    st.tuples(DELTAS, st.sampled_from(["stop", "length", "tool_calls", "odd"])).map(
        lambda pair: chunk(pair[0], pair[1])
    ),
    DELTAS.map(lambda delta: chunk(delta, usage=USAGE)),
    st.just({"choices": [], "usage": USAGE}),
    DELTAS.map(lambda delta: chunk(delta, error={"message": "broken"})),
    DELTAS.map(lambda delta: {"error": None, **chunk(delta)}),
    DELTAS.map(lambda delta: {"choices": [{"index": 1, "delta": delta}]}),
)
WRITTEN: Final = st.tuples(CHUNKS, st.booleans(), st.booleans()).map(
    lambda each: json.dumps(each[0], ensure_ascii=each[1], separators=(",", ":") if each[2] else None).encode(
        "utf-8", "surrogatepass"
    )
)
ENDS: Final = st.sampled_from([b"\n\n"] * 6 + [b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\nid: 1\n\n"])
EVENTS: Final = st.one_of(
    *[st.tuples(WRITTEN, ENDS).map(lambda pair: b"data: " + pair[0] + pair[1])] * 4,
    WRITTEN.map(lambda data: b"data:" + data + b"\n\n"),
    st.sampled_from([b": beat\n\n", b"\n\n", b"garbage\n\n", b"data: \n\n", b"data: {\ndata: }\n\n", DONE]),
    WRITTEN.map(lambda data: b"data: " + data[: len(data) // 2] + b"\xff" + data[len(data) // 2 :] + b"\n\n"),
)


def _alike(form: int, number: int, texts: list[str]) -> bytes:
    """Events that differ in one string alone."""
    deltas: list[Callable[[str], dict[str, Any]]] = [
        lambda text: {"content": text},
        lambda text: {"reasoning_content": text},
        lambda text: {"tool_calls": [{"index": number, "function": {"arguments": text}}]},
        lambda text: {"tool_calls": [{"function": {"arguments": text}}]},
    ]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk(deltas[form](text))).encode() for text in texts)


RUNS: Final = st.builds(_alike, st.integers(0, 3), st.integers(0, 1), st.lists(TEXTS, min_size=2, max_size=5))
STREAMS: Final = st.tuples(
    st.lists(EVENTS | RUNS | RUNS, max_size=12),
    st.sampled_from([DONE, b"", b'data: {"choices":[{"finish_reason":"stop"}]}\n\n' + DONE]),
).map(lambda pair: b"".join(pair[0]) + pair[1])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", TOLD, ids=lambda dialect: dialect.name)
@thoroughly
@given(
    data=STREAMS, cuts=st.lists(st.integers(0, 2000), max_size=4), logprobs=st.sampled_from([None, None, 1])
)
def test_the_short_way_says_what_the_long_way_says(
    dialect: Dialect, stream: bool, data: bytes, cuts: list[int], logprobs: int | None
) -> None:
    """Row 13, and whatever an engine may send."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    expected = slowly(dialect, stream, data, logprobs)
    assert told(dialect, stream, pieces, logprobs) == expected
    assert told(dialect, stream, by_event(data), logprobs) == expected


def _recorded() -> dict[str, bytes]:
    spoken = sse.render(*play(speaking(CHAT, Reply("c", "m", 1, include_usage=True)), SCRIPT))
    return {"golden": GOLDEN.read_bytes(), "small": b"".join(SMALL), "cortex": b": beat\n\n" + spoken}


@pytest.mark.parametrize("name", _recorded())
@pytest.mark.parametrize("dialect", TOLD, ids=lambda dialect: dialect.name)
def test_a_recorded_stream_says_the_same_wherever_it_is_cut(dialect: Dialect, name: str) -> None:
    """Row 13."""
    data = _recorded()[name]
    expected = slowly(dialect, True, data)
    assert expected.ended
    for pieces in splits(data):
        assert told(dialect, True, pieces) == expected


def _called(*pieces: tuple[int, dict[str, str]]) -> bytes:
    deltas = [{"tool_calls": [{"index": index, "function": function}]} for index, function in pieces]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk(delta)).encode() for delta in deltas)


FORM: Final = b'data: {"choices":[{"delta":{"content":%b}}]}\n\n'
HALF: Final = _alike(0, 0, ["a", "b"])
ODD: Final = {
    "a piece of the call before": _called(
        (0, {"name": "f"}),
        (0, {"arguments": "{"}),
        (0, {"arguments": "}"}),
        (1, {"name": "g"}),
        (0, {"arguments": "{"}),
        (0, {"arguments": "}"}),
    ),
    "a piece of a call with the same number": _called(
        *[(0, {"name": name, "arguments": "{"}) for name in "fg"], (0, {"arguments": "}"})
    ),
    "empty pieces": _alike(0, 0, ["a", "", "b", ""])
    + _alike(1, 0, ["a", ""])
    + _called((0, {"name": "f"}))
    + _alike(2, 0, ["{", "", "}"]),
    "half an event before": HALF + b"data: {\n" + HALF,
    "a line's end within an event": HALF + FORM % b'"a"' * 2 + FORM % b'"a"\n' + FORM % b'"a"\r' + HALF,
    "half a comment before": HALF + b": \n" + HALF,
    "thoughts and text in turns": _alike(1, 0, ["a", "b"]) + HALF + _alike(1, 0, ["c", "d"]) + HALF,
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dialect", TOLD, ids=lambda dialect: dialect.name)
def test_what_only_looks_like_the_piece_before_is_read(dialect: Dialect, name: str, stream: bool) -> None:
    data = ODD[name] + b'data: {"choices":[{"finish_reason":"stop"}]}\n\n' + DONE
    expected = slowly(dialect, stream, data)
    for pieces in ([data], by_event(data), *splits(data)):
        assert told(dialect, stream, pieces) == expected


@pytest.mark.parametrize("slot", ["content", "reasoning_content", "reasoning", "arguments"])
@pytest.mark.parametrize("dialect", TOLD, ids=lambda dialect: dialect.name)
def test_pieces_that_are_like_the_one_before_are_not_read(
    dialect: Dialect, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[bytes] = []
    plainly = Ear.hear

    def counted(self: Ear, data: bytes | None) -> list[Event]:
        reads.append(data or b"")
        return plainly(self, data)

    monkeypatch.setattr(openai_hear.Ear, "hear", counted)
    begin = [chunk({"role": "assistant", "content": ""})]
    if slot == "arguments":
        begin.append(chunk({"tool_calls": [{"index": 0, "id": "i", "function": {"name": "f"}}]}))
        pieces = ["{", *['"a":1,'] * 30, '"b":2}']
        deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in pieces]
    else:
        deltas = [{slot: f"w{number} "} for number in range(32)]
    said = [*begin, *map(chunk, deltas), chunk({}, "stop")]
    data = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in said) + DONE
    found = told(dialect, True, [data])
    assert found.ended and found.spoken and len(reads) <= 5
    assert found == slowly(dialect, True, data)


def test_a_stream_whose_every_chunk_has_something_of_its_own_is_not_looked_at_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Mould | None] = []

    def counted(event: bytes) -> Mould | None:
        made.append(mould(event))
        return made[-1]

    monkeypatch.setattr("cortex.translator.retold.mould", counted)
    data = b"".join(b"data: %b\n\n" % json.dumps(chunk({"content": "a"}, n=n)).encode() for n in range(40))
    retold = Retold(MESSAGES, Ask("m", stream=True), Reply("i", "m", 1), beat=BEAT, new_id=new_id())
    retold.feed(data)
    assert retold.take().count(b'"text":"a"') == 40 and len(made) < 10


@pytest.mark.parametrize("most", ["MOST_ANSWER_BYTES", "MOST_CALL_BYTES"])
def test_an_answer_without_end_ends_at_the_same_piece(most: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_hear, most, 1500)
    call = {"tool_calls": [{"index": 0, "id": "i", "function": {"name": "f", "arguments": "{"}}]}
    more = {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 40}}]}
    deltas = [{"content": "é" * 40}] * 40 if most == "MOST_ANSWER_BYTES" else [call, *[more] * 60]
    data = b"".join(b"data: " + json.dumps(chunk(each)).encode() + b"\n\n" for each in deltas)
    expected = slowly(MESSAGES, True, data)
    assert expected.fault is not None and "longer than 1500 bytes" in expected.fault[1]
    for size in (len(data), 700):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert told(MESSAGES, True, pieces) == expected


@pytest.mark.parametrize(
    "event",
    [
        json.dumps({"choices": [{"delta": {"content": "a"}}], "usage": USAGE}),
        json.dumps({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}),
        json.dumps({"choices": [{"delta": {"content": "a", "reasoning": "b"}}]}),
        json.dumps({"choices": [{"delta": {"content": "a"}}] * 2}),
        json.dumps({"choices": [{"delta": {"content": "a"}, "index": 1}]}),
        json.dumps({"choices": [{"delta": {"content": ""}}]}),
        json.dumps({"error": {}, "choices": [{"delta": {"content": "a"}}]}),
        json.dumps({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}}]}),
        '{"choices":[{"delta":{"content":"a","content":7}}]}',
        '{"choices":[{"delta":{"c\\u006fntent":"a"}}]}',
        '{"choices":[]}',
        "[DONE]",
        "[",
    ],
)
def test_what_is_more_or_less_than_one_piece_makes_no_mould(event: str) -> None:
    assert mould(b"data: " + event.encode()) is None


def test_of_two_strings_of_one_name_that_one_is_taken_which_counts() -> None:
    found = mould(b'data: {"choices":[{"x":{"content":"a"},"delta":{"content":"b","content":"a"}}]}')
    assert found is not None
    form = b'data: {"choices":[{"x":{"content":"%b"},"delta":{"content":"b","content":"%b"}}]}\n\n'
    assert found.run(form % (b"a", b"c")) == (["c"], len(form) - 2)
    assert found.run(form % (b"c", b"a")) == ([], 0)


NO_STRINGS: Final = (
    *(b'"a","b":"c"', b"null", b'"a\nb"', b'"\\ud800"', b'"\xff"', b'"a', b'"', b"", b'"a"\n', b'"a"\r'),
    *(b'"a","b"', b'"a"]'),
)


@pytest.mark.parametrize("piece", NO_STRINGS)
def test_what_is_no_string_does_not_fit(piece: bytes) -> None:
    """Nor do two of which the one ends what the other begins."""
    found, good = mould((FORM % b'"a"')[:-2]), FORM % b'"\\u00e9"'
    assert found is not None and found.run(good * 3) == (["é"] * 3, len(good) * 3)
    for before in (b"", b"x" * 7):
        pieces, end = found.run(before + good + FORM % piece + FORM % piece + good, len(before))
        assert (pieces, end - len(before)) == (["é"], len(good))


@pytest.mark.parametrize("form", [FORM, FORM.replace(b"}}]}", b'}}],"and more":"%b"}' % (b"x" * 80))])
def test_pieces_are_told_as_far_as_they_have_come(form: bytes) -> None:
    found = mould((form % b'"a"')[:-2])
    assert found is not None
    for size in range(80):
        data = form % (b'"%b"' % (b"a" * size)) * 2
        for cut in range(len(data) + 1):
            pieces, end = found.run(data[:cut])
            assert pieces == ["a" * size] * (cut * 2 // len(data)) and end == len(pieces) * len(data) // 2


def test_log_probabilities_go_the_long_way() -> None:
    """They belong to the piece that they come with."""
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": -1}]}}
    data = b"".join(b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode() for _ in range(5))
    found = told(RESPONSES, True, [data], logprobs=0)
    assert found.out.count(b'"logprobs":[{"token":"a"') == 5


@pytest.mark.parametrize("before", [b"data: {\n", b": half a comment", b"\n", DONE])
@pytest.mark.parametrize("dialect", TOLD, ids=lambda dialect: dialect.name)
def test_a_piece_that_comes_alone_is_one_only_where_an_event_may_begin(
    dialect: Dialect, before: bytes
) -> None:
    finish = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'
    pieces = [*by_event(HALF), *([finish] if before == DONE else []), before, *by_event(HALF), finish, DONE]
    assert told(dialect, True, pieces) == slowly(dialect, True, b"".join(pieces))


def test_a_piece_that_comes_alone_is_a_sign_of_life() -> None:
    retold = Retold(MESSAGES, Ask("m", stream=True), Reply("i", "m", 1), beat=BEAT, new_id=new_id())
    for piece in by_event(HALF)[:2]:
        retold.feed(piece)
        assert retold.stirred
    retold.feed(b"")
    assert not retold.stirred
