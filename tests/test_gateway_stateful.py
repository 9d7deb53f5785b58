"""Gateways over neurons whose truth differs from what is believed: everybody gets an end, and in time.

Hypothesis makes a day of a small fleet: requests that sit and hang up, reports that come late, neurons
that crash and boot again, loads that fail, operators who unload behind a gateway's back. In the one test a
gateway has two neurons, in the other two gateways share one and know nothing of each other. Rows 60 to 66,
70 and 72; a longer search is HYPOTHESIS_EXAMPLES=5000.
"""

import os
from collections.abc import Awaitable
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from cortex.errors import Busy, CortexError, LoadFailed
from cortex.gateway.passage import MOST_STALE
from cortex.ledger import Load
from cortex.places import Resident
from tests.fake_fleet import DEVICES, GIB, PATIENCE, Errand, FakeGateway, FakeNeuron, Make
from tests.fake_ledger import AGE_S, OVERTAKE_S, policy

MAKE = Make((101 * GIB,), disk_bps=10.0 * GIB)
NEEDS = {model: size * GIB for model, size in {"a": 60, "b": 60, "c": 40, "d": 25, "huge": 101}.items()}
PINNED = "d"
# A request is seated, sent on and seated again this often at most; a neuron has it wait, too.
LONGEST_S = (MOST_STALE + 1) * (PATIENCE.load_s + PATIENCE.queue_s)
AT_LAST_S = 1500.0

MODELS = st.sampled_from(sorted(NEEDS))
SECONDS = st.sampled_from([0.0, 0.3, 5.0, 20.0, AGE_S, OVERTAKE_S + 1.0])
WHICH = st.integers(0, 10**6)

Deed: TypeAlias = tuple[str, tuple[object, ...]]
ASK = st.tuples(st.just("ask"), st.tuples(WHICH, MODELS, SECONDS, st.sampled_from(["", "k", "l"])))
PASS_BY = st.tuples(st.just("pass_by"), st.tuples(SECONDS))
RARE = st.one_of(
    st.tuples(st.just("hang_up"), st.tuples(WHICH)),
    st.tuples(st.just("tear"), st.tuples(WHICH, MODELS, st.booleans())),
    st.tuples(st.just("unload"), st.tuples(WHICH, MODELS)),
    st.tuples(st.just("crash"), st.tuples(WHICH, SECONDS)),
)
# Most of a day is requests and time, and something else now and then.
DEEDS = st.lists(st.one_of(ASK, PASS_BY, ASK, RARE), min_size=25, max_size=50)
DAY = settings(max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "30")), deadline=None)


class Watched(FakeNeuron):
    """Writes down what must not happen."""

    wrong: list[str]

    async def load(self, load: Load) -> Resident:
        model, now = load.want.model, trio.current_time()
        for victim in load.leaving:
            self._hold(victim.seats == 0, f"{victim.model} left although somebody sat there")
            self._hold(not victim.pinned, f"{victim.model} left although it is pinned")
            if any(other.resident is victim for other in load.calls_off):
                # A load that nobody waited for, which came in as it was called off.
                self.deeds.note("called off", victim.model)
            else:
                self._hold(now >= victim.loaded_at + AGE_S, f"{victim.model} left young")
        self._hold(self.deeds.balance(model) == 0, f"{model} came in twice")
        measured = await super().load(load)
        measured.pinned = model == PINNED
        self._hold(sum(one.bytes for one in load.place) <= 100 * GIB, "more bytes than there are")
        return measured

    def _hold(self, true: bool, what: str) -> None:
        """Kept for the test: an error in here would be a load that failed."""
        if not true:
            self.wrong.append(what)


@dataclass
class Day:
    """The fleet, and those who speak to it."""

    gateways: list[FakeGateway]
    neurons: list[Watched]
    nursery: trio.Nursery
    asked: int = 0
    ends: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    scopes: list[trio.CancelScope] = field(default_factory=list)
    torn: set[tuple[str, str]] = field(default_factory=set)

    # -- deeds

    async def ask(self, which: int, model: str, sits_s: float, key: str) -> None:
        gateway = self.gateways[which % len(self.gateways)]
        self.asked += 1
        scope = trio.CancelScope()
        self.scopes.append(scope)
        errand = Errand(model, lambda _: sits_s, key=key, share=2.0 if key == "l" else 1.0)
        self.nursery.start_soon(self._one, scope, gateway.serve(errand, self._seated(trio.current_time())))

    async def hang_up(self, which: int) -> None:
        if self.scopes:
            self.scopes[which % len(self.scopes)].cancel()

    async def pass_by(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def tear(self, which: int, model: str, torn: bool) -> None:
        (self.torn.add if torn else self.torn.discard)((self._neuron(which).name, model))

    async def unload(self, which: int, model: str) -> None:
        """Behind the gateways' backs."""
        neuron = self._neuron(which)
        here = neuron.ledger.place(DEVICES)
        if neuron.reachable and here is not None and model in here.residents:
            try:
                neuron.ledger.leaving(DEVICES, model)
            except Busy:
                return
            neuron.deeds.note("dropped", model)
            neuron.ledger.gone(DEVICES, model)
            neuron.news += 1  # its next report tells

    async def crash(self, which: int, away_s: float) -> None:
        neuron = self._neuron(which)
        if neuron.reachable:
            neuron.crash()
            self.nursery.start_soon(self._revive, neuron, away_s)

    async def _revive(self, neuron: Watched, away_s: float) -> None:
        await trio.sleep(away_s)
        neuron.revive()

    # -- what comes of them

    def _neuron(self, which: int) -> Watched:
        return self.neurons[which % len(self.neurons)]

    def _seated(self, arrived: float):
        return lambda neuron, cold: self.waits.append(trio.current_time() - arrived)

    async def _one(self, scope: trio.CancelScope, serving: Awaitable[None]) -> None:
        end, arrived = "left", trio.current_time()
        with scope:
            try:
                await serving
                end = "served"
            except CortexError as error:
                end = error.code
                self.waits.append(trio.current_time() - arrived)
        self.ends.append(end)

    def trial(self, neuron: str, model: str) -> None:
        if (neuron, model) in self.torn:
            raise LoadFailed(f"{model} is torn")

    # -- what always holds

    def check(self) -> None:
        for neuron in self.neurons:
            assert neuron.wrong == []
        for gateway in self.gateways:
            ours = [load.want.model for load in gateway.ledger.loads.values()]
            assert len(ours) == len(set(ours))
            for place in gateway.ledger:
                for one in place:
                    assert 0 <= one.fresh <= one.seats and one.elsewhere >= 0

    def check_swaps(self) -> None:
        """Who is sent away was there for a while: no more swaps than time allows."""
        for neuron in self.neurons:
            came: dict[str, float] = {}
            for at, what, model in neuron.deeds.done:
                if what in ("loaded", "called off"):
                    came[model] = at if what == "loaded" else -inf
                elif what == "unloaded":
                    assert at >= came.pop(model) + AGE_S, (model, neuron.deeds.done)


async def live(deeds: list[Deed], gateways: int, neurons: int, lag_s: float) -> None:
    """The day, and its evening: all who came have gone with an end, and the books are straight."""
    rules = policy(queue=8)
    fleet = [Watched(f"n{number}", MAKE, rules, slots=2) for number in range(neurons)]
    for neuron in fleet:
        neuron.wrong = []
    doors = [FakeGateway(fleet, NEEDS, rules, lag_s=lag_s) for _ in range(gateways)]
    async with trio.open_nursery() as nursery:
        for role in (*fleet, *doors):
            await nursery.start(role.run)
        async with trio.open_nursery() as inner:
            day = Day(doors, fleet, inner)
            for neuron in fleet:
                neuron.trial = lambda model, name=neuron.name: day.trial(name, model)
            for name, arguments in deeds:
                await getattr(day, name)(*arguments)
                await trio.lowlevel.checkpoint()
                day.check()
            await trio.sleep(AT_LAST_S)
            day.check()
            day.check_swaps()
            assert len(day.ends) == day.asked, "each request ends exactly once"
            assert max(day.waits, default=0.0) <= LONGEST_S
        for role in (*fleet, *doors):
            assert "seats=0 waiting=0 loads=0" in repr(role.ledger), role.ledger
        for door in doors:
            for neuron in fleet:
                believed, true = door.ledger.place(neuron.name), neuron.ledger.place(DEVICES)
                assert believed is not None and true is not None
                assert set(believed.residents) == set(true.residents), "it is known who lives where"
        nursery.cancel_scope.cancel()


LAGS = st.sampled_from([0.0, 0.4, 1.9])


@DAY
@given(DEEDS, LAGS)
def test_a_gateway_keeps_its_promises_over_neurons_that_come_and_go(deeds: list[Deed], lag_s: float) -> None:
    trio.run(live, deeds, 1, 2, lag_s, clock=MockClock(autojump_threshold=0))


@DAY
@given(DEEDS, LAGS)
def test_two_gateways_on_one_neuron_neither_thrash_nor_disturb_each_other(
    deeds: list[Deed], lag_s: float
) -> None:
    trio.run(live, deeds, 2, 1, lag_s, clock=MockClock(autojump_threshold=0))


async def keep_asking(gateway: FakeGateway, model: str, until: float, ends: list[str]) -> None:
    """One client after another; each knows what it wants."""
    while trio.current_time() < until:
        try:
            await gateway.serve(Errand(model, lambda _: 2.0), lambda *_: None)
            ends.append(model)
        except CortexError as error:
            ends.append(error.code)
        await trio.sleep(0.1)


async def test_two_gateways_that_want_two_models_in_one_room_swap_them_no_more_often_than_age_allows(
    autojump_clock: MockClock,
) -> None:
    lasts_s, rules = 900.0, policy()
    neuron = Watched("n0", MAKE, rules, slots=2)
    neuron.wrong = []
    doors = [FakeGateway([neuron], NEEDS, rules, lag_s=0.4) for _ in range(2)]
    ends: list[str] = []
    async with trio.open_nursery() as nursery:
        for role in (neuron, *doors):
            await nursery.start(role.run)
        async with trio.open_nursery() as clients:
            for door, model in zip(doors * 2, "abab", strict=True):
                clients.start_soon(keep_asking, door, model, trio.current_time() + lasts_s, ends)
        nursery.cancel_scope.cancel()
    swaps = sum(what == "unloaded" for _, what, _ in neuron.deeds.done)
    assert neuron.wrong == []
    assert 3 <= swaps <= lasts_s / AGE_S
    assert min(ends.count("a"), ends.count("b")) > 50 and set(ends) == {"a", "b"}, (
        "nobody is starved or refused"
    )
