"""A model whose process died is waited for, longer each time in a row, and by nobody else."""

from cortex.errors import LoadFailed
from cortex.ledger import Load, Refuse, Serve, Wait
from cortex.ledger.rests import COOL_DOWN_S, DEATH_MAX_S, DEATH_S, STABLE_S
from tests.fake_ledger import Books, books, resident


def wait_s(book: Books) -> float:
    """How long who comes now has to wait until "a" is loaded for him; it is in, then."""
    ticket, decision = book.arrive("a")
    assert isinstance(decision, Wait), decision
    began = book.clock()
    book.clock.pass_by(book.ledger.due - began - 0.001)
    assert book.settle() == {}
    book.clock.pass_by(0.001)
    load = book.settle()[ticket]
    assert isinstance(load, Load)
    waited = book.clock() - began
    assert isinstance(book.finish(load)[ticket], Serve)
    book.ledger.depart(ticket)
    return round(waited, 6)


def test_who_wants_what_died_waits_a_moment_and_is_served() -> None:
    book = books(100, resident("a"))
    seat = book.sit("a")
    book.ledger.died("p", "a")
    assert book.living() == {}
    assert wait_s(book) == DEATH_S
    book.ledger.depart(seat)
    assert isinstance(book.arrive("a")[1], Serve)


def test_each_death_in_a_row_is_waited_for_twice_as_long_up_to_a_minute() -> None:
    book = books(100, resident("a"))
    waited: list[float] = []
    for _ in range(9):
        book.clock.pass_by(STABLE_S / 2)
        book.ledger.died("p", "a")
        waited.append(wait_s(book))
    assert waited == [1, 2, 4, 8, 16, 32, DEATH_MAX_S, DEATH_MAX_S, DEATH_MAX_S]


def test_who_lived_for_long_has_its_deaths_forgotten() -> None:
    book = books(100, resident("a"))
    for _ in range(3):
        book.ledger.died("p", "a")
        wait_s(book)
    book.clock.pass_by(STABLE_S)
    book.ledger.died("p", "a")
    assert wait_s(book) == DEATH_S


def test_nobody_else_waits_and_no_room_is_kept() -> None:
    book = books(100, resident("a", 60))
    book.ledger.died("p", "a")
    book.arrive("a", 60)
    assert isinstance(book.arrive("b", 100)[1], Load)


def test_a_load_that_fails_after_a_death_is_refused_as_ever() -> None:
    book = books(100, resident("a"))
    book.ledger.died("p", "a")
    book.clock.pass_by(DEATH_S)
    _, load = book.begin("a")
    book.ledger.failed(load, LoadFailed("torn"))
    _, decision = book.arrive("a")
    assert isinstance(decision, Refuse)
    assert decision.error.retry_after_s == COOL_DOWN_S


def test_the_death_of_what_is_not_there_is_no_error() -> None:
    book = books(100)
    book.ledger.died("p", "a")
    book.ledger.died("q", "a")
    assert isinstance(book.arrive("a")[1], Load)
