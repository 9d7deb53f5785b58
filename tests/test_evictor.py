"""Whom to send away: tables of cases, in plain numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.evictor import Rules, beside, movable, of_age_at, stays, victims, would_do
from cortex.places import Newcomer, Place, Resident
from cortex.router.choice import worth
from tests.fake_ledger import place, resident

NOW = 1000.0
LRU = Rules("lru", 30.0)
CLASSES = Rules("priority", 30.0)


def used(model: str, need: int, last: float, **facts: object) -> Resident:
    return resident(model, need, last_used=last, **facts)


def sent_away(
    at: Place,
    need: int | dict[str, int],
    *,
    patient: bool = False,
    rules: Rules = LRU,
    priority: int = 100,
    prefer: tuple[str, ...] = (),
) -> tuple[str, ...] | None:
    needed = need if isinstance(need, dict) else {"g": need}
    return victims(at, Newcomer(needed, priority, prefer), patient, now=NOW, rules=rules)


# -- how many, and who

CASES = [
    # (what it shows, sizes from the coldest to the warmest, total, need, who goes)
    ("room that is free costs nobody anything", [30, 30], 100, 40, ()),
    ("room that is just enough is enough", [30, 30], 100, 40, ()),
    ("one byte too few costs the coldest", [30, 30], 100, 41, ("a",)),
    ("the coldest goes although a warmer one would do", [30, 40], 100, 60, ("a",)),
    ("several go when one is not enough", [30, 30, 30], 100, 70, ("a", "b")),
    ("all may go", [50, 50], 100, 100, ("a", "b")),
    ("the small and cold stay when the large one is needed anyway", [10, 80], 100, 90, ("b",)),
    ("of those who come into question as few as possible go", [10, 10, 20, 30], 70, 50, ("c", "d")),
    ("of two that would both do the colder goes", [10, 10, 30], 50, 40, ("a", "c")),
    ("a newcomer that is larger than the place finds no victims", [50], 100, 101, None),
    ("an empty place has room", [], 100, 100, ()),
    ("an empty place is not larger than it is", [], 100, 101, None),
]


@pytest.mark.parametrize(
    ("sizes", "total", "need", "gone"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_coldest_go_and_no_more_than_it_takes(
    sizes: list[int], total: int, need: int, gone: tuple[str, ...] | None
) -> None:
    models = [used("abcdef"[age], size, float(age)) for age, size in enumerate(sizes)]
    # The order in which they came in must not matter.
    for residents in (models, models[::-1]):
        assert sent_away(place("p", total, *residents), need) == gone


def test_who_was_used_at_the_same_time_goes_by_name() -> None:
    at = place("p", 100, used("b", 50, 1.0), used("a", 50, 1.0))
    assert sent_away(at, 50) == ("a",)


def test_bytes_of_others_are_not_free() -> None:
    at = place("p", 100, used("a", 30, 1.0))
    at.rooms["g"].other_bytes = 60
    assert sent_away(at, 10) == ()
    assert sent_away(at, 11) == ("a",)
    assert sent_away(at, 41) is None


def test_a_load_that_outgrew_its_estimate_is_paid_for_first() -> None:
    at = place("p", 100, used("a", 60, 1.0), used("big", 70, 2.0))
    assert sent_away(at, 0) == ("a",)


# -- who stays

STAYS = {
    "pinned": {"pinned": True},
    "seated": {"seats": 1},
    "busy for others": {"elsewhere": 1},
    "young": {"loaded_at": NOW - 29.9},
    "loading": {"phase": "loading"},
    "leaving already": {"phase": "leaving"},
}


@pytest.mark.parametrize("facts", STAYS.values(), ids=STAYS)
def test_who_may_not_go_at_present_stays(facts: dict[str, object]) -> None:
    at = place("p", 100, used("cold", 50, 1.0, **facts), used("warm", 50, 2.0))
    assert sent_away(at, 50) == ("warm",)
    assert sent_away(at, 51) is None


PATIENT = {
    "pinned": (STAYS["pinned"], None),
    "seated": (STAYS["seated"], ("cold",)),
    "busy for others": (STAYS["busy for others"], ("cold",)),
    "young": (STAYS["young"], ("cold",)),
    "loading": (STAYS["loading"], ("cold",)),
    "leaving already": (STAYS["leaving already"], ()),
}


@pytest.mark.parametrize(("facts", "gone"), PATIENT.values(), ids=PATIENT)
def test_with_patience_all_but_the_pinned_go_and_the_leaving_are_gone(
    facts: dict[str, object], gone: tuple[str, ...] | None
) -> None:
    at = place("p", 50, used("cold", 50, 1.0, **facts))
    assert sent_away(at, 50, patient=True) == gone
    assert sent_away(at, 50) is None


def test_an_engine_that_does_not_serve_may_go() -> None:
    at = place("p", 50, used("a", 50, 1.0, phase="recovering"))
    assert sent_away(at, 50) == ("a",)


@pytest.mark.parametrize(
    ("facts", "now", "moves"),
    [
        ({"loaded_at": 100.0}, 130.0, True),
        ({"loaded_at": 100.0}, 129.999, False),
        ({"loaded_at": 100.0, "seats": 1}, 200.0, False),
        ({"loaded_at": 100.0, "elsewhere": 1}, 200.0, False),
        ({"loaded_at": 100.0, "phase": "loading"}, 200.0, False),
        # A time that binary fractions do not hit: looking at the moment of coming of age is enough.
        ({"loaded_at": 1000.1}, 1000.1 + 30.0, True),
    ],
)
def test_one_moves_when_it_is_idle_and_of_age(facts: dict[str, object], now: float, moves: bool) -> None:
    one = resident("a", **facts)
    assert movable(one, now, LRU) is moves
    assert of_age_at(one, LRU) == one.loaded_at + 30.0


# -- classes


def test_the_lowest_class_goes_first_and_then_the_coldest() -> None:
    at = place(
        "p",
        90,
        used("cold", 30, 1.0, priority=200),
        used("warm", 30, 3.0, priority=100),
        used("mild", 30, 2.0, priority=100),
    )
    assert sent_away(at, 30, rules=CLASSES, priority=200) == ("mild",)
    assert sent_away(at, 60, rules=CLASSES, priority=200) == ("mild", "warm")
    assert sent_away(at, 90, rules=CLASSES, priority=200) == ("mild", "warm", "cold")


@pytest.mark.parametrize(("priority", "gone"), [(99, None), (100, ("a",)), (101, ("a",))])
@pytest.mark.parametrize("patient", [False, True])
def test_nobody_of_a_higher_class_is_displaced(
    priority: int, gone: tuple[str, ...] | None, patient: bool
) -> None:
    at = place("p", 50, used("a", 50, 1.0, priority=100))
    assert sent_away(at, 50, rules=CLASSES, priority=priority, patient=patient) == gone


def test_without_classes_the_class_says_nothing() -> None:
    at = place("p", 100, used("a", 50, 1.0, priority=1000), used("b", 50, 2.0, priority=1))
    assert sent_away(at, 50, priority=1) == ("a",)


def test_a_proposed_victim_goes_first_though_only_when_it_may() -> None:
    at = place("p", 90, used("a", 30, 1.0), used("b", 30, 2.0), used("c", 30, 3.0, pinned=True))
    assert sent_away(at, 30, prefer=("b",)) == ("b",)
    assert sent_away(at, 30, prefer=("c", "unknown")) == ("a",)
    assert sent_away(at, 0, prefer=("b",)) == ()


# -- rooms


def test_only_who_lives_in_the_room_that_is_short_goes() -> None:
    at = place(
        "p",
        {"g0": 50, "g1": 50},
        resident("a", {"g0": 50}, last_used=1.0),
        resident("b", {"g1": 50}, last_used=2.0),
    )
    assert sent_away(at, {"g1": 50}) == ("b",)
    assert sent_away(at, {"g0": 20, "g1": 20}) == ("a", "b")
    assert sent_away(at, {"g1": 51}) is None


def test_one_that_lives_in_both_rooms_spares_two() -> None:
    at = place(
        "p",
        {"g0": 60, "g1": 60},
        resident("a", {"g0": 20}, last_used=1.0),
        resident("b", {"g1": 20}, last_used=2.0),
        resident("c", {"g0": 40, "g1": 40}, last_used=3.0),
    )
    assert sent_away(at, {"g0": 40, "g1": 40}) == ("c",)


# -- a plan that was made a while ago

AGAIN = {
    "still there": (("a",), 40, True),
    "not enough any more": (("a",), 61, False),
    "gone": (("a", "gone"), 40, False),
    "pinned meanwhile": (("pinned",), 20, False),
    "nobody": ((), 20, True),
    "nobody, and the leaving are not enough": ((), 21, False),
}


@pytest.mark.parametrize(("models", "need", "does"), AGAIN.values(), ids=AGAIN)
def test_a_plan_would_do_as_long_as_all_of_it_may_happen(
    models: tuple[str, ...], need: int, does: bool
) -> None:
    at = place(
        "p",
        100,
        resident("a", 40, seats=3, loaded_at=NOW),
        resident("pinned", 40, pinned=True),
        resident("on its way", 20, phase="leaving"),
    )
    assert would_do(at, Newcomer({"g": need}), models, LRU) is does


BESIDE = {
    "there is room for both": (("a",), {"g": 40}, {"g": 40}, True),
    "one byte too few": (("a",), {"g": 40}, {"g": 41}, False),
    "nobody leaves": ((), {"g": 20}, {"g": 20}, True),
    "in rooms of their own": (("a",), {"g": 80}, {"h": 10}, True),
    "in a room that is too small": (("a",), {"g": 80}, {"h": 11}, False),
    "one who left already counts for nothing": (("gone",), {"g": 20}, {"g": 21}, False),
}


@pytest.mark.parametrize(("models", "one", "other", "fit"), BESIDE.values(), ids=BESIDE)
def test_two_newcomers_fit_beside_each_other(
    models: tuple[str, ...], one: dict[str, int], other: dict[str, int], fit: bool
) -> None:
    at = place(
        "p", {"g": 100, "h": 10}, resident("a", 40), resident("b", 20), resident("c", 20, phase="leaving")
    )
    assert beside(at, Newcomer(one), Newcomer(other), models) is fit
    assert beside(at, Newcomer(other), Newcomer(one), models) is fit


# -- whatever the sizes


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    free=st.integers(0, 30),
    need=st.integers(1, 200),
)
def test_the_victims_make_room_and_each_of_them_is_needed(sizes: list[int], free: int, need: int) -> None:
    at = place("p", sum(sizes) + free, *(used(f"m{age}", size, float(age)) for age, size in enumerate(sizes)))
    chosen = sent_away(at, need)
    if chosen is None:
        assert need > sum(sizes) + free
        return
    freed = [at.residents[model].bytes for model in chosen]
    assert free + sum(freed) >= need
    assert not freed or free + sum(freed) - min(freed) < need
    # Nobody warmer than the coldest that are enough together comes into question.
    coldest = next(k for k in range(len(sizes) + 1) if free + sum(sizes[:k]) >= need)
    assert all(int(model[1:]) < coldest for model in chosen)


# -- loads that nobody waits for


@pytest.mark.parametrize("prefer", [(), ("cold",)])
def test_a_load_that_nobody_waits_for_goes_before_anybody_who_is_there(prefer: tuple[str, ...]) -> None:
    """However young it is, and whomever a gateway would rather see gone. Rows 29 and 61."""
    coming = resident("coming", 40, phase="loading", loaded_at=NOW, last_used=NOW, unwanted=True)
    at = place("p", 100, used("cold", 50, 1.0), coming)
    assert sent_away(at, 40, prefer=prefer) == ("coming",)
    assert movable(coming, NOW, LRU) and worth(coming, NOW) == 0.0
    assert stays(coming, Newcomer({"g": 40}), now=NOW, rules=LRU) is None
    coming.unwanted = False
    assert sent_away(at, 40, prefer=prefer) == ("cold",)
    assert stays(coming, Newcomer({"g": 40}), now=NOW, rules=LRU) == "is loading"


def test_a_load_that_nobody_waits_for_has_its_pin_and_its_class() -> None:
    coming = resident("coming", 60, phase="loading", loaded_at=NOW, unwanted=True, priority=200)
    at = place("p", 100, coming)
    assert sent_away(at, 50, rules=CLASSES) is None
    assert sent_away(at, 50, rules=CLASSES, priority=200) == ("coming",)
    coming.pinned = True
    assert sent_away(at, 50) is None
