"""Who lives, sits and waits where: one decision after another, without any waiting."""

import pytest

from cortex.errors import (
    BadAsk,
    Busy,
    CortexError,
    DoesNotFit,
    LoadFailed,
    Loading,
    NeverFits,
    NoRoom,
    NotHereNow,
    Overloaded,
    Recovering,
    Stopping,
    TooSlow,
    Unfit,
    UpstreamFailed,
)
from cortex.ledger import Ledger, Load, Refuse, Serve, Wait, Want
from cortex.ledger.outlook import Outlook
from cortex.ledger.rests import COOL_DOWN_S
from cortex.places import Room
from tests.fake_ledger import AGE_S, OVERTAKE_S, Books, Clock, books, policy, resident, want


def fleet(*names: str, total: int = 100, **rules: object) -> Books:
    """A gateway's ledger with empty places."""
    made = books(None, delegates=True, **rules)
    for name in names:
        made.tell(name, total)
    return made


def refusal(decision: object) -> CortexError:
    assert isinstance(decision, Refuse), decision
    return decision.error


def waits(decision: object) -> str:
    assert isinstance(decision, Wait), decision
    return decision.reason


# -- seats


def test_who_finds_a_seat_holds_it_until_he_leaves() -> None:
    book = books(100, resident("a", slots=2))
    before = repr(book.ledger)
    ticket, decision = book.arrive("a")
    ((place, one),) = book.ledger.holders("a")
    assert decision == Serve(place, one)
    assert (one.seats, one.busy, one.idle) == (1, 1, False)
    assert ticket.place is place and ticket.resident is one
    book.ledger.depart(ticket)
    book.ledger.depart(ticket)  # twice does no harm
    assert (one.seats, one.busy, one.idle) == (0, 0, True)
    assert ticket.place is None and ticket.resident is None
    assert repr(book.ledger) == before


def test_sitting_down_and_standing_up_is_use() -> None:
    book = books(100, resident("a"))
    ((_, one),) = book.ledger.holders("a")
    book.clock.pass_by(5)
    ticket = book.sit("a")
    assert one.last_used == book.clock()
    book.clock.pass_by(5)
    book.ledger.depart(ticket)
    assert one.last_used == book.clock()


def test_seats_never_exceed_slots_and_the_first_in_line_is_the_next() -> None:
    book = books(100, resident("a", slots=2))
    seated = [book.sit("a"), book.sit("a")]
    waiting = [book.arrive("a") for _ in range(3)]
    assert [waits(decision) for _, decision in waiting] == ["slots"] * 3
    assert (book.ledger.waiting, book.ledger.waiting_for("a"), book.ledger.waiting_for("b")) == (3, 3, 0)
    for leaver, (heir, _) in zip(seated, waiting, strict=False):
        book.ledger.depart(leaver)
        assert {ticket: type(decision) for ticket, decision in book.ledger.settle()} == {heir: Serve}
    assert book.ledger.waiting == 1


def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    """A seat that is free for a moment belongs to the first in line."""
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    first, _ = book.arrive("a")
    book.ledger.depart(seated)
    _, decision = book.arrive("a")
    assert waits(decision) == "slots"
    assert list(book.settle()) == [first]


def test_one_who_wants_several_seats_is_not_passed_by_those_who_want_one() -> None:
    book = books(100, resident("a", slots=3))
    seated = [book.sit("a"), book.sit("a")]
    wide, decision = book.arrive("a", weight=3)
    assert waits(decision) == "slots"
    narrow, _ = book.arrive("a")
    book.ledger.depart(seated[0])
    assert book.settle() == {}
    book.ledger.depart(seated[1])
    assert list(book.settle()) == [wide]
    book.ledger.depart(wide)
    assert list(book.settle()) == [narrow]


def test_more_seats_than_any_replica_has_are_refused_by_the_fields_name() -> None:
    book = fleet("p", "q")
    book.tell("p", 100, resident("a", slots=2))
    book.tell("q", 100, resident("a", slots=3, elsewhere=9))
    error = refusal(book.arrive("a", weight=4)[1])
    assert isinstance(error, BadAsk) and error.param == "n"
    assert "3 slots" in error.message
    ticket = book.sit("a", weight=3)
    assert ticket.place is not None and ticket.place.name == "q"


def test_without_a_number_of_slots_everyone_sits() -> None:
    book = books(100, resident("a"))
    assert all(book.seated(book.sit("a") for _ in range(50)))


def test_a_full_replica_sends_to_the_next() -> None:
    book = fleet()
    book.tell("p", 100, resident("a", slots=1))
    book.tell("q", 100, resident("a", slots=1, elsewhere=7))
    places = [book.sit("a").place for _ in range(2)]
    assert [at.name for at in places if at] == ["p", "q"]
    assert waits(book.arrive("a")[1]) == "slots"


def test_who_leaves_the_line_leaves_nothing_behind() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a")
    before = repr(book.ledger)
    tickets = [book.arrive("a")[0] for _ in range(3)]
    for ticket in (tickets[1], tickets[0], tickets[0], tickets[2]):
        book.ledger.depart(ticket)
    assert repr(book.ledger) == before
    assert book.ledger.oldest is None


def test_the_longest_waiting_is_known() -> None:
    """Row 72: progress is how long the oldest has waited. An order has no patience to lose."""
    book = books(100, resident("a", slots=1), resident("b", slots=1))
    assert book.ledger.oldest is None
    book.begin("slow", weight=0)
    assert book.ledger.oldest is None
    book.clock.pass_by(3)
    book.sit("a"), book.sit("b")
    first, _ = book.arrive("a")
    book.clock.pass_by(3)
    second, _ = book.arrive("b")
    assert book.ledger.oldest == first.arrived
    book.ledger.depart(first)
    assert book.ledger.oldest == second.arrived


# -- the line's bound


def test_a_full_line_refuses_and_says_the_position() -> None:
    """Row 60: over the bound it is full, whatever the model."""
    book = books(100, resident("a", slots=1), resident("b", slots=1), queue=2)
    book.sit("a"), book.sit("b")
    waiting = [book.arrive("a")[0], book.arrive("b")[0]]
    ticket, decision = book.arrive("b")
    error = refusal(decision)
    assert isinstance(error, Overloaded) and error.not_started
    assert error.retry_after_s is not None
    assert error.facts == {"queue_position": 3}
    book.ledger.depart(ticket)
    assert book.ledger.waiting == 2
    # A waiter who leaves frees its place.
    book.ledger.depart(waiting[0])
    assert waits(book.arrive("b")[1]) == "slots"


def test_each_model_of_a_neuron_has_a_bound_of_its_own() -> None:
    book = books(100, resident("a", slots=1), resident("b", slots=1), queue=2, queue_per_model=True)
    book.sit("a"), book.sit("b")
    for model in ("a", "a", "b", "b"):
        assert waits(book.arrive(model)[1]) == "slots"
    assert isinstance(refusal(book.arrive("a")[1]), Overloaded)
    assert book.ledger.waiting == 4


def test_who_causes_a_load_may_stand_in_a_full_line() -> None:
    book = books(100, queue=0)
    _, load = book.begin("a")
    assert isinstance(refusal(book.arrive("a")[1]), Overloaded)
    assert len(book.finish(load, slots=1)) == 1


# -- one load, however many wait


def test_a_cold_model_is_loaded_once_and_all_who_wait_are_seated_in_order() -> None:
    """Row 60."""
    book = books(100)
    first, load = book.begin("a", 40)
    joined = [book.arrive("a", 40) for _ in range(499)]
    assert {waits(decision) for _, decision in joined} == {"load"}
    assert book.settle() == {}
    assert dict(book.ledger.loads) == {"a": load}
    assert book.living() == {"a": "loading"}
    assert list(book.finish(load, slots=500)) == [first, *(ticket for ticket, _ in joined)]
    assert book.ledger.waiting == 0
    assert book.living() == {"a": "loaded"}


def test_a_load_reserves_its_bytes_and_is_timed() -> None:
    book = books(100)
    _, load = book.begin("a", 60)
    assert book.ledger.place("p").free("g") == 40
    assert load.resident.loaded_at == book.clock()
    book.clock.pass_by(12)
    book.finish(load)
    ((place, one),) = book.ledger.holders("a")
    assert (one.load_s, one.loaded_at, one.last_used) == (12.0, book.clock(), book.clock())
    assert place.free("g") == 40


def test_what_was_measured_replaces_what_was_promised() -> None:
    book = books(100)
    _, load = book.begin("a", 60)
    book.ledger.loaded(load, resident("a", 55, slots=3, pinned=True, priority=7))
    ((place, one),) = book.ledger.holders("a")
    assert (place.free("g"), one.slots, one.pinned, one.priority) == (45, 3, True, 7)


def test_two_models_that_fit_together_load_at_the_same_time() -> None:
    book = books(100)
    book.begin("a", 60)
    book.begin("b", 40)
    assert book.ledger.place("p").free("g") == 0
    assert waits(book.arrive("c", 1)[1]) == "room"


def test_a_loaded_model_is_served_while_others_come_and_go() -> None:
    """Row 71."""
    book = books(100, resident("a", 20, slots=1), resident("old", 40))
    book.begin("b", 40)
    book.begin("c", 40)
    assert book.living() == {"a": "loaded", "old": "leaving", "b": "loading", "c": "loading"}
    ticket = book.sit("a")
    book.ledger.depart(ticket)
    book.sit("a")


def test_the_first_waiter_may_leave_and_the_load_goes_on() -> None:
    """Row 61."""
    book = books(100)
    first, load = book.begin("a")
    second, _ = book.arrive("a")
    book.ledger.depart(first)
    assert book.settle() == {}
    assert list(book.finish(load)) == [second]


def test_a_load_that_nobody_waits_for_goes_on_too() -> None:
    """Row 29: until something else needs the room."""
    book = books(100)
    ticket, load = book.begin("a", 100)
    book.ledger.depart(ticket)
    assert book.finish(load) == {}
    assert book.living() == {"a": "loaded"}
    book.clock.pass_by(AGE_S)
    _, other = book.begin("b", 100)
    assert other.victims == ("a",)


# -- orders: the model resident, no seat


def test_an_order_takes_no_seat_and_is_no_reason_to_stay() -> None:
    book = books(100, resident("a", slots=1))
    order = book.sit("a", weight=0)
    assert book.ledger.holders("a")[0][1].idle
    book.sit("a")
    book.ledger.depart(order)


def test_an_order_for_a_busy_model_does_not_wait_for_a_seat() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a"), book.arrive("a")
    assert book.sit("a", weight=0).resident is not None


def test_an_order_that_waits_for_a_load_is_answered_before_the_seats_run_out() -> None:
    """It stands behind forty requests, and the model has one slot."""
    book = books(100)
    first, load = book.begin("a")
    for _ in range(40):
        book.arrive("a")
    order, decision = book.arrive("a", weight=0)
    assert waits(decision) == "load"
    assert set(book.finish(load, slots=1)) == {first, order}


# -- making room


def test_the_coldest_leaves_for_a_newcomer_and_serves_nobody_from_then_on() -> None:
    book = books(100, resident("a", 60, last_used=1.0), resident("b", 40, last_used=2.0))
    _, load = book.begin("c", 50)
    assert load.victims == ("a",)
    assert book.living() == {"a": "leaving", "b": "loaded", "c": "loading"}
    assert waits(book.arrive("a", 60)[1]) == "room"
    book.sit("b")


def test_a_victim_that_came_in_again_is_none_when_the_load_ends() -> None:
    """It was unloaded for one load, and sent another model away before that load was there."""
    book = books(100, resident("a", 60, last_used=1.0), resident("b", 40, last_used=2.0))
    _, load = book.begin("c", 60)
    book.ledger.gone("p", "a")
    back, again = book.begin("a", 40)
    assert (load.victims, again.victims) == (("a",), ("b",))
    book.ledger.loaded(load, resident("c", 60))
    assert book.living() == {"b": "leaving", "a": "loading", "c": "loaded"}
    assert back in book.finish(again)


def test_a_load_that_fails_takes_nobody_back_whom_another_one_sends_away() -> None:
    book = books(100, resident("a", 60, last_used=1.0), resident("b", 40, last_used=2.0))
    _, load = book.begin("c", 60)
    book.ledger.gone("p", "a")
    back, again = book.begin("a", 40)
    book.finish(again)
    book.ledger.depart(back)
    book.clock.pass_by(AGE_S)
    _, other = book.begin("d", 40)
    assert other.victims == ("a",)
    book.ledger.failed(load, LoadFailed("no"))
    assert book.living() == {"a": "leaving", "d": "loading"}


def test_in_the_same_tick_either_the_request_or_the_eviction_wins() -> None:
    """Row 64: whoever comes first; the other waits, and neither for ever."""
    book = books(60, resident("a", 60, slots=1))
    seat = book.sit("a", 60)
    blocked, decision = book.arrive("b", 60)
    assert waits(decision) == "room"
    book.ledger.depart(seat)
    ((ticket, load),) = book.settle().items()
    assert ticket is blocked and isinstance(load, Load) and load.victims == ("a",)

    book = books(60, resident("a", 60, slots=1))
    _, load = book.begin("b", 60)
    late, decision = book.arrive("a", 60)
    assert waits(decision) == "room"
    told = book.finish(load, slots=1)
    assert set(told) == {ticket for ticket in told if ticket.want.model == "b"}
    # Its turn comes when the one that displaced it is of age.
    assert book.ledger.due == book.clock() + AGE_S
    for ticket in told:
        book.ledger.depart(ticket)
    book.clock.pass_by(AGE_S)
    assert [(ticket, type(answer)) for ticket, answer in book.ledger.settle()] == [(late, Load)]


def test_who_is_seated_is_waited_for_and_never_evicted() -> None:
    """Row 65."""
    book = books(100, resident("a", 60), resident("b", 40, pinned=True))
    seats = [book.sit("a"), book.sit("a")]
    blocked, decision = book.arrive("c", 60)
    assert waits(decision) == "room"
    book.ledger.depart(seats[0])
    assert book.settle() == {}
    assert book.living() == {"a": "loaded", "b": "loaded"}
    book.ledger.depart(seats[1])
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (blocked, ("a",))


def test_who_is_young_stays_until_it_is_of_age_to_the_moment() -> None:
    """Row 66."""
    book = books(60)
    book.clock.now = 1000.1  # and thirty seconds later is no round number either
    ticket, load = book.begin("a", 60)
    book.finish(load)
    book.ledger.depart(ticket)
    blocked, decision = book.arrive("b", 60)
    assert waits(decision) == "room"
    assert decision.until == 1000.1 + AGE_S
    assert book.ledger.due == 1000.1 + AGE_S
    book.clock.now = 1000.1 + AGE_S - 0.001
    assert book.settle() == {}
    book.clock.now = 1000.1 + AGE_S
    assert list(book.settle()) == [blocked]
    assert book.ledger.due == float("inf")


def test_two_that_are_ordered_at_once_and_do_not_fit_together_come_in_turn() -> None:
    """Row 66: two gateways, one device. The second waits for the first to load, and to come of age."""
    book = books(100)
    first, load = book.begin("a", 60, weight=0)
    second, decision = book.arrive("b", 60, weight=0)
    assert waits(decision) == "room"
    assert list(book.finish(load)) == [first]
    book.ledger.depart(first)
    assert book.settle() == {}
    book.clock.pass_by(AGE_S)
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (second, ("a",))


def test_who_is_on_the_way_out_is_waited_for() -> None:
    book = books(100, resident("a", 60))
    book.ledger.leaving("p", "a")
    blocked, decision = book.arrive("b", 60)
    assert waits(decision) == "room"
    back, decision = book.arrive("a", 60)
    assert waits(decision) == "room"
    book.ledger.gone("p", "a")
    answers = book.settle()
    assert isinstance(answers[blocked], Load)
    assert back not in answers
    assert book.living() == {"b": "loading"}


def test_room_that_was_promised_to_one_is_not_given_to_another() -> None:
    book = books(100, resident("a", 60))
    _, load = book.begin("b", 50)
    assert load.victims == ("a",)
    third, decision = book.arrive("c", 50)
    assert waits(decision) == "room"
    # What the victim had beyond the need becomes free when it is gone, not before.
    book.ledger.gone("p", "a")
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (third, ())


def test_a_pinned_model_on_its_way_in_is_not_counted_on() -> None:
    book = books(100)
    book.begin("a", 60, spec={"pinned_on": ("p",)})
    assert isinstance(refusal(book.arrive("b", 60)[1]), Busy)


def test_an_order_that_may_not_evict_takes_free_room_only() -> None:
    book = books(100, resident("a", 60))
    assert isinstance(refusal(book.arrive("b", 60, evict=False)[1]), Busy)
    assert book.living() == {"a": "loaded"}
    book.begin("c", 40, evict=False)


def test_proposed_victims_go_first() -> None:
    book = books(100, resident("a", 50, last_used=1.0), resident("b", 50, last_used=2.0))
    assert book.begin("c", 50, prefer=("b",))[1].victims == ("b",)


# -- warm models overtake the line, but not for ever


def blocked_by(*models: str, size: int = 60) -> Books:
    """All residents are busy, each in one of its two slots."""
    book = books(size * len(models), *(resident(model, size, slots=2) for model in models))
    return book


def test_warm_models_overtake_a_blocked_line_for_so_long_and_no_longer() -> None:
    book = blocked_by("a")
    first = book.sit("a", 60)
    blocked, decision = book.arrive("b", 60)
    assert waits(decision) == "room"
    assert book.ledger.due == book.clock() + OVERTAKE_S
    book.clock.pass_by(OVERTAKE_S - 0.001)
    assert book.settle() == {}
    overtaking = book.sit("a", 60)
    book.clock.pass_by(0.001)
    assert book.settle() == {}
    # Closed: a seat is free, and nobody gets it any more.
    book.ledger.depart(overtaking)
    late, decision = book.arrive("a", 60)
    assert waits(decision) == "slots"
    assert book.settle() == {}
    book.ledger.depart(first)
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (blocked, ("a",))
    told = book.finish(load)
    assert late not in told  # it waits for room, like any other cold model


def test_who_came_before_the_blocked_one_overtakes_nobody() -> None:
    book = books(60, resident("a", 60, slots=1))
    seat = book.sit("a", 60)
    earlier, _ = book.arrive("a", 60)
    blocked, _ = book.arrive("b", 60)
    later, _ = book.arrive("a", 60)
    book.clock.pass_by(OVERTAKE_S)
    assert book.settle() == {}
    book.ledger.depart(seat)
    assert list(book.settle()) == [earlier]
    book.ledger.depart(earlier)
    assert list(book.settle()) == [blocked]
    assert later.place is None


def test_nobody_is_closed_who_is_too_young_to_leave() -> None:
    book = books(60, overtake_s=5.0)
    ticket, load = book.begin("a", 60)
    book.finish(load)
    book.arrive("b", 60)
    book.clock.pass_by(6)
    assert book.settle() == {}
    book.sit("a", 60)
    assert book.ledger.due == 1000.0 + AGE_S
    book.clock.now = 1000.0 + AGE_S
    assert book.settle() == {}
    assert waits(book.arrive("a", 60)[1]) == "slots"
    assert ticket.place is not None


def test_of_two_only_one_is_closed_and_it_stays_the_same() -> None:
    """Who is coldest changes with every request: two that are closed in turns would never empty."""
    book = blocked_by("a", "b")
    seats = {"a": [book.sit("a", 60), book.sit("a", 60)], "b": [book.sit("b", 60)]}
    blocked, _ = book.arrive("c", 60)
    book.clock.pass_by(OVERTAKE_S)
    assert book.settle() == {}
    # One of a's stands up: a is the warmest from here on, and is closed all the same.
    book.clock.pass_by(1)
    book.ledger.depart(seats["a"].pop())
    assert book.settle() == {}
    book.clock.pass_by(1)
    seats["b"].append(book.sit("b", 60))
    assert waits(book.arrive("a", 60)[1]) == "slots"
    book.clock.pass_by(1)
    book.ledger.depart(seats["b"].pop())
    assert book.settle() == {}
    assert waits(book.arrive("a", 60)[1]) == "slots"
    book.ledger.depart(seats["a"].pop())
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (blocked, ("a",))


def test_a_claim_that_cannot_work_any_more_is_given_up_for_another() -> None:
    book = blocked_by("a", "b")
    first = book.sit("a", 60)
    second = book.sit("b", 60)
    blocked, _ = book.arrive("c", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    late, decision = book.arrive("a", 60)
    assert waits(decision) == "slots"
    ((_, one),) = book.ledger.holders("a")
    one.pinned = True
    book.ledger.depart(second)  # a look at the line, for whatever reason
    assert {ticket: type(answer) for ticket, answer in book.ledger.settle()} == {blocked: Load, late: Serve}
    assert book.living() == {"a": "loaded", "b": "leaving", "c": "loading"}
    book.ledger.depart(first)


def test_when_a_claim_moves_those_it_kept_out_sit_down_at_once() -> None:
    book = blocked_by("a", "b")
    book.sit("a", 60), book.sit("b", 60)
    book.arrive("c", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    late, decision = book.arrive("a", 60)
    assert waits(decision) == "slots"
    book.ledger.holders("a")[0][1].pinned = True
    book.ledger.open("elsewhere", ())  # a reason to look
    assert list(book.settle()) == [late]
    assert waits(book.arrive("b", 60)[1]) == "slots"


def test_who_meant_to_send_the_same_one_away_claims_another_at_once() -> None:
    book = blocked_by("a", "b")
    seat = book.sit("a", 60)
    book.sit("b", 60)
    first, _ = book.arrive("c", 60)
    book.arrive("d", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    book.ledger.depart(book.sit("b", 60))  # both claim a
    book.ledger.depart(seat)
    assert list(book.settle()) == [first]
    assert waits(book.arrive("b", 60)[1]) == "slots"


def test_when_a_claim_moves_those_it_held_up_come_in_at_once() -> None:
    book = books(110, resident("a", 60))
    book.sit("a")
    book.arrive("c", 80)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    held, decision = book.arrive("d", 50)
    assert waits(decision) == "room"
    book.tell("q", 80, resident("b", 80))
    book.sit("b")
    assert book.settle() == {}
    book.ledger.holders("a")[0][1].pinned = True
    book.ledger.open("elsewhere", ())  # a reason to look
    ((ticket, load),) = book.settle().items()
    assert ticket is held and load.place.name == "p"


@pytest.mark.parametrize("how", ["shut", "doubt", "lost"])
def test_a_claim_at_a_place_that_goes_is_given_up_for_one_elsewhere(how: str) -> None:
    book = books(60, resident("a", 60, slots=2))
    seats = [book.sit("a", 60)]
    blocked, _ = book.arrive("c", 60)
    book.tell("q", 60, resident("b", 60, slots=2, load_s=9.0))
    seats.append(book.sit("b", 60))
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    assert waits(book.arrive("a", 60)[1]) == "slots"
    getattr(book.ledger, how)("p", "it goes")
    book.settle()
    assert waits(book.arrive("b", 60)[1]) == "slots"
    for seat in seats:
        book.ledger.depart(seat)
    assert isinstance(book.settle()[blocked], Load)


def test_who_was_refused_at_one_place_and_waits_at_another_asks_again_when_it_may() -> None:
    """The first load of it went there and was refused; meanwhile somebody sat down again."""
    book = books(60, resident("a", 60, slots=2))
    book.clock.pass_by(1)
    first, load = book.begin("c", 60)
    book.tell("q", 60, resident("b", 60, slots=2, load_s=9.0))
    seat = book.sit("b", 60)
    assert book.ledger.failed(load, Stopping("not now")) == []
    assert book.settle() == {}
    book.clock.pass_by(COOL_DOWN_S - 1)
    assert book.settle() == {}
    assert book.ledger.due == book.clock() + 1
    book.clock.pass_by(1)
    assert list(book.settle()) == [first]  # the first place may be asked again
    book.ledger.depart(seat)


def test_several_who_stand_up_before_anybody_looks_are_all_noticed() -> None:
    book = books(120, resident("a", 60), resident("b", 60))
    first, second, third = book.sit("a", 60), book.sit("b", 60), book.sit("b", 60)
    blocked, _ = book.arrive("c", 60)
    book.ledger.depart(first)
    book.ledger.depart(second)
    assert list(book.settle()) == [blocked]
    book.ledger.depart(third)


def test_when_the_blocked_one_leaves_its_victims_are_open_again() -> None:
    book = blocked_by("a")
    book.sit("a", 60)
    blocked, _ = book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    late, decision = book.arrive("a", 60)
    assert waits(decision) == "slots"
    book.ledger.depart(blocked)
    assert list(book.settle()) == [late]
    assert book.ledger.due == float("inf")


def test_the_next_in_line_has_waited_as_long_as_it_has_waited() -> None:
    """Impatient ones at the head do not start the clock anew for those behind them."""
    book = blocked_by("a")
    seat = book.sit("a", 60)
    head, _ = book.arrive("b", 60)
    book.clock.pass_by(5)
    behind, _ = book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S - 5)
    book.settle()
    book.ledger.depart(head)
    assert book.settle() == {}
    overtaking = book.sit("a", 60)  # the one behind was overtaken for 25 s
    book.clock.pass_by(5)
    assert book.settle() == {}
    assert waits(book.arrive("a", 60)[1]) == "slots"
    book.ledger.depart(seat), book.ledger.depart(overtaking)
    assert list(book.settle()) == [behind]


def test_of_an_order_and_a_request_for_one_model_the_earlier_counts() -> None:
    book = blocked_by("a")
    book.sit("a", 60)
    book.arrive("b", 60, weight=0)
    book.clock.pass_by(20)
    book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S - 20)
    book.settle()
    assert waits(book.arrive("a", 60)[1]) == "slots"


def test_two_blocked_lines_are_let_in_in_the_order_of_their_arrival() -> None:
    book = books(60, resident("a", 60, slots=1))
    seat = book.sit("a", 60)
    first, _ = book.arrive("z", 60)
    second, _ = book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S)
    assert book.settle() == {}
    book.ledger.depart(seat)
    assert list(book.settle()) == [first]
    assert second.place is None


def test_without_any_right_to_overtake_the_first_newcomer_waits() -> None:
    book = books(60, resident("a", 60, slots=2), overtake_s=0.0)
    book.sit("a", 60)
    book.arrive("b", 60)
    book.settle()
    assert waits(book.arrive("a", 60)[1]) == "slots"


def test_cold_models_overtake_a_blocked_one_for_so_long_and_no_longer() -> None:
    """It needs the whole place; each of those who pass it stays its time, and so on for ever."""
    book = books(100, resident("a", 50), resident("b", 50))
    seat = book.sit("a", 50)
    large, decision = book.arrive("large", 100)
    assert waits(decision) == "room"
    book.clock.pass_by(OVERTAKE_S - 1)
    passing, load = book.begin("c", 50)
    assert load.victims == ("b",)
    book.finish(load)
    book.ledger.depart(passing)
    book.ledger.depart(seat)
    book.clock.pass_by(1)
    assert book.settle() == {}  # c is young
    held, decision = book.arrive("d", 50)
    assert waits(decision) == "room"
    assert book.settle() == {}
    book.clock.pass_by(AGE_S - 1.001)
    assert book.settle() == {}
    last = book.sit("c")  # it may serve until it is of age
    book.clock.pass_by(0.001)
    assert book.settle() == {}
    assert waits(book.arrive("c")[1]) == "slots"
    book.ledger.depart(last)
    ((ticket, load),) = book.settle().items()
    assert ticket is large and set(load.victims) == {"a", "c"}
    assert held.place is None


@pytest.mark.parametrize(("need", "comes"), [(30, True), (31, False), (50, False)])
def test_who_takes_no_room_from_a_blocked_one_passes_it_at_any_time(need: int, comes: bool) -> None:
    """50 are free, and the blocked one needs 30 of them beside those of its victim."""
    book = books(110, resident("a", 60))
    book.sit("a")
    book.arrive("b", 80)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    assert isinstance(book.arrive("c", need)[1], Load) is comes


def test_when_the_blocked_one_leaves_those_it_held_up_come_in() -> None:
    book = books(100, resident("a", 50), resident("b", 50))
    book.sit("a", 50)
    large, _ = book.arrive("large", 100)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    held, decision = book.arrive("d", 50)
    assert waits(decision) == "room"
    assert book.settle() == {}
    book.ledger.depart(large)
    ((ticket, load),) = book.settle().items()
    assert (ticket, load.victims) == (held, ("b",))


def test_a_promise_at_one_place_holds_up_nobody_at_another() -> None:
    book = books(60, resident("a", 60))
    book.sit("a", 60)
    book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    assert waits(book.arrive("c", 60)[1]) == "room"
    book.tell("q", 50)
    book.settle()
    assert book.begin("d", 50)[1].place.name == "q"


def test_an_order_for_a_closed_model_is_answered_since_it_takes_no_seat() -> None:
    book = blocked_by("a")
    book.sit("a", 60)
    book.arrive("b", 60)
    book.clock.pass_by(OVERTAKE_S)
    book.settle()
    assert waits(book.arrive("a", 60)[1]) == "slots"
    there = repr(book.ledger)
    book.sit("a", 60, weight=0)
    assert repr(book.ledger) == there, "nobody sat down, and nobody waits"


# -- failures


def test_a_failed_load_tells_everyone_once_and_rests_twice_as_long_each_time() -> None:
    """Row 62: 10 s, doubling to 5 min."""
    book = books(100)
    spans = []
    for _ in range(7):
        first, load = book.begin("a")
        second, _ = book.arrive("a")
        assert book.ledger.failed(load, LoadFailed("torn")) == [first, second]
        assert (book.ledger.waiting, dict(book.ledger.loads), book.living()) == (0, {}, {})
        assert book.ledger.failed(load, LoadFailed("torn")) == []
        book.clock.pass_by(1)
        error = refusal(book.arrive("a")[1])
        assert isinstance(error, LoadFailed) and error.message == "torn"
        assert error.retry_after_s is not None
        spans.append(error.retry_after_s + 1)
        book.clock.pass_by(error.retry_after_s - 0.001)
        assert isinstance(refusal(book.arrive("a")[1]), LoadFailed)
        book.clock.pass_by(0.002)
    assert spans == pytest.approx([10, 20, 40, 80, 160, 300, 300])


def test_after_a_load_that_worked_the_next_failure_is_the_first() -> None:
    book = books(100)
    for delay in (10, 20):
        _, load = book.begin("a")
        book.ledger.failed(load, LoadFailed("torn"))
        book.clock.pass_by(delay)
    _, load = book.begin("a")
    book.finish(load)
    book.ledger.gone("p", "a")
    _, load = book.begin("a")
    book.ledger.failed(load, LoadFailed("torn"))
    assert refusal(book.arrive("a")[1]).retry_after_s == 10


def test_every_later_caller_gets_an_exception_of_its_own() -> None:
    book = books(100)
    _, load = book.begin("a")
    original = Unfit("too new", param="model", facts={"format": "x"})
    original.final = True
    book.ledger.failed(load, original)
    one, two = (refusal(book.arrive("a")[1]) for _ in range(2))
    assert one is not two and one is not original
    for copy in (one, two):
        assert (type(copy), copy.message, copy.param, copy.facts) == (
            Unfit,
            "too new",
            "model",
            {"format": "x"},
        )
        assert (copy.final, copy.not_started) == (True, False)


def test_after_a_failure_those_who_were_to_leave_stay() -> None:
    book = books(100, resident("a", 50, last_used=1.0), resident("b", 50, last_used=2.0))
    _, load = book.begin("c", 100)
    assert load.victims == ("a", "b")
    waiting, decision = book.arrive("b", 50)
    assert waits(decision) == "room"
    book.ledger.gone("p", "a")  # unloaded before it failed
    book.ledger.failed(load, LoadFailed("torn"))
    assert book.living() == {"b": "loaded"}
    assert list(book.settle()) == [waiting]


REFUSALS = {
    "it is busy": Busy("all of them are seated"),
    "it does not fit": DoesNotFit("17 bytes short"),
    "there is no room": NoRoom("not now"),
    "it drains": Stopping("shutting down"),
    "it is full": Overloaded("too many"),
    "it forgot": NotHereNow("sent away again"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_a_place_that_refuses_a_load_sends_those_who_wait_elsewhere(error: CortexError) -> None:
    """Rows 66 and 70."""
    book = fleet("p", "q")
    first, load = book.begin("a")
    second, _ = book.arrive("a")
    assert load.place.name == "p"
    assert book.ledger.failed(load, error) == []
    ((ticket, load),) = book.settle().items()
    assert ticket is first and load.place.name == "q"
    assert book.ledger.waiting == 2
    assert list(book.finish(load)) == [first, second]


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_when_all_places_refused_all_are_told_and_none_is_asked_again_for_ten_seconds(
    error: CortexError,
) -> None:
    """No spinning: each place is asked once."""
    book = fleet("p", "q")
    first, load = book.begin("a")
    second, _ = book.arrive("a")
    book.ledger.failed(load, error)
    book.clock.pass_by(4)
    ((_, load),) = book.settle().items()
    book.ledger.failed(load, error)
    answers = book.settle()
    assert set(answers) == {first, second}
    for answer in answers.values():
        told = refusal(answer)
        assert told.message == error.message
        assert told.retry_after_s == 6
        # What is said of an order means to a client that there is no room.
        assert type(told) is (NoRoom if isinstance(error, Busy | DoesNotFit | NotHereNow) else type(error))
    assert isinstance(refusal(book.arrive("a")[1]), CortexError)
    book.clock.pass_by(6)
    assert book.begin("a")[1].place.name == "p"


@pytest.mark.parametrize("error", [LoadFailed("torn"), TooSlow("over 30 min"), UpstreamFailed("nonsense")])
def test_a_failure_of_the_model_is_not_carried_from_place_to_place(error: CortexError) -> None:
    book = fleet("p", "q")
    first, load = book.begin("a")
    assert book.ledger.failed(load, error) == [first]
    assert refusal(book.arrive("a")[1]).message == error.message


def test_a_neuron_names_the_figures_when_its_engine_found_too_little_room() -> None:
    """Row 68: the device is usable at once."""
    book = books(100)
    _, load = book.begin("a", 50)
    assert book.ledger.failed(load, DoesNotFit("out of memory", facts={"needed_bytes": 120})) == []
    ((_, answer),) = book.settle().items()
    told = refusal(answer)
    assert isinstance(told, DoesNotFit) and told.facts == {"needed_bytes": 120}
    book.begin("b", 100)


# -- refusals


def test_what_could_never_fit_is_refused_for_good() -> None:
    error = refusal(books(100).arrive("a", 101)[1])
    assert isinstance(error, DoesNotFit)
    devices = {"free_by_device": {"g": 100}, "total_by_device": {"g": 100}}
    assert error.facts == {"needed_bytes": 101, "free_bytes": 100, **devices}
    error = refusal(fleet("p", "q").arrive("a", 101)[1])
    assert isinstance(error, NeverFits) and error.final and error.retry_after_s is None
    assert "(p, q: it needs a device with 101B of memory)" in error.message


def test_what_could_fit_but_not_at_present_names_who_blocks() -> None:
    book = books(100, resident("a", 30, pinned=True), resident("b", 30, pinned=True))
    error = refusal(book.arrive("c", 50)[1])
    assert isinstance(error, Busy)
    devices = {"free_by_device": {"g": 40}, "total_by_device": {"g": 100}}
    assert error.facts == {"blocked_by": ["a", "b"], "needed_bytes": 50, "free_bytes": 40, **devices}
    assert "g has 40B of 100B free, and a, b may not be evicted" in error.message


def test_a_gateway_says_that_there_is_no_room_and_when_to_come_again() -> None:
    book = fleet()
    book.tell("p", 100, resident("a", 60, pinned=True))
    error = refusal(book.arrive("c", 50)[1])
    assert isinstance(error, NoRoom) and not isinstance(error, NeverFits)
    assert error.retry_after_s is not None


def test_a_place_that_could_but_is_away_is_a_reason_to_come_again() -> None:
    book = fleet("p", "q")
    book.ledger.lost("p", "its host is off")
    error = refusal(book.arrive("a", spec={"pinned_on": ("p",)})[1])
    assert isinstance(error, Recovering) and error.retry_after_s is not None


def test_a_place_that_was_never_seen_is_not_ruled_out() -> None:
    book = books(None, delegates=True)
    book.ledger.open("p", ())
    book.ledger.shut("p", "it has not reported yet")
    assert isinstance(refusal(book.arrive("a")[1]), Recovering)


def test_without_any_place_there_is_nobody_to_ask() -> None:
    assert isinstance(refusal(books(None).arrive("a")[1]), Recovering)


@pytest.mark.parametrize("wanted", [want("a", may_load=False), Want("a")])
def test_who_may_not_load_is_told_that_it_is_not_here(wanted: Want) -> None:
    book = books(100)
    error = refusal(book.ledger.arrive(wanted)[1])
    assert isinstance(error, NotHereNow) and error.not_started


def test_those_in_line_who_may_not_load_are_told_when_the_model_is_gone() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a")
    routed, _ = book.arrive("a", may_load=False)
    own, _ = book.arrive("a")
    book.ledger.gone("p", "a")
    answers = book.settle()
    assert isinstance(refusal(answers[routed]), NotHereNow)
    assert isinstance(answers[own], Load)


def test_a_broken_replica_is_never_a_reason_for_a_second_copy() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a"))
    book.ledger.fault("p", "a", "its engine died")
    error = refusal(book.arrive("a")[1])
    assert isinstance(error, Recovering) and "its engine died" in error.message
    book.ledger.fault("p", "unknown", "x"), book.ledger.fault("nowhere", "a", "x")  # no harm
    # A healthy replica beside it serves.
    book.tell("q", 100, resident("a"))
    assert book.sit("a").place is book.ledger.place("q")


def test_a_fault_is_told_to_those_who_wait() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a")
    waiting, _ = book.arrive("a")
    book.ledger.fault("p", "a", "its engine died")
    assert isinstance(refusal(book.settle()[waiting]), Recovering)


def test_a_replica_in_an_unknown_state_is_waited_out_by_the_client() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a", phase="recovering"))
    assert "it is recovering" in refusal(book.arrive("a")[1]).message


# -- patience


def test_patience_that_ends_is_told_what_it_ended_for() -> None:
    """Row 63: what the load usually takes says when to come again."""
    book = books(100)
    ticket, load = book.begin("a")
    book.clock.pass_by(40)
    error = book.ledger.overdue(ticket)
    assert isinstance(error, Loading)
    assert (error.retry_after_s, error.facts) == (Loading.default_retry_after_s, {"loading_for_s": 40.0})
    book.clock.pass_by(60)
    book.finish(load, slots=1)
    # The next time it is known that it takes 100 s.
    book.ledger.gone("p", "a")
    again, load = book.begin("a")
    book.clock.pass_by(30)
    error = book.ledger.overdue(again)
    assert (error.retry_after_s, error.facts) == (70, {"loading_for_s": 30.0, "eta_s": 70.0})
    book.clock.pass_by(300)
    error = book.ledger.overdue(again)
    assert error.retry_after_s == Loading.default_retry_after_s, "late: nobody knows by how much"
    assert "eta_s" not in error.facts
    # Whoever watches the load knows better than its history.
    book.ledger.outlook = lambda model: Outlook("load", 30, 40, 2.5)
    error = book.ledger.overdue(again)
    assert (error.retry_after_s, error.facts["eta_s"]) == (2.5, 2.5)
    assert (error.facts["done_bytes"], error.facts["total_bytes"]) == (30, 40)
    book.finish(load, slots=1)
    waiting = [book.arrive("a")[0] for _ in range(3)]
    error = book.ledger.overdue(waiting[1])
    assert isinstance(error, Overloaded) and error.not_started
    assert error.facts == {"queue_position": 2}


def test_patience_for_room_ends_with_no_capacity() -> None:
    book = books(60, resident("a", 60))
    book.sit("a", 60)
    ticket, _ = book.arrive("b", 60)
    error = book.ledger.overdue(ticket)
    assert isinstance(error, NoRoom) and error.retry_after_s is not None


# -- what places say of themselves


def test_a_report_replaces_what_was_believed() -> None:
    book = fleet()
    book.tell("p", 100, resident("a", 30, slots=2), resident("b", 10))
    book.clock.pass_by(2)
    told = resident("a", 35, slots=4, pinned=True, priority=7, load_s=9.0, fault="slow", last_used=1001.0)
    book.tell("p", 200, told, resident("c", 5), other=60)
    place = book.ledger.place("p")
    assert place is not None and place.free("g") == 100
    assert book.living() == {"a": "loaded", "c": "loaded"}
    assert book.ledger.holders("b") == []
    one = place.residents["a"]
    assert (one.bytes, one.slots, one.pinned, one.priority) == (35, 4, True, 7)
    assert (one.load_s, one.fault, one.last_used) == (9.0, "slow", 1001.0)


def test_an_unknown_place_that_reports_is_opened() -> None:
    book = books(None, delegates=True)
    book.tell("new", 100, resident("a"))
    assert book.sit("a").place is book.ledger.place("new")


def test_seats_survive_a_report_and_are_counted_once() -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    tickets = [book.sit("a") for _ in range(3)]
    ((_, one),) = book.ledger.holders("a")
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a", elsewhere=4))  # our three, and one of somebody else
    assert (one.seats, one.fresh, one.busy) == (3, 0, 4)
    tickets.append(book.sit("a"))
    assert (one.seats, one.fresh, one.busy) == (4, 1, 5)
    for ticket in tickets:
        book.ledger.depart(ticket)
    assert (one.seats, one.fresh, one.elsewhere, one.busy) == (0, 0, 1, 1)
    assert not one.idle


def test_seats_taken_while_the_question_was_out_are_fresh_still() -> None:
    """The neuron may have answered before they came; to count them as known would hide them."""
    book = fleet()
    book.tell("p", 100, resident("a"))
    early = book.sit("a")
    book.clock.pass_by(1)
    asked = book.clock()
    during = [book.sit("a", weight=2), book.sit("a")]
    book.clock.pass_by(0.2)
    book.tell("p", 100, resident("a", elsewhere=1), asked=asked)
    ((_, one),) = book.ledger.holders("a")
    assert (one.seats, one.fresh, one.busy) == (4, 3, 4)
    book.ledger.depart(during[0])
    assert (one.fresh, one.elsewhere) == (1, 1)
    book.ledger.depart(early)
    assert (one.fresh, one.elsewhere) == (1, 0)
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a", elsewhere=1))
    assert (one.fresh, one.elsewhere) == (0, 1)
    book.ledger.depart(during[1])
    assert (one.seats, one.busy, one.idle) == (0, 0, True)


def test_a_place_that_counts_fewer_than_we_have_there_is_never_below_nothing() -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    tickets = [book.sit("a") for _ in range(2)]
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a", elsewhere=0))  # they have not reached it yet
    for ticket in tickets:
        book.ledger.depart(ticket)
    assert book.ledger.holders("a")[0][1].busy == 0


def test_a_seat_at_one_that_was_replaced_is_given_back_to_that_one() -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    ticket = book.sit("a")
    old = ticket.resident
    book.ledger.gone("p", "a")
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a", elsewhere=1))
    ((_, new),) = book.ledger.holders("a")
    assert new is not old and (new.seats, new.busy) == (0, 1)
    other = book.sit("a")
    book.ledger.depart(ticket)
    assert old is not None and (old.seats, old.fresh) == (0, 0)
    assert (new.seats, new.fresh, new.elsewhere) == (1, 1, 1)
    book.ledger.depart(other)


def test_a_report_that_was_asked_for_before_a_load_ended_does_not_undo_it() -> None:
    for told in ([], [resident("a", 5, phase="loading"), resident("old", 90)], [resident("old", 90)]):
        book = fleet()
        book.tell("p", 100, resident("old", 90))
        ticket, load = book.begin("a", 50)
        book.clock.pass_by(5)
        asked = book.clock()
        book.clock.pass_by(1)
        book.finish(load, slots=3)
        seat = book.sit("a")
        book.clock.pass_by(1)
        book.tell("p", 100, *told, asked=asked)
        assert book.living() == {"a": "loaded"}
        ((_, one),) = book.ledger.holders("a")
        assert (one.slots, one.seats, one.fresh, one.busy) == (3, 2, 2, 2)
        book.ledger.depart(seat), book.ledger.depart(ticket)
        assert (one.seats, one.busy) == (0, 0)
        # The next one is asked afterwards, and counts.
        book.clock.pass_by(1)
        book.tell("p", 100)
        assert book.living() == {}


def test_a_report_may_bring_a_model_in_before_its_load_is_answered() -> None:
    book = fleet("p")
    ticket, load = book.begin("a")
    book.clock.pass_by(5)
    book.tell("p", 100, resident("a", 33, slots=2, elsewhere=1))
    assert list(book.settle()) == [ticket]
    book.ledger.loaded(load, resident("a", 33, slots=2))
    ((_, one),) = book.ledger.holders("a")
    assert (one.seats, one.fresh, one.elsewhere) == (1, 1, 1)
    book.ledger.depart(ticket)
    assert (one.seats, one.fresh, one.elsewhere) == (0, 0, 1)
    assert dict(book.ledger.loads) == {}


def test_what_a_place_reports_as_loaded_stays_although_the_order_for_it_broke() -> None:
    book = fleet("p", "q")
    ticket, load = book.begin("a")
    book.clock.pass_by(5)
    book.tell("p", 100, resident("a"))
    assert list(book.settle()) == [ticket]
    assert book.ledger.failed(load, UpstreamFailed("the answer was cut")) == []
    assert book.living() == {"a": "loaded"}
    book.sit("a")


def test_one_replica_may_go_and_the_other_serves() -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    book.tell("q", 100, resident("a"))
    assert [place.name for place, _ in book.ledger.holders("a")] == ["p", "q"]
    book.ledger.gone("p", "a")
    assert book.sit("a").place is book.ledger.place("q")


def test_a_load_that_we_started_is_kept_while_the_place_does_not_list_it() -> None:
    book = fleet()
    book.tell("p", 100, resident("old", 90))
    _, load = book.begin("a", 50)
    asked_before = book.clock() - 1
    book.tell("p", 100, resident("old", 90), asked=asked_before)
    assert book.living() == {"old": "leaving", "a": "loading"}
    # Asked since, and it still serves: its place has not sent it away, and its word binds.
    book.clock.pass_by(1)
    book.tell("p", 100, resident("old", 90), resident("a", 50, phase="loading"))
    assert book.living() == {"old": "loaded", "a": "loading"}
    assert book.ledger.holders("a")[0][1] is load.resident
    book.tell("p", 100, resident("old", 90, phase="leaving"))
    assert book.living() == {"old": "leaving", "a": "loading"}


def test_a_gateway_believes_its_neuron_about_who_left_for_a_load() -> None:
    """It only proposed. Until the next report those are neither served nor loaded elsewhere."""
    book = fleet("q")
    book.tell("p", 100, resident("x", 50, last_used=1.0), resident("y", 50, last_used=2.0))
    ticket, load = book.begin("a", 50, spec={"pinned_on": ("p",)})
    assert load.victims == ("x",)
    book.ledger.loaded(load, resident("a", 50))
    assert list(book.settle()) == [ticket]
    waiting, decision = book.arrive("x", 50)
    assert waits(decision) == "room"
    book.clock.pass_by(1)
    book.tell("p", 100, resident("x", 50), resident("a", 50))  # it chose the other one
    assert list(book.settle()) == [waiting]
    assert book.ledger.holders("y") == []


def test_a_neuron_may_be_told_to_load_though_somebody_must_stand_up_first() -> None:
    """It decides when; until then whoever is there serves."""
    book = fleet()
    book.tell("p", 60, resident("a", 60, slots=1))
    seat = book.sit("a", 60)
    _, load = book.begin("b", 60)
    assert load.victims == ("a",)
    assert book.living() == {"a": "loaded", "b": "loading"}
    # Also by a report that knows nothing of the order yet.
    book.tell("p", 60, resident("a", 60, slots=1), asked=book.clock() - 1)
    assert book.living() == {"a": "loaded", "b": "loading"}
    book.ledger.depart(seat)
    book.sit("a", 60)


def test_a_load_of_another_gateway_is_joined() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a", phase="loading", load_s=0.0, loaded_at=990.0))
    waiting, decision = book.arrive("a")
    assert waits(decision) == "load"
    assert isinstance(book.ledger.overdue(waiting), Loading)
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a"))
    assert list(book.settle()) == [waiting]


def test_when_another_gateways_load_fails_those_who_joined_have_it_loaded() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a", phase="loading", loaded_at=990.0))
    waiting, _ = book.arrive("a")
    book.clock.pass_by(1)
    book.tell("p", 100)
    ((ticket, load),) = book.settle().items()
    assert ticket is waiting and isinstance(load, Load)


def test_who_left_is_not_brought_back_by_an_older_report() -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    asked = book.clock.now = 1001.0
    book.clock.pass_by(0.1)
    book.ledger.gone("p", "a")
    book.tell("p", 100, resident("a"), asked=asked)
    assert book.living() == {}
    book.clock.pass_by(1)
    book.tell("p", 100, resident("a"))
    assert book.living() == {"a": "loaded"}
    book.ledger.gone("p", "unknown"), book.ledger.gone("nowhere", "a")  # no harm


# -- places that go


def test_a_lost_place_takes_all_along_and_its_loads_begin_elsewhere() -> None:
    """Rows 24 and 67."""
    book = fleet("p", "q")
    book.tell("p", 100, resident("x", 10))
    ticket, load = book.begin("a", spec={"pinned_on": ("p", "q")})
    assert load.place.name == "q"
    seat = book.sit("x")
    assert book.ledger.lost("q", "connection refused") == [load]
    assert (dict(book.ledger.loads), book.ledger.holders("a")) == ({}, [])
    ((again, other),) = book.settle().items()
    assert again is ticket and other.place.name == "p"
    # What comes of the first load is nobody's business any more.
    book.ledger.loaded(load, resident("a"))
    assert book.ledger.failed(load, LoadFailed("late")) == []
    assert dict(book.ledger.loads) == {"a": other}
    assert list(book.finish(other)) == [ticket]
    assert book.ledger.lost("p", "it, too") == []
    book.ledger.depart(seat), book.ledger.depart(ticket)
    assert book.ledger.lost("unknown", "x") == []


def test_a_place_that_died_of_a_load_is_not_asked_for_it_at_once_when_it_is_back() -> None:
    book = fleet("p")
    ticket, _ = book.begin("a")
    book.ledger.lost("p", "killed")
    assert isinstance(refusal(book.settle()[ticket]), Recovering)
    book.clock.pass_by(1)
    book.tell("p", 100)
    error = refusal(book.arrive("a")[1])
    assert isinstance(error, Recovering) and "killed" in error.message
    assert error.retry_after_s == 9
    book.begin("b")


def test_what_a_place_has_when_it_is_back_counts_although_it_was_asked_before_it_was_lost() -> None:
    """A new boot is noticed by the very report that tells what it has."""
    book = fleet()
    book.tell("p", 100, resident("a"), resident("b"))
    asked = book.clock.now = 1002.0
    book.clock.pass_by(0.1)
    book.ledger.lost("p", "it was restarted")
    book.tell("p", 100, resident("a", last_used=1001.0), asked=asked)
    assert book.living() == {"a": "loaded"}
    assert book.sit("a").resident is not None


def test_a_place_that_is_shut_keeps_its_seats_and_its_models_may_come_in_elsewhere() -> None:
    """Row 70: it drains; a copy elsewhere is the next home."""
    book = fleet("q")
    book.tell("p", 100, resident("a", slots=1))
    seat = book.sit("a")
    waiting, _ = book.arrive("a")
    book.ledger.shut("p", "it is shutting down")
    ((ticket, load),) = book.settle().items()
    assert ticket is waiting and load.place.name == "q"
    assert seat.resident is not None and seat.resident.seats == 1
    book.ledger.depart(seat)


@pytest.mark.parametrize("model", ["a", "cold"])
def test_while_a_place_is_in_doubt_those_who_would_go_there_wait(model: str) -> None:
    book = fleet()
    book.tell("p", 100, resident("a"))
    before = repr(book.ledger)
    book.ledger.doubt("p", "the connection broke")
    waiting, decision = book.arrive(model)
    assert waits(decision) == "room"
    assert book.settle() == {}
    book.clock.pass_by(0.1)
    book.tell("p", 100, resident("a"))
    ((ticket, answer),) = book.settle().items()
    assert ticket is waiting and type(answer) is (Serve if model == "a" else Load)

    book = fleet()
    book.tell("p", 100, resident("a"))
    book.ledger.doubt("p", "the connection broke")
    waiting, _ = book.arrive(model)
    book.ledger.lost("p", "connection refused")
    assert isinstance(refusal(book.settle()[waiting]), Recovering)
    assert before != repr(book.ledger)


def test_doubt_about_one_place_is_no_reason_not_to_go_to_another() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a"))
    book.tell("q", 100, resident("a", elsewhere=9))
    book.ledger.doubt("p", "the connection broke")
    assert book.sit("a").place is book.ledger.place("q")
    assert book.begin("cold")[1].place.name == "q"


def test_a_lost_place_ends_the_wait_of_those_it_kept_waiting_although_nothing_lived_there() -> None:
    book = fleet("p")
    book.ledger.doubt("p", "the connection broke")
    waiting, _ = book.arrive("a")
    assert book.settle() == {}
    book.ledger.lost("p", "connection refused")
    assert isinstance(refusal(book.settle()[waiting]), Recovering)


# -- who was refused somewhere


def test_who_was_refused_at_a_place_goes_to_the_next_replica_and_waits_there_only() -> None:
    book = fleet()
    book.tell("p", 100, resident("a", slots=1))
    book.tell("q", 100, resident("a", slots=1))
    refused = frozenset({"p"})
    first = book.sit("a", avoid=refused)
    assert first.place is book.ledger.place("q")
    second, decision = book.arrive("a", avoid=refused)
    assert waits(decision) == "slots"
    # The seat at p is for those who have not been there.
    assert book.sit("a").place is book.ledger.place("p")
    book.ledger.depart(first)
    assert list(book.settle()) == [second]


def test_who_was_refused_by_all_that_have_it_does_not_cause_a_second_copy() -> None:
    book = fleet("q")
    book.tell("p", 100, resident("a", slots=1))
    error = refusal(book.arrive("a", avoid=frozenset({"p"}))[1])
    assert isinstance(error, Recovering) and "'p' refused" in error.message
    book.ledger.lost("p", "gone")
    assert book.begin("a", avoid=frozenset({"p"}))[1].place.name == "q"


def test_a_cold_model_is_not_placed_where_it_was_refused() -> None:
    book = fleet("p", "q")
    assert book.begin("a", avoid=frozenset({"p"}))[1].place.name == "q"


# -- unloads


def test_an_unload_takes_effect_at_once_and_only_when_nobody_sits_there() -> None:
    book = books(100, resident("a"))
    seat = book.sit("a")
    with pytest.raises(Busy) as caught:
        book.ledger.leaving("p", "a")
    assert caught.value.facts == {"in_flight": 1} and "has 1 request in flight" in caught.value.message
    assert book.ledger.leaving("p", "a", force=True) is seat.resident
    with pytest.raises(Busy, match="leaving already"):
        book.ledger.leaving("p", "a", force=True)
    assert waits(book.arrive("a")[1]) == "room"


def test_what_is_loading_cannot_be_unloaded() -> None:
    book = books(100)
    book.begin("a")
    with pytest.raises(Busy, match="loading already"):
        book.ledger.leaving("p", "a")


# -- who is told


def test_whoever_changes_where_models_live_wakes_those_who_wait() -> None:
    calls: list[str] = []
    clock = Clock()
    ledger = Ledger(clock, policy(), on_change=lambda: calls.append("changed"))
    rooms = [Room("g", 100)]
    steps = {
        "open": lambda: ledger.open("p", rooms),
        "report": lambda: ledger.report("p", rooms, [resident("a"), resident("b")], clock()),
        "fault": lambda: ledger.fault("p", "b", "broken"),
        "leaving": lambda: ledger.leaving("p", "a"),
        "gone": lambda: ledger.gone("p", "a"),
        "doubt": lambda: ledger.doubt("p", "it is silent"),
        "shut": lambda: ledger.shut("p", "it goes"),
        "lost": lambda: ledger.lost("p", "it went"),
    }
    for name, step in steps.items():
        calls.clear()
        step()
        assert calls, name
    ledger.open("q", rooms)
    calls.clear()
    _, load = ledger.arrive(want("c"))
    assert isinstance(load, Load)
    ledger.loaded(load, resident("c"))
    assert calls


def test_the_ledger_in_one_line() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a"), book.arrive("a"), book.begin("b")
    assert repr(book.ledger) == "<Ledger places=1 residents=2 seats=1 waiting=2 loads=1>"
    assert [place.name for place in book.ledger] == ["p"]
    assert book.ledger.place("unknown") is None


# -- what it costs


class Counting(Clock):
    """A clock that counts how often it is read: every look at a line reads it."""

    reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now


def crowd(lines: int, each: int) -> tuple[Ledger, Counting]:
    clock = Counting()
    ledger = Ledger(clock, policy(delegates=True, queue=10**6))
    ledger.report("p", [Room("g", 10**9)], [resident("warm", slots=10**6)], clock())
    for number in range(lines):
        for _ in range(each):
            ledger.arrive(want(f"cold{number}"))
    ledger.settle()
    return ledger, clock


@pytest.mark.parametrize(("lines", "each"), [(1, 1024), (1024, 1), (32, 32)])
def test_an_arrival_at_a_warm_model_costs_the_same_whoever_waits(lines: int, each: int) -> None:
    def reads(ledger: Ledger, clock: Counting) -> int:
        clock.reads = 0
        ticket, decision = ledger.arrive(want("warm"))
        assert isinstance(decision, Serve)
        ledger.settle()
        ledger.depart(ticket)
        assert ledger.settle() == []
        return clock.reads

    assert reads(*crowd(lines, each)) == reads(*crowd(1, 1))


def test_a_wake_up_looks_at_the_head_of_a_line_and_not_at_those_behind_it() -> None:
    ledger, clock = crowd(1, 1024)
    ledger.report("p", [Room("g", 10**9)], [resident("warm")], clock())
    clock.reads = 0
    assert ledger.settle() == []
    assert clock.reads < 10


def test_a_report_looks_only_at_lines_that_it_may_move() -> None:
    ledger, clock = crowd(1024, 1)
    ledger.report("q", [Room("g", 10**9)], [resident("other")], clock())
    clock.reads = 0
    assert ledger.settle() == []
    assert clock.reads < 10
