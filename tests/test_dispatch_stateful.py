"""Ledger, evictor, dispatcher and upkeep together: whatever is asked, everybody gets an end.

Hypothesis makes a day of a neuron with two devices: requests that sit, leave and hang up, orders,
pins, unloads, loads that fail, idle times, worn devices. The clock is trio's own, and nothing waits
for real. Rows 60 to 66, 70 and 72.
"""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from cortex.catalogue import ModelSpec
from cortex.config.neuron import NeuronEviction
from cortex.dispatch import Dispatch, LoadBook, Patience
from cortex.errors import Busy, CortexError, LoadFailed
from cortex.ledger import Ledger, Load, Want
from cortex.metrics import Metrics
from cortex.neuron.terms import Terms
from cortex.neuron.upkeep import Upkeep
from cortex.places import Resident, Room
from tests.fake_ledger import AGE_S, OVERTAKE_S, policy, resident

TOTAL = 100
SIZES = {"a": 60, "b": 60, "c": 40, "d": 25, "huge": 101}
SLOTS = {"a": 1, "b": 2, "c": 2, "d": 3, "huge": 1}
IDLE_S = {"d": 20.0}
PATIENCE = Patience(queue_s=60.0, load_s=300.0)
# Longer than any wait that a request may have, and any load.
AT_LAST_S = 3000.0

SHARES = {"": 1.0, "x": 1.0, "y": 3.0}

MODELS = st.sampled_from(sorted(SIZES))
KEYS = st.sampled_from(sorted(SHARES))
SECONDS = st.sampled_from([0.0, 0.5, 5.0, 20.0, AGE_S, OVERTAKE_S + 1.0])
WHICH = st.integers(0, 10**6)

Deed: TypeAlias = tuple[str, tuple[object, ...]]
DEED = st.one_of(
    st.tuples(st.just("ask"), st.tuples(MODELS, SECONDS, st.sampled_from([1, 1, 1, 2]), KEYS)),
    st.tuples(st.just("ask"), st.tuples(MODELS, SECONDS, st.just(1), KEYS)),
    st.tuples(st.just("order"), st.tuples(MODELS, st.booleans())),
    st.tuples(st.just("hang_up"), st.tuples(WHICH)),
    st.tuples(st.just("pass_by"), st.tuples(SECONDS)),
    st.tuples(st.just("break_loads"), st.tuples(MODELS, st.booleans())),
    st.tuples(st.just("pin"), st.tuples(MODELS, st.booleans())),
    st.tuples(st.just("unload"), st.tuples(MODELS, st.booleans())),
    st.tuples(st.just("call_off"), st.tuples(MODELS)),
    st.tuples(st.just("wear"), st.tuples(st.sampled_from(["p", "q"]))),
)


@dataclass
class Devices:
    """The loader, and residents as upkeep knows them: what is in memory, and who was let go."""

    ledger: Ledger
    memory: dict[tuple[str, str], int] = field(default_factory=dict)
    worn: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    pins: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def hold(self, true: bool, what: str) -> None:
        """Kept for the test: an error in here would be a load that failed."""
        if not true:
            self.wrong.append(what)

    async def load(self, load: Load) -> Resident:
        place, model = load.place.name, load.want.model
        self.hold(not self.pins & set(load.victims), f"{load.victims} were pinned")
        for victim in load.victims:
            one = load.place.residents[victim]
            self.hold(one.seats == 0 and one.phase == "leaving", f"{victim} was seated")
            await self.unload(place, victim)
        return await self.bring_in(place, model)

    async def bring_in(self, place: str, model: str) -> Resident:
        self.hold((place, model) not in self.memory, f"{model} was loaded twice")
        self.memory[place, model] = SIZES[model]
        used = sum(size for (at, _), size in self.memory.items() if at == place)
        self.hold(used <= TOTAL, f"{place} holds {used}")
        try:
            await trio.sleep(SIZES[model] / 10)
            if model in self.broken:
                raise LoadFailed(f"{model} is torn")
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.2)  # an engine takes its time to let go
            del self.memory[place, model]
            raise
        facts = resident(model, SIZES[model], slots=SLOTS[model], pinned=model in self.pins)
        facts.idle_unload_s = IDLE_S.get(model, 0.0)
        return facts

    async def unload(self, place: str, model: str) -> None:
        try:
            await trio.sleep(0.1)
        finally:
            del self.memory[place, model]
            self.ledger.gone(place, model)

    def count_anew(self, place: str) -> None:
        self.worn[place] = 0

    def cycles(self, place: str) -> int:
        return self.worn.get(place, 0)

    async def release(self, place: str) -> None:
        self.hold(not [model for at, model in self.memory if at == place], f"{place} is not empty")

    async def put_down(self, model: str) -> None:
        (key,) = [key for key in self.memory if key[1] == model]
        seats = [one.seats for _, one in self.ledger.holders(model)]
        self.hold(seats == [0], f"{model} was seated as its device was emptied")
        await trio.sleep(0.1)
        del self.memory[key]

    async def take_up(self, place: str, model: str) -> Resident:
        return await self.bring_in(place, model)

    async def measure(self, rooms: Iterable[str]) -> int:
        await trio.lowlevel.checkpoint()
        return 0


@dataclass
class Day:
    """One neuron, and those who speak to it."""

    devices: Devices
    dispatch: Dispatch
    nursery: trio.Nursery
    asked: int = 0
    ends: list[str] = field(default_factory=list)
    scopes: list[trio.CancelScope] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.dispatch.ledger

    # -- deeds

    async def ask(self, model: str, sits_s: float, weight: int, key: str) -> None:
        want = replace(self._want(model, weight), key=key, share=SHARES[key])
        self._begin(self._sit(want, sits_s))

    async def order(self, model: str, evict: bool) -> None:
        self._begin(self._bring(self._want(model, 0, evict=evict)))

    async def hang_up(self, which: int) -> None:
        if self.scopes:
            self.scopes[which % len(self.scopes)].cancel()

    async def pass_by(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def break_loads(self, model: str, broken: bool) -> None:
        (self.devices.broken.add if broken else self.devices.broken.discard)(model)

    async def pin(self, model: str, pinned: bool) -> None:
        await wait_all_tasks_blocked()  # whom a load has chosen before is on its way
        (self.devices.pins.add if pinned else self.devices.pins.discard)(model)
        self.ledger.pin(model, pinned=pinned)

    async def unload(self, model: str, force: bool) -> None:
        for place, one in self.ledger.holders(model):
            try:
                self.ledger.leaving(place.name, model, force=force)
            except Busy:
                assert one.pinned or not one.idle or one.phase != "loaded"
            else:
                assert force or not (one.pinned or one.seats)
                self.nursery.start_soon(self._send_away, place.name, one)

    async def call_off(self, model: str) -> None:
        load = self.ledger.loads.get(model)
        if load is not None and not self.ledger.waiting_for(model):
            self.dispatch.call_off(load)

    async def wear(self, place: str) -> None:
        self.devices.worn[place] = 5
        self.dispatch.wake()

    # -- what comes of them

    def _want(self, model: str, weight: int, evict: bool = True) -> Want:
        pinned = model in self.devices.pins
        return Want(model, ModelSpec(model), SIZES[model], weight, evict=evict, pinned=pinned)

    def _begin(self, deed: Awaitable[None]) -> None:
        self.asked += 1
        scope = trio.CancelScope()
        self.scopes.append(scope)
        self.nursery.start_soon(self._one, scope, deed)

    async def _one(self, scope: trio.CancelScope, deed: Awaitable[None]) -> None:
        end = "left"
        with scope:
            try:
                await deed
                end = "served"
            except CortexError as error:
                end = error.code
        self.ends.append(end)

    async def _sit(self, want: Want, sits_s: float) -> None:
        async with self.dispatch.seat(want) as ticket:
            one = ticket.resident
            assert one is not None and one.servable
            with trio.move_on_after(sits_s):
                while True:
                    # Only an operator's force moves one that somebody sits at.
                    assert one.seats >= want.weight
                    await trio.sleep(1.0)

    async def _bring(self, want: Want) -> None:
        assert (await self.dispatch.bring(want)).model == want.model

    async def _send_away(self, place: str, one: Resident) -> None:
        with trio.move_on_after(5.0):
            await self.dispatch.emptied(one)
        await self.devices.unload(place, one.model)

    # -- what always holds

    def check(self) -> None:
        assert self.devices.wrong == []
        for place in self.ledger:
            assert sum(one.bytes for one in place if one.phase != "leaving") <= TOTAL
            for one in place:
                assert one.slots is None or one.seats <= one.slots
                assert one.phase == "loading" or (place.name, one.model) in self.devices.memory
                assert one.pinned == (one.model in self.devices.pins)
        assert len({load.want.model for load in self.ledger.loads.values()}) == len(self.ledger.loads)


async def live(deeds: list[Deed]) -> None:
    """The day, and its evening: all who came have gone with an end, and the books are straight."""
    ledger = Ledger(trio.current_time, policy(queue=4, queue_per_model=True))
    for name in ("p", "q"):
        ledger.open(name, [Room("g", TOTAL)])
    devices, metrics = Devices(ledger), Metrics(lambda model: True)
    dispatch = Dispatch(ledger, devices, PATIENCE, LoadBook(metrics))
    terms = Terms(NeuronEviction(defrag_after_cycles=5))
    upkeep = Upkeep(devices, dispatch, metrics, terms, devices.measure)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(dispatch.run)
        await nursery.start(upkeep.run)
        async with trio.open_nursery() as inner:
            day = Day(devices, dispatch, inner)
            for name, arguments in deeds:
                await getattr(day, name)(*arguments)
                await trio.lowlevel.checkpoint()
                day.check()
            await trio.sleep(AT_LAST_S)
            day.check()
            # Nobody waits for longer than patience lasts, whatever happened.
            assert len(day.ends) == day.asked, (day.ends, ledger)
        assert "seats=0 waiting=0 loads=0" in repr(ledger), ledger
        there = {(place.name, one.model) for place in ledger for one in place}
        assert there == set(devices.memory)
        assert all(place.ready and not place.doubt for place in ledger)
        assert all(model in devices.pins or model not in IDLE_S for _, model in there)
        nursery.cancel_scope.cancel()


@settings(max_examples=150, deadline=None)
@given(st.lists(DEED, min_size=10, max_size=40))
def test_everybody_gets_an_end_and_no_promise_is_broken(deeds: list[Deed]) -> None:
    trio.run(live, deeds, clock=MockClock(autojump_threshold=0))
