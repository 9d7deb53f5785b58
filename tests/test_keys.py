"""What a key may use and has left, on clocks of the test's own; and what a new one looks like."""

import re
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from cortex.config.keys import Key
from cortex.errors import TooMuch, Unauthorised
from cortex.events import Usage
from cortex.keys import Accounts, Guesses, digest, new_key
from cortex.keys.guesses import ADDRESSES
from cortex.wire.neuron import KeyTokens, Tokens

DAY = "2026-11-30"


class Clocks:
    """Seconds and the time of day, which go on together; 18:00 to begin with."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.utc = datetime(2026, 11, 30, 18, tzinfo=UTC)

    def wait(self, seconds: float) -> None:
        self.s += seconds
        self.utc += timedelta(seconds=seconds)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def accounts_of(clocks: Clocks, **limits: object) -> Accounts:
    keys = (Key("ann", "0" * 64, **limits), Key("free", "1" * 64))  # type: ignore[arg-type]
    return Accounts(keys, lambda: clocks.s, lambda: clocks.utc)


def ask(accounts: Accounts, caller: str = "ann") -> None:
    with accounts.held(caller, 0):
        pass


def refused(accounts: Accounts, caller: str = "ann") -> TooMuch:
    with pytest.raises(TooMuch) as caught:
        ask(accounts, caller)
    return caught.value


def told(day: str = DAY, book: str = "b1", **keys: int) -> KeyTokens:
    """A neuron's count: of each key so many tokens, a third of them prompt."""
    counts = {name: Tokens(prompt=n // 3, completion=n - n // 3) for name, n in keys.items()}
    return KeyTokens(day=day, book=book, keys=counts)


# -- requests at once, and within a minute


def test_one_request_too_many_at_once_is_refused_until_one_has_ended(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, max_in_flight=2)
    with accounts.held("ann", 0):
        with accounts.held("ann", 0):
            error = refused(accounts)
            assert (error.retry_after_s, error.facts) == (1.0, {"limit": "max_in_flight"})
            assert "max_in_flight" in error.message and not error.final
            ask(accounts, "free")
        ask(accounts)
    with accounts.held("ann", 0), accounts.held("ann", 0):
        refused(accounts)


def test_a_request_that_fails_is_no_longer_in_flight(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, max_in_flight=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), accounts.held("ann", 0):
            raise ZeroDivisionError
    ask(accounts)


@pytest.mark.parametrize(("most", "told"), [(1, "1 request "), (2, "2 requests ")])
def test_a_key_is_told_how_many_requests_it_has(clocks: Clocks, most: int, told: str) -> None:
    accounts = accounts_of(clocks, max_in_flight=most)
    with ExitStack() as held:
        for _ in range(most):
            held.enter_context(accounts.held("ann", 0))
        assert f"has {told}under way" in refused(accounts).message
    accounts = accounts_of(clocks, requests_per_minute=most)
    for _ in range(most):
        ask(accounts)
    assert f"has begun {told}within" in refused(accounts).message


def test_no_minute_has_more_requests_than_its_limit_and_the_wait_is_exact(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, requests_per_minute=3)
    for _ in range(3):
        ask(accounts)
        clocks.wait(10)
    assert refused(accounts).retry_after_s == 30.0, "the first of the three is 30 s old"
    clocks.wait(29.5)
    error = refused(accounts)
    assert (error.retry_after_s, error.facts) == (0.5, {"limit": "requests_per_minute"})
    clocks.wait(0.5)
    ask(accounts)
    assert refused(accounts).retry_after_s == 10.0


def test_a_refused_request_does_not_count(clocks: Clocks) -> None:
    """Else one who asks again and again would never be served."""
    accounts = accounts_of(clocks, requests_per_minute=1, max_in_flight=1)
    with accounts.held("ann", 0):
        for _ in range(5):
            refused(accounts)
            clocks.wait(12)
        assert refused(accounts).facts == {"limit": "max_in_flight"}, "the minute is over"
    ask(accounts)
    assert refused(accounts).facts == {"limit": "requests_per_minute"}, "and this one counted"


def test_who_has_no_account_is_not_limited(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, max_in_flight=1, requests_per_minute=1, tokens_per_day=1, models=("x",))
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(accounts.held("", 0))
            stack.enter_context(accounts.held("free", 0))
    assert accounts.allows("", "y") and accounts.allows("free", "y")
    assert not accounts.narrow("") and not accounts.narrow("free") and accounts.narrow("ann")


def test_other_limits_hold_for_what_is_under_way_too(clocks: Clocks) -> None:
    """Reload: a key that stays forgets nothing."""
    accounts = accounts_of(clocks, max_in_flight=1, requests_per_minute=5, tokens_per_day=9999)
    accounts.spent("ann", "n1", Usage(completion=8))
    with accounts.held("ann", 0):
        accounts.renew([Key("ann", "0" * 64, max_in_flight=2, requests_per_minute=2, tokens_per_day=9999)])
        with accounts.held("ann", 0):
            pass
        assert refused(accounts).facts == {"limit": "requests_per_minute"}
        clocks.wait(60)
        with accounts.held("ann", 0):
            assert refused(accounts).facts == {"limit": "max_in_flight"}
        accounts.spent("ann", "n1", Usage(completion=9991))
        assert refused(accounts).facts == {"limit": "tokens_per_day"}
        accounts.renew([])
        # It came in before it was revoked, and must not pass for one without limits.
        assert accounts.narrow("ann")
        assert not accounts.allows("ann", "any")
        with pytest.raises(Unauthorised, match="revoked"):
            ask(accounts)
        accounts.renew([Key("bob", "3" * 64)])
        accounts.renew([Key("ann", "2" * 64, max_in_flight=1)])
        assert refused(accounts).facts == {"limit": "max_in_flight"}
    ask(accounts)


def test_a_key_that_comes_back_within_a_minute_has_not_begun_anew(clocks: Clocks) -> None:
    """Taking it out of the file and putting it back would be a way around its limit."""
    accounts, keys = accounts_of(clocks, requests_per_minute=1), [Key("ann", "0" * 64, requests_per_minute=1)]
    ask(accounts)
    for seconds in (30, 29.5):
        clocks.wait(seconds)
        accounts.renew([])
        accounts.renew(keys)
        assert refused(accounts).facts == {"limit": "requests_per_minute"}
    accounts.renew([])
    clocks.wait(0.5)
    accounts.renew([Key("bob", "3" * 64)])
    assert not accounts._former, "what counts no longer is forgotten"
    accounts.renew(keys)
    ask(accounts)


# -- tokens of a day


def test_tokens_of_all_neurons_count_until_midnight_utc(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(ann=60, free=999), 999.0)
    ask(accounts)
    accounts.reported("n2", told(book="b2", ann=39), 999.0)
    ask(accounts)
    accounts.reported("n2", told(book="b2", ann=40), 999.5)
    error = refused(accounts)
    assert error.retry_after_s == 6 * 3600 and error.facts == {"limit": "tokens_per_day"}
    assert error.final, "a client library would wait by itself until midnight"
    ask(accounts, "free")
    clocks.wait(6 * 3600 - 1)
    assert refused(accounts).retry_after_s == 1
    clocks.wait(1)
    ask(accounts)


def test_what_ended_since_a_report_counts_once(clocks: Clocks) -> None:
    """Whether it is counted here or already in the neuron's report."""
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(ann=40), clocks.s)
    clocks.wait(1)
    asked_at = clocks.s
    clocks.wait(1)
    accounts.spent("ann", "n1", Usage(prompt=20, cached=10, completion=30))
    ask(accounts)  # 90
    accounts.reported("n1", told(ann=40), asked_at)  # the question was asked before the end
    accounts.spent("ann", "n2", Usage(completion=9))
    ask(accounts)  # 99
    accounts.spent("ann", "n1", Usage(completion=1))
    refused(accounts)  # 100
    clocks.wait(1)
    accounts.reported("n1", told(ann=90), clocks.s)  # it counted fewer for the last one
    ask(accounts)  # 99
    accounts.reported("n1", told(ann=91), clocks.s)
    refused(accounts)


def test_a_neuron_that_is_asked_again_is_not_summed_twice(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=100)
    for _ in range(5):
        clocks.wait(2)
        accounts.reported("n1", told(ann=99), clocks.s)
    ask(accounts)  # 99
    accounts.spent("ann", "n1", Usage(completion=1))
    refused(accounts)


def test_what_is_under_way_counts_by_what_it_may_come_to(clocks: Clocks) -> None:
    """A burst goes no further past the limit than one request does."""
    accounts = accounts_of(clocks, tokens_per_day=1000)
    with ExitStack() as stack:
        begun = 0
        with pytest.raises(TooMuch) as caught:
            for _ in range(50):
                stack.enter_context(accounts.held("ann", 400)).expect(200)  # 100 and 200 tokens
                begun += 1
        assert begun == 4, "after three there are 100 left"
        error = caught.value
        assert error.facts == {"limit": "tokens_per_day"} and "under way" in error.message
        assert error.retry_after_s == 1.0 and not error.final, "one of them may end with less"
        ask(accounts, "free")
    accounts.spent("ann", "n1", Usage(prompt=90, completion=20))
    ask(accounts)


def test_what_a_request_used_counts_instead_of_what_it_might_have(clocks: Clocks) -> None:
    """Settled at its end, however it ends; and neither twice."""
    accounts = accounts_of(clocks, tokens_per_day=1000)
    for used in (300, 300, 300):
        with pytest.raises(ZeroDivisionError), accounts.held("ann", 4000) as claim:
            claim.expect(5000)
            assert refused(accounts).facts == {"limit": "tokens_per_day"}
            raise ZeroDivisionError
        accounts.spent("ann", "n1", Usage(prompt=used - 1, completion=1))
    ask(accounts)  # 900
    accounts.spent("ann", "n1", Usage(prompt=100))
    assert refused(accounts).final


def test_an_answer_without_a_limit_counts_as_those_of_late_came_to(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=10**6)

    def at_once() -> int:
        """How many such requests may begin while none ends."""
        with ExitStack() as stack:
            for begun in range(10**4):
                try:
                    stack.enter_context(accounts.held("ann", 0)).expect(None)
                except TooMuch:
                    return begun
        raise AssertionError("no end")

    assert at_once() == 1000, "nobody knows yet"
    for _ in range(40):
        accounts.spent("ann", "n1", Usage(completion=10_000))
    assert 60 <= at_once() <= 62, "of 600,000 that are left"
    for _ in range(40):
        accounts.spent("ann", "n1", Usage(completion=100))
    assert 2000 < at_once() < 6000


def test_a_client_that_left_has_used_its_prompt_until_the_neuron_tells(clocks: Clocks) -> None:
    """Else one that leaves early, again and again, would have it for nothing between two reports."""
    accounts = accounts_of(clocks, tokens_per_day=1000)
    accounts.left("ann", "n1", Usage(completion=5), 4 * 900)
    ask(accounts)  # 905
    accounts.left("ann", "n1", Usage(completion=5), 4 * 90)
    refused(accounts)  # 1000
    clocks.wait(1)
    accounts.reported("n1", told(ann=500), clocks.s)
    ask(accounts)


def test_a_neuron_that_lost_its_book_takes_back_nothing_that_it_told(clocks: Clocks) -> None:
    """Its state_dir is gone: what it counts from here on is more, be it less than it had."""
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(ann=60), clocks.s)
    accounts.reported("n2", told(book="b0", ann=20), clocks.s)
    accounts.reported("n1", told(book="b2"), clocks.s)
    accounts.reported("n1", told(book="b2", ann=19), clocks.s)
    ask(accounts)  # 99
    accounts.reported("n1", told(book="b2", ann=20), clocks.s)
    refused(accounts)
    other = accounts_of(clocks, tokens_per_day=100)
    other.reported("n1", told(ann=40), clocks.s)
    other.reported("n1", told(book="b2", ann=60), clocks.s)
    refused(other)  # more than it had told, and yet another book


def test_a_book_that_lacks_its_last_lines_is_not_summed_twice(clocks: Clocks) -> None:
    """A neuron that was killed forgets some seconds, and not the day."""
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(ann=90, free=5), clocks.s)
    accounts.reported("n1", told(ann=85), clocks.s)
    ask(accounts)  # 90
    accounts.reported("n1", told(ann=94), clocks.s)
    ask(accounts)  # 99
    accounts.reported("n1", told(ann=95), clocks.s)
    refused(accounts)


def test_a_neuron_that_goes_by_another_name_is_not_counted_again(clocks: Clocks) -> None:
    """DNS made a neuron's name longer, and may make it short again; what ended there under the old name
    is in the count that it tells under the new one."""
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("box", told(ann=60), clocks.s)
    accounts.spent("ann", "box", Usage(completion=20))  # 80
    clocks.wait(1)
    accounts.reported("box-8000", told(ann=80), clocks.s)
    accounts.reported("box-8000", told(ann=99), clocks.s)
    accounts.reported("box", told(ann=99), clocks.s)
    ask(accounts)  # 99
    accounts.reported("box", told(ann=100), clocks.s)
    refused(accounts)


def test_neurons_that_tell_of_no_book_count_each_for_itself(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(book="", ann=60), clocks.s)
    accounts.reported("n2", told(book="", ann=39), clocks.s)
    ask(accounts)
    accounts.reported("n2", told(book="", ann=40), clocks.s)
    refused(accounts)


def test_two_hosts_with_copies_of_one_book_do_not_add_to_each_other_for_ever(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=100)
    for _ in range(5):
        accounts.reported("n1", told(ann=90), clocks.s)
        accounts.reported("n2", told(ann=50), clocks.s)
    ask(accounts)  # 90
    accounts.reported("n1", told(ann=100), clocks.s)
    refused(accounts)


def test_a_report_of_another_day_says_nothing_of_this_one(clocks: Clocks) -> None:
    """A neuron's clock may be behind, or it has counted nothing yet."""
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.spent("ann", "n1", Usage(completion=100))
    clocks.wait(1)
    for day in ("2026-11-29", "2026-12-01", ""):
        accounts.reported("n1", told(day, ann=5), clocks.s)
        refused(accounts)
    accounts.reported("n1", told(ann=5), clocks.s)
    ask(accounts)


def test_a_new_day_begins_at_nothing(clocks: Clocks) -> None:
    accounts = accounts_of(clocks, tokens_per_day=100)
    accounts.reported("n1", told(ann=50), clocks.s)
    accounts.spent("ann", "n2", Usage(completion=60))
    refused(accounts)
    clocks.wait(6 * 3600)
    accounts.spent("ann", "n2", Usage(completion=99))
    ask(accounts)
    accounts.reported("n1", told("2026-12-01", ann=1), clocks.s)
    refused(accounts)


# -- models


@pytest.mark.parametrize(
    ("globs", "names", "allowed"),
    [
        (("org/*",), ("org/a",), True),
        (("org/*",), ("org/a/b",), True),
        (("org/*",), ("orgx/a",), False),
        (("a?c",), ("abc",), True),
        (("a?c",), ("abbc",), False),
        (("[ab]c",), ("bc",), True),
        (("A",), ("a",), False),
        (("a",), ("ab",), False),
        (("x", "y*"), ("yes",), True),
        (("fast",), ("fast", "org/big"), True),
        (("org/*",), ("fast", "org/big"), True),
        (("org/*",), ("fast", "other/big"), False),
        (("*",), ("anything/at:all",), True),
    ],
)
def test_a_model_is_allowed_by_any_of_its_names(
    clocks: Clocks, globs: tuple[str, ...], names: tuple[str, ...], allowed: bool
) -> None:
    assert accounts_of(clocks, models=globs).allows("ann", *names) is allowed


# -- guessing one


def tried(guesses: Guesses, address: str, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert guesses.wrong(ip_address(address), f"wrong-{number}")


def test_who_tries_many_keys_is_not_listened_to_until_the_first_is_a_minute_old(clocks: Clocks) -> None:
    """Row 56: by address, and nobody else notices."""
    guesses, evil, good = Guesses(lambda: clocks.s), ip_address("192.0.2.1"), ip_address("192.0.2.2")
    tried(guesses, "192.0.2.1", 1)
    clocks.wait(20)
    tried(guesses, "192.0.2.1", 19, first=1)
    guesses.check(evil)
    tried(guesses, "192.0.2.1", 1, first=20)
    with pytest.raises(TooMuch) as caught:
        guesses.check(evil)
    assert caught.value.retry_after_s == 40.0
    guesses.check(good)
    clocks.wait(40)
    guesses.check(evil)
    tried(guesses, "192.0.2.1", 1, first=21)
    with pytest.raises(TooMuch):
        guesses.check(evil)


def test_one_wrong_key_may_be_repeated_for_ever(clocks: Clocks) -> None:
    """A client that is set up wrongly shuts nobody out who comes from the same address."""
    guesses, address = Guesses(lambda: clocks.s), ip_address("192.0.2.1")
    assert guesses.wrong(address, "old key")
    assert not [True for _ in range(100) if guesses.wrong(address, "old key")]
    guesses.check(address)


def test_the_addresses_of_one_ipv6_network_are_one_party(clocks: Clocks) -> None:
    guesses = Guesses(lambda: clocks.s)
    for number in range(21):
        tried(guesses, f"2001:db8::{number:x}", 1, first=number)
    with pytest.raises(TooMuch):
        guesses.check(ip_address("2001:db8::ffff"))
    guesses.check(ip_address("2001:db8:0:1::1"))


def test_guesses_fill_no_memory(clocks: Clocks) -> None:
    guesses = Guesses(lambda: clocks.s)
    tried(guesses, "192.0.2.1", 21)
    for number in range(ADDRESSES):
        guesses.wrong(ip_address(number), "x")
    guesses.check(ip_address("192.0.2.1"))
    assert len(guesses._tried) == ADDRESSES


# -- making one


def test_a_new_key_is_one_word_that_nobody_could_guess() -> None:
    keys = {new_key() for _ in range(200)}
    assert len(keys) == 200
    assert all(re.fullmatch(r"sk-cortex-[A-Za-z0-9]{43}", key) for key in keys)
    assert len(set("".join(key.removeprefix("sk-cortex-") for key in keys))) == 62, "every letter occurs"


def test_a_key_is_known_by_its_sha256() -> None:
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
