"""Who is due is looked after in time, and who is done is not kept until then."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from math import inf

import pytest
import trio
import trio.testing

from cortex.web.hall import Watch
from cortex.web.reactor import Reactor


@dataclass(eq=False)
class Played:
    """An errand whose time is `due`; it has none when it was looked after."""

    due: float
    looked: list[float] = field(default_factory=list)

    def look(self, now: float) -> None:
        self.looked.append(now)
        self.due = inf

    def drop(self, *, bug: bool) -> None:
        raise AssertionError(f"dropped, bug={bug}")


@pytest.fixture
async def watch(nursery: trio.Nursery) -> AsyncIterator[Watch]:
    made, reactor = Watch(), Reactor()
    await nursery.start(made.run, reactor)
    yield made
    reactor.close()


def kept(watch: Watch) -> int:
    return len(watch._looks)


async def test_whoever_is_done_is_not_kept_until_he_would_have_been_due(watch: Watch) -> None:
    """Thousands of requests a second have deadlines minutes off: each was kept with all that it held."""
    most = 0
    for _ in range(5000):
        errand = Played(trio.current_time() + 120.0)
        watch.serves(errand)
        watch.done(errand)
        most = max(most, kept(watch))
    assert most <= 256


async def test_those_who_are_under_way_are_looked_after_however_many_are_done(
    watch: Watch, autojump_clock: object
) -> None:
    began = trio.current_time()
    slow = [Played(began + 60.0 + number) for number in range(300)]
    for errand in slow:
        watch.serves(errand)
        for _ in range(10):
            quick = Played(began + 120.0)
            watch.serves(quick)
            watch.done(quick)
    assert kept(watch) <= 2 * len(slow) + 256
    await trio.sleep(400.0)
    assert [errand.looked for errand in slow] == [
        [pytest.approx(began + 60.0 + number)] for number in range(300)
    ]
    for errand in slow:
        watch.done(errand)


async def test_one_who_asks_again_and_again_is_kept_once(watch: Watch, autojump_clock: object) -> None:
    """Row 32: whoever reads slowly lets his errand wait for him with each piece of a stream."""
    began, errand = trio.current_time(), Played(trio.current_time() + 120.0)
    watch.serves(errand)
    for piece in range(5000):
        errand.due = began + 60.0 + piece
        watch.wants(errand, errand.due)
    assert kept(watch) == 2
    await trio.sleep(50.0)
    errand.due = began + 5060.0
    await trio.sleep(5000.0)
    assert errand.looked == []
    assert kept(watch) <= 2
    await trio.sleep(20.0)
    assert errand.looked == [pytest.approx(began + 5060.0)]
    watch.done(errand)


async def test_one_who_asks_for_an_earlier_time_has_it(watch: Watch, autojump_clock: object) -> None:
    began, errand = trio.current_time(), Played(trio.current_time() + 120.0)
    watch.serves(errand)
    errand.due = began + 3.0
    watch.wants(errand, errand.due)
    await trio.sleep(4.0)
    assert errand.looked == [pytest.approx(began + 3.0)]
    watch.done(errand)


async def test_whoever_is_looked_after_finds_the_reactor_at_the_time_that_it_is(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """No go has told it for a minute: who begins something now would take it for a minute ago."""
    watch, reactor = Watch(), Reactor()
    seen: list[float] = []

    class Beginner(Played):
        def look(self, now: float) -> None:
            seen.append(reactor.now)
            super().look(now)

    await nursery.start(watch.run, reactor)
    due = trio.current_time() + 60
    watch.serves(Beginner(due))
    await trio.sleep(61)
    assert seen == [pytest.approx(due)]
    reactor.close()
