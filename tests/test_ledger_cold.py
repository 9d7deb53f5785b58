"""Cold models in a busy fleet: they spread, are bounded, and cost nobody a seat. Rows 60 to 66."""

from collections import Counter

import pytest

from cortex.errors import Overloaded
from cortex.ledger import Load, Refuse, Wait
from tests.fake_ledger import Books, books, resident


def busy(places: int, idle: int, *, load_s: float) -> Books:
    """A gateway of that many neurons: `idle` are empty, the others full and used at this moment."""
    book = books(None, delegates=True)
    for number in range(places):
        full = number >= idle
        hot = resident(f"hot{number}", 80, elsewhere=1, load_s=load_s, last_used=book.clock())
        book.tell(f"n{number}", 100, *([hot] if full else []))
    return book


def test_cold_models_spread_over_neurons_and_do_not_queue_behind_the_first_load() -> None:
    book = busy(4, 1, load_s=20.0)
    places = Counter()
    for number in range(12):
        _, load = book.begin(f"cold{number}", 80)
        places[load.place.name] += 1
        book.clock.pass_by(0.2)
    assert sorted(places.values()) == [3, 3, 3, 3]


def test_a_load_weighs_what_its_last_one_took() -> None:
    """`slow` took 50 s: who comes next goes where a model of the same size took 5 s."""
    book = busy(2, 1, load_s=5.0)
    ticket, load = book.begin("slow", 80)
    book.clock.pass_by(50)
    book.finish(load)
    book.ledger.depart(ticket)
    book.ledger.gone("n0", "slow")
    assert book.begin("slow", 80)[1].resident.load_s == 50
    assert book.begin("other", 80)[1].place.name == "n1"


def test_a_load_of_another_gateway_weighs_as_much_as_one_of_ours() -> None:
    book = busy(2, 1, load_s=20.0)
    for name in ("n0", "n1"):
        hot = resident("hot1", 80, elsewhere=1, load_s=20.0, last_used=book.clock())
        theirs = resident("theirs", 90, phase="loading", last_used=book.clock())
        book.tell(name, 100, hot if name == "n1" else theirs)
    assert book.begin("cold", 80)[1].place.name == "n1"


def test_a_load_that_takes_long_is_worth_no_less_for_it() -> None:
    book = busy(2, 1, load_s=20.0)
    book.begin("first", 90)
    book.clock.pass_by(120)
    book.tell("n1", 100, resident("hot1", 80, elsewhere=1, load_s=20.0, last_used=book.clock()))
    assert book.begin("second", 80)[1].place.name == "n1"


@pytest.mark.parametrize(("count", "expected"), [(80, 20.0), (40, 10.0)])
def test_a_load_that_nobody_has_seen_is_judged_by_the_pace_of_others(count: int, expected: float) -> None:
    book = busy(2, 1, load_s=20.0)
    assert book.begin("cold", count)[1].resident.load_s == pytest.approx(expected)


def test_a_load_that_a_report_brought_in_is_not_called_off_over_the_heads_of_who_sits_there() -> None:
    book = books(None, delegates=True)
    book.tell("p", 100)
    ticket, load = book.begin("a", 60)
    book.ledger.depart(ticket)
    book.clock.pass_by(20)
    book.tell("p", 100, resident("a", 60, loaded_at=book.clock() - 1))
    book.clock.pass_by(1)
    seat = book.sit("a", 60)
    _, other = book.begin("b", 60)
    assert other.calls_off == () and other.leaving == ()
    assert seat.resident is not None and seat.resident.phase == "loaded"
    assert book.ledger.loads["a"] is load


def test_who_was_refused_elsewhere_stands_behind_those_who_want_the_same_replica() -> None:
    """A request for two seats waits; retried ones for one seat each do not pass it for ever."""
    book = books(None, delegates=True)
    book.tell("p", 100, resident("hot", 100, slots=2))
    seats = [book.sit("hot")]
    first, _ = book.arrive("hot", weight=2)
    again, decision = book.arrive("hot", avoid=frozenset({"gone"}))
    assert isinstance(decision, Wait)
    assert book.settle() == {}
    book.ledger.depart(seats.pop())
    assert list(book.settle()) == [first]
    book.ledger.depart(first)
    assert list(book.settle()) == [again]


def test_who_waits_for_one_replica_holds_up_nobody_who_may_go_to_another() -> None:
    book = books(None, delegates=True)
    for name in ("p", "q"):
        book.tell(name, 100, resident("hot", 100, slots=1))
    seats = [book.sit("hot"), book.sit("hot")]
    book.arrive("hot", avoid=frozenset({"p"}))
    (at_p,) = [seat for seat in seats if seat.place is not None and seat.place.name == "p"]
    book.ledger.depart(at_p)
    assert book.settle() == {}
    book.sit("hot")


def crowded(places: int = 1) -> Books:
    """A gateway of full and busy neurons, whose line takes four."""
    book = books(None, delegates=True, queue=4)
    for number in range(places):
        book.tell(f"n{number}", 100, resident(f"hot{number}", 100, elsewhere=1))
    return book


def test_the_queue_bounds_callers_of_cold_models_whose_room_is_taken() -> None:
    book = crowded()
    decisions = [book.arrive(f"cold{number}", 60)[1] for number in range(20)]
    assert [type(decision) for decision in decisions] == [Load] * 4 + [Refuse] * 16
    assert isinstance(decisions[-1].error, Overloaded)
    assert (book.ledger.waiting, len(book.ledger.loads)) == (4, 4)


def test_a_key_has_who_has_none_pushed_out_of_a_line_of_cold_models() -> None:
    book = crowded()
    anonymous = [book.arrive(f"cold{number}", 60)[0] for number in range(4)]
    _, load = book.begin("keyed", 60, key="ann")
    ((pushed, decision),) = book.settle().items()
    assert pushed is anonymous[-1] and isinstance(decision, Refuse)
    assert book.ledger.waiting == 4 and book.ledger.loads["keyed"] is load


def test_a_full_line_keeps_nobody_from_the_first_load_of_a_place_nor_from_free_room() -> None:
    book = crowded(2)
    for _ in range(4):
        book.arrive("cold", 60)
    assert book.begin("other", 60)[1].place.name == "n1"
    assert isinstance(book.arrive("third", 60)[1], Refuse)
    book.tell("n2", 100)
    assert book.begin("third", 60)[1].place.name == "n2"
