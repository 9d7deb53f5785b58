"""Whose turn it is among keys: at the seats of a model, at room that many want, and in a full line.

Nothing waits here: a ledger with its clock, and what it decides step by step.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.errors import Overloaded
from cortex.ledger import Load, Refuse, Serve, Ticket, Wait
from cortex.ledger.crowd import Crowd
from cortex.ledger.line import Line
from cortex.ledger.turns import Turns
from cortex.wire import faults
from cortex.wire.faults import Dialect
from tests.fake_ledger import AGE_S, OVERTAKE_S, Books, books, resident, want

KEYS = {"one": 1.0, "two": 2.0, "half": 0.5, "": 1.0}


def line_up(book: Books, *keys: str, model: str = "a", **more: object) -> list[Ticket]:
    """One who waits for each key, in this order."""
    tickets = []
    for key in keys:
        ticket, decision = book.arrive(model, key=key, share=KEYS.get(key, 1.0), **more)
        assert isinstance(decision, Wait), decision
        tickets.append(ticket)
    return tickets


def drain(book: Books, seated: Ticket) -> list[Ticket]:
    """The seat is given from hand to hand until nobody waits."""
    served: list[Ticket] = []
    while True:
        book.ledger.depart(seated)
        found = book.settle()
        if not found:
            return served
        ((seated, decision),) = found.items()
        assert isinstance(decision, Serve)
        served.append(seated)


def keys_of(tickets: Sequence[Ticket]) -> list[str]:
    return [ticket.want.key for ticket in tickets]


# -- seats


def test_keys_take_turns_however_many_each_has_waiting() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    tickets = line_up(book, "x", "x", "x", "x", "y", "y")
    served = drain(book, seated)
    assert keys_of(served) == ["x", "y", "x", "y", "x", "x"]
    assert [one for one in served if one.want.key == "x"] == tickets[:4]


def test_a_key_with_twice_the_share_has_twice_the_turns() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    line_up(book, *["one"] * 8, *["two"] * 8)
    served = keys_of(drain(book, seated))
    assert Counter(served[:9]) == {"two": 6, "one": 3}


def test_callers_without_a_key_come_last() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    line_up(book, "", "x", "", "y", "x")
    assert keys_of(drain(book, seated)) == ["x", "y", "x", "", ""]


def test_without_keys_it_is_first_come_first_served() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    tickets = line_up(book, *[""] * 20)
    assert drain(book, seated) == tickets


def test_a_key_that_was_away_has_saved_up_nothing() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    line_up(book, *["x"] * 10)
    for _ in range(6):
        book.ledger.depart(seated)
        (seated,) = book.settle()
    line_up(book, *["y"] * 4)
    assert keys_of(drain(book, seated)) == ["y", "x", "y", "x", "y", "x", "y", "x"]


def test_who_gives_up_has_cost_his_key_no_turn() -> None:
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    impatient = line_up(book, *["x"] * 50)
    line_up(book, "y", "y", "y")
    for ticket in impatient[:48]:
        book.ledger.depart(ticket)
    assert keys_of(drain(book, seated)) == ["x", "y", "x", "y", "y"]


def test_several_seats_are_several_turns() -> None:
    book = books(100, resident("a", slots=3))
    seated = book.sit("a", weight=3)
    line_up(book, "x", "x", weight=3)
    line_up(book, "y", "y", "y", "y")
    book.ledger.depart(seated)
    order: list[str] = []
    for _ in range(4):
        served = list(book.settle())
        order += keys_of(served)
        for ticket in served:
            book.ledger.depart(ticket)
    # Three seats for x cost as much as three turns of y.
    assert order == ["x", "y", "y", "y", "x", "y"]


def test_a_newcomer_whose_turn_it_is_does_not_wait_for_those_behind_it() -> None:
    """The head wants three seats of which two are free; one of a key without a turn yet wants one."""
    book = books(100, resident("a", slots=3))
    seated = book.sit("a")
    line_up(book, "", weight=3)
    ticket, decision = book.arrive("a", key="x")
    assert isinstance(decision, Wait)
    assert list(book.settle()) == [ticket]
    book.ledger.depart(seated)


def test_seats_that_nobody_waited_for_cost_nothing() -> None:
    book = books(100, resident("a", slots=2))
    for _ in range(50):
        book.ledger.depart(book.sit("a", key="x"))
    seated = book.sit("a"), book.sit("a")
    line_up(book, "x", "y")
    book.ledger.depart(seated[0])
    assert keys_of(list(book.settle())) == ["x"]


def test_turns_at_one_model_cost_nothing_at_another() -> None:
    book = books(100, resident("a", slots=1), resident("b", slots=1))
    seated, other = book.sit("a"), book.sit("b")
    line_up(book, *["x"] * 30, *["z"] * 30)
    line_up(book, "x", "x", "y", "y", model="b")
    for _ in range(40):
        book.ledger.depart(seated)
        (seated,) = book.settle()
    assert keys_of(drain(book, other)) == ["x", "y", "x", "y"]


def test_the_position_counts_turns() -> None:
    book = books(100, resident("a", slots=1))
    book.sit("a")
    tickets = line_up(book, "x", "x", "x", "", "y", "y", "")
    line = book.ledger._lines["a"]
    order = ["x", "y", "x", "y", "x", "", ""]
    by_turn = sorted(tickets, key=line.position)
    assert [line.position(ticket) for ticket in by_turn] == list(range(1, 8))
    assert keys_of(by_turn) == order
    error = book.ledger.overdue(tickets[2])
    assert isinstance(error, Overloaded) and error.facts == {"queue_position": 5}


ARRIVALS = st.lists(st.tuples(st.sampled_from(sorted(KEYS)), st.integers(1, 3)), min_size=1, max_size=60)


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.lists(st.integers(0, 10**6), max_size=20))
def test_nobody_is_lost_and_each_key_is_served_in_order(
    arrivals: list[tuple[str, int]], leaves: list[int]
) -> None:
    book = books(100, resident("a", slots=3))
    seated = book.sit("a", weight=3)
    tickets = [book.arrive("a", key=key, share=KEYS[key], weight=weight)[0] for key, weight in arrivals]
    staying = list(tickets)
    for which in leaves[: len(tickets) - 1]:
        book.ledger.depart(staying.pop(which % len(staying)))
    served: list[Ticket] = []
    sitting = [seated]
    while sitting:
        book.ledger.depart(sitting.pop(0))
        found = list(book.settle())
        served += found
        sitting += found
    assert sorted(served, key=lambda ticket: ticket.number) == staying
    for key in KEYS:
        own = [ticket.number for ticket in served if ticket.want.key == key]
        assert own == sorted(own)
    keys = keys_of(served)
    assert "" not in keys or not any(keys[keys.index("") :])
    assert book.ledger.waiting == 0 and not book.ledger._crowds and not book.ledger._lines


SHARES = st.dictionaries(
    st.sampled_from("abcdefg"), st.floats(0.1, 10.0, allow_nan=False), min_size=2, max_size=6
)


@settings(max_examples=200, deadline=None)
@given(SHARES, st.lists(st.sampled_from("abcdefg"), max_size=80), st.integers(20, 120))
def test_turns_of_keys_that_wait_differ_from_their_shares_by_a_bounded_number(
    shares: dict[str, float], others: list[str], turns: int
) -> None:
    """The bound of the paper: over any time in which both wait, the work of two keys by their shares
    differs by no more than the longest turn of each by its share."""
    book = books(100, resident("a", slots=1))
    seated = book.sit("a")
    keys = sorted(shares)

    def arrive(key: str) -> None:
        book.arrive("a", key=key, share=shares[key])

    for key in keys:
        arrive(key)
    had: Counter[str] = Counter()
    visitors = [key for key in others if key in shares]
    for turn in range(turns):
        book.ledger.depart(seated)
        (seated,) = book.settle()
        had[seated.want.key] += 1
        arrive(seated.want.key)  # the queue of each never runs dry
        if turn < len(visitors):
            arrive(visitors[turn])
        for one in keys:
            for two in keys:
                apart = abs(had[one] / shares[one] - had[two] / shares[two])
                assert apart <= 1 / shares[one] + 1 / shares[two] + 1e-6


def test_a_step_costs_the_same_however_many_wait() -> None:
    """Comparisons, not time."""
    costs = {}
    for count in (100, 10_000):
        asked = 0

        class Counted(Turns):
            def rank(self, ticket: Ticket):  # type: ignore[no-untyped-def]
                nonlocal asked
                asked += 1
                return super().rank(ticket)

        line = Line(Counted())
        keys = [f"k{number % 50}" for number in range(count)]
        tickets = [
            Ticket(want("a", key=key, share=1.0 + len(key)), 0.0, number) for number, key in enumerate(keys)
        ]
        for ticket in tickets:
            line.join(ticket)
        for ticket in tickets[count // 2 :: 7]:
            line.leave(ticket)
        asked = 0
        for _ in range(40):
            head = line.first()
            assert head is not None
            line.turns.take(head.want)
            line.leave(head)
        costs[count] = asked
    assert costs[10_000] <= costs[100] * 1.5


def test_a_key_that_left_is_forgotten() -> None:
    line, crowd = Line(), Crowd()
    stays = Ticket(want("a", key="stays"), 0.0, 0)
    line.join(stays), crowd.join(stays)
    for number in range(1, 2000):
        ticket = Ticket(want("a", key=f"k{number}"), 0.0, number)
        line.join(ticket), crowd.join(ticket)
        if number % 2:
            line.turns.take(ticket.want)
        line.leave(ticket), crowd.leave(ticket)
    for _ in range(3):
        line.turns.take(stays.want)
    (row,) = line._rows.values()
    assert len(row._heads) < 50 and len(row._listed) < 50 and len(crowd._most) < 50
    assert set(line.turns._ends) == {"stays"} and len(line.turns._ahead) == 1
    assert line.first() is stays and list(line) == [stays]


# -- room


def living(book: Books) -> set[str]:
    return {model for model, phase in book.living().items() if phase == "loading"}


def test_a_key_that_waits_for_ten_models_has_no_more_of_the_room_than_one_that_waits_for_one() -> None:
    """One model fits at a time."""
    book = books(100, resident("big", 100, slots=1))
    seated = book.sit("big")
    for number in range(10):
        line_up(book, "x", model=f"x{number}", need=60)
    line_up(book, "y", model="y0", need=60)
    book.ledger.depart(seated)
    order = []
    for _ in range(4):
        book.clock.pass_by(AGE_S)
        (load,) = (each for each in book.settle().values() if isinstance(each, Load))
        order.append(load.want.model)
        for ticket in book.finish(load):
            book.ledger.depart(ticket)
    assert order == ["x0", "y0", "x1", "x2"]


def test_room_for_two_goes_to_two_keys() -> None:
    """Both loads begin in one look: the first changes whose turn the second is."""
    book = books(100)
    book.ledger.doubt("p", "the connection broke")
    for number in range(3):
        line_up(book, "x", model=f"x{number}", need=50)
    line_up(book, "y", model="y0", need=50)
    book.tell("p", 100)
    book.settle()
    assert living(book) == {"x0", "y0"}


def test_room_goes_to_callers_with_a_key_first() -> None:
    book = books(100, resident("big", 100, slots=1))
    seated = book.sit("big")
    line_up(book, "", model="a", need=60)
    line_up(book, "x", model="b", need=60)
    book.ledger.depart(seated)
    book.settle()
    assert living(book) == {"b"}


def test_a_model_that_came_in_serves_who_waited_for_it_before_others_have_it_sent_away() -> None:
    """They have fewer turns, and nothing protects the young: else two would load in turns for ever."""
    book = books(100, resident("a", 60, slots=1), age_s=0.0)
    seated = book.sit("a")
    (first,) = line_up(book, "x", model="b", need=60)
    line_up(book, "y", model="c", need=60)
    book.ledger.depart(seated)
    (load,) = (each for each in book.settle().values() if isinstance(each, Load))
    assert load.want.model == "b"
    found = book.finish(load, slots=1)
    assert list(found) == [first] and isinstance(found[first], Serve)
    book.ledger.depart(first)
    (load,) = book.settle().values()
    assert isinstance(load, Load) and load.want.model == "c"


def overtaken(book: Books, key: str) -> Ticket:
    """One who waits for "b" until he has the right to the room of "a", which somebody sits at."""
    (ticket,) = line_up(book, key, model="b", need=60)
    book.clock.pass_by(OVERTAKE_S + 1)
    book.settle()
    return ticket


def test_a_claim_holds_against_every_key_and_is_kept_when_others_come_to_the_line() -> None:
    """Whoever is served with fewer turns than he had; also when the one behind him has fewer."""
    book = books(100, resident("a", 60, slots=4))
    seated = book.sit("a", key="y")
    ticket = overtaken(book, "x")
    assert isinstance(book.arrive("a", key="y")[1], Wait)
    line_up(book, "y", model="b", need=60)
    book.settle()
    assert isinstance(book.arrive("a", key="z")[1], Wait)
    book.ledger.depart(seated)
    found = book.settle()
    assert {type(decision) for decision in found.values()} == {Load} and "b" in book.ledger.loads
    assert ticket.place is None


def test_a_claim_of_a_caller_without_a_key_holds_against_his_like_only() -> None:
    book = books(100, resident("a", 60, slots=4))
    book.sit("a")
    overtaken(book, "")
    assert isinstance(book.arrive("a")[1], Wait)
    assert isinstance(book.arrive("a", key="x")[1], Wait)  # behind the one before, for a moment
    (decision,) = book.settle().values()
    assert isinstance(decision, Serve)


def test_a_claim_is_not_lost_to_one_with_a_key_who_joins_the_line() -> None:
    book = books(100, resident("a", 60, slots=4))
    book.sit("a")
    first = overtaken(book, "")
    line_up(book, "x", model="b", need=60)
    book.settle()
    claim = book.ledger._claims.of("b")
    assert claim is not None and claim.ticket is first
    assert isinstance(book.arrive("a")[1], Wait)
    # With time the one with a key gains the right against all.
    book.clock.pass_by(OVERTAKE_S + 1)
    book.settle()
    assert isinstance(book.arrive("a", key="z")[1], Wait)
    assert not any(isinstance(decision, Serve) for decision in book.settle().values())


def test_a_line_whose_head_is_young_is_looked_at_when_its_eldest_gains_his_right() -> None:
    book = books(100, resident("a", 60, slots=4), resident("b", 40, slots=1))
    book.sit("a")
    seated = book.sit("b")
    line_up(book, "x", "x", model="b", need=60)
    book.ledger.depart(seated)
    assert keys_of(list(book.settle())) == ["x"]  # which costs x the head of the line
    book.ledger.died("p", "b")
    book.clock.pass_by(OVERTAKE_S - 1)
    (head,) = line_up(book, "y", model="b", need=60)
    book.settle()
    assert book.ledger._lines["b"].first() is head
    assert book.ledger.due == book.clock() + 1
    book.clock.pass_by(1)
    book.settle()
    assert isinstance(book.arrive("a", key="z")[1], Wait)


def promised(book: Books) -> Ticket:
    """ "b" is promised the room of "a"; its key has had a turn at room before."""
    _, load = book.begin("m", 20, key="x")
    for ticket in book.finish(load):
        book.ledger.depart(ticket)
    (ticket,) = line_up(book, "x", model="b", need=70)
    book.clock.pass_by(OVERTAKE_S + 1)
    book.settle()
    return ticket


def test_promised_room_is_taken_by_nobody_who_came_later_until_he_has_waited_for_as_long() -> None:
    """Then turns decide."""
    book = books(100, resident("a", 60, slots=4))
    book.sit("a")
    promised(book)
    line_up(book, "y", model="c", need=20)
    assert book.settle() == {} and not book.ledger.loads
    book.clock.pass_by(OVERTAKE_S)
    (decision,) = book.settle().values()
    assert isinstance(decision, Load) and decision.want.model == "c"


def test_a_promise_does_not_stand_against_another_one_for_the_same_model() -> None:
    book = books(100, resident("a", 60, slots=4))
    seated = book.sit("a")
    promised(book)
    book.ledger.depart(seated)
    book.ledger.gone("p", "a")
    _, decision = book.arrive("b", 70, key="y", avoid=frozenset({"q"}))
    assert isinstance(decision, Load)


# -- a full line


def refusal(decision: object) -> Overloaded:
    assert isinstance(decision, Refuse) and isinstance(decision.error, Overloaded), decision
    return decision.error


def full(*keys: str, slots: int = 1, **rules: object) -> tuple[Books, Ticket, list[Ticket]]:
    book = books(100, resident("a", slots=slots), resident("b", slots=1), queue=len(keys), **rules)
    seated, _ = book.sit("a"), book.sit("b")
    return book, seated, line_up(book, *keys)


def test_one_of_a_key_with_few_waiting_takes_the_place_of_the_youngest_of_the_key_with_most() -> None:
    book, _, tickets = full("x", "x", "y", "x")
    newcomer, decision = book.arrive("b", key="z")
    assert isinstance(decision, Wait)
    ((pushed, refused),) = book.settle().items()
    assert pushed is tickets[3]
    error = refusal(refused)
    assert error.facts == {"queue_position": 4} and error.not_started
    assert book.ledger.waiting == 4 and book.ledger.waiting_for("b") == 1
    book.ledger.depart(pushed)
    book.ledger.depart(newcomer)
    assert book.ledger.waiting == 3


@pytest.mark.parametrize(
    ("waiting", "told"),
    [(["x"], "1 request waits already; "), (["x", "x"], "2 requests wait already; ")],
)
def test_a_full_line_says_how_many_wait(waiting: list[str], told: str) -> None:
    book, _, _ = full(*waiting)
    assert refusal(book.arrive("a", key="x")[1]).message.startswith(told)


@pytest.mark.parametrize(
    ("waiting", "told"),
    [([""], "1 request waits, and the last "), (["x", "x"], "2 requests wait, and the last ")],
)
def test_who_gives_way_is_told_how_many_wait(waiting: list[str], told: str) -> None:
    book, _, _ = full(*waiting)
    book.arrive("a", key="y")
    [refused] = book.settle().values()
    assert refusal(refused).message.startswith(told)


@pytest.mark.parametrize(
    ("waiting", "newcomer", "pushed"),
    [
        (["x", "x"], "x", None),
        (["x", "y"], "x", None),
        (["x", "y"], "z", None),
        (["x", "x", "y"], "y", None),
        (["x", "x", "x", "y"], "y", 2),
        (["", "x", "x"], "y", 0),
        (["", "", "x"], "", None),
        (["x", "x"], "", None),
        (["", ""], "", None),
        (["one", "one", "two", "two"], "two", 1),
        (["one", "one", "two", "two", "two"], "two", None),
        (["one", "one", "one", "two", "two"], "two", 2),
        (["half", "one"], "one", None),
        (["half", "two"], "two", 0),
    ],
)
def test_who_gives_way_in_a_full_line(waiting: list[str], newcomer: str, pushed: int | None) -> None:
    """Whoever has most waiting for his share; the newcomer, when it would have as many itself."""
    book, _, tickets = full(*waiting)
    foreseen = book.ledger.plan(want("a", key=newcomer, share=KEYS.get(newcomer, 1.0)))
    _, decision = book.arrive("a", key=newcomer, share=KEYS.get(newcomer, 1.0))
    told = list(book.settle())
    if pushed is None:
        assert refusal(decision).facts == {"queue_position": len(waiting) + 1} and told == []
        assert isinstance(foreseen.verdict, Refuse)
    else:
        assert isinstance(decision, Wait) and told == [tickets[pushed]]
        assert isinstance(foreseen.verdict, Wait)


def test_at_a_neuron_nobody_gives_way_to_those_of_another_model() -> None:
    book, _, _ = full("x", "x", queue_per_model=True)
    assert isinstance(book.arrive("b", key="y")[1], Wait)
    assert book.settle() == {}
    assert isinstance(book.arrive("a", key="y")[1], Wait)
    assert len(book.settle()) == 1


def test_an_order_does_not_give_way() -> None:
    """Others may wait for what it brings."""
    book = books(100, queue=2)
    order, _ = book.begin("a", weight=0)
    ticket, _ = book.arrive("a")
    assert isinstance(book.arrive("a", key="x")[1], Wait)
    assert list(book.settle()) == [ticket]
    refusal(book.arrive("a")[1])
    assert order in book.ledger._lines["a"]


def test_one_who_leaves_before_he_is_told_is_told_nothing() -> None:
    book, _, tickets = full("x", "x")
    book.arrive("a", key="y")
    book.ledger.depart(tickets[1])
    assert book.settle() == {}


def test_when_to_come_again_follows_the_pace_of_the_line() -> None:
    book, seated, _ = full(*["x"] * 10)
    assert refusal(book.arrive("a", key="x")[1]).retry_after_s == Overloaded.default_retry_after_s
    for _ in range(5):
        book.clock.pass_by(3)
        book.ledger.depart(seated)
        (seated,) = book.settle()
        book.arrive("a", key="x")
    # Ten wait, and one every three seconds has a turn.
    assert refusal(book.arrive("a", key="x")[1]).retry_after_s == 30.0
    for _ in range(40):
        book.ledger.depart(seated)
        (seated,) = book.settle()
        book.arrive("a", key="x")
    assert refusal(book.arrive("a", key="x")[1]).retry_after_s == 1.0
    book.clock.pass_by(10_000)
    assert refusal(book.arrive("a", key="x")[1]).retry_after_s == 60.0


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_both_dialects_say_where_one_stood_and_when_to_come_again(dialect: Dialect) -> None:
    """In the body, and in the event that ends a stream."""
    book, _, _ = full("x", "x")
    book.arrive("a", key="y")
    ((_, pushed),) = book.settle().items()
    for error, position in ((refusal(pushed), 2), (refusal(book.arrive("a", key="x")[1]), 3)):
        (frame,) = faults.frames(error, dialect, "r")
        for said in (faults.body(error, dialect, "r"), frame.data):
            fault = msgspec.json.decode(said)["error"]
            told = fault if dialect == "openai" else fault["details"]
            assert told["queue_position"] == position and fault["retry_after"] == 2
