"""Places that have to prove themselves: how many of those who have a choice go there."""

from cortex.ledger import Serve, Wait
from tests.fake_ledger import Books, books, resident, want


def two(most: int | None, **facts: object) -> Books:
    """A gateway's ledger: "p" has to prove itself and is the calmer one, "q" need not. Both have "a"."""
    book = books(None, delegates=True)
    book.tell("p", 100, resident("a"), resident("b"))
    book.tell("q", 100, resident("a", **{"elsewhere": 9, **facts}))
    book.ledger.bound("p", most)
    return book


def places(book: Books, count: int, model: str = "a") -> list[str]:
    """Where so many sit."""
    return [ticket.place.name for ticket in (book.sit(model) for _ in range(count)) if ticket.place]


def test_who_has_a_choice_goes_there_as_long_as_it_has_less_than_its_share() -> None:
    assert places(two(0), 3) == ["q"] * 3
    assert places(two(1), 3) == ["p", "q", "q"]
    assert places(two(2), 3) == ["p", "p", "q"]
    assert places(two(None), 3) == ["p"] * 3


def test_the_share_is_over_all_models_of_the_place() -> None:
    book = two(1)
    other = book.sit("b")
    assert places(book, 1) == ["q"]
    book.ledger.depart(other)
    assert places(book, 1) == ["p"]


def test_who_has_no_choice_is_never_held_back() -> None:
    """Row 17: a fleet never ejects itself."""
    assert places(two(0), 3, "b") == ["p"] * 3
    book = two(0)
    book.ledger.bound("q", 0)
    assert places(book, 3) == ["p"] * 3
    gone = two(0)
    gone.ledger.lost("q", "away")
    assert places(gone, 2) == ["p"] * 2


def test_a_replica_that_refused_the_request_is_no_choice() -> None:
    book = two(0)
    ticket = book.sit("a", avoid=frozenset({"q"}))
    assert ticket.place is not None and ticket.place.name == "p"


def test_who_waits_is_seated_when_the_share_grows() -> None:
    book = two(0, slots=0)
    ticket, decision = book.arrive("a")
    assert decision == Wait("slots")
    book.ledger.bound("p", 1)
    assert isinstance(book.settle()[ticket], Serve)
    assert ticket.place is not None and ticket.place.name == "p"


def test_who_waits_is_seated_when_one_of_another_model_leaves() -> None:
    book = two(1, slots=0)
    other = book.sit("b")
    ticket, _ = book.arrive("a")
    assert book.settle() == {}
    book.ledger.depart(other)
    assert isinstance(book.settle()[ticket], Serve)


def test_who_waits_is_seated_when_the_choice_is_gone() -> None:
    book = two(0, slots=0)
    ticket, _ = book.arrive("a")
    book.ledger.lost("q", "away")
    assert isinstance(book.settle()[ticket], Serve)


def test_an_order_that_needs_no_seat_is_not_held_back() -> None:
    book = two(0)
    _, decision = book.ledger.arrive(want("a", weight=0))
    assert isinstance(decision, Serve)


def test_the_plan_says_so() -> None:
    plan = two(0).ledger.plan(want("a"))
    assert plan.place is not None and plan.place.name == "q"
    held = {reason.place.name: reason for reason in plan.reasons}["p"]
    assert held.standing == "full" and "prove itself" in held.why


def test_a_model_comes_in_at_a_place_that_spoils_requests_only_when_no_other_can_take_it() -> None:
    book = books(None, delegates=True)
    book.tell("p", 100)
    book.tell("q", 50)
    book.ledger.bound("p", 0)
    plan = book.ledger.plan(want("c", 30, may_load=True))
    assert [(reason.place.name, reason.standing) for reason in plan.reasons] == [("q", "fits"), ("p", "fits")]
    assert "did not spoil" in plan.reasons[1].why
    assert book.begin("c", 30)[1].place.name == "q"
    assert book.begin("d", 70)[1].place.name == "p"
    book.ledger.bound("p", 1)
    assert book.begin("e", 10)[1].place.name == "p"


def test_a_bound_outlives_reports_and_a_loss_and_goes_with_the_place() -> None:
    book = two(0)
    book.tell("p", 100, resident("a"))
    assert places(book, 1) == ["q"]
    book.ledger.lost("p", "away")
    book.tell("p", 100, resident("a"))
    assert places(book, 1) == ["q"]
    book.ledger.bound("nowhere", 3)
    book.ledger.forget("p", "gone")
    book.tell("p", 100, resident("a"))
    assert places(book, 1) == ["p"]
