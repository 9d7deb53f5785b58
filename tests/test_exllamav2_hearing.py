"""What exllamav2's results come to, without the library: its dicts, as it makes them."""

from dataclasses import dataclass
from typing import Any

import pytest

from cortex.ask import Sampling
from cortex.events import Failed, Prefilled, Started, Stopped, TokenLogprob, Tokens, Usage
from cortex.harness.base import Job, LoadOrder, Memory, Preflight
from cortex.harness.exllamav2.hearing import Call, Turn
from cortex.harness.exllamav2.loaded import devices_of
from cortex.harness.exllamav2.loading import _memory

STOP = 9
PIECES = {1: b"a", 2: b"\xf0\x9f", 3: b"\x98\x80", 4: b"<mark>", STOP: b"<end>"}


class Words:
    def piece(self, token: int) -> bytes:
        return PIECES[token]


@dataclass
class Ids:
    """A tensor, as far as results have any."""

    ids: list[int]

    def flatten(self) -> "Ids":
        return self

    def tolist(self) -> list[int]:
        return self.ids


@dataclass
class LibraryJob:
    cached_pages: int = 0
    cached_tokens: int = 0


@dataclass
class Chooser:
    fault: str | None = None


def call(**more: Any) -> Call:
    job = Job(7, "x", Sampling(), logprobs=more.pop("logprobs", None))
    return Call(job, prompt=(1,) * 600, job=LibraryJob(), **more)


def result(*ids: int, **more: Any) -> dict[str, Any]:
    return {"stage": "streaming", "eos": False, "token_ids": Ids([*ids]), **more}


def stopped(*held: int) -> dict[str, Any]:
    """As it ends at a stop token, which is only among what it holds."""
    more = {"eos": True, "eos_reason": "stop_token", "eos_triggering_token_id": STOP}
    return {"stage": "streaming", "held": {"token_ids": Ids([*held, STOP])}, **more}


def heard(one: Call, *results: dict[str, Any]) -> tuple[list[object], list[bool]]:
    turn = Turn(Words())
    ends = [turn.hear(one, each, 256) for each in results]
    said = turn.finish()
    assert {job for job, _ in said} <= {7}
    return [event for _, event in said], ends


def test_an_answer_is_begun_read_said_and_ended_once() -> None:
    one = call()
    one.job.cached_pages, one.job.cached_tokens = 2, 30
    first, ends = heard(
        one, {"stage": "started", "eos": False}, {"stage": "prefill", "eos": False}, result(1)
    )
    assert first == [Started(), Prefilled(600, 542), Tokens(b"a", 1)]
    second, more = heard(one, result(1), stopped())
    assert second == [Tokens(b"a", 2), Stopped("stop", Usage(600, 542, 3))]
    assert [*ends, *more] == [False, False, False, False, True]


def test_more_is_never_said_to_be_cached_than_the_prompt_has() -> None:
    one = call()
    one.job.cached_pages = 3
    assert heard(one, result(1))[0][1] == Prefilled(600, 600)


def test_what_the_library_holds_back_is_said_and_the_stop_token_has_no_text() -> None:
    assert heard(call(), result(2), stopped(3))[0][2] == Tokens("😀".encode(), 3)


def test_tokens_without_text_count() -> None:
    events, _ = heard(call(hidden=frozenset({4})), result(1, 4, 1))
    assert events[-1] == Tokens(b"aa", 3)


def test_scores_come_with_the_tokens_that_have_text() -> None:
    one = call(logprobs=0, hidden=frozenset({4}))
    one.scores = [TokenLogprob(str(n), -1.0) for n in range(4)]
    events, _ = heard(one, result(1, 4), result(1), stopped())
    assert [score.text for score in events[2].logprobs] == ["0", "2"]
    assert one.scores == []


@pytest.mark.parametrize(
    ("reason", "kind"), [("max_new_tokens", "length"), ("end_filter", "stop"), ("stop_token", "stop")]
)
def test_reasons_are_told_in_our_words(reason: str, kind: str) -> None:
    events, _ = heard(call(), result(1, eos=True, eos_reason=reason))
    assert events[-1].reason == kind


def test_an_end_that_nobody_asked_for_is_a_failure() -> None:
    events, ends = heard(call(), result(1, eos=True, eos_reason="stop_string"))
    assert isinstance(events[-1], Failed)
    assert "stop_string" in events[-1].error.message
    assert ends == [True]


def test_an_answer_that_cannot_go_on_fails_with_what_was_said_before() -> None:
    one = call(chooser=Chooser())
    before, _ = heard(one, result(1))
    assert before[-1] == Tokens(b"a", 1)
    one.chooser.fault = "no way on"
    events, ends = heard(one, result(1))
    assert [type(event) for event in events] == [Failed]
    assert events[0].error.message == "no way on"
    assert ends == [True]


def test_devices_are_taken_in_cudas_order_whatever_drives() -> None:
    order = LoadOrder("m", None, "cuda:3", 1, 1)
    assert devices_of(order) == [3]
    shares = {"cuda:10": 5, "cuda:2": 5}
    assert devices_of(LoadOrder("m", None, "cuda:10", 1, 1, shares=shares)) == [2, 10]


@pytest.mark.parametrize(
    ("grown", "told"),
    [(170, Memory(100, 40, 30)), (140, Memory(100, 40, 0)), (120, Memory(80, 40, 0)), (30, Memory(0, 30, 0))],
)
def test_what_a_model_took_is_what_was_measured_not_what_was_promised(grown: int, told: Memory) -> None:
    promised = Preflight(100, 40, 50, 1, 1, "x", None)
    assert _memory(promised, grown) == told
    assert told.bytes == grown


def test_nothing_measured_is_no_memory() -> None:
    assert _memory(Preflight(100, 40, 50, 1, 1, "x", None), -5) == Memory(0, 0, 0)
