"""One choice becomes text, thoughts, calls and one end, however its bytes were cut."""

from collections.abc import Iterable, Sequence
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Tool
from cortex.errors import EngineFailed
from cortex.events import (
    EngineEvent,
    Event,
    Failed,
    Prefilled,
    Started,
    Stopped,
    Text,
    Thought,
    TokenLogprob,
    Tokens,
    ToolCall,
    Usage,
)
from cortex.text.projection import Projection
from cortex.text.thinking import Thinking
from cortex.text.toolcalls import CallForm, reader
from tests.play import splits


def projection(
    *,
    choice: int = 0,
    thinking: str = "outside",
    tools: bool = True,
    stops: Sequence[str] = (),
    parallel: bool = True,
) -> Projection:
    ids = count()
    return Projection(
        choice=choice,
        thinking=None if thinking == "off" else Thinking(inside=thinking == "inside"),
        calls=reader("hermes", (), lambda: f"{next(ids):024d}") if tools else None,
        stops=stops,
        parallel=parallel,
    )


def plain(**settings: object) -> Projection:
    return projection(**{"thinking": "off", "tools": False, **settings})


def feed(choice: Projection, events: Iterable[EngineEvent]) -> list[Event]:
    return [said for event in events for said in choice.feed(event)]


def told(events: list[Event]) -> list[tuple[str, ...]]:
    """What a client sees in the end: neighbours of one kind joined, figures left out."""
    whole: list[tuple[str, ...]] = []
    for event in events:
        match event:
            case Text(text) | Thought(text):
                kind = type(event).__name__.lower()
                if whole and whole[-1][0] == kind:
                    text = whole.pop()[1] + text
                whole.append((kind, text))
            case ToolCall():
                whole.append(("call", event.id[-1], event.name, event.arguments))
            case Stopped():
                whole.append(("stopped", event.reason, event.stop or ""))
            case _:
                raise AssertionError(event)
    return whole


CALL = '<tool_call>\n{"name": "now", "arguments": {"zone": "Köln"}}\n</tool_call>'
NOW = ("now", '{"zone": "Köln"}')

SCRIPTS: dict[str, tuple[str, dict[str, object], list[tuple[str, ...]]]] = {
    "everything": (
        f"<think>\nA — zone.\n</think>\n\nLet me see. ✅\n{CALL}\n{CALL}",
        {},
        [
            ("thought", "A — zone."),
            ("text", "Let me see. ✅"),
            ("call", "0", *NOW),
            ("call", "1", *NOW),
            ("stopped", "tool_calls", ""),
        ],
    ),
    "a stop string": (
        "Grüße\nObservation: none",
        {"stops": ["Observation:", "Calling tools:"]},
        [("text", "Grüße\n"), ("stopped", "stop", "Observation:")],
    ),
    "a stop string in a thought and in a call stops nothing": (
        f"<think>END</think>{CALL.replace('Köln', 'END')}ok",
        {"stops": ["END"]},
        [
            ("thought", "END"),
            ("call", "0", "now", '{"zone": "END"}'),
            ("text", "ok"),
            ("stopped", "tool_calls", ""),
        ],
    ),
    "a stop string after a call": (
        f"{CALL}\nso END more {CALL}",
        {"stops": ["END"]},
        [("call", "0", *NOW), ("text", "so "), ("stopped", "tool_calls", "END")],
    ),
    "no stop string across a call": (
        f"EN{CALL}D",
        {"stops": ["END"]},
        [("text", "EN"), ("call", "0", *NOW), ("text", "D"), ("stopped", "tool_calls", "")],
    ),
    "no stop string across a thought": (
        "E\n<think>x</think>ND",
        {"stops": ["E\nND"]},
        [("text", "E\n"), ("thought", "x"), ("text", "ND"), ("stopped", "stop", "")],
    ),
    "a stop string of blanks that end before a thought": (
        "a D \n<think>x</think>b",
        {"stops": ["D \n"]},
        [("text", "a "), ("stopped", "stop", "D \n")],
    ),
    "a stop string in what is no call": (
        "<tool_call>END</tool_call>",
        {"stops": ["END"]},
        [("text", "<tool_call>"), ("stopped", "stop", "END")],
    ),
    "a stop string in the held rest": (
        'a <tool_call>{"name": "END',
        {"stops": ["END"]},
        [("text", 'a <tool_call>{"name": "'), ("stopped", "stop", "END")],
    ),
    "one call only": (
        f"a {CALL} b {CALL}",
        {"parallel": False},
        [("text", "a"), ("call", "0", *NOW), ("stopped", "tool_calls", "")],
    ),
    "an opened thought": (
        "hm\n</think>\n\nHi",
        {"thinking": "inside"},
        [("thought", "hm"), ("text", "Hi"), ("stopped", "stop", "")],
    ),
    "an opened thought never closed": (
        "hm\nso",
        {"thinking": "inside"},
        [("thought", "hm\nso"), ("stopped", "stop", "")],
    ),
    "no tools wanted": (CALL, {"tools": False}, [("text", CALL), ("stopped", "stop", "")]),
    "no thoughts wanted": (
        "<think>a</think>b",
        {"thinking": "off"},
        [("text", "<think>a</think>b"), ("stopped", "stop", "")],
    ),
    "a call in a thought": (
        f"<think>{CALL}</think>b",
        {},
        [("thought", CALL), ("text", "b"), ("stopped", "stop", "")],
    ),
    "nothing at all": ("", {}, [("stopped", "stop", "")]),
}


@pytest.mark.parametrize(("answer", "settings", "want"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_every_cut_of_the_bytes_tells_the_same(
    answer: str, settings: dict[str, object], want: list[tuple[str, ...]]
):
    """Fault row 13: code points and markers split over chunks."""
    for cut in splits(answer.encode()):
        events = [*(Tokens(data, 1) for data in cut), Stopped("stop")]
        assert told(feed(projection(**settings), events)) == want, cut


def test_bad_bytes_cost_one_character_and_the_rest_is_read():
    """Fault row 13: invalid UTF-8."""
    for cut in splits(b"a\xffb \xe2\x82"):
        assert told(feed(plain(), [*(Tokens(data, 1) for data in cut), Stopped("length")])) == [
            ("text", "a\ufffdb \ufffd"),
            ("stopped", "length", ""),
        ]


def test_everything_carries_the_number_of_its_choice():
    events = [Started(), Prefilled(5, 2), Tokens(f"<think>a</think>b{CALL}".encode(), 9), Stopped("length")]
    said = feed(projection(choice=3), events)
    assert [type(event).__name__ for event in said] == [
        "Started",
        "Prefilled",
        "Thought",
        "Text",
        "ToolCall",
        "Stopped",
    ]
    assert {event.choice for event in said} == {3}
    assert said[1] == Prefilled(5, 2, choice=3)
    assert feed(projection(choice=3), [Failed(EngineFailed("x"))])[0].choice == 3


def test_text_comes_out_at_once_and_pieces_of_one_feed_are_merged():
    choice = projection(stops=["STOP"])
    assert choice.feed(Tokens(b"Hel", 1)) == [Text("Hel")]
    assert choice.feed(Tokens(b"lo <tool_call> and S", 1)) == [Text("lo <tool_call> and ")]
    assert choice.feed(Tokens(b"o", 1)) == [Text("So")]


def test_a_stop_string_ends_it_at_once_and_later_events_are_not_heard():
    choice = plain(stops=["END"])
    assert choice.feed(Tokens(b"a EN", 2)) == [Text("a ")]
    assert not choice.finished
    assert choice.feed(Tokens(b"D b", 2)) == [Stopped("stop", Usage(completion=4), "END")]
    assert choice.finished
    late = [Tokens(b"c", 1), Stopped("length"), Failed(EngineFailed("late")), Started(), Prefilled(1)]
    assert feed(choice, late) == []


def test_the_first_call_ends_it_where_only_one_is_wanted():
    choice = projection(parallel=False)
    said = choice.feed(Tokens(f"{CALL} x {CALL}".encode(), 30))
    assert [type(event) for event in said] == [ToolCall, Stopped]
    assert choice.finished


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_engine_s_reason_holds_when_nothing_else_ended_it(reason: str):
    assert feed(plain(), [Tokens(b"a", 1), Stopped(reason)])[-1] == Stopped(reason, Usage(completion=1))


def test_a_failure_comes_after_the_text_that_was_held_back():
    error = EngineFailed("the device is lost")
    choice = plain(stops=["STOP"])
    assert feed(choice, [Tokens(b"a ST", 1), Failed(error)]) == [Text("a "), Text("ST"), Failed(error)]
    assert choice.finished


def test_a_failure_is_not_hidden_by_a_call_that_its_rest_completes():
    error = EngineFailed("the device is lost")
    said = feed(projection(parallel=False), [Tokens(b'<tool_call>{"name": "a"}', 1), Failed(error)])
    assert said[-1] == Failed(error)


def test_usage_is_counted_from_the_events():
    events = [
        Prefilled(7, 3),
        Tokens(b"<think>", 1),
        Tokens(b"a b", 2),
        Tokens(b"</think>", 1),
        Tokens(b"c", 4),
        Stopped("stop"),
    ]
    assert feed(projection(), events)[-1] == Stopped(
        "stop", Usage(prompt=7, cached=3, completion=8, reasoning=3)
    )


def test_a_stop_string_in_the_rest_is_the_reason_whatever_the_engine_says():
    choice = projection(stops=["END"])
    events = feed(choice, [Tokens(b'a <tool_call>{"name": "END', 1), Stopped("length")])
    assert told(events)[-1] == ("stopped", "stop", "END")


def test_the_engine_s_own_usage_counts_where_it_is_larger():
    events = [Prefilled(7, 3), Tokens(b"a", 1), Stopped("stop", Usage(prompt=6, cached=4, completion=2))]
    assert feed(plain(), events)[-1] == Stopped("stop", Usage(prompt=7, cached=4, completion=2))


# -- logprobs


def token(text: str, data: bytes | None = None) -> Tokens:
    return Tokens(text.encode() if data is None else data, 1, (TokenLogprob(text, -0.5),))


def ridden(events: list[Event]) -> list[tuple[str, list[str]]]:
    return [(e.text, [p.text for p in e.logprobs]) for e in events if isinstance(e, Text)]


def test_logprobs_ride_on_the_text_of_their_token():
    said = feed(plain(), [token("Hel"), token("lo"), Stopped("stop")])
    assert ridden(said) == [("Hel", ["Hel"]), ("lo", ["lo"])]


def test_logprobs_wait_with_text_that_is_held_back():
    said = feed(plain(stops=["STOP"]), [token("a"), token(" ST"), token("O"), token("ne"), Stopped("stop")])
    assert ridden(said) == [("a", ["a"]), (" ", [" ST"]), ("STOne", ["O", "ne"])]


def test_logprobs_of_a_stop_string_are_cut_with_it():
    said = feed(plain(stops=["STOP"]), [token("a "), token("ST"), token("OP"), token("x")])
    assert ridden(said) == [("a ", ["a "])]
    whole = Tokens(b"a STOP x", 4, tuple(TokenLogprob(text, -1.0) for text in ["a", " ", "STOP", " x"]))
    assert ridden(feed(plain(stops=["STOP"]), [whole])) == [("a ", ["a", " "])]


def test_logprobs_of_thoughts_and_calls_do_not_ride_on_text():
    answer = ["<think>", "hm", "</think>", "Hi", " ", "<tool_call>", '{"name": "a"}', "</tool_call>", "Bye"]
    said = feed(projection(), [*map(token, answer), Stopped("stop")])
    assert ridden(said) == [("Hi", ["Hi"]), ("Bye", ["Bye"])]


def test_logprobs_of_a_code_point_in_pieces_ride_on_it_together():
    first, last = token("\ufffd", "é".encode()[:1]), token("", "é".encode()[1:])
    assert ridden(feed(plain(), [first, last, Stopped("stop")])) == [("é", ["\ufffd", ""])]


def test_a_logprob_waits_for_the_rest_of_its_code_point():
    first = Tokens(b"a\xc3", 2, (TokenLogprob("a", -1.0), TokenLogprob("\ufffd", -1.0)))
    assert ridden(feed(plain(), [first, token("", b"\xa9"), Stopped("stop")])) == [
        ("a", ["a"]),
        ("é", ["\ufffd", ""]),
    ]


def test_the_logprob_of_a_token_without_text_rides_on_the_next_text():
    assert ridden(feed(projection(), [token(""), token("a"), Stopped("stop")])) == [("a", ["", "a"])]


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "bc", " ", "<tool_", "<tool_call>", "\n", "<think", "é", "z{"]))
)
def test_no_logprob_of_text_is_lost_or_doubled(words: list[str]):
    said = feed(projection(stops=["abcd", "zzz"]), [*map(token, words), Stopped("stop")])
    rode = [text for _, texts in ridden(said) for text in texts]
    if told(said)[0] == ("text", "".join(words)):
        assert rode == words


WORDS = st.sampled_from(
    (
        *(
            "a",
            " b",
            "\n",
            "<",
            "<th",
            "ink>",
            "<think>",
            "</think>",
            "\n\n",
            "STOP",
            "ST",
            "OP",
            "é",
            "🙂",
            " ",
        ),
        *("", "<tool_call>", '{"name": "f", "arguments": {}}', "</tool_call>", "<tool_"),
        *("[TOOL_CALLS]", "[", "]", "f", "[ARGS]{}", ";", "<function=f>", "</function>", "<|python_tag|>"),
    )
)
FORMS: tuple[CallForm, ...] = ("hermes", "qwen_xml", "llama", "mistral_list", "mistral_args")


class LongWay(Projection):
    """Every piece goes through all stages as one of several would."""

    def _pass(self, piece: Text | Thought) -> list[Event]:
        return self._leave(self._part([piece]))


@given(
    st.lists(st.tuples(WORDS, st.integers(1, 4), st.booleans()), max_size=20),
    st.sampled_from(["off", "outside", "inside"]),
    st.sampled_from([None, *FORMS]),
    st.sampled_from([(), ("STOP",), ("STOP", "OP"), ("\n\n", "é")]),
    st.booleans(),
    st.integers(0, 1),
)
def test_the_short_way_of_a_piece_says_what_the_long_way_says(
    words: list[tuple[str, int, bool]],
    thinking: str,
    form: CallForm | None,
    stops: tuple[str, ...],
    scored: bool,
    choice: int,
) -> None:
    """Event by event: also where they are cut is the same."""
    events: list[EngineEvent] = [Started(), Prefilled(7, 3)]
    for word, cut, with_logprobs in words:
        data = word.encode()
        for piece in (data[:cut], data[cut:]):
            rides = (
                (TokenLogprob(piece.decode("utf-8", "replace"), -0.5),) if scored and with_logprobs else ()
            )
            events.append(Tokens(piece, 1, rides))
    events.append(Stopped("stop", Usage(7, 3, 2)))
    made = []
    for kind in (Projection, LongWay):
        ids = count()
        choices = kind(
            choice=choice,
            thinking=None if thinking == "off" else Thinking(inside=thinking == "inside"),
            calls=reader(form, (Tool("f", "", {}),), lambda ids=ids: f"{next(ids):024d}") if form else None,
            stops=stops,
        )
        made.append([choices.feed(event) for event in events])
    assert made[0] == made[1]
