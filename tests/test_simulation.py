"""The simulation gives the same figures for the same seed, and everybody in it gets an end."""

import pytest

from tests.bench import decisions, simulation
from tests.bench.simulation import dues, jain, quantile
from tests.bench.trace import HABITS, make

SMALL = make(seed=3, count=300, hours=0.2)


@pytest.mark.parametrize("name", simulation.WAYS)
def test_every_way_gives_everybody_an_end_and_the_same_figures_again(name: str) -> None:
    tally = simulation.run(name, SMALL)
    assert len(tally.seen) == 300 == sum(1 for each in tally.seen if each.refused or each.wait_s is not None)
    assert all(each.sat_s > 0 for each in tally.seen if not each.refused)
    assert tally.loads >= len({each.request.model for each in tally.seen if not each.refused})
    assert tally.row(name) == simulation.run(name, SMALL).row(name)


def test_a_trace_is_that_of_its_seed_and_has_all_keys() -> None:
    assert make(seed=3, count=300, hours=0.2) == SMALL != make(seed=4, count=300, hours=0.2)
    assert {request.key for request in SMALL.requests} == {habit.key for habit in HABITS}
    assert sum(habit.part for habit in HABITS) == pytest.approx(1.0)
    assert SMALL.requests == sorted(SMALL.requests, key=lambda request: request.at)


def test_the_index_of_fairness_is_one_for_equals_and_least_when_one_has_all() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_a_key_is_due_its_share_and_no_more_than_it_wanted() -> None:
    # "team" has a share of 4, the others of 1.
    assert dues(60.0, {"team": 100.0, "chat-1": 100.0, "greedy": 100.0}) == {
        "team": 40.0,
        "chat-1": 10.0,
        "greedy": 10.0,
    }
    assert dues(60.0, {"team": 10.0, "chat-1": 5.0, "greedy": 100.0}) == {
        "team": 10.0,
        "chat-1": 5.0,
        "greedy": 45.0,
    }


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([3.0, 1.0, 2.0], part) for part in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert quantile([], 0.5) == 0.0


def test_decisions_are_timed_for_each_size_of_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    assert decisions.main(["--sizes", "4", "12", "--rounds", "3"]) == 0
    told = capsys.readouterr().out
    assert all(f"| {name} |" in told for name in decisions.CASES)
    assert "| 12 | 60 |" in told
