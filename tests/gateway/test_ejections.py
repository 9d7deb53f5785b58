"""Who is ejected, for how long, and how a neuron earns its whole share again."""

import pytest

from cortex.gateway.probation import (
    EJECTED_MAX_S,
    EJECTED_S,
    FORGET_S,
    SHARE,
    STEP_S,
    STRIKES,
    Probation,
)


class Tried:
    """One neuron's standing, on a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.bounds: list[int | None] = []
        self.all = Probation(lambda: self.now, lambda name, most: self.bounds.append(most))

    @property
    def most(self) -> int | None:
        return self.bounds[-1] if self.bounds else None

    def eject(self) -> float:
        """From wherever it stands; the seconds that it is out."""
        while not self.all.spoilt("n"):
            pass
        assert self.most == 0 and self.all.standing("n") == "ejected"
        began = self.now
        while self.most == 0:
            self.now += 1
            self.all.seen("n")
        return self.now - began


@pytest.fixture
def tried() -> Tried:
    return Tried()


def test_so_many_failures_in_a_row_eject_and_a_success_between_forgives(tried: Tried) -> None:
    """Row 17: three in a row."""
    for _ in range(3):
        assert not any(tried.all.spoilt("n") for _ in range(STRIKES - 1))
        tried.all.passed("n")
    assert tried.bounds == [] and tried.all.standing("n") == "trusted"
    assert [tried.all.spoilt("n") for _ in range(STRIKES)] == [False] * (STRIKES - 1) + [True]
    assert "in a row" in tried.all.why("n")


def test_each_ejection_is_twice_as_long_as_the_one_before_up_to_a_bound(tried: Tried) -> None:
    lengths = [tried.eject() for _ in range(8)]
    assert lengths == [min(EJECTED_S * 2**k, EJECTED_MAX_S) for k in range(8)]


def test_one_failure_on_probation_ejects_again(tried: Tried) -> None:
    tried.eject()
    assert tried.most == 1 and tried.all.standing("n") == "probation"
    assert tried.all.spoilt("n")


def test_the_failures_of_those_without_a_choice_do_not_make_an_ejection_longer(tried: Tried) -> None:
    while not tried.all.spoilt("n"):
        pass
    assert not any(tried.all.spoilt("n") for _ in range(20))
    tried.now += EJECTED_S
    tried.all.seen("n")
    assert tried.most == 1


def test_each_success_doubles_the_share_until_it_is_whole(tried: Tried) -> None:
    """Row 6: one probe, then a gradual share."""
    tried.all.returned("n")
    while tried.most is not None:
        tried.all.passed("n")
    assert tried.bounds == [1, 2, 4, 8, None] and SHARE == 8
    assert tried.all.standing("n") == "trusted" and tried.all.why("n") == ""
    tried.all.passed("n")
    assert tried.most is None


def test_reports_alone_give_a_share_back_in_time(tried: Tried) -> None:
    """Or a fleet that nobody asks would be on probation for ever."""
    tried.all.returned("n")
    for most in (1, 2, 4, 8):
        tried.now += STEP_S - 1
        tried.all.seen("n")
        assert tried.most == most
        tried.now += 1
        tried.all.seen("n")
    assert tried.most is None


def test_a_long_time_of_trust_is_remembered_and_a_short_one_is_not(tried: Tried) -> None:
    tried.eject()
    for wait_s, length in ((FORGET_S - 1, 2 * EJECTED_S), (FORGET_S + 1, EJECTED_S)):
        while tried.most is not None:
            tried.all.passed("n")
        tried.now += wait_s
        assert tried.eject() == length


def test_one_that_was_ejected_and_comes_back_stays_ejected_for_its_time(tried: Tried) -> None:
    while not tried.all.spoilt("n"):
        pass
    tried.all.returned("n")
    assert tried.most == 0


def test_another_neuron_of_that_name_begins_anew(tried: Tried) -> None:
    tried.all.returned("n")
    tried.all.forget("n")
    assert tried.bounds == [1, None] and tried.all.standing("n") == "trusted"
