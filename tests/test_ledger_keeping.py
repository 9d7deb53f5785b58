"""Who has idled for too long, who is pinned, and when a place may be emptied and filled anew."""

from math import inf

import pytest

from cortex.errors import Busy, DoesNotFit, LoadFailed
from cortex.ledger import Load, Serve, Wait
from tests.fake_ledger import AGE_S, Books, books, resident


def idlers(book: Books) -> list[str]:
    return [one.model for _, one in book.ledger.idle()]


def test_who_is_used_by_nobody_for_its_time_is_idle_and_not_a_moment_before() -> None:
    book = books(100, resident("a", idle_unload_s=60.0), resident("b"))
    book.ledger.depart(book.sit("a"))
    due = book.clock() + 60
    assert (book.ledger.idle_due, idlers(book)) == (due, [])
    book.clock.pass_by(59.9)
    assert idlers(book) == []
    book.clock.pass_by(0.1)
    assert idlers(book) == ["a"]


def test_who_is_seated_is_not_idle_and_its_time_begins_when_it_is_left() -> None:
    book = books(100, resident("a", idle_unload_s=60.0))
    seat = book.sit("a")
    book.clock.pass_by(1000)
    # Asked again no later than it could be idle, whenever the seat is left.
    assert idlers(book) == [] and book.ledger.idle_due == book.clock() + 60
    book.ledger.depart(seat)
    assert idlers(book) == [] and book.ledger.idle_due == book.clock() + 60


def test_who_is_pinned_young_broken_or_leaving_is_not_sent_away_for_idling() -> None:
    book = books(100, *(resident(name, idle_unload_s=1.0) for name in ("pinned", "broken", "leaving")))
    book.ledger.pin("pinned", pinned=True)
    book.ledger.fault("p", "broken", "it is")
    book.ledger.leaving("p", "leaving")
    assert idlers(book) == [] and book.ledger.idle_due == inf
    ticket, load = book.begin("young", 10)
    book.finish(load, idle_unload_s=1.0)
    book.ledger.depart(ticket)
    assert book.ledger.idle_due == book.clock() + AGE_S
    book.clock.pass_by(AGE_S)
    assert idlers(book) == ["young"]
    book.ledger.pin("pinned", pinned=False)
    assert sorted(idlers(book)) == ["pinned", "young"]


def test_a_model_that_somebody_waits_for_is_not_idle() -> None:
    """Closed to newcomers for the sake of one who waits for its room."""
    book = books(100, resident("a", 60, slots=1, idle_unload_s=5.0))
    seat = book.sit("a")
    waiting, decision = book.arrive("a")
    assert isinstance(decision, Wait)
    book.ledger.depart(seat)
    book.clock.pass_by(10)
    assert idlers(book) == []
    assert list(book.settle()) == [waiting]


def test_who_leaves_for_idling_comes_back_for_one_who_asks_in_the_same_breath() -> None:
    """Row 64: the request wins or has the model loaded again, and is never refused."""
    book = books(100, resident("a", 60, idle_unload_s=5.0))
    ((place, one),) = book.ledger.idle()
    book.ledger.leaving(place.name, one.model)
    ticket, decision = book.arrive("a", 60)
    assert isinstance(decision, Wait)
    book.ledger.gone("p", "a")
    ((again, load),) = book.settle().items()
    assert again is ticket and isinstance(load, Load)
    assert isinstance(book.finish(load)[ticket], Serve)


def test_a_pin_keeps_a_model_from_every_newcomer_and_from_an_unload_without_force() -> None:
    book = books(100, resident("a", 60))
    book.ledger.pin("a", pinned=True)
    _, decision = book.arrive("b", 60, prefer=("a",))
    assert isinstance(decision.error, Busy) and decision.error.facts["blocked_by"] == ["a"]
    with pytest.raises(Busy, match="Model 'a' is pinned"):
        book.ledger.leaving("p", "a")
    book.ledger.leaving("p", "a", force=True)


def test_a_pin_turns_away_whoever_waited_for_that_room_and_an_unpin_lets_him_in() -> None:
    book = books(100, resident("a", 60))
    seat = book.sit("a")
    waiting, decision = book.arrive("b", 60)
    assert isinstance(decision, Wait)
    book.ledger.pin("a", pinned=True)
    assert isinstance(book.settle()[waiting].error, Busy)
    waiting, decision = book.arrive("a", 60)
    book.ledger.pin("a", pinned=False)
    book.ledger.depart(seat), book.ledger.depart(waiting)
    assert book.begin("b", 60)[1].victims == ("a",)


def test_a_load_that_is_pinned_on_its_way_is_not_counted_on() -> None:
    book = books(100)
    book.begin("a", 60)
    assert isinstance(book.arrive("b", 60)[1], Wait)
    book.ledger.pin("a", pinned=True)
    assert [type(said.error) for said in book.settle().values()] == [Busy]
    book = books(100)
    book.begin("a", 60, pinned=True)
    assert isinstance(book.arrive("b", 60)[1].error, Busy)


def test_a_place_is_quiet_when_nobody_sits_waits_loads_or_leaves() -> None:
    book = books(100, resident("a", 60, last_used=900.0))
    assert book.ledger.quiet_since("p") == 900.0
    seat = book.sit("a")
    assert book.ledger.quiet_since("p") is None
    late, _ = book.arrive("b", 60)
    book.ledger.depart(seat)
    assert book.ledger.quiet_since("p") is None  # b is about to be let in
    ((_, load),) = book.settle().items()
    assert book.ledger.quiet_since("p") is None
    book.finish(load), book.ledger.depart(late)
    assert book.ledger.quiet_since("p") == book.clock()
    book.ledger.fault("p", "b", "broken")
    assert book.ledger.quiet_since("p") is None
    with pytest.raises(Busy):
        book.ledger.clear("p", "tidied up")


def test_who_comes_while_a_place_is_emptied_waits_and_is_served_when_it_is_filled() -> None:
    book = books(100, resident("b", 30, loaded_at=2.0), resident("a", 60, loaded_at=1.0, pinned=True))
    cleared = book.ledger.clear("p", "tidied up")
    assert [one.model for one in cleared] == ["a", "b"]
    warm, cold = book.arrive("a")[0], book.arrive("c", 10)[0]
    assert book.settle() == {}
    for one in cleared:
        book.ledger.returned("p", one, resident(one.model, 20, slots=7))
    assert book.settle() == {}
    book.ledger.reopen("p", "tidied up")
    said = book.settle()
    assert isinstance(said[warm], Serve) and isinstance(said[cold], Load)
    ((place, one),) = book.ledger.holders("a")
    assert (one is cleared[0], one.pinned, one.slots, place.free("g")) == (True, True, 7, 50)


def test_who_does_not_come_back_is_loaded_again_for_those_who_wait() -> None:
    book = books(100, resident("a", 60))
    cleared = book.ledger.clear("p", "tidied up")
    waiting, _ = book.arrive("a", 60)
    book.ledger.reopen("p", "tidied up", absent=cleared)
    assert isinstance(book.settle()[waiting], Load)


def test_a_place_that_was_lost_meanwhile_keeps_who_came_in_there_since() -> None:
    book = books(100, resident("a", 60))
    away = book.ledger.clear("p", "tidied up")
    book.ledger.lost("p", "poisoned")
    book.tell("p", 100)
    book.finish(book.begin("a", 60)[1])
    book.ledger.reopen("p", "tidied up", absent=away)
    assert book.living() == {"a": "loaded"}


@pytest.mark.parametrize("fate", ["lost", "shut"])
def test_what_befell_a_place_meanwhile_stands(fate: str) -> None:
    book = books(100, resident("a", 60))
    (one,) = book.ledger.clear("p", "tidied up")
    getattr(book.ledger, fate)("p", "poisoned")
    book.ledger.returned("p", one, resident("a", 20))
    book.ledger.reopen("p", "tidied up")
    place = book.ledger.place("p")
    assert place is not None and (place.ready, place.why_not) == (False, "poisoned")


def test_a_load_that_is_called_off_rests_nowhere_and_begins_anew_for_who_waits() -> None:
    book = books(100)
    ticket, load = book.begin("a")
    book.ledger.withdrawn(load)
    ((again, other),) = book.settle().items()
    assert again is ticket and other is not load
    book.ledger.withdrawn(load)  # harmless: it is no load any more
    assert dict(book.ledger.loads) == {"a": other}
    assert book.ledger.failed(other, LoadFailed("torn")) == [ticket]
    assert isinstance(book.arrive("a")[1].error, LoadFailed)


def test_the_last_load_tells_what_loads_usually_take() -> None:
    book = books(100)
    assert book.ledger.usual_load_s("a") is None
    _, load = book.begin("a")
    book.clock.pass_by(7)
    book.finish(load)
    assert book.ledger.usual_load_s("a") == 7


def test_a_load_too_big_names_every_device_with_what_it_needs_and_has() -> None:
    book = books(100, resident("a", 60))
    error = book.arrive("big", 101)[1].error
    assert isinstance(error, DoesNotFit)
    assert error.facts["needed_bytes"] == 101
    assert error.facts["free_by_device"] == {"g": 40} and error.facts["total_by_device"] == {"g": 100}
