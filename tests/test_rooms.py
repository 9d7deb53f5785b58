"""A cold model's place is found without a look at all places, and is the one that such a look would find."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex import evictor, router
from cortex.catalogue import ModelSpec
from cortex.errors import NeverFits, NoRoom, Recovering, Stopping
from cortex.evictor import Rules
from cortex.ledger import Ledger, Refuse, Want
from cortex.ledger.rooms import Rooms
from cortex.places import Place, Resident, Room
from tests.fake_ledger import Books, Clock, books, place, policy, resident, want

NOW = 1000.0
RULES = st.sampled_from([Rules("lru", 30.0), Rules("priority", 30.0)])
DEVICES = st.sampled_from(["cuda:0", "cuda:1", "cuda:2", "cpu", "g"])


def question_of(spec: ModelSpec, need: int, rules: Rules, prefer: tuple[str, ...] = ()) -> router.Question:
    victims = partial(evictor.victims, now=NOW, rules=rules)
    leaves = partial(evictor.movable, now=NOW, rules=rules)
    return router.Question(spec, need, victims, NOW, prefer, leaves)


@st.composite
def residents(draw: st.DrawFn, rooms: Sequence[str]) -> Resident:
    chosen = draw(st.lists(st.sampled_from(rooms), min_size=1, max_size=2, unique=True))
    one = Resident(
        draw(st.sampled_from("abcdefgh")),
        draw(st.sampled_from(["loaded", "loaded", "loaded", "loading", "leaving", "recovering"])),
        {room: draw(st.sampled_from([0, 10, 20, 40])) for room in chosen},
    )
    one.priority = draw(st.sampled_from([50, 100, 1000]))
    one.pinned = draw(st.sampled_from([False, False, False, True]))
    one.seats = draw(st.sampled_from([0, 0, 0, 2]))
    one.loaded_at = draw(st.sampled_from([0.0, NOW - 10]))
    one.last_used = draw(st.sampled_from([0.0, 500.0, 900.0, 999.5, NOW]))
    one.load_s = draw(st.sampled_from([0.0, 3.0, 60.0]))
    one.unwanted = one.phase == "loading" and draw(st.booleans())
    return one


@st.composite
def places(draw: st.DrawFn) -> Place:
    names = draw(st.lists(DEVICES, min_size=0, max_size=3, unique=True))
    rooms = {}
    for name in names:
        rooms[name] = Room(name, draw(st.sampled_from([20, 50, 80])), draw(st.sampled_from([0, 5, 30])))
        rooms[name].group = draw(st.sampled_from([None, "0", "1"]))
    made = Place(draw(st.sampled_from("pqrstuvw")), rooms, ready=draw(st.sampled_from([True, True, False])))
    if names:
        for one in draw(st.lists(residents(names), max_size=4)):
            made.residents[one.model] = one
    return made


SPECS = st.builds(
    ModelSpec,
    st.just("new"),
    harness=st.sampled_from([None, "exllamav2", "llamacpp"]),
    min_devices=st.sampled_from([1, 1, 2]),
    min_device_memory=st.sampled_from([0, 0, 50]),
    pinned_on=st.sampled_from([(), (), ("p", "q")]),
    residency_priority=st.sampled_from([None, 50, 1000]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(places(), max_size=8), SPECS, st.sampled_from([0, 1, 15, 30, 60, 100]), RULES)
def test_the_ways_are_those_that_a_look_at_all_places_finds_in_the_same_order(
    drawn: list[Place], spec: ModelSpec, need: int, rules: Rules
) -> None:
    fleet = {each.name: each for each in drawn}
    rooms = Rooms(fleet)
    rooms.touch(*fleet)
    question = question_of(spec, need, rules, ("a",))
    assert list(rooms.ways(question, lambda _: False)) == router.placements(question, fleet.values())
    others = [each for name, each in fleet.items() if name > "r"]
    assert list(rooms.ways(question, lambda at: at.name <= "r")) == router.placements(question, others)


def crowded(seed: int) -> list[Place]:
    """Places that are full, or nearly so."""
    dice = random.Random(seed)
    fleet = []
    for number in range(dice.randint(2, 9)):
        living = []
        for name in "abcd"[: dice.randint(1, 4)]:
            one = resident(name, dice.choice([5, 10, 20, 40]), load_s=dice.choice([0.5, 2.0, 10.0, 60.0]))
            one.last_used = dice.choice([0.0, 500.0, 900.0, 990.0, 999.5])
            one.phase = dice.choice(["loaded"] * 8 + ["loading", "leaving"])
            one.unwanted = one.phase == "loading" and dice.random() < 0.7
            one.seats, one.pinned = int(dice.random() < 0.3), dice.random() < 0.15
            living.append(one)
        total = sum(one.bytes for one in living) + dice.choice([0, 0, 5, 15])
        fleet.append(place(f"p{number}", total, *living))
    return fleet


@pytest.mark.parametrize("rules", [Rules("lru", 30.0), Rules("priority", 30.0)], ids=lambda one: one.strategy)
def test_where_somebody_has_to_leave_the_cheapest_is_found(rules: Rules) -> None:
    for seed in range(250):
        fleet = {each.name: each for each in crowded(seed)}
        rooms = Rooms(fleet)
        rooms.touch(*fleet)
        question = question_of(ModelSpec("new"), 10 + seed % 40, rules)
        # The bounds of a place are taken anew whenever it is weighed.
        for _ in range(2):
            found = list(rooms.ways(question, lambda _: False))
            assert found == router.placements(question, fleet.values()), seed


@settings(max_examples=60, deadline=None)
@given(st.lists(places(), min_size=2, max_size=6), SPECS, RULES)
def test_what_changes_and_is_told_of_is_found_at_once_and_use_need_not_be_told(
    drawn: list[Place], spec: ModelSpec, rules: Rules
) -> None:
    fleet = {each.name: each for each in drawn}
    rooms = Rooms(fleet)
    rooms.touch(*fleet)
    question = question_of(spec, 30, rules)
    list(rooms.ways(question, lambda _: False))
    for number, each in enumerate(list(fleet.values())):
        for one in each:
            one.last_used, one.seats = max(one.last_used, 950.0), number % 2
        if number == 0:
            each.residents.clear()
            rooms.touch(each.name)
    gone = fleet.popitem()[0]
    rooms.touch(gone)
    assert list(rooms.ways(question, lambda _: False)) == router.placements(question, fleet.values())


# -- how many places are looked at


@dataclass
class Looks:
    """Counts whom the evictor is asked about."""

    rules: Rules = Rules("lru", 30.0)
    asked: set[str] = field(default_factory=set)

    def __call__(self, at: Place, newcomer: router.Victims, patient: bool) -> tuple[str, ...] | None:
        self.asked.add(at.name)
        return evictor.victims(at, newcomer, patient, now=NOW, rules=self.rules)


def looks(fleet: list[Place], need: int) -> int:
    """At how many places it takes to look for the best way."""
    rooms = Rooms({each.name: each for each in fleet})
    rooms.touch(*(each.name for each in fleet))
    counted = Looks()
    question = replace(question_of(ModelSpec("new"), need, counted.rules), victims=counted)
    next(rooms.ways(question, lambda _: False), None)
    return len(counted.asked)


def test_where_room_is_free_one_place_is_looked_at_in_any_fleet() -> None:
    for count in (10, 300):
        fleet = [place(f"p{number:03}", 100, resident("x", number % 50)) for number in range(count)]
        assert looks(fleet, 40) == 1


def test_where_somebody_has_to_leave_few_places_are_looked_at() -> None:
    for count in (10, 300):
        fleet = [
            place(f"p{number:03}", 100, resident("x", 90, last_used=float(number % 700)))
            for number in range(count)
        ]
        assert looks(fleet, 40) == 1, "who was not used for longest is the cheapest of equals"


def test_where_all_are_busy_few_places_are_looked_at() -> None:
    for count in (10, 300):
        fleet = [
            place(f"p{number:03}", 100, resident("x", 90, seats=1, last_used=float(number % 700)))
            for number in range(count)
        ]
        assert looks(fleet, 40) == 1, "the one that is waited for is the cheapest, too"


def test_where_nobody_can_make_room_no_place_is_looked_at() -> None:
    assert looks([place(f"p{number}", 100, resident("x", 90, pinned=True)) for number in range(50)], 40) == 0
    assert looks([place(f"p{number}", 100) for number in range(50)], 101) == 0


# -- refusals


def fleet_of(count: int, *, pinned: bool = False) -> Books:
    made = books(None, delegates=True)
    for number in range(count):
        made.tell(f"p{number:02}", 100, resident("x", 90, pinned=pinned))
    return made


def error_of(made: Books, need: int, model: str = "new") -> Exception:
    _, decision = made.arrive(model, need)
    assert isinstance(decision, Refuse)
    return decision.error


def test_a_refusal_names_few_places_and_counts_the_others() -> None:
    error = error_of(fleet_of(5), 101)
    assert isinstance(error, NeverFits)
    assert "p00, p01, p02 and 2 others: it needs a device with 101B of memory" in str(error)


def test_a_refusal_changes_as_soon_as_places_do() -> None:
    made, asked = fleet_of(3, pinned=True), want("new", 101)
    for expected in (NeverFits, NeverFits):
        assert isinstance(made.ledger.arrive(asked)[1].error, expected)
    made.tell("p00", 200, resident("x", 190, pinned=True))
    error = made.ledger.arrive(asked)[1].error
    assert isinstance(error, NoRoom) and error.facts["free_bytes"] == 10
    made.ledger.shut("p00", "it goes")
    assert isinstance(made.ledger.arrive(asked)[1].error, Recovering)
    made.ledger.forget("p00", "gone for good")
    assert isinstance(made.ledger.arrive(asked)[1].error, NeverFits)


def test_another_entry_for_the_same_model_is_judged_anew() -> None:
    made = fleet_of(2)
    assert isinstance(error_of(made, 101), NeverFits)
    elsewhere = replace(want("new", 10), spec=ModelSpec("new", pinned_on=("nowhere",)))
    decision = made.ledger.arrive(elsewhere)[1]
    assert isinstance(decision, Refuse) and "the catalogue pins it on nowhere" in str(decision.error)


def test_the_same_entry_made_anew_is_not_judged_anew() -> None:
    """A gateway makes one for each request where the file's has to be put in other words."""
    rooms = fleet_of(3).ledger._rooms
    first = rooms.verdict(ModelSpec("new", draft="hf:org/small"), 101)
    assert rooms.verdict(ModelSpec("new", draft="hf:org/small"), 101) is first
    assert rooms.verdict(ModelSpec("new", draft="hf:org/other"), 101) is not first
    assert rooms.verdict(ModelSpec("new", draft="hf:org/other"), 100) is not first


def test_only_so_many_refusals_are_remembered() -> None:
    ledger = Ledger(Clock(), policy(delegates=True))
    ledger.report("p", [Room("g", 100)], (), 0.0)
    for number in range(600):
        ledger.arrive(Want(f"m{number}", ModelSpec(f"m{number}"), 101))
    assert len(ledger._rooms._refused) <= 256


# -- how many places are looked at anew


def renewed(made: Books, change: Callable[[], object]) -> int:
    """About how many places is known something else after `change`."""
    rooms = made.ledger._rooms
    assert rooms.largest >= 0
    before = dict(rooms._known)
    change()
    assert rooms.largest >= 0
    return sum(rooms._known[name] is not known for name, known in before.items())


def test_of_a_model_that_is_everywhere_only_the_places_are_looked_at_that_something_changed_at() -> None:
    made = fleet_of(40)
    ledger, told = made.ledger, resident("x", 80)
    assert renewed(made, lambda: made.tell("p07", 100, told)) == 1
    assert renewed(made, lambda: ledger.fault("p03", "x", "its engine died")) == 0
    assert renewed(made, lambda: ledger.bound("p04", 1)) == 0
    assert renewed(made, lambda: ledger.leaving("p05", "x")) == 1
    assert renewed(made, lambda: ledger.gone("p05", "x")) == 1
    assert renewed(made, lambda: ledger.shut("p06", "it goes")) == 1
    assert renewed(made, lambda: ledger.pin("x", pinned=True)) == 40 - 1, "it may leave nowhere any more"
    ledger.pin("x", pinned=False)
    waiting, load = made.begin("new", 15)
    assert renewed(made, lambda: ledger.depart(waiting)) == 0
    assert renewed(made, lambda: ledger.failed(load, Stopping("going"))) == 1
