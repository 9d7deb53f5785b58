"""The replica that serves is found without a look at all, and is the one that such a look would find."""

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex import router
from cortex.ledger import Serve, Wait
from cortex.ledger.replicas import Replicas
from cortex.places import Place, Resident
from cortex.router import affinity
from tests.fake_ledger import Books, books, place, resident, want

NAMES = st.text("abcxyz", min_size=1, max_size=3)
STATES = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(["loaded", "loaded", "loaded", "leaving"]),
        "fault": st.sampled_from([None, None, None, "broken"]),
        "elsewhere": st.integers(0, 2),
        "fresh": st.integers(0, 2),
    }
)


def held(name: str, facts: dict[str, object], *, ready: bool = True) -> Place:
    return place(name, 100, resident("m", **facts), ready=ready)


def rows_of(names: Iterable[str]) -> list[tuple[int, str]]:
    return sorted((point, name) for name in names for point in affinity.points(name))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(NAMES, st.tuples(STATES, st.booleans()), max_size=12),
    st.dictionaries(NAMES, STATES, max_size=6),
    st.sampled_from(["", "k1", "k2", "k3"]),
    st.frozensets(NAMES, max_size=2),
)
def test_the_order_is_that_of_the_plain_rule_whatever_has_changed(
    drawn: dict[str, tuple[dict[str, object], bool]],
    changes: dict[str, dict[str, object]],
    key: str,
    avoid: frozenset[str],
) -> None:
    fleet = {name: held(name, facts, ready=ready) for name, (facts, ready) in drawn.items()}
    replicas = Replicas("m", fleet, set(fleet))
    for changed in ({}, changes):
        for name, facts in changed.items():
            if name in fleet and facts["phase"] == "leaving":
                del fleet[name]
            else:
                fleet[name] = held(name, facts)
            replicas.touch(name)
        holders = [(at, at.residents["m"]) for name, at in fleet.items() if name not in avoid]
        first = replicas.first(key)
        assert list(replicas.ranked(key, avoid)) == router.rank(holders, key)
        ranked = list(replicas.ranked(key))
        assert first == ((*ranked[0], router.route(ranked, 0, key)) if ranked else None)
        if (sure := replicas.first(None)) is not None:
            assert all(sure[:2] == next(replicas.ranked(each)) for each in ("", "k1", "k2"))


@given(st.sets(NAMES, max_size=20), st.text(min_size=1, max_size=4))
def test_the_nearest_names_come_first(names: set[str], key: str) -> None:
    rows = rows_of(names)
    plain = sorted(names, key=lambda name: (affinity.distance(key, name), name))
    assert list(affinity.nearest(rows, key)) == plain


def test_the_nearest_name_may_be_beyond_the_end_of_the_ring() -> None:
    rows = rows_of(("n1", "n2"))
    found = {key: next(affinity.nearest(rows, key)) for key in map(str, range(500))}
    assert found == {key: min(("n1", "n2"), key=lambda name: affinity.distance(key, name)) for key in found}


def test_who_is_avoided_is_not_compared_with() -> None:
    made = everywhere(2)
    for sit in (made.ledger.sit_alone, made.ledger.sit_at_once):
        ticket = sit(want("hot", avoid=frozenset({"n001"})))
        assert ticket is None or (ticket.place, ticket.route) == (made.ledger.place("n000"), "only-replica")
    assert ticket is not None


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_conversations_are_spread_about_evenly(count: int) -> None:
    rows = rows_of(f"n{number}" for number in range(count))
    keys = 100 * count
    taken = Counter(next(affinity.nearest(rows, f"key {number}")) for number in range(keys))
    assert len(taken) == count
    assert max(taken.values()) < 1.5 * keys / count and min(taken.values()) > 0.5 * keys / count


# -- how many are looked at


class Watched(Resident):
    """Counts how often it is asked how it does."""

    asked = 0

    @property
    def busy(self) -> int:
        Watched.asked += 1
        return self.elsewhere + self.fresh

    @property
    def servable(self) -> bool:
        Watched.asked += 1
        return self.phase == "loaded" and self.fault is None


def everywhere(count: int, **facts: object) -> Books:
    """One model on all of so many neurons."""
    made = books(None, delegates=True)
    for number in range(count):
        made.tell(f"n{number:03}", 100, Watched("hot", "loaded", {"g": 10}, **facts))
    made.ledger.depart(made.sit("hot"))
    return made


@pytest.mark.parametrize("key", ["", "a conversation"])
def test_a_warm_request_looks_at_few_replicas_of_many(key: str) -> None:
    for count in (10, 300):
        made = everywhere(count, slots=64)
        made.ledger.depart(made.sit("hot", affinity=key))
        Watched.asked = 0
        for _ in range(5):
            made.ledger.depart(made.sit("hot", affinity=key))
        assert Watched.asked <= 5 * 10, count


class Rows(list[tuple[int, str]]):
    """Counts who is looked at."""

    looked = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        Rows.looked += 1
        return super().__getitem__(index)


def test_where_a_conversation_belongs_few_names_of_many_are_looked_at() -> None:
    rows = Rows(rows_of(f"n{number}" for number in range(1000)))
    Rows.looked = 0
    next(affinity.nearest(rows, "a conversation"))
    assert 0 < Rows.looked <= affinity.PROBES * 15


def test_who_has_to_prove_himself_is_not_compared_with_all_the_others() -> None:
    for count in (10, 100):
        made = everywhere(count, slots=2)
        for number in range(count - 1):
            made.ledger.bound(f"n{number:03}", 1)
        seated = [made.sit("hot") for _ in range(count + 1)]
        # Each of those on probation has one, and the other one has both of its seats taken.
        assert len({ticket.place.name for ticket in seated if ticket.place is not None}) == count
        Watched.asked = 0
        ticket, decision = made.arrive("hot")
        assert isinstance(decision, Wait)
        assert Watched.asked <= 10, count
        made.ledger.depart(ticket)
        made.ledger.depart(seated[0])
        assert isinstance(made.arrive("hot")[1], Serve)
