"""Lines that wait for a moment of their own cost nothing until it comes."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from cortex.ledger import Wait
from cortex.ledger.alarms import SLACK, Alarms
from tests.fake_ledger import books, resident

MODELS = st.sampled_from("abc")


class Moment(float):
    """Counts how often any is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Moment.compared += 1
        return super().__lt__(other)

    def __le__(self, other: float) -> bool:
        Moment.compared += 1
        return super().__le__(other)


@given(st.lists(st.tuples(st.sampled_from(["set", "drop", "ring"]), MODELS, st.integers(0, 9))))
def test_alarms_are_those_of_a_plain_table(steps: list[tuple[str, str, int]]) -> None:
    alarms, plain = Alarms(), dict[str, float]()
    for verb, model, moment in steps:
        if verb == "set":
            alarms.put(model, float(moment))
            plain[model] = min(plain.get(model, inf), moment)
        elif verb == "drop":
            alarms.drop(model)
            plain.pop(model, None)
        else:
            rung = {each for each, at in plain.items() if at <= moment}
            assert alarms.ring(moment) == rung
            plain = {each: at for each, at in plain.items() if each not in rung}
        assert alarms.due == min(plain.values(), default=inf)
        assert {each: alarms.at(each) for each in alarms} == plain


def test_a_wake_up_costs_what_it_rings_however_many_are_due_later() -> None:
    costs = []
    for count in (10, 1000):
        alarms = Alarms()
        for number in range(count):
            alarms.put(f"m{number:04}", Moment(10 + number))
        Moment.compared = 0
        assert alarms.due == 10 and alarms.ring(9.0) == set()
        assert alarms.ring(11.0) == {"m0000", "m0001"}
        costs.append(Moment.compared)
    assert costs[1] < costs[0] + 50, costs


def test_what_was_put_off_again_and_again_is_not_kept() -> None:
    alarms = Alarms()
    for number in range(1000):
        alarms.drop("a")
        alarms.put("a", 10.0 + number)
    assert len(alarms._heap) <= 2 + SLACK + 1


def test_a_ledger_looks_only_at_the_lines_whose_moment_has_come() -> None:
    """Many wait for somebody young; each is looked at when he comes of age, and the others are not."""
    made = books(None, overtake_s=1000.0)
    for number in range(30):
        made.tell(f"p{number}", 100, resident(f"old{number}", 100))
    made.clock.pass_by(1.0)
    for number in range(30):
        place = made.ledger.place(f"p{number}")
        assert place is not None
        place.residents[f"old{number}"].loaded_at = made.clock() + number
    for number in range(30):
        only = {"pinned_on": (f"p{number}",)}
        assert isinstance(made.arrive(f"new{number}", 60, spec=only)[1], Wait)
    made.settle()
    made.clock.now = made.ledger.due
    assert made.ledger._moved() == {"new0"}
