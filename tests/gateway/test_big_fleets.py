"""What a gateway tells of many neurons and models, and how often it looks at them for it."""

from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cortex import router
from cortex.catalogue import ModelSpec
from cortex.config.gateway import Poll
from cortex.config.keys import Key
from cortex.gateway import feasible
from cortex.gateway.telling import tell
from cortex.gateway.views import Views
from cortex.keys import Accounts, digest
from cortex.metrics import FRESH_S, Done
from cortex.metrics.traffic import MOST_NEURONS
from cortex.places import Place, Room
from cortex.router import choice
from tests.believed import Believed, refs_of


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each neuron was weighed."""
    count: Counter[str] = Counter()

    def weighed(spec: ModelSpec, place: Place) -> int | None:
        count[place.name] += 1
        return choice.most_bytes(spec, place)

    monkeypatch.setattr(feasible.router, "most_bytes", weighed)
    return count


async def test_a_report_weighs_each_neuron_once_however_many_models_there_are(looks: Counter[str]) -> None:
    big = Believed(20, 300)
    told = big.report.fleet_report(governs=True)
    assert len(told.models) == 300 and looks.total() == 20
    big.report.fleet_report(governs=True)
    big.report.health(governs=True, named=list)
    for number in range(20):
        big.tell(f"n{number:03}", f"m{number:04}")
    assert big.report.unservable() == told_unservable(told)
    assert looks.total() == 20, "a report that has the same devices changes nothing"
    big.tell("n003", memory=80)
    assert big.report.unservable() == []
    assert looks.total() == 40


def told_unservable(told) -> list[str]:
    return [row.id for row in told.models if row.state in ("unservable", "recovering")]


async def test_where_a_model_could_be_is_what_the_router_says_of_each_neuron() -> None:
    big = Believed(6, 60)
    big.tell("n001", memory=8)
    big.tell("n002", memory=40)
    for row in big.listing.models():
        spec = big.listing.catalogue.specs[row.id]
        able = [place.name for place in big.ledger if router.never(spec, spec.footprint, place) is None]
        assert row.feasible_on == able, row.id
    big.fleet.missed(big.fleet["n002"], "it is gone", at_once=True)
    assert all("n002" not in row.feasible_on for row in big.listing.models())
    big.tell("n002", memory=40)
    assert "n002" in big.listing.model("m0001").feasible_on


async def test_who_knows_a_model_is_known_without_asking_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for a model that only neurons know comes by here."""
    big = Believed(20, 0, know=["x", "y"])
    asked = Counter[str]()
    monkeypatch.setattr(type(big.fleet), "__iter__", lambda fleet: asked.update(["all"]) or iter(()))
    spec = big.listing.spec("x")
    assert spec is not None and spec.pinned_on == tuple(f"n{number:03}" for number in range(20))
    assert big.listing.has("y") and not big.listing.has("z") and big.listing.spec("z") is None
    assert big.listing.spec("x") is spec, "what is known of it elsewhere is known by the entry"
    assert not asked


async def test_a_list_of_models_walks_no_neuron_for_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    big = Believed(20, 300)
    walks, walk = Counter[str](), type(big.fleet).__iter__
    monkeypatch.setattr(type(big.fleet), "__iter__", lambda fleet: walks.update(["all"]) or walk(fleet))
    views = Views(big.listing, Accounts([], trio.current_time))
    entries = [views.entry("", name) for name in views.ids("")]
    assert len(entries) == 300 and walks.total() < 5


async def test_what_is_told_of_one_model_looks_at_the_names_of_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event goes to every reader, and a refusal to whoever comes: both name a model as he may know it."""
    big = Believed(2, 300)
    accounts = Accounts([Key("k", digest("k"), models=("am*",))], trio.current_time)
    views, asked = Views(big.listing, accounts), []
    monkeypatch.setattr(accounts, "allows", lambda caller, *names: asked.append(names) or "am" in names[0])
    assert views.name("k", "m0007") == "am0007"
    assert len(asked) == 2


async def test_what_the_files_have_against_them_is_on_the_page_and_keys_that_are_gone_are_not() -> None:
    big = Believed(1, 1)
    big.report.faults = ("no good", "no better")
    big.metrics.request_began("m0000")
    big.metrics.request_done(Done("m0000", "openai_chat", "ok", 1.0, key="revoked"))
    assert 'key="revoked"' in big.metrics.render().decode()
    big.metrics._made_at = -FRESH_S
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell, big.metrics, big.report, Accounts([], trio.current_time))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    page = big.metrics.render().decode()
    assert "\ncortex_config_faults 2.0\n" in page and "revoked" not in page


async def test_what_a_neuron_knows_is_forgotten_when_it_tells_of_it_no_more() -> None:
    big = Believed(2, 0, know=["x"])
    big.know = ["y"]
    big.tell("n000")
    assert (big.fleet.knowers.of("x"), big.fleet.knowers.of("y")) == (("n001",), ("n000",))
    big.tell("n001", "had", stopping=True)
    assert big.fleet.knowers.of("had") == ("n001",) and not big.listing.has("x")
    assert big.listing.ids() == ["had", "y"]


async def test_a_fleet_whose_neurons_go_under_ever_new_names_is_shown_all_the_same() -> None:
    """Containers: each is on probation, since it was away once, and is forgotten; none is shown for it."""
    big = Believed(1, 1)
    for number in range(1, MOST_NEURONS + 20):
        big.fleet.reform(refs_of(number + 1)[-1:], Poll(), silent_s=60.0)
        gone = big.fleet[f"n{number - 1:03}"]
        await big.fleet._see_off(gone)
        name = f"n{number:03}"
        big.tell(name)
        big.fleet.missed(big.fleet[name], "it was restarted", at_once=True)
        big.tell(name)
    shown = big.metrics.render().decode()
    assert f'cortex_neuron_up{{neuron="{name}"}} 1.0' in shown
    assert f'neuron="{gone.name}"' not in shown and 'neuron="other"' not in shown


ROOMS = st.lists(
    st.tuples(
        st.sampled_from(["cuda", "cpu", "odd"]), st.integers(0, 12), st.sampled_from([None, None, "g", "h"])
    ),
    max_size=4,
)


@given(ROOMS, st.integers(1, 3), st.integers(0, 8), st.integers(0, 40))
def test_the_most_that_a_place_could_hold_is_where_its_ways_end(rooms, devices, memory, need) -> None:
    named = {
        f"{kind}:{index}": Room(f"{kind}:{index}", total, group=group)
        for index, (kind, total, group) in enumerate(rooms)
    }
    place = Place("n", named)
    spec = ModelSpec("m", harness="exllamav2", min_devices=devices, min_device_memory=memory)
    most = router.most_bytes(spec, place)
    assert any(True for _ in choice.shares(spec, need, place)) == (most is not None and need <= most)
