"""Which replica serves, and where a cold model goes: tables of cases."""

from collections.abc import Iterable
from functools import partial

import pytest

from cortex import evictor, router
from cortex.catalogue import ModelSpec
from cortex.evictor import Rules
from cortex.places import Newcomer, Place, Resident, Room
from cortex.router import Placement
from tests.fake_ledger import place, resident

NOW = 1000.0
VICTIMS: router.Victims = partial(evictor.victims, now=NOW, rules=Rules("lru", 30.0))


def spec(**facts: object) -> ModelSpec:
    return ModelSpec("new", **facts)


def found(
    places: Iterable[Place], need: int = 10, prefer: tuple[str, ...] = (), **facts: object
) -> list[Placement]:
    return router.placements(router.Question(spec(**facts), need, VICTIMS, NOW, prefer), places)


def order(
    places: Iterable[Place], need: int = 10, **facts: object
) -> list[tuple[str, tuple[str, ...], bool]]:
    return [(each.place.name, each.victims, each.must_wait) for each in found(places, need, **facts)]


# -- replicas


def replica(
    name: str, *, place_facts: dict[str, object] | None = None, **facts: object
) -> tuple[Place, Resident]:
    one = resident("m", **facts)
    return place(name, 100, one, **(place_facts or {})), one


def ranked(*holders: tuple[Place, Resident], affinity: str = "") -> list[str]:
    return [at.name for at, _ in router.rank(holders, affinity)]


RANKS = {
    "the least busy comes first": (
        [replica("a", fresh=2), replica("b", fresh=1), replica("c", fresh=3)],
        ["b", "a", "c"],
    ),
    "what the place told counts as much as what came since": (
        [replica("a", elsewhere=2), replica("b", elsewhere=1, fresh=2), replica("c", fresh=1)],
        ["c", "a", "b"],
    ),
    "seats that the place knows of are not counted twice": (
        [replica("a", seats=5, elsewhere=1), replica("b", seats=2, fresh=2)],
        ["a", "b"],
    ),
    "equals come by name": ([replica("b"), replica("a"), replica("c")], ["a", "b", "c"]),
    "who is loading or leaving does not serve": (
        [replica("a", phase="loading"), replica("b", phase="leaving"), replica("c", phase="recovering")],
        [],
    ),
    "who is broken does not serve": ([replica("a", fault="its engine died"), replica("b", fresh=9)], ["b"]),
    "a place that takes nobody is passed over": (
        [replica("a", place_facts={"ready": False}), replica("b", fresh=9)],
        ["b"],
    ),
    "nobody has it": ([], []),
}


@pytest.mark.parametrize(("holders", "names"), RANKS.values(), ids=RANKS)
def test_replicas_are_ranked(holders: list[tuple[Place, Resident]], names: list[str]) -> None:
    assert ranked(*holders) == names


def test_affinity_chooses_among_equals_and_always_the_same_one() -> None:
    holders = [replica(name) for name in "abcde"]
    chosen = {key: ranked(*holders, affinity=key)[0] for key in map(str, range(200))}
    assert set(chosen.values()) == set("abcde")
    assert chosen == {key: ranked(*holders[::-1], affinity=key)[0] for key in chosen}


def test_when_a_replica_goes_only_its_own_conversations_move() -> None:
    holders = [replica(name) for name in "abcde"]
    for key in map(str, range(200)):
        before = ranked(*holders, affinity=key)[0]
        after = ranked(*holders[1:], affinity=key)[0]
        assert after == before or before == "a"


def test_affinity_never_overrides_a_shorter_queue() -> None:
    for key in map(str, range(50)):
        assert ranked(replica("a", fresh=1), replica("b"), affinity=key) == ["b", "a"]


# -- what could never be

NEVER = {
    "it fits": ({}, 100, None),
    "it fits to the byte and not beyond": ({}, 101, "it needs a device with 101B of memory"),
    "pinned elsewhere": ({"pinned_on": ("x", "y")}, 1, "the catalogue pins it on x, y"),
    "pinned here among others": ({"pinned_on": ("x", "p")}, 1, None),
    "two devices share it": ({"min_devices": 2}, 200, None),
    "the odd byte is somebody's, too": (
        {"min_devices": 2},
        201,
        "it needs 2 devices, each with 101B of memory",
    ),
    "more devices than there are": ({"min_devices": 3}, 3, "it needs 3 devices, each with 1B of memory"),
    "a device that is large enough": ({"min_device_memory": 100}, 1, None),
    "no device is": ({"min_device_memory": 101}, 1, "it needs a device with 101B of memory"),
}


@pytest.mark.parametrize(("facts", "need", "why"), NEVER.values(), ids=NEVER)
def test_a_place_says_why_it_could_never_hold_a_model(
    facts: dict[str, object], need: int, why: str | None
) -> None:
    at = place("p", {"g0": 100, "g1": 100}, resident("full", {"g0": 100, "g1": 100}, pinned=True))
    assert router.never(spec(**facts), need, at) == why


def test_a_place_that_was_never_seen_is_not_ruled_out_unless_the_catalogue_does() -> None:
    unseen = place("p", {}, ready=False)
    assert router.never(spec(), 10**9, unseen) is None
    assert router.never(spec(pinned_on=("x",)), 1, unseen) is not None
    assert router.never(spec(), 10**9, place("p", {})) is not None


# -- cold models

FULL = {"seats": 1}
PLACES = {
    "free room before any eviction": (
        [place("a", 100, resident("x", 95)), place("b", 100)],
        [("b", (), False), ("a", ("x",), False)],
    ),
    "the most free of those with room": (
        [place("a", 50), place("b", 90), place("c", 70)],
        [("b", (), False), ("c", (), False), ("a", (), False)],
    ),
    "by name when all else is equal": (
        [place("b", 50), place("a", 50)],
        [("a", (), False), ("b", (), False)],
    ),
    "the cheapest eviction: bytes x seconds of loading": (
        [
            place("a", 60, resident("x", 60, load_s=10.0)),
            place("b", 60, resident("y", 60, load_s=2.0)),
            place("c", 30, resident("z", 30, load_s=3.0)),
        ],
        [("c", ("z",), False), ("b", ("y",), False), ("a", ("x",), False)],
    ),
    "who was not used for long is missed less than who is small": (
        [
            place("a", 20, resident("x", 20, last_used=NOW - 10.0)),
            place("b", 90, resident("y", 90, last_used=NOW - 100.0)),
        ],
        [("b", ("y",), False), ("a", ("x",), False)],
    ),
    "who was used this moment is worth no more than who was a second ago": (
        [
            place("a", 30, resident("x", 30, last_used=NOW)),
            place("b", 40, resident("y", 40, last_used=NOW - 1.0)),
        ],
        [("a", ("x",), False), ("b", ("y",), False)],
    ),
    "a load that nobody timed counts as a second": (
        [place("a", 60, resident("x", 60, load_s=0.5)), place("b", 50, resident("y", 50))],
        [("b", ("y",), False), ("a", ("x",), False)],
    ),
    "at the same cost the fewest": (
        [place("a", 20, resident("x", 10), resident("y", 10)), place("b", 20, resident("z", 20))],
        [("b", ("z",), False), ("a", ("x", "y"), False)],
    ),
    "who must be waited for comes last, however cheap": (
        [place("a", 20, resident("x", 20, **FULL)), place("b", 900, resident("y", 900, load_s=90.0))],
        [("b", ("y",), False), ("a", ("x",), True)],
    ),
    "and so does who is young": (
        [place("a", 20, resident("x", 20, loaded_at=NOW - 1.0))],
        [("a", ("x",), True)],
    ),
    "a place whose leaving residents make room is waited for": (
        [place("a", 20, resident("x", 20, phase="leaving")), place("b", 20, resident("y", 20, **FULL))],
        [("a", (), True), ("b", ("y",), True)],
    ),
    "who is pinned makes no room": ([place("a", 20, resident("x", 20, pinned=True))], []),
    "a place that takes nobody is no way": ([place("a", 100, ready=False)], []),
    "a place that is too small is no way": ([place("a", 19)], []),
    "no places": ([], []),
}


@pytest.mark.parametrize(("places", "expected"), PLACES.values(), ids=PLACES)
def test_ways_to_bring_a_model_in_are_ranked(
    places: list[Place], expected: list[tuple[str, tuple[str, ...], bool]]
) -> None:
    assert order(places, 20) == expected
    assert order(places[::-1], 20) == expected


def test_the_catalogue_restricts_the_places() -> None:
    places = [place("a", 100), place("b", 50), place("c", 50)]
    assert [name for name, *_ in order(places, pinned_on=("c", "b"))] == ["b", "c"]


def test_each_device_of_a_place_is_a_way_of_its_own() -> None:
    at = place(
        "p",
        {"g0": 50, "g1": 90, "small": 19},
        resident("x", {"g1": 80}, load_s=9.0),
        resident("y", {"g0": 45}),
    )
    ways = found([at], 20)
    assert [(way.newcomer, way.victims) for way in ways] == [
        (Newcomer({"g0": 20}), ("y",)),
        (Newcomer({"g1": 20}), ("x",)),
    ]
    assert [way.cost for way in ways] == [45.0 / NOW, 720.0 / NOW], "by the second that nobody used them"


def test_a_model_over_several_devices_takes_the_freest_and_rounds_up() -> None:
    at = place("p", {"g0": 50, "g1": 90, "g2": 70, "small": 20}, resident("x", {"g1": 30}))
    (way,) = found([at], 41, min_devices=2)
    assert way.newcomer.need == {"g2": 21, "g1": 21}
    assert way.victims == ()


def test_the_newcomers_class_and_wishes_reach_the_evictor() -> None:
    seen: list[tuple[Newcomer, bool]] = []

    def nobody(_: Place, newcomer: Newcomer, patient: bool) -> None:
        seen.append((newcomer, patient))

    question = router.Question(spec(residency_priority=7), 10, nobody, NOW, ("x",))
    assert router.placements(question, [place("p", 50)]) == []
    assert seen == [(Newcomer({"g": 10}, 7, ("x",)), patient) for patient in (False, True)]


def test_free_bytes_over_all_devices_are_for_showing() -> None:
    at = place("p", {"g0": 50, "g1": 90}, resident("x", {"g0": 10, "g1": 100}))
    assert (at.free("g0"), at.free("g1"), at.free_bytes) == (40, -10, 30)


def test_looking_changes_nothing() -> None:
    at = place("p", 30, resident("x", 30))
    before = repr(at)
    assert found([at], 20) and ranked((at, at.residents["x"]), affinity="k")
    assert repr(at) == before


# -- groups and kinds of devices


def grouped(**rooms: tuple[int, str]) -> Place:
    """A place whose rooms are of groups: c0=(total, group) is the device cuda:0."""
    names = {name: f"cuda:{name[1:]}" if name[0] == "c" and name != "cpu" else name for name in rooms}
    return Place(
        "p", {names[name]: Room(names[name], *facts[:1], 0, facts[1]) for name, facts in rooms.items()}
    )


SPREADS = {
    "what fits one device takes one": ({}, 40, [{"cuda:1": 40}, {"cuda:2": 40}]),
    "what is larger is spread by size over the fewest of a group": ({}, 65, [{"cuda:1": 44, "cuda:0": 22}]),
    "the whole group is the most there is": ({}, 90, [{"cuda:1": 60, "cuda:0": 30}]),
    "beyond that there is nothing": ({}, 91, []),
    "several devices are of one group": ({"min_devices": 2}, 60, [{"cuda:0": 30, "cuda:1": 30}]),
    "unlike devices share by their size": ({"min_devices": 2}, 80, [{"cuda:1": 54, "cuda:0": 27}]),
    "no group has three": ({"min_devices": 3}, 3, []),
    "a device too small for its share does not count": ({"min_device_memory": 40}, 65, []),
}


@pytest.mark.parametrize(("facts", "need", "ways"), SPREADS.values(), ids=SPREADS)
def test_only_devices_of_one_group_hold_a_model_together(
    facts: dict[str, object], need: int, ways: list[dict[str, int]]
) -> None:
    at = grouped(c0=(30, "a"), c1=(60, "a"), c2=(60, "b"))
    assert sorted(way.newcomer.need.items() for way in found([at], need, **facts)) == sorted(
        way.items() for way in ways
    )
    assert (router.never(spec(**facts), need, at) is None) == bool(ways)
    # Rounding never asks a device for more than it has.
    for way in found([at], need, **facts):
        assert all(share <= at.rooms[room].total_bytes for room, share in way.newcomer.need.items())
        assert sum(way.newcomer.need.values()) >= need


@pytest.mark.parametrize(
    ("harness", "rooms"),
    [("llamacpp", {"cpu"}), ("exllamav2", {"cuda:0"}), ("upstream", set()), (None, {"cpu", "cuda:0"})],
)
def test_a_model_goes_where_its_harness_computes(harness: str | None, rooms: set[str]) -> None:
    at = grouped(c0=(30, "a"), cpu=(60, "cpu"))
    assert {room for way in found([at], 10, harness=harness) for room in way.newcomer.need} == rooms
    why = router.never(spec(harness=harness), 10, at)
    assert why == (None if rooms else "it has no device for harness upstream")
