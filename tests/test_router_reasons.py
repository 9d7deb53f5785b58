"""Why a request goes where it goes: a reason for every place, and no second opinion."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex import evictor, router
from cortex.catalogue import ModelSpec
from cortex.errors import DoesNotFit
from cortex.evictor import Rules
from cortex.ledger import Load, Refuse, Serve
from cortex.places import Newcomer, Place, Resident, Room
from tests.fake_ledger import OVERTAKE_S, books, place, resident, want

NOW = 1000.0
RULES = Rules("priority", 30.0)


def judges(**more: object) -> router.Judges:
    return router.Judges(
        partial(evictor.victims, now=NOW, rules=RULES),
        partial(evictor.stays, now=NOW, rules=RULES),
        lambda _place, one: "no seat is free" if one.slots == one.seats else "",
        lambda _place: None,
        lambda _way: False,
        NOW,
        **more,
    )


def told(
    *places: Place,
    need: int = 20,
    affinity: str = "",
    spec: Mapping[str, object] | None = None,
    **more: object,
) -> list[tuple[str, str, str]]:
    case = router.Case("m", ModelSpec("m", **(spec or {})), need, affinity=affinity)
    found = router.explain(case, places, judges(**more))
    return [(reason.place.name, reason.standing, reason.why) for reason in found]


ALONE = {
    "it lives here": (place("p", 50, resident("m", 20, fresh=2)), ("serves", "loaded here, 2 in flight")),
    "all seats are taken": (
        place("p", 50, resident("m", 20, slots=1, seats=1)),
        ("full", "no seat is free"),
    ),
    "it comes": (place("p", 50, resident("m", 20, phase="loading")), ("loading", "it is on its way in here")),
    "it goes": (place("p", 50, resident("m", 20, phase="leaving")), ("leaving", "it is on its way out here")),
    "it is broken": (
        place("p", 50, resident("m", 20, fault="its engine died")),
        ("recovering", "it is here and cannot serve: its engine died"),
    ),
    "where it lives takes nobody": (
        place("p", 50, resident("m", 20), ready=False, why_not="it is shutting down"),
        ("unhealthy", "it is shutting down"),
    ),
    "there is room": (place("p", 50, resident("x", 10)), ("fits", "40B free on g")),
    "who leaves makes room": (
        place("p", 50, resident("x", 20), resident("y", 30)),
        ("evicts", "x (20B) would leave; 0B free on g"),
    ),
    "who must stand up first": (
        place("p", 20, resident("x", 20, seats=3)),
        ("waits", "x (20B) would leave in time (x has 3 in flight); 0B free on g"),
    ),
    "who is young": (
        place("p", 20, resident("x", 20, loaded_at=NOW - 10)),
        ("waits", "x (20B) would leave in time (x is young for 20 s more); 0B free on g"),
    ),
    "who leaves already": (
        place("p", 20, resident("x", 20, phase="leaving")),
        ("waits", "who leaves already makes room in time; 0B free on g"),
    ),
    "who stays for good": (
        place("p", 40, resident("x", 20, pinned=True), resident("y", 20, priority=500)),
        ("no_room", "needs 20B, g has 0B free; x is pinned; y has priority 500, above 100"),
    ),
    "too small": (
        place("p", 19, resident("x", 9)),
        ("too_small", "it needs a device with 20B of memory; g has 19B, 10B free"),
    ),
    "away": (place("p", 50, ready=False, why_not="it did not answer"), ("unhealthy", "it did not answer")),
    "never seen": (place("p", {}, ready=False, why_not="no report yet"), ("unhealthy", "no report yet")),
    "poisoned": (
        Place("p", {"cuda:0": Room("cuda:0", 50, 2**62, None, "poisoned")}),
        ("device_lost", "cuda:0 is poisoned"),
    ),
}


@pytest.mark.parametrize(("at", "reason"), ALONE.values(), ids=ALONE)
def test_a_place_has_a_reason(at: Place, reason: tuple[str, str]) -> None:
    before = repr(at)
    assert told(at) == [("p", *reason)]
    assert repr(at) == before


NEVER = {
    "pinned elsewhere": ({"pinned_on": ("q", "r")}, "pinned_elsewhere", "the catalogue pins it on q, r"),
    "no device of its kind": ({"harness": "llamacpp"}, "no_device", "it has no device for harness llamacpp"),
    "not enough devices": (
        {"min_devices": 2},
        "too_few_devices",
        "it needs 2 devices, each with 10B of memory; cuda:0 has 50B, 50B free",
    ),
    "devices too small": (
        {"min_device_memory": 51},
        "too_small",
        "it needs a device with 51B of memory; cuda:0 has 50B, 50B free",
    ),
}


@pytest.mark.parametrize(("spec", "standing", "why"), NEVER.values(), ids=NEVER)
def test_what_could_never_be_is_told_by_its_kind(spec: Mapping[str, object], standing: str, why: str) -> None:
    assert told(place("p", {"cuda:0": 50}), spec=spec) == [("p", standing, why)]


def test_a_sound_device_beside_a_poisoned_one_takes_the_model() -> None:
    at = place("p", {"cuda:0": 50, "cuda:1": 50})
    at.rooms["cuda:0"].other_bytes, at.rooms["cuda:0"].why_not = 2**62, "poisoned"
    assert told(at) == [("p", "fits", "50B free on cuda:1")]


AGAINST = {
    "waiting": (
        place("a", 20, resident("x", 20, seats=1)),
        place("b", 20, resident("y", 20)),
        "b need not wait",
    ),
    "evicting": (place("a", 20, resident("x", 20)), place("b", 20), "b has free room"),
    "cost": (
        place("a", 20, resident("x", 20, load_s=9.0)),
        place("b", 20, resident("y", 20)),
        "who leaves b is missed less: 0.02 against 0.18 bytes x load seconds / idle seconds",
    ),
    "many": (
        place("a", 20, resident("x", 10), resident("y", 10)),
        place("b", 20, resident("z", 20)),
        "fewer leave b",
    ),
    "less free": (place("a", 30), place("b", 40), "b has more free"),
    "the name": (place("c", 30), place("b", 30), "as good as b, which has the first name"),
}


@pytest.mark.parametrize(("worse", "better", "why"), AGAINST.values(), ids=AGAINST)
def test_who_is_not_chosen_is_told_what_the_other_has_over_him(worse: Place, better: Place, why: str) -> None:
    for places in ((worse, better), (better, worse)):
        (first, *_), (second, _, text) = told(*places)
        assert (first, second) == ("b", worse.name)
        assert text.endswith("; " + why)


def replica(name: str, **facts: object) -> Place:
    return place(name, 50, resident("m", 20, **facts))


def test_replicas_come_in_their_rank_and_say_what_is_better_elsewhere() -> None:
    busy, calm, full = replica("a", fresh=2), replica("b", fresh=1), replica("c", slots=0)
    assert told(busy, calm, full) == [
        ("c", "full", "no seat is free"),
        ("b", "serves", "loaded here, 1 in flight"),
        ("a", "serves", "loaded here, 2 in flight; b is less busy, with 1"),
    ]


def test_among_equals_the_conversation_decides() -> None:
    keys = {told(replica("a"), replica("b"), affinity=str(key))[0][0] for key in range(50)}
    assert keys == {"a", "b"}
    assert told(replica("a"), replica("b"), affinity="k")[1][2].endswith("where the conversation belongs")
    assert "goes where its conversation was" in told(replica("a"), replica("b"))[1][2]


def test_where_it_lives_already_no_second_copy_is_wanted() -> None:
    free = place("free", 50)
    for there in (replica("p"), replica("p", phase="loading"), replica("p", fault="broken")):
        assert told(free, there)[1] == ("free", "fits", "50B free on g; not needed, p has it")
    assert told(free, replica("p", phase="leaving"))[1] == ("free", "fits", "50B free on g")


def test_who_refused_a_moment_ago_is_told_apart() -> None:
    avoid = frozenset({"p"})
    words = "it failed or refused requests a moment ago"
    assert told(replica("p"), avoid=avoid) == [("p", "refused", words)]
    assert told(place("p", 50), avoid=avoid) == [("p", "refused", words)]


def test_without_leave_to_evict_nobody_leaves() -> None:
    ((_, standing, why),) = told(place("p", 20, resident("x", 20)), evict=False)
    assert (standing, why) == ("no_room", "needs 20B, g has 0B free; nobody may be evicted for it")


def test_a_model_that_no_catalogue_has_is_loaded_nowhere() -> None:
    found = router.explain(router.Case("m"), [place("p", 50)], judges())
    assert [(reason.standing, reason.way) for reason in found] == [("unknown", None)]


# -- what the evictor says of one who stays

RESIDENTS = st.builds(
    Resident,
    st.just("x"),
    st.sampled_from(["loading", "loaded", "leaving", "recovering"]),
    st.just({"g": 10}),
    priority=st.sampled_from([50, 100, 200]),
    pinned=st.booleans(),
    seats=st.integers(0, 1),
    elsewhere=st.integers(0, 1),
    loaded_at=st.sampled_from([NOW - 31, NOW - 30, NOW - 29]),
)


@given(RESIDENTS, st.sampled_from(["lru", "priority"]))
def test_who_stays_has_a_reason_and_who_leaves_has_none(one: Resident, strategy: str) -> None:
    rules, newcomer = Rules(strategy, 30.0), Newcomer({"g": 10})
    leaves = evictor.victims(place("p", 10, one), newcomer, now=NOW, rules=rules) == ("x",)
    why = evictor.stays(one, newcomer, now=NOW, rules=rules)
    assert (why is None) == leaves
    assert why != ""


# -- what only the ledger knows


def test_a_place_that_refused_the_load_is_not_asked_again_and_says_for_how_long() -> None:
    kept = books(50, delegates=True)
    kept.tell("q", 60)
    _, load = kept.begin("m")
    assert load.place.name == "q"
    kept.ledger.failed(load, DoesNotFit("cuda:0 has 1GiB free"))
    kept.clock.pass_by(4.0)
    plan = kept.ledger.plan(want("m"))
    assert plan.place is kept.ledger.place("p")
    assert [(reason.place.name, reason.standing, reason.why) for reason in plan.reasons] == [
        ("p", "fits", "50B free on g"),
        ("q", "refused", "cuda:0 has 1GiB free; not asked again for 6 s"),
    ]


def test_who_joins_a_load_is_told_where_it_is() -> None:
    kept = books(50)
    kept.begin("m")
    plan = kept.ledger.plan(want("m"))
    assert plan.place is kept.ledger.place("p") and plan.reasons[0].standing == "loading"


def test_a_full_line_is_foretold() -> None:
    kept = books(50, resident("m", 10, slots=1), queue=0)
    kept.sit("m")
    plan = kept.ledger.plan(want("m"))
    assert isinstance(plan.verdict, Refuse) and plan.verdict.error.code == "overloaded"


def test_a_ticket_knows_what_brought_it_to_its_seat() -> None:
    kept = books(50, resident("m", 10, slots=2))
    assert kept.sit("m").route == "only-replica"
    kept.tell("q", 50, resident("m", 10, slots=2))
    assert kept.sit("m").route == "least-busy"
    assert {kept.sit("m", affinity="k").route, kept.sit("m", affinity="k").route} == {
        "affinity",
        "least-busy",
    }


def test_a_ticket_whose_best_replica_was_full_went_to_the_next_free() -> None:
    kept = books(50, resident("m", 10, slots=0))
    kept.tell("q", 50, resident("m", 10, slots=1, elsewhere=1))
    assert kept.sit("m").route == "next-free"


def test_a_ticket_that_waited_for_a_load_came_cold_and_the_next_did_not() -> None:
    kept = books(50)
    ticket, load = kept.begin("m")
    assert isinstance(load, Load)
    kept.clock.pass_by(1.0)
    (decision,) = kept.finish(load).values()
    assert isinstance(decision, Serve)
    assert ticket.route == "cold"
    kept.clock.pass_by(1.0)
    assert kept.sit("m").route == "only-replica"


def test_where_one_room_is_promised_another_one_is_taken() -> None:
    at, case = place("p", {"g0": 50, "g1": 40}), router.Case("m", ModelSpec("m"), 20)
    taken = replace(judges(), promised=lambda way: "g0" in way.newcomer.need)
    (reason,) = router.explain(case, [at], taken)
    assert reason.way is not None and reason.way.newcomer.need == {"g1": 20}
    (reason,) = router.explain(case, [at], replace(taken, promised=lambda way: True))
    assert (reason.standing, reason.way) == ("promised", None)


def test_free_room_that_was_promised_to_an_earlier_one_is_told_as_such() -> None:
    kept = books(100, resident("a", 60))
    seated = kept.sit("a", 60)
    kept.arrive("b", 70)
    kept.clock.pass_by(OVERTAKE_S)
    kept.settle()
    (reason,) = kept.ledger.plan(want("c", 40)).reasons
    assert (reason.standing, reason.way) == ("promised", None)
    (reason,) = kept.ledger.plan(want("a", 60)).reasons
    assert (reason.standing, reason.why) == ("full", "it empties for a model that has waited for long")
    kept.ledger.depart(seated)
