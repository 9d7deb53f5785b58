"""What all connections of one door share, and who of them is due for what.

Guests at rest leave when they have rested for long enough, errands are looked after when they ask for
it: one task sleeps until the first of them is due, however many there are.
"""

import itertools
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

import trio

from cortex.config.limits import Limits
from cortex.web.connection import Headers
from cortex.web.control import Control
from cortex.web.duties import Errand
from cortex.web.guest import Guest, Handed
from cortex.web.known import Heads, given_id
from cortex.web.line import Line
from cortex.web.reactor import Reactor
from cortex.web.site import UNBOOKED, Books, Site

log = logging.getLogger(__name__)

# Whoever is due at once again and again has the loop to himself otherwise.
_LEAST_S: Final = 0.001
# Below this, who is done is left in the list of looks until his time.
_FEW_LOOKS: Final = 256


def _nowhere(guest: Guest, line: Line, handed: Handed | None) -> None:
    raise RuntimeError("the door does not run")


class Watch:
    """When who is due. Guests wait for one of three times, so that those who wait for the same one are due
    in the order in which they came."""

    def __init__(self) -> None:
        self._fresh: dict[Guest, None] = {}
        self._kept: dict[Guest, None] = {}
        self._gathering: dict[Guest, None] = {}
        # Those under way, and when each is looked at next.
        self._errands: dict[Errand, float] = {}
        # When to look at whom; an errand that is over, or that is looked at at another time, is passed by.
        self._looks: list[tuple[float, int, Errand]] = []
        self._most_looks = _FEW_LOOKS
        self._count = itertools.count()
        self._due = inf
        self._alarm = trio.CancelScope()

    def rests(self, guest: Guest) -> None:
        """`guest` is between requests, until its `due`."""
        self._lists(guest, self._fresh if guest.first else self._kept)

    def gathers(self, guest: Guest) -> None:
        """The rest of its request is on its way, until its `due`."""
        self._lists(guest, self._gathering)

    def leaves(self, guest: Guest) -> None:
        """It is not any more."""
        if guest.listed is not None:
            del guest.listed[guest]
            guest.listed = None

    def _lists(self, guest: Guest, row: dict[Guest, None]) -> None:
        if guest.listed is not None:
            self.leaves(guest)
        row[guest], guest.listed = None, row
        if guest.due < self._due:
            self.by(guest.due)

    def serves(self, errand: Errand) -> None:
        """`errand` is under way, and wants to be looked after at its `due`."""
        self._errands[errand] = inf
        if errand.due < inf:
            self.wants(errand, errand.due)

    def wants(self, errand: Errand, due: float) -> None:
        """`errand`, if it is under way, is to be looked after then. Said as often as its client lets it
        wait: that it will be looked at before is enough."""
        if due < self._errands.get(errand, -inf):
            self._errands[errand] = due
            if len(self._looks) >= self._most_looks:
                self._forget()
            heappush(self._looks, (due, next(self._count), errand))
            self.by(due)

    def _forget(self) -> None:
        """Those who are done go. An answer takes milliseconds and its deadline minutes: until then each
        would be kept with its request, its books and all, thousands a second."""
        self._looks = [look for look in self._looks if self._errands.get(look[2]) == look[0]]
        heapify(self._looks)
        # Twice as many, so that each look is sifted through a few times at most.
        self._most_looks = max(_FEW_LOOKS, 2 * len(self._looks))

    def done(self, errand: Errand) -> None:
        """It is under way no longer."""
        self._errands.pop(errand, None)

    def by(self, due: float) -> None:
        """Somebody is due then, who may not have been before."""
        if due < self._due:
            self._due = self._alarm.deadline = due

    async def run(
        self, reactor: Reactor, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Look after them until cancelled. What they do then is called by no go of the reactor."""
        task_status.started()
        while True:
            with trio.CancelScope(deadline=self._due) as self._alarm:
                await trio.sleep_forever()
            self._due = inf
            reactor.look_at_clock()
            self.by(self._look(reactor.now))

    def _look(self, now: float) -> float:
        for resting in (self._fresh, self._kept, self._gathering):
            while (guest := next(iter(resting), None)) is not None and guest.due <= now:
                self.leaves(guest)
                guest.expire()
        while self._looks and self._looks[0][0] <= now:
            due, _, errand = heappop(self._looks)
            if self._errands.get(errand) != due:
                continue
            self._errands[errand] = inf
            if errand.due <= now:
                self._look_after(errand, now)
            if errand in self._errands:
                self.wants(errand, max(errand.due, now + _LEAST_S))
        firsts = [next(iter(resting), None) for resting in (self._fresh, self._kept, self._gathering)]
        resting_till = min((guest.due for guest in firsts if guest is not None), default=inf)
        return min(resting_till, self._looks[0][0] if self._looks else inf)

    def _look_after(self, errand: Errand, now: float) -> None:
        try:
            errand.look(now)
        except Exception:
            log.exception("connection.crashed")
            errand.drop(bug=True)


@dataclass
class Hall:
    """What all connections of one door share."""

    site: Site
    limits: Limits
    control: Control
    reactor: Reactor
    books: Books = UNBOOKED
    draining: bool = False
    in_flight: int = 0
    heads: Heads = field(default_factory=Heads)
    watch: Watch = field(default_factory=Watch)
    # Begins a visit: the door's nursery is where they run.
    visits: Callable[[Guest, Line, Handed | None], None] = _nowhere
    _boot: str = field(default_factory=lambda: secrets.token_hex(4))
    _count: "itertools.count[int]" = field(default_factory=itertools.count)
    _changed: trio.Event = field(default_factory=trio.Event)
    _waited_for: bool = False

    def request_id(self, headers: Headers) -> str:
        """The client's own id, if it is one; else a fresh one."""
        return given_id(headers) or self.fresh_id()

    def fresh_id(self) -> str:
        """One that no other request has."""
        return f"{self._boot}-{next(self._count):x}"

    @contextmanager
    def working(self) -> Iterator[None]:
        """One more inference request is in flight."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def tell(self) -> None:
        """Something ended: whoever waits in `change` looks again."""
        if self._waited_for:
            self._waited_for = False
            self._changed.set()
            self._changed = trio.Event()

    async def change(self) -> None:
        """Something has ended since the call."""
        self._waited_for = True
        await self._changed.wait()
