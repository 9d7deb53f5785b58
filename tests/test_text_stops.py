"""A stop string ends the text at the first character that completes it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.errors import BadAsk
from cortex.text.stops import Stops
from tests.work import lines


def read(cut: list[str], stops: list[str]) -> tuple[str, str | None]:
    scanner = Stops(stops)
    text = "".join([*map(scanner.feed, cut), scanner.flush()])
    return text, scanner.matched


CASES = {
    "no stop strings": ("abc", [], "abc", None),
    "never": ("abc", ["x"], "abc", None),
    "cut": ("say Observation: 3", ["Observation:"], "say ", "Observation:"),
    "at the start": ("xyz", ["x"], "", "x"),
    "at the end": ("xyz", ["z"], "xy", "z"),
    "half of one at the end": ("abc Obs", ["Observation:"], "abc Obs", None),
    "the first of two": ("a b c", ["c", "b"], "a ", "b"),
    "the first to be complete": ("abcd", ["abcd", "bc"], "a", "bc"),
    "the longest of those that end together": ("xabc", ["bc", "abc", "c"], "x", "abc"),
    "the shorter one that is complete first": ("abc", ["abc", "ab"], "", "ab"),
    "a beginning that fails into another": ("aab", ["ab"], "a", "ab"),
    "overlapping beginnings": ("ababac!", ["abac"], "ab", "abac"),
    "beyond ASCII": ("日本。語", ["。"], "日本", "。"),
    "line ends": ("a\n\nb", ["\n\n"], "a", "\n\n"),
}


@pytest.mark.parametrize(("text", "stops", "left", "matched"), CASES.values(), ids=CASES.keys())
def test_every_cut_stops_at_the_same_place(text: str, stops: list[str], left: str, matched: str | None):
    for at in range(len(text) + 1):
        assert read([text[:at], text[at:]], stops) == (left, matched)
    assert read(list(text), stops) == (left, matched)


def test_only_what_may_be_a_stop_string_is_held_back():
    scanner = Stops(["abcd", "bx"])
    assert scanner.feed("zab") == "z"
    assert scanner.held() == 2
    assert scanner.feed("c") == ""
    assert scanner.feed("e") == "abce"
    assert scanner.held() == 0


def test_nothing_is_released_after_a_match():
    scanner = Stops(["x"])
    assert scanner.feed("axb") == "a"
    assert scanner.feed("more") == "" == scanner.flush()


def test_matching_starts_anew_after_a_flush():
    scanner = Stops(["ab"])
    assert scanner.feed("a") == ""
    assert scanner.flush() == "a"
    assert scanner.feed("b") == "b"
    assert scanner.matched is None


def test_an_empty_stop_string_is_refused_by_name():
    with pytest.raises(BadAsk, match="must not be empty") as caught:
        Stops(["a", ""])
    assert caught.value.param == "stop"


@given(
    st.text("ab", max_size=40),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
    st.lists(st.integers(0, 40)),
)
def test_the_scanner_agrees_with_looking_at_every_beginning(text: str, stops: list[str], ats: list[int]):
    want: tuple[str, str | None] = (text, None)
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            longest = max(complete, key=len)
            want = (text[: end - len(longest)], longest)
            break
    edges = sorted({0, len(text), *(at % (len(text) + 1) for at in ats)})
    cut = [text[a:b] for a, b in pairwise(edges)]
    assert read(cut, stops) == want


def test_the_work_grows_with_the_text_and_not_with_the_stop_string():
    def work(size: int, stop: int) -> int:
        return lines(lambda: read(["a"] * size, ["a" * stop + "b"]))

    assert work(2000, 10) < 2.2 * work(1000, 10)
    assert work(2000, 500) - work(1, 500) < 1.5 * work(2000, 10)
