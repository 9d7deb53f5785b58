"""The checker finds each kind of loss, duplication and ghost, and nothing in a sound run."""

import json
import logging
from dataclasses import replace

import pytest

from cortex import logs
from tests.calls import Answered
from tests.checker import Asked, Booked, Finding, Ledgers, Ran, asked_of, booked_of, ran_of

ASKED = Asked("r", sent=10, ended=12, end="complete", marked=True, tokens=(0, 1, 2))
RAN = Ran("r", "n1", "boot", began=10.1, last=11.9, tokens=3, end="complete")
BOOKED = Booked("r", "n1", "ok", completion=3)


def found(
    asked: Asked = ASKED, *, booked=(BOOKED,), ran=(RAN,), until: float = 1000.0, kills=(), thaws=None
) -> list[tuple[str, str]]:
    ledgers = Ledgers([asked], booked, ran, until, kills, thaws or {})
    return [(finding.kind, finding.why) for finding in ledgers.findings()]


def refused(**changes) -> Asked:
    return replace(ASKED, end="refused", marked=False, tokens=(), **changes)


def test_a_sound_run_has_no_finding() -> None:
    failed = replace(ASKED, id="e", end="error_event", marked=False, tokens=(0,))
    sound = [
        ASKED,
        refused(id="q"),
        replace(ASKED, id="l", end="left", marked=False, tokens=(0, 1)),
        failed,
    ]
    booked = [replace(BOOKED, id=each.id) for each in sound]
    ran = [RAN, replace(RAN, id="l", end="left"), replace(RAN, id="e", end=None, tokens=1)]
    assert Ledgers(sound, booked, ran, 1000.0).findings() == []


def test_a_retry_that_followed_a_death_is_no_duplicate() -> None:
    died = Ran("r", "n2", "other", began=10.05, last=10.2, end=None)
    assert found(ran=[died, RAN]) == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (replace(ASKED, end=None, ended=None), "no end within 120 s: none after 990.0 s"),
        (refused(ended=135.1), "no end within 120 s: 125.1 s"),
        (replace(ASKED, end="cut", marked=False), "without an error event"),
        (replace(ASKED, marked=False), "has no end mark"),
        (replace(ASKED, tokens=(0, 2)), "tokens 1 are missing"),
        (replace(ASKED, tokens=(1, 2), end="left"), "tokens 0 are missing"),
        (replace(ASKED, tokens=(0, 1)), "3 tokens were computed, and 2 came"),
    ],
)
def test_what_a_client_misses_is_lost(asked: Asked, why: str) -> None:
    kinds = found(asked)
    assert kinds and {kind for kind, _ in kinds} <= {"lost"}
    assert any(why in said for _, said in kinds), kinds


def test_an_end_that_is_late_by_less_than_five_seconds_is_an_end() -> None:
    assert found(refused(ended=134.9), ran=[]) == []


def test_a_request_that_still_has_time_is_not_lost() -> None:
    assert (
        found(replace(ASKED, end=None, ended=None, tokens=(0,)), booked=[replace(BOOKED, id="x")], until=20)
        == []
    )


def test_success_that_no_neuron_had_is_lost() -> None:
    assert found(ran=[replace(RAN, end="failed")]) == [
        ("lost", "it looks complete, and no neuron completed it")
    ]


@pytest.mark.parametrize("tokens", [(0, 1, 1, 2), (0, 2, 1)])
def test_tokens_that_come_twice_or_out_of_order_are_duplicated(tokens) -> None:
    [(kind, why)] = found(replace(ASKED, tokens=tokens))
    assert kind == "duplicated" and "twice or out of order" in why


def test_two_executions_at_the_same_time_are_a_duplicate() -> None:
    other = Ran("r", "n2", "other", began=10.2, last=11.8, tokens=1, end="left")
    assert found(ran=[RAN, other]) == [("duplicated", "n1 and n2 computed it together for 1.6 s")]
    assert found(ran=[RAN, replace(other, last=11.1)]) == []


def test_usage_is_counted_exactly_once() -> None:
    assert found(booked=[BOOKED, BOOKED]) == [("duplicated", "its usage was counted 2 times")]
    assert found(booked=[replace(BOOKED, id="x")]) == [("lost", "its usage was never counted")]
    assert found(booked=[replace(BOOKED, completion=6)]) == [
        ("duplicated", "6 tokens were booked, 3 computed")
    ]
    assert found(booked=[replace(BOOKED, completion=1)]) == [("lost", "1 tokens were booked, 3 computed")]
    assert found(booked=[replace(BOOKED, completion=1, estimated=True)]) == []


def test_who_left_before_anything_ran_may_be_in_no_book() -> None:
    left = replace(ASKED, end="left", tokens=(), marked=False)
    assert found(left, booked=[replace(BOOKED, id="x")], ran=[]) == []
    assert found(left, booked=[replace(BOOKED, id="x")]) == [("lost", "its usage was never counted")]


def test_a_device_that_was_frozen_notices_the_end_when_it_goes_on() -> None:
    late = replace(RAN, last=14.5)
    assert found(ran=[late], thaws={"n1": 14.0}) == []
    assert found(ran=[late], thaws={"n2": 14.0, "n1": 13.0})[0][0] == "ghost"


def test_a_device_that_goes_on_after_the_end_is_a_ghost() -> None:
    assert found(ran=[replace(RAN, last=13.5)]) == [("ghost", "n1 went on for 1.5 s after its end")]
    assert found(ran=[replace(RAN, last=12.9)]) == []
    assert Ledgers([], (), [RAN], 0).findings() == [Finding("ghost", "r", "it was computed and never asked")]


def test_a_killed_gateway_excuses_a_cut_for_a_second() -> None:
    cut = replace(ASKED, end="cut", marked=False)
    assert found(cut, booked=[replace(BOOKED, id="x")], kills=[11.5]) == []
    for kill in (10.9, 12.1):
        assert ("lost", "its usage was never counted") in found(
            cut, booked=[replace(BOOKED, id="x")], kills=[kill]
        )
    assert found(refused(), booked=[replace(BOOKED, id="x")], ran=[], kills=[11.5]), (
        "a refusal needs no excuse"
    )


def test_an_id_that_is_used_twice_cannot_be_judged() -> None:
    with pytest.raises(ValueError, match="used twice"):
        Ledgers([ASKED, ASKED])


# -- how ledgers are read

STREAM = {"content-type": "text/event-stream; charset=utf-8"}


def chunk(number: int) -> bytes:
    return b'data: {"id":"chatcmpl-r","choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % number


@pytest.mark.parametrize(
    ("answer", "end", "marked", "tokens"),
    [
        (
            Answered(200, STREAM, {}, chunk(0) + chunk(1) + b"data: [DONE]\n\n", True),
            "complete",
            True,
            (0, 1),
        ),
        (Answered(200, STREAM, {}, chunk(0) + b'data: {"error":{}}\n\n', True), "error_event", False, (0,)),
        (Answered(200, STREAM, {}, chunk(0), True), "complete", False, (0,)),
        (Answered(200, STREAM, {}, chunk(0), False), "cut", False, (0,)),
        (Answered(200, STREAM, {}, chunk(0) + chunk(1)[:30], False), "cut", False, (0,)),
        (Answered(200, STREAM, {}, b": keep-alive\n\n", False), "cut", False, ()),
        (Answered(200, STREAM, {}, b": keep-alive\n\n", True), "complete", False, ()),
        (Answered(503, {}, {}, b'{"error":{}}', True), "refused", True, ()),
        (Answered(200, {}, {}, b'{"choices":[{"mess', False), "cut", False, ()),
        (
            Answered(200, {}, {}, b'{"choices":[{"message":{"content":"0 1 2 "}}]}', True),
            "complete",
            True,
            (0, 1, 2),
        ),
        (Answered(200, {}, {}, b'{"choices":[{"text":"0 1 "}]}', True), "complete", True, (0, 1)),
        (Answered(), "cut", False, ()),
    ],
)
def test_an_answer_is_read_as_its_client_would(answer: Answered, end: str, marked: bool, tokens) -> None:
    asked = asked_of("r", answer, sent=1, ended=2)
    assert (asked.end, asked.marked, asked.tokens) == (end, marked, tokens)
    assert asked_of("r", answer, sent=1, ended=2, left=True).end == "left"


def test_the_ledger_of_a_neuron_is_read_execution_by_execution() -> None:
    def line(boot: str, at: float, **what) -> str:
        return json.dumps({"id": "r", "neuron": f"n-{boot}", "boot": boot, "model": "a", "at": at, **what})

    lines = [line("x", 1, token=-1), line("y", 2, token=-1), line("x", 3, token=0), line("y", 4, end="left")]
    lines += [line("x", 5, token=1), line("x", 6, end="complete"), line("x", 7, token=-1)]
    assert ran_of(lines) == [
        Ran("r", "n-x", "x", 1, 6, 2, "complete"),
        Ran("r", "n-y", "y", 2, 4, 0, "left"),
        Ran("r", "n-x", "x", 7, 7, 0, None),
    ]


@pytest.mark.parametrize("formatter", [logs.Text(journal=False), logs.Json()], ids=["text", "json"])
def test_the_books_are_read_from_the_log(formatter: logging.Formatter) -> None:
    said = "request.done model=a neuron=n1 outcome=ok seconds=0.1 prompt=7 completion=3 estimated=%s"
    records = [
        logging.LogRecord("cortex.gateway.passage", logging.DEBUG, "", 0, text, arguments, None)
        for text, arguments in ((said, (True,)), ("neuron.up neuron=%s", ("n1",)))
    ]
    for record in records:
        record.request_id = "r"
    assert booked_of(map(formatter.format, records)) == [Booked("r", "n1", "ok", 3, True)]
