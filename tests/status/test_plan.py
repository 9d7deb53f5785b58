"""`cortex plan`: what is asked, what a person sees at 80 columns, and the exit code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cortex.errors import BadAsk, Unauthorised, UnknownModel
from cortex.status import view
from cortex.status.fetch import Asker, asker
from cortex.wire import fleet, neuron
from cortex.wire.plan import Leaver, PlanPlace, PlanReport, Stayer
from tests.fake_reports import Played, played_at
from tests.status.test_view import shown

LONG = "Qwen/Qwen3-Coder-30B-A3B-Instruct-GGUF"
GIB = 2**30
PLAN = PlanReport(
    model=LONG,
    decision="load",
    neuron="beast",
    why="small (5GiB) would leave; 14GiB free on cuda:0",
    need_bytes=19 * GIB,
    places=[
        PlanPlace(
            neuron="beast",
            chosen=True,
            standing="evicts",
            why="small (5GiB) would leave; 14GiB free on cuda:0",
            need={"cuda:0": 19 * GIB},
            free={"cuda:0": 14 * GIB},
            evicts=[Leaver(model="small", bytes=5 * GIB)],
        ),
        PlanPlace(
            neuron="a-neuron-with-a-name-of-its-own",
            standing="no_room",
            why="needs 19GiB, cuda:0 has 3GiB free; other is pinned; third has 2 in flight",
            stays=[Stayer(model="other", why="is pinned"), Stayer(model="third", why="has 2 in flight")],
        ),
        PlanPlace(
            neuron="benjy",
            standing="too_few_devices",
            why="it needs 2 devices, each with 9.5GiB of memory; cuda:0 has 12GiB, 3GiB free",
        ),
    ],
)


def test_a_plan_fits_80_columns_and_nothing_of_it_is_cut() -> None:
    text = shown(view.plan(PLAN), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    # Cells fold in the middle of their column, so words are looked for one by one.
    words = set(text.split())
    for place in PLAN.places:
        assert place.standing.replace("_", " ").split()[0] in words
    assert {"small", "(5GiB)", "14GiB", "pinned;", "9.5GiB", "cuda:0"} <= words
    assert text.splitlines()[0].startswith(f"{LONG} would be loaded on beast:")


def test_the_chosen_neuron_is_marked_and_no_other() -> None:
    marked = [line for line in shown(view.plan(PLAN), 80).splitlines() if line.startswith(">")]
    assert len(marked) == 1 and marked[0].split()[1:3] == ["beast", "evicts"]


def test_a_refusal_tells_its_status_and_code_and_a_size_that_nobody_knows() -> None:
    report = PlanReport(
        model="m",
        why="No neuron has room for 'm' at the moment",
        code="no_capacity",
        status=503,
        places=PLAN.places[1:],
    )
    text = " ".join(shown(view.plan(report), 80).split())
    assert "m would be refused: No neuron has room for 'm' at the moment (503 no_capacity)" in text
    assert "! its size is not known here" in text
    assert "its size is not known here" not in shown(view.plan(PLAN), 80)


def test_a_fleet_without_neurons_is_told_as_such() -> None:
    assert "No neuron is configured" in shown(view.plan(PlanReport(model="m")), 80)


def test_the_terminal_obeys_nothing_that_came_in_a_plan() -> None:
    evil = "m\x1b]0;owned\x07\n[red]x"
    report = PlanReport(
        model=evil,
        decision="load",
        neuron=evil,
        why=evil,
        places=[PlanPlace(neuron=evil, standing=evil, why=evil)],
    )
    text = shown(view.plan(report), 80)
    assert "\x1b" not in text and "\x07" not in text and "[red]" in text


@pytest.mark.parametrize(
    ("decision", "code"), [("serve", 0), ("load", 0), ("join", 0), ("wait", 0), ("refuse", 1)]
)
def test_only_a_refusal_is_a_failure(decision: str, code: int) -> None:
    assert view.plan_exit_code(PlanReport(model="m", decision=decision)) == code  # type: ignore[arg-type]


# -- asking


@asynccontextmanager
async def at(played: Played) -> AsyncIterator[Asker]:
    async with played_at(played) as url, asker(url, None) as asked:
        yield asked


async def test_a_plan_comes_as_it_is_and_its_name_is_escaped() -> None:
    played = Played().says("GET /fleet/plan?model=org%2Fname%26x", PLAN)
    async with at(played) as asked:
        assert await asked.plan("org/name&x") == PLAN


async def test_an_unknown_model_is_told_in_the_gateways_words() -> None:
    said = {"error": {"message": "The model 'm' does not exist here.", "code": "model_not_found"}}
    played = Played().says("GET /fleet/plan?model=m", said, 404).says("GET /fleet", fleet.FleetReport())
    async with at(played) as asked:
        with pytest.raises(UnknownModel, match="does not exist"):
            await asked.plan("m")


async def test_a_neuron_has_no_plan_and_says_whom_to_ask() -> None:
    played = Played().says("GET /health", neuron.Health())
    async with at(played) as asked:
        with pytest.raises(BadAsk, match="name a gateway with --endpoint"):
            await asked.plan("m")


async def test_who_is_not_let_in_is_told_so() -> None:
    played = Played().says("GET /fleet/plan?model=m", {"error": {"message": "No."}}, 401)
    async with at(played) as asked:
        with pytest.raises(Unauthorised, match="--token-file"):
            await asked.plan("m")
