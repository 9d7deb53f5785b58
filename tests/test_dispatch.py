"""Who is seated when, which loads run, and what those are told who get nothing.

Time is the autojump clock's, the ledger is real, and the loader does what the test says.
"""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.dispatch import Dispatch, LoadBook, Patience, Revised
from cortex.errors import (
    Busy,
    CortexError,
    DoesNotFit,
    LoadFailed,
    Loading,
    NoRoom,
    NotHereNow,
    Overloaded,
    Recovering,
    Stopping,
    Unreachable,
)
from cortex.ledger import Ledger, Load, Settled, Ticket
from cortex.metrics import Metrics
from cortex.places import Resident, Room
from tests.fake_ledger import AGE_S, OVERTAKE_S, policy, resident, want

QUEUE_S, LOAD_S = 60.0, 300.0


@dataclass
class RecordingLoader:
    """Takes `takes_s` for a load, unless the test finishes each one by hand; then fails or not as told."""

    ledger: Ledger
    takes_s: float = 10.0
    by_hand: bool = False
    slots: int | None = 4
    fails: dict[tuple[str, str], Exception] = field(default_factory=dict)
    began: list[tuple[str, str]] = field(default_factory=list)
    ended: list[tuple[str, str, str]] = field(default_factory=list)
    running: dict[tuple[str, str], trio.Event] = field(default_factory=dict)
    most: int = 0
    lets_go_s: float = 0.0

    async def load(self, load: Load) -> Resident:
        model, place = load.want.model, load.place.name
        self.began.append((model, place))
        done = self.running[model, place] = trio.Event()
        self.most = max(self.most, len(self.running))
        how = "cut"
        try:
            # A neuron tells its gateway who left.
            for victim in () if self.ledger.policy.delegates else load.staying:
                assert victim.seats == 0, f"{victim.model} was seated"
                self.ledger.gone(place, victim.model)
            with trio.move_on_after(float("inf") if self.by_hand else self.takes_s):
                await done.wait()
            how = "failed"
            if (error := self.fails.get((model, place))) is not None:
                raise error
            how = "done"
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.lets_go_s if how == "cut" else 0.0)
            del self.running[model, place]
            self.ended.append((model, place, how))
        return resident(model, load.resident.room_bytes, slots=self.slots)

    def finish(self, model: str, place: str = "p") -> None:
        self.running[model, place].set()


@dataclass
class RecordingWitness:
    done: list[tuple[str, float, tuple[str, ...]]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def load_done(self, model: str, seconds: float, victims: Iterable[str]) -> None:
        self.done.append((model, seconds, tuple(victims)))

    def load_failed(self, model: str, error: CortexError) -> None:
        self.failed.append((model, error.code))


@dataclass
class Bench:
    """A dispatcher at work, and requests that sit, wait and hear."""

    ledger: Ledger
    loader: RecordingLoader
    witness: RecordingWitness
    dispatch: Dispatch
    nursery: trio.Nursery
    scope: trio.CancelScope
    served: list[str] = field(default_factory=list)
    told: dict[str, CortexError] = field(default_factory=dict)
    waited: dict[str, float] = field(default_factory=dict)

    def ask(
        self, name: str, model: str, need: int = 10, *, sits_s: float = 0.0, **more: object
    ) -> trio.CancelScope:
        """A request of its own; cancel the answer to make its client leave."""
        scope = trio.CancelScope()

        async def one() -> None:
            arrived = trio.current_time()
            with scope:
                try:
                    async with self.dispatch.seat(want(model, need, **more)) as ticket:
                        assert ticket.resident is not None and ticket.resident.model == model
                        self.served.append(name)
                        self.waited[name] = trio.current_time() - arrived
                        await trio.sleep(sits_s)
                except CortexError as error:
                    self.told[name] = error
                    self.waited[name] = trio.current_time() - arrived

        self.nursery.start_soon(one)
        return scope

    async def asked(self, name: str, model: str, need: int = 10, **more: object) -> trio.CancelScope:
        """The same, when it has come as far as it gets by itself."""
        scope = self.ask(name, model, need, **more)
        await wait_all_tasks_blocked()
        return scope

    async def ask_many(self, count: int, model: str, need: int = 10, **more: object) -> list[str]:
        """One after another, named by their place in the line."""
        names = [f"{model}{number}" for number in range(count)]
        for name in names:
            await self.asked(name, model, need, **more)
        return names

    def tell(self, name: str, total: int, *residents: Resident) -> None:
        """The place reports; whoever lives there has done so for long."""
        for one in residents:
            one.loaded_at = -1000.0
        self.ledger.report(name, [Room("g", total)], residents, trio.current_time())


@asynccontextmanager
async def bench(
    *places: tuple[str, int],
    takes_s: float = 10.0,
    by_hand: bool = False,
    slots: int | None = 4,
    patience: Patience = Patience(QUEUE_S, LOAD_S),
    kind: type[Ledger] = Ledger,
    **rules: object,
) -> AsyncIterator[Bench]:
    """Places of so many bytes. Leaving the block, nobody sits or waits, and nothing loads."""
    ledger = kind(trio.current_time, policy(**rules))
    for name, total in places or [("p", 100)]:
        ledger.open(name, [Room("g", total)])
    loader, witness = RecordingLoader(ledger, takes_s, by_hand, slots), RecordingWitness()
    dispatch = Dispatch(ledger, loader, patience, witness)
    async with trio.open_nursery() as outer:
        scope = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await dispatch.run(task_status=task_status)

        await outer.start(run)
        async with trio.open_nursery() as nursery:
            yield Bench(ledger, loader, witness, dispatch, nursery, scope)
        outer.cancel_scope.cancel()
    assert "seats=0 waiting=0 loads=0" in repr(ledger)


# -- one load, however many wait


async def test_five_hundred_requests_for_a_cold_model_make_one_load(autojump_clock) -> None:
    """Row 60: nobody starves."""
    async with bench(slots=None) as b:
        names = await b.ask_many(500, "a")
        assert b.loader.began == [("a", "p")]
    assert sorted(b.served) == sorted(names)
    assert b.loader.began == [("a", "p")]
    assert b.witness.done == [("a", 10.0, ())]
    assert set(b.waited.values()) == {10.0}


@pytest.mark.parametrize("slots", [1, 3])
async def test_few_slots_serve_many_in_the_order_in_which_they_came(autojump_clock, slots: int) -> None:
    """Row 60."""
    async with bench(slots=slots, patience=Patience(1000.0, 1000.0)) as b:
        names = await b.ask_many(60, "a", sits_s=1.0)
    assert [b.waited[name] for name in names] == [10.0 + number // slots for number in range(60)]


async def test_who_came_first_leaves_and_the_load_goes_on(autojump_clock) -> None:
    """Row 61."""
    async with bench() as b:
        first = await b.asked("first", "a")
        await b.asked("second", "a")
        await trio.sleep(5)
        first.cancel()
    assert b.loader.ended == [("a", "p", "done")]
    assert b.served == ["second"] and b.waited["second"] == 10.0


async def test_a_load_goes_on_when_everybody_left(autojump_clock) -> None:
    """Row 29."""
    async with bench() as b:
        (await b.asked("only", "a")).cancel()
        await trio.sleep(11)
        assert b.loader.ended == [("a", "p", "done")]
        await b.asked("next", "a")
        assert b.waited == {"next": 0.0}


async def test_a_waiter_that_leaves_frees_its_place_and_nothing_else_changes(autojump_clock) -> None:
    """Row 60."""
    async with bench(by_hand=True, queue=3) as b:
        await b.asked("first", "a")
        before = repr(b.ledger)
        scopes = [await b.asked(name, "a") for name in ("x", "y")]
        await b.asked("too many", "a")
        assert isinstance(b.told["too many"], Overloaded)
        for scope in scopes:
            scope.cancel()
        await wait_all_tasks_blocked()
        assert repr(b.ledger) == before
        await b.asked("late", "a")
        b.loader.finish("a")
    assert sorted(b.served) == ["first", "late"]


async def test_a_seat_is_given_back_however_the_block_is_left(autojump_clock) -> None:
    async with bench(slots=1) as b:
        await b.dispatch.bring(want("a"))
        before = repr(b.ledger)
        with pytest.raises(ZeroDivisionError):
            async with b.dispatch.seat(want("a")):
                raise ZeroDivisionError
        assert repr(b.ledger) == before
        holder = await b.asked("cut", "a", sits_s=1000.0)
        await b.asked("heir", "a")
        holder.cancel()
        await wait_all_tasks_blocked()
        assert b.served == ["cut", "heir"]
        assert repr(b.ledger) == before


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_one_who_is_cancelled_as_it_is_seated_keeps_no_seat(
    autojump_clock, cancelled_first: bool
) -> None:
    """Both happen before its task runs again, in either order."""
    async with bench(slots=1) as b:
        await b.dispatch.bring(want("a"))
        before = repr(b.ledger)
        async with b.dispatch.seat(want("a")) as seated:
            waiter = await b.asked("unlucky", "a", sits_s=1000.0)
            await b.asked("next", "a", sits_s=1.0)
            if cancelled_first:
                waiter.cancel()
            b.ledger.depart(seated)
            b.dispatch.wake()
            if not cancelled_first:
                waiter.cancel()
        await wait_all_tasks_blocked()
        assert "next" in b.served
        await trio.sleep(2)
        assert repr(b.ledger) == before


async def test_one_whose_patience_ends_as_it_is_seated_sits(autojump_clock) -> None:
    async with bench(slots=1) as b:
        await b.dispatch.bring(want("a"))
        await b.asked("holder", "a", sits_s=QUEUE_S)
        await b.asked("waiter", "a")
        await trio.sleep(QUEUE_S + 1)
        assert ("waiter" in b.served) is not ("waiter" in b.told)
        assert b.waited["waiter"] == QUEUE_S


# -- several models


async def test_two_models_that_fit_together_load_at_the_same_time(autojump_clock) -> None:
    async with bench() as b:
        await b.asked("a", "a", 60)
        await b.asked("b", "b", 40)
        assert b.loader.most == 2
    assert b.waited == {"a": 10.0, "b": 10.0}


async def test_room_that_a_victim_leaves_over_is_used_while_the_newcomer_still_loads(
    autojump_clock,
) -> None:
    """The loader told the ledger that the victim is gone; nobody called `wake`."""
    async with bench(by_hand=True) as b:
        b.tell("p", 100, resident("old", 90))
        b.ask("b", "b", 50)
        b.ask("c", "c", 50)
        await wait_all_tasks_blocked()
        assert set(b.loader.running) == {("b", "p"), ("c", "p")}
        b.loader.finish("b"), b.loader.finish("c")


async def test_requests_for_a_loaded_model_are_unaffected_while_others_load_and_leave(
    autojump_clock,
) -> None:
    """Row 71."""
    async with bench(by_hand=True) as b:
        b.tell("p", 100, resident("warm", 30, slots=2), resident("old", 70))
        await b.asked("cold", "a", 50)
        for number in range(100):
            await b.asked(f"warm{number}", "warm", sits_s=0.1)
            await trio.sleep(0.1)
        assert len(b.served) == 100
        assert set(b.waited.values()) == {0.0}
        b.loader.finish("a")


async def test_a_request_and_an_eviction_at_the_same_moment_both_get_an_end(autojump_clock) -> None:
    """Row 64: whoever is first wins, the other plans anew."""
    for order in (["a", "b"], ["b", "a"]):
        async with bench(slots=1) as b:
            b.tell("p", 60, resident("a", 60, slots=1))
            for model in order:
                b.ask(model, model, 60, sits_s=1.0)
        assert sorted(b.served) == ["a", "b"]
        assert not b.told


async def test_work_in_flight_is_finished_before_its_model_leaves(autojump_clock) -> None:
    """Row 65: the loader asserts that no victim is seated."""
    async with bench() as b:
        b.tell("p", 60, resident("a", 60, slots=2))
        await b.asked("long", "a", 60, sits_s=25.0)
        await b.asked("b", "b", 60)
        await trio.sleep(24)
        assert b.loader.began == []
    assert b.waited["b"] == 25.0 + 10.0


async def test_two_orders_for_one_device_are_done_one_after_the_other(autojump_clock) -> None:
    """Row 66: two gateways, one neuron; a model that came for somebody stays its time."""
    async with bench() as b:
        resident_at: dict[str, float] = {}

        async def order(model: str) -> None:
            await b.dispatch.bring(want(model, 60))
            resident_at[model] = trio.current_time()

        async with trio.open_nursery() as nursery:
            for model in ("a", "b"):
                nursery.start_soon(order, model)
        first, second = sorted(resident_at, key=resident_at.__getitem__)
        assert resident_at[first] == 10.0
        assert resident_at[second] == 10.0 + AGE_S + 10.0
        assert b.loader.most == 1
        assert [victims for *_, victims in b.witness.done] == [(), (first,)]


@pytest.mark.parametrize("busy_s", [0.5, 7.0])
async def test_two_models_in_turns_on_one_device_neither_thrash_nor_starve(
    autojump_clock, busy_s: float
) -> None:
    """Row 66. A-B-A-B for half an hour, with never a moment without work for both."""
    span, load_s = 1800.0, 10.0
    async with bench(("p", 60), takes_s=load_s, slots=8) as b:

        async def keep_asking(model: str, shift: float) -> None:
            await trio.sleep(shift)
            number = 0
            while trio.current_time() < span:
                b.ask(f"{model}-{number}", model, 60, sits_s=busy_s)
                number += 1
                await trio.sleep(busy_s)

        b.nursery.start_soon(keep_asking, "a", 0.0)
        b.nursery.start_soon(keep_asking, "b", 0.1)
    assert not b.told
    # A load takes 10 s and its model stays for 30, so that there is at most one swap in 40 s. Each
    # of them happens as soon as it may: only those who sit at that moment are waited for.
    turn_s = load_s + AGE_S
    assert span / (turn_s + 2 * busy_s) <= len(b.loader.began) <= span / turn_s + 3
    # The longest wait: through the other one's turn, the drain of both and one's own load. Then
    # those who gathered meanwhile take their turns at eight seats.
    gathered = (turn_s + load_s + busy_s) / busy_s
    assert max(b.waited.values()) <= turn_s + load_s + 2 * busy_s + gathered / 8 * busy_s


async def test_a_blocked_model_is_overtaken_for_so_long_and_no_longer(autojump_clock) -> None:
    async with bench(slots=2) as b:
        b.tell("p", 60, resident("warm", 60, slots=2))

        async def keep_it_busy() -> None:
            for number in range(100):
                b.ask(f"warm{number}", "warm", 60, sits_s=3.0)
                await trio.sleep(2)

        b.nursery.start_soon(keep_it_busy)
        await trio.sleep(1)
        await b.asked("cold", "cold", 60)
    assert OVERTAKE_S < b.waited["cold"] <= OVERTAKE_S + 3.0 + 10.0
    assert not b.told


async def test_a_large_model_is_not_starved_by_small_ones_that_come_and_go(autojump_clock) -> None:
    """One of them is always young, so that the whole device is never free by itself."""
    async with bench(patience=Patience(1000.0, 1000.0)) as b:

        async def keep_asking() -> None:
            for number in range(40):
                b.ask(f"r{number}", f"small{number % 4}", 50, sits_s=1.0)
                await trio.sleep(21)

        b.nursery.start_soon(keep_asking)
        await trio.sleep(101)
        await b.asked("large", "large", 100)
    # The last that passes it in its time loads and comes of age.
    assert OVERTAKE_S < b.waited["large"] <= OVERTAKE_S + 10 + AGE_S + 10
    assert not b.told and len(b.served) == 41


# -- failures


async def test_a_failure_is_told_to_all_once_and_then_rests(autojump_clock) -> None:
    """Row 62: 10 s, then 20; in between nobody touches the weights."""
    async with bench() as b:
        b.loader.fails["a", "p"] = LoadFailed("the weights are torn")
        names = await b.ask_many(5, "a")
        await trio.sleep(11)
        assert set(b.told) == set(names)
        assert {type(error) for error in b.told.values()} == {LoadFailed}
        assert len({id(error) for error in b.told.values()}) == 5
        assert all(error.__cause__ is not None for error in b.told.values())
        assert b.witness.failed == [("a", "load_failed")]
        await b.asked("resting", "a")
        error = b.told["resting"]
        assert isinstance(error, LoadFailed) and error.retry_after_s == 9
        assert b.waited["resting"] == 0.0
        await trio.sleep(9)
        await b.asked("again", "a")
        await trio.sleep(11)
        await b.asked("longer", "a")
        assert b.told["longer"].retry_after_s == 19
        assert len(b.loader.began) == 2
        del b.loader.fails["a", "p"]
        await trio.sleep(19)
        await b.asked("mended", "a")
    assert b.served == ["mended"]


async def test_a_loader_that_has_a_bug_fails_the_load_and_not_the_program(autojump_clock, caplog) -> None:
    async with bench() as b:
        b.loader.fails["a", "p"] = ZeroDivisionError("one by none")
        await b.asked("a", "a")
        await trio.sleep(11)
        assert isinstance(b.told["a"], LoadFailed) and "one by none" in b.told["a"].message
        await b.asked("b", "b")
    assert b.served == ["b"]
    assert any(record.exc_info for record in caplog.records if "load.crashed" in record.message)


REFUSALS = [
    Busy("all are seated"),
    DoesNotFit("17 bytes short"),
    NoRoom("not now"),
    NotHereNow("sent away at once"),
    Overloaded("too many wait"),
    Stopping("it drains"),
    Unreachable("connection refused"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.code)
async def test_a_place_that_refuses_sends_those_who_wait_elsewhere(
    autojump_clock, error: CortexError
) -> None:
    """Rows 66 and 70."""
    async with bench(("p", 100), ("q", 90)) as b:
        b.loader.fails["a", "p"] = error
        names = await b.ask_many(3, "a")
    assert b.loader.began == [("a", "p"), ("a", "q")]
    assert sorted(b.served) == names and not b.told
    assert b.waited[names[0]] == 20.0


async def test_when_every_place_refuses_each_is_asked_once_and_all_are_told(autojump_clock) -> None:
    """A refusal that comes at once must not become a loop."""
    async with bench(("p", 100), ("q", 90), takes_s=0.0, delegates=True) as b:
        for name in ("p", "q"):
            b.loader.fails["a", name] = Busy(f"{name} is full of pinned models")
        await b.ask_many(3, "a")
        assert b.loader.began == [("a", "p"), ("a", "q")]
        assert {(type(error), error.retry_after_s) for error in b.told.values()} == {(NoRoom, 10.0)}
        for _ in range(50):
            b.ask("more", "a")
        await wait_all_tasks_blocked()
        assert len(b.loader.began) == 2
        await trio.sleep(10)
        await b.asked("later", "a")
        assert len(b.loader.began) == 4


# -- patience


async def test_a_load_that_is_slow_is_told_as_loading_and_goes_on(autojump_clock) -> None:
    """Row 63: with what is left of the time that it usually takes."""
    async with bench(takes_s=400.0) as b:
        await b.asked("early", "a")
        await trio.sleep(200)
        await b.asked("late", "a")
        await trio.sleep(150)
        error = b.told["early"]
        assert isinstance(error, Loading) and b.waited["early"] == LOAD_S
        assert error.facts == {"loading_for_s": 300.0}
    assert b.served == ["late"]
    assert b.loader.ended == [("a", "p", "done")]


async def test_what_a_load_took_last_time_is_when_to_come_again(autojump_clock) -> None:
    """Row 63."""
    async with bench(takes_s=400.0) as b:
        await b.dispatch.bring(want("a"))
        b.ledger.gone("p", "a")
        await b.asked("a", "a")
        await trio.sleep(301)
        assert b.told["a"].retry_after_s == 100


async def test_no_seat_in_time_is_told_as_overloaded_with_the_position(autojump_clock) -> None:
    async with bench(slots=1) as b:
        await b.dispatch.bring(want("a"))
        await b.asked("holder", "a", sits_s=100.0)
        await b.asked("first", "a")
        await trio.sleep(1)
        await b.asked("second", "a")
        await trio.sleep(QUEUE_S + 1)
        assert list(b.told) == ["first", "second"]
        assert isinstance(b.told["first"], Overloaded) and b.told["first"].not_started
        assert b.told["first"].facts == {"queue_position": 1}
        assert b.waited["first"] == b.waited["second"] == QUEUE_S
    assert b.served == ["holder"]


async def test_who_has_waited_elsewhere_waits_for_what_is_left_at_most(
    autojump_clock,
) -> None:
    async with bench(slots=1) as b:
        await b.dispatch.bring(want("a"))
        await b.asked("holder", "a", sits_s=QUEUE_S + 5)
        await b.asked("short", "a", patience_s=3.0)
        await b.asked("long", "a", patience_s=10 * QUEUE_S)
        await trio.sleep(QUEUE_S + 1)
        assert (b.waited["short"], b.waited["long"]) == (3.0, QUEUE_S)
        assert isinstance(b.told["short"], Overloaded) and isinstance(b.told["long"], Overloaded)


async def test_no_room_in_time_is_told_as_no_capacity(autojump_clock) -> None:
    async with bench() as b:
        b.tell("p", 60, resident("a", 60))
        await b.asked("holder", "a", 60, sits_s=400.0)
        await b.asked("blocked", "b", 60)
        await trio.sleep(LOAD_S + 1)
        assert isinstance(b.told["blocked"], NoRoom)
        assert b.waited["blocked"] == LOAD_S
        assert b.ledger.waiting == 0


async def test_a_loader_that_never_ends_holds_nobody_beyond_his_patience(autojump_clock) -> None:
    """Row 72: an event that is never set. The waiters get an answer, and other models are served."""
    async with bench(by_hand=True) as b:
        names = await b.ask_many(20, "stuck")
        await trio.sleep(LOAD_S + 1)
        assert {type(b.told[name]) for name in names} == {Loading}
        assert b.ledger.oldest is None
        b.tell("q", 100, resident("b"))
        await b.asked("b", "b")
        assert b.served == ["b"]
        b.loader.finish("stuck")


async def test_an_order_waits_for_as_long_as_its_load_goes_on(autojump_clock) -> None:
    """An hour from a slow disk is no failure; nobody sits, and it is of no age that would keep it."""
    async with bench(takes_s=3600.0) as b:
        brought = await b.dispatch.bring(want("a", weight=3))
        assert trio.current_time() == 3600.0
        assert brought.seats == 0 and brought.idle
        assert await b.dispatch.bring(want("a")) is brought


async def test_an_order_for_which_there_is_no_room_ends_with_patience(autojump_clock) -> None:
    async with bench() as b:
        b.tell("p", 60, resident("a", 60))
        await b.asked("holder", "a", 60, sits_s=400.0)
        with pytest.raises(NoRoom):
            await b.dispatch.bring(want("b", 60))
        assert trio.current_time() == LOAD_S


async def test_an_order_hears_why_its_load_failed(autojump_clock) -> None:
    async with bench() as b:
        b.loader.fails["a", "p"] = Loading("a neuron's own patience ended")
        for _ in range(2):
            with pytest.raises(Loading):
                await b.dispatch.bring(want("a"))
        assert len(b.loader.began) == 1


# -- places that go


async def test_a_lost_place_has_its_load_abandoned_and_the_waiters_go_elsewhere(autojump_clock) -> None:
    """Rows 24 and 67."""
    async with bench(("p", 100), ("q", 90), delegates=True) as b:
        names = await b.ask_many(3, "a")
        await trio.sleep(5)
        taken = b.ledger.lost("p", "connection refused")
        b.dispatch.abandon(taken)
        b.dispatch.wake()
        await wait_all_tasks_blocked()
        assert b.loader.ended == [("a", "p", "cut")]
        assert b.loader.began == [("a", "p"), ("a", "q")]
        b.dispatch.abandon(taken)  # twice does no harm, and not to the new load
    assert sorted(b.served) == names
    assert b.witness.failed == [("a", "shutting_down")]
    assert [model for model, *_ in b.witness.done] == ["a"]


async def test_a_load_is_abandoned_though_its_task_has_not_begun(autojump_clock) -> None:
    async with bench(("p", 100), delegates=True) as b:
        b.ask("a", "a")

        async def lose_it() -> None:
            while not b.ledger.loads:
                await trio.lowlevel.checkpoint()
            b.dispatch.abandon(b.ledger.lost("p", "gone"))

        await lose_it()
        await wait_all_tasks_blocked()
        assert [how for *_, how in b.loader.ended] in ([], ["cut"])
        assert isinstance(b.told["a"], Recovering)


async def test_loads_that_are_given_up_are_told_to_those_who_wait(autojump_clock) -> None:
    """As at the end of a neuron: nobody elsewhere could take it."""
    async with bench() as b:
        await b.ask_many(2, "a")
        b.dispatch.abandon(list(b.ledger.loads.values()))
        await wait_all_tasks_blocked()
        assert {type(error) for error in b.told.values()} == {Stopping}
        assert b.loader.began == [("a", "p")]


async def test_a_load_that_is_called_off_costs_the_next_one_who_asks_nothing(autojump_clock) -> None:
    async with bench(by_hand=True) as b:
        scope = await b.asked("first", "a")
        scope.cancel()
        await wait_all_tasks_blocked()
        (load,) = b.ledger.loads.values()
        b.dispatch.call_off(load)
        b.ask("second", "a")  # comes before the load has ended
        await wait_all_tasks_blocked()
        assert b.loader.ended == [("a", "p", "cut")]
        assert b.loader.began == [("a", "p"), ("a", "p")]
        b.dispatch.call_off(load)  # twice does no harm, and not to the new load
        b.loader.finish("a")
        await wait_all_tasks_blocked()
    assert (b.served, b.told) == (["second"], {})


async def test_a_load_that_ends_as_it_is_called_off_has_come_in(autojump_clock) -> None:
    async with bench(by_hand=True) as b:
        await b.asked("first", "a")
        (load,) = b.ledger.loads.values()
        b.loader.finish("a")
        b.dispatch.call_off(load)
        await wait_all_tasks_blocked()
        ends = [how for *_, how in b.loader.ended]
        assert b.loader.began == [("a", "p")] * len(ends)
        if "cut" in ends:
            b.loader.finish("a")
    assert b.served == ["first"]


async def test_a_load_that_nobody_waits_for_is_called_off_for_what_needs_its_room(autojump_clock) -> None:
    """Rows 29 and 61: it goes on until then, and the next one begins when nothing is left of it."""
    async with bench(by_hand=True) as b:
        b.loader.lets_go_s = 3.0
        left = await b.asked("left", "a", 60)
        left.cancel()
        await trio.sleep(20.0)
        assert list(b.loader.running) == [("a", "p")]
        await b.asked("small", "b", 40)
        assert sorted(b.loader.running) == [("a", "p"), ("b", "p")], "there is room for both"
        await b.asked("next", "c", 60)
        assert b.loader.began == [("a", "p"), ("b", "p")]
        await trio.sleep(2.9)
        assert ("c", "p") not in b.loader.running
        await trio.sleep(0.2)
        assert b.loader.ended == [("a", "p", "cut")]
        assert sorted(b.loader.running) == [("b", "p"), ("c", "p")]
        b.loader.finish("b")
        b.loader.finish("c")
    assert (sorted(b.served), b.told) == (["next", "small"], {})
    assert b.witness.done[1][2] == (), "what never was here was not sent away"


@pytest.mark.parametrize("who", ["request", "order"])
async def test_a_load_that_somebody_waits_for_is_not_called_off(autojump_clock, who: str) -> None:
    async with bench(by_hand=True) as b:
        left = await b.asked("left", "a", 60)
        left.cancel()
        if who == "order":
            b.nursery.start_soon(b.dispatch.bring, want("a", 60))
        else:
            b.ask("other", "a", 60)
        await wait_all_tasks_blocked()
        await b.asked("next", "b", 60)
        assert b.loader.began == [("a", "p")]
        b.loader.finish("a")
        await trio.sleep(AGE_S + 1.0)
        assert b.loader.ended == [("a", "p", "done")] and b.loader.began[1:] == [("b", "p")]
        b.loader.finish("b")
    assert b.told == {}


async def test_who_comes_for_a_load_as_it_is_called_off_has_it_begun_anew(autojump_clock) -> None:
    async with bench(by_hand=True) as b:
        b.loader.lets_go_s = 3.0
        (await b.asked("left", "a", 60)).cancel()
        await b.asked("next", "b", 60)
        await b.asked("late", "a", 60)
        await trio.sleep(5.0)
        assert b.loader.began == [("a", "p"), ("b", "p")]
        b.loader.finish("b")
        await trio.sleep(AGE_S + 1.0)
        assert b.loader.began[2:] == [("a", "p")]
        b.loader.finish("a")
    assert (b.served, b.told) == (["next", "late"], {})


async def test_who_called_a_load_off_may_be_called_off_before_it_began(autojump_clock) -> None:
    async with bench(by_hand=True) as b:
        b.loader.lets_go_s = 3.0
        (await b.asked("left", "a", 60)).cancel()
        (await b.asked("left too", "b", 60)).cancel()
        await b.asked("next", "c", 60)
        assert b.loader.began == [("a", "p")]
        await trio.sleep(5.0)
        assert b.loader.began == [("a", "p"), ("c", "p")]
        b.loader.finish("c")
    assert (b.served, b.told) == (["next"], {})


async def test_a_load_that_comes_in_as_it_is_called_off_is_sent_away(autojump_clock) -> None:
    """The engine was quicker: it is unloaded as any victim is, before the next one comes in."""
    async with bench(by_hand=True) as b:
        (await b.asked("left", "a", 60)).cancel()
        await wait_all_tasks_blocked()
        b.loader.finish("a")
        b.ask("next", "b", 60)
        await wait_all_tasks_blocked()
        assert [one.model for one in b.ledger.place("p") or ()] in (["a"], ["b"], ["a", "b"])
        await trio.sleep(AGE_S + 1.0)
        b.loader.finish("b")
    assert b.served == ["next"]


async def test_a_gateway_lets_a_load_go_that_its_neuron_may_finish_for_others(autojump_clock) -> None:
    """The neuron's next report tells what became of it; until then there is no second copy elsewhere."""
    async with bench(("p", 100), ("q", 100), by_hand=True, delegates=True) as b:
        (await b.asked("left", "a", 60)).cancel()
        await b.asked("pins q", "q", 90, spec={"pinned_on": ("q",)})
        await b.asked("next", "b", 60)
        await wait_all_tasks_blocked()
        assert b.loader.ended == [("a", "p", "cut")]
        assert sorted(b.loader.running) == [("b", "p"), ("q", "q")]
        await b.asked("late", "a", 60)
        assert sorted(b.loader.running) == [("b", "p"), ("q", "q")]
        await trio.sleep(1.0)
        b.tell("p", 100, resident("a", 60))
        await trio.sleep(0.0)
        await wait_all_tasks_blocked()
        assert "late" in b.served
        b.loader.finish("b")
        b.loader.finish("q", "q")


async def test_a_scheduler_that_is_stuck_holds_nobody_beyond_his_patience(autojump_clock) -> None:
    """Row 72: whoever waits has a clock of his own."""

    class Stuck(Ledger):
        def settle(self):  # type: ignore[no-untyped-def]
            return []

    async with bench(kind=Stuck) as b:
        b.tell("p", 100, resident("a", slots=1))
        await b.asked("sits", "a", sits_s=1.0)
        await b.asked("waits", "a")
        await trio.sleep(QUEUE_S + 1.0)
        assert b.waited["waits"] == QUEUE_S and isinstance(b.told["waits"], Overloaded)


async def test_an_order_says_whether_it_is_refused_at_once(autojump_clock) -> None:
    async with bench(by_hand=True) as b:
        with pytest.raises(DoesNotFit):
            await b.nursery.start(b.dispatch.bring, want("a", 1000))
        await b.nursery.start(b.dispatch.bring, want("a", 10))
        assert list(b.ledger.loads) == ["a"]
        await wait_all_tasks_blocked()
        b.loader.finish("a")


async def test_whoever_keeps_places_hears_of_each_change(autojump_clock) -> None:
    async with bench() as b:
        heard = 0

        async def listen() -> None:
            nonlocal heard
            while True:
                await b.dispatch.changed()
                heard += 1

        b.nursery.start_soon(listen)
        await b.asked("a", "a")
        begun = heard
        await trio.sleep(20)
        assert b.served == ["a"] and heard > begun
        b.nursery.cancel_scope.cancel()


@pytest.mark.parametrize("back", [True, False])
async def test_a_place_in_doubt_makes_arrivals_wait_until_it_is_known(autojump_clock, back: bool) -> None:
    async with bench(delegates=True) as b:
        b.tell("p", 100, resident("warm"))
        b.ledger.doubt("p", "the connection broke")
        b.ask("warm", "warm"), b.ask("cold", "cold")
        await trio.sleep(1)
        assert not b.served and not b.told
        # Whoever tells the ledger need not wake anybody.
        if back:
            b.tell("p", 100, resident("warm"))
        else:
            b.ledger.lost("p", "connection refused")
        await wait_all_tasks_blocked()
        assert b.served == (["warm"] if back else [])
        assert sorted(b.told) == ([] if back else ["cold", "warm"])
        assert b.loader.began == ([("cold", "p")] if back else [])


# -- the end of the dispatcher


async def test_a_cancelled_dispatcher_forgets_its_loads_and_ends_every_wait(autojump_clock) -> None:
    async with bench(slots=1) as b:
        b.tell("p", 100, resident("a", slots=1), resident("old", 40))
        before = repr(b.ledger)
        await b.asked("seated", "a", sits_s=5.0)
        await b.asked("waiting", "a")
        await b.asked("loading", "c", 60)
        assert "loads=1" in repr(b.ledger)
        b.scope.cancel()
        await wait_all_tasks_blocked()
        assert {name: type(error) for name, error in b.told.items()} == {
            "waiting": Stopping,
            "loading": Stopping,
        }
        assert b.loader.ended == [("c", "p", "cut")]
        await b.asked("late", "a")
        assert isinstance(b.told["late"], Stopping)
        b.dispatch.wake()  # harmless
        await trio.sleep(6)  # the seat is given back
        # All as before, but for the victim that the loader had sent away already.
        assert repr(b.ledger) == before.replace("residents=2", "residents=1")


async def test_nobody_is_seated_before_the_dispatcher_runs() -> None:
    ledger = Ledger(trio.current_time, policy())
    dispatch = Dispatch(ledger, RecordingLoader(ledger), Patience(1.0, 1.0), RecordingWitness())
    dispatch.wake()
    with pytest.raises(Stopping):
        async with dispatch.seat(want("a")):
            pytest.fail("somebody sat down")
    assert ledger.waiting == 0


# -- emptying


async def test_emptied_waits_until_the_last_one_stood_up(autojump_clock) -> None:
    async with bench() as b:
        one = await b.dispatch.bring(want("a"))
        await b.dispatch.emptied(one)
        for number in range(4):
            await b.asked(f"r{number}", "a", sits_s=number + 1.0)
        start = trio.current_time()
        b.ledger.leaving("p", "a", force=True)
        await b.dispatch.emptied(one)
        assert trio.current_time() - start == 4.0
        b.ledger.gone("p", "a")


async def test_emptied_costs_nothing_while_it_waits_and_misses_nothing(autojump_clock) -> None:
    """Everything happens in one breath: the last two stand up while others are woken."""
    async with bench(slots=2) as b:
        one = await b.dispatch.bring(want("a"))
        await b.asked("x", "a", sits_s=1.0)
        await b.asked("y", "a", sits_s=1.0)
        ends: list[float] = []

        async def wait() -> None:
            await b.dispatch.emptied(one)
            ends.append(trio.current_time())

        start = trio.current_time()
        for _ in range(3):
            b.nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        b.scope.cancel()  # nor does it need the dispatcher to run
        await trio.sleep(2)
        assert ends == [start + 1.0] * 3


async def test_a_seated_request_that_is_never_served_its_turn_empties_too(autojump_clock) -> None:
    """Cancelled as it is seated: who waits for the resident to empty hears of it."""
    async with bench(slots=1) as b:
        one = await b.dispatch.bring(want("a"))
        async with b.dispatch.seat(want("a")) as seated:
            waiter = await b.asked("unlucky", "a", sits_s=1000.0)
            b.ledger.depart(seated)
            b.dispatch.wake()
            waiter.cancel()
            assert one.seats == 1
            with trio.fail_after(1):
                await b.dispatch.emptied(one)


# -- how often it looks


class CountingLedger(Ledger):
    """Counts the looks at its lines."""

    looks = 0

    def settle(self) -> list[tuple[Ticket, Settled]]:
        self.looks += 1
        return super().settle()


async def test_a_quiet_dispatcher_sleeps(autojump_clock) -> None:
    """It looks when something changed, or a time has come; not in between."""
    async with bench(kind=CountingLedger) as b:
        b.tell("p", 60, resident("a", 60))
        await b.asked("holder", "a", 60, sits_s=100.0)
        await b.asked("blocked", "b", 60)
        b.ledger.looks = 0
        await trio.sleep(99)
        # Once: as the blocked one gains the right to close its victim.
        assert b.ledger.looks == 1


# -- the books


def test_loads_are_entered_into_the_metrics() -> None:
    metrics = Metrics(lambda model: model in ("a", "b"))
    LoadBook(metrics).load_done("a", 2.5, ("x", "y"))
    LoadBook(metrics, evicts=False).load_done("a", 1.5, ("x", "y"))
    LoadBook(metrics).load_failed("b", LoadFailed("torn"))
    page = metrics.render().decode()
    assert 'cortex_cold_starts_total{model="a"} 2.0' in page
    assert 'cortex_cold_starts_total{model="b"} 1.0' in page
    assert 'cortex_load_seconds_sum{model="a"} 4.0' in page
    assert 'cortex_evictions_total{reason="room"} 2.0' in page


async def test_the_beats_of_a_load_are_logged(autojump_clock, caplog) -> None:
    caplog.set_level(logging.INFO)
    async with bench() as b:
        b.tell("p", 60, resident("old", 60))
        b.loader.fails["b", "p"] = LoadFailed("torn")
        await b.dispatch.bring(want("a", 60))
        with pytest.raises(LoadFailed):
            await b.dispatch.bring(want("b", 60))
        await b.dispatch.bring(want("c", 10))
    beats = [record.getMessage() for record in caplog.records if record.name == "cortex.dispatch"]
    assert beats == [
        "load.started model=a place=p victims=old",
        "load.done model=a place=p seconds=10.00",
        "load.started model=b place=p victims=a",
        "load.failed model=b place=p error=torn",
        "load.started model=c place=p victims=-",
        "load.done model=c place=p seconds=10.00",
    ]


async def test_a_load_that_ends_with_what_carries_it_is_no_warning(autojump_clock, caplog) -> None:
    """A device that stops says so to the load it had: whoever stopped it wanted that."""
    caplog.set_level(logging.INFO)
    async with bench() as b:
        b.loader.fails["a", "p"] = Stopping("the device is not running")
        await b.asked("a", "a")
        await trio.sleep(11)
    (failed,) = (record for record in caplog.records if "load.failed" in record.getMessage())
    assert failed.levelno == logging.INFO


async def test_what_is_known_to_need_more_is_placed_anew_for_all_who_wait(autojump_clock) -> None:
    async with bench() as b:
        b.ask("old", "old", 50)
        await trio.sleep(60)
        b.loader.fails["new", "p"] = Revised(60)
        for name in ("x", "y"):
            b.ask(name, "new", 0)
        await trio.sleep(5)
        # It needs nothing yet, so nobody had to go.
        await b.asked("meanwhile", "old", 50)
        assert b.served == ["old", "meanwhile"]
        await trio.sleep(6)
        assert [resident.bytes for _, resident in b.ledger.holders("new")] == [60]
        assert not b.ledger.holders("old")
        del b.loader.fails["new", "p"]
        await trio.sleep(10)
        assert sorted(b.served) == ["meanwhile", "old", "x", "y"]
        assert (b.witness.failed, b.told) == ([], {})
        assert b.loader.began.count(("new", "p")) == 2


async def test_what_turns_out_to_fit_nowhere_is_told_to_all_who_wait(autojump_clock) -> None:
    async with bench() as b:
        b.loader.fails["new", "p"] = Revised(101)
        for name in ("x", "y"):
            b.ask(name, "new", 0)
        await trio.sleep(11)
        assert {type(error) for error in b.told.values()} == {DoesNotFit}
        assert b.told["x"].facts["needed_bytes"] == 101
        assert not b.ledger.holders("new") and not b.ledger.loads


async def test_what_nobody_waits_for_any_more_is_not_placed_anew(autojump_clock) -> None:
    async with bench() as b:
        b.loader.fails["new", "p"] = Revised(60)
        scope = b.ask("x", "new", 0)
        await trio.sleep(5)
        scope.cancel()
        await trio.sleep(20)
        assert b.loader.began == [("new", "p")]
        assert not b.ledger.holders("new") and not b.ledger.loads
