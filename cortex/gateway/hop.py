"""One request that goes as nearly all do: asked of a neuron in one write, answered in one read.

A hop holds no more than that takes. Whatever else happens (an answer in pieces or of another kind, a
client or a neuron that goes, a stop, a bug) makes an `Errand` of it, which goes on from there as if it had
been one from the start: nothing is handled here that happens to few.
"""

import time
from math import inf
from typing import TYPE_CHECKING

from cortex.errors import CortexError, UpstreamFailed
from cortex.events import Usage
from cortex.gateway.lanes import Lane, Road
from cortex.keys.accounts import Claim
from cortex.ledger import Ticket
from cortex.web.framing import Framing, http_date
from cortex.web.guest import Guest
from cortex.web.link import Link
from cortex.web.meter import usage_of
from cortex.web.retell import Retelling
from cortex.wire.openai import Peek

if TYPE_CHECKING:
    from cortex.gateway.express import Express
    from cortex.web.errand import Errand


class Hop:
    """The guest's errand and the link's listener. `body` is what goes on, of which `text_bytes` count; it
    counts against `claim`, and as `label` in the metrics. Times are trio's."""

    __slots__ = (
        "_express",
        "began",
        "body",
        "claim",
        "guest",
        "id",
        "label",
        "lane",
        "limits",
        "link",
        "retelling",
        "road",
        "seen",
        "text_bytes",
        "ticket",
    )

    # It is looked after when it has become an errand: as long as its neuron lives, it may wait.
    due: float = inf
    # Whether a stream was asked for, which has deadlines of its own.
    streams = False
    # When its first content came, of a stream.
    first_at: float | None = None
    body: bytes
    text_bytes: int
    claim: Claim
    label: str
    link: Link
    road: Road
    ticket: Ticket

    def __init__(self, express: "Express", lane: Lane, guest: Guest, seen: Peek, began: float) -> None:
        self._express, self.lane, self.guest, self.seen, self.began = express, lane, guest, seen, began
        self.id, self.limits = guest.request_id(lane.known), express.limits
        # How it is told to a neuron that does not speak its dialect.
        self.retelling: Retelling | None = None

    # -- what is expected

    def heard(self, data: bytes) -> None:
        over_at, at = self.guest.now, self._body_at(data)
        try:
            usage = usage_of(data[at:]) if at >= 0 else None
        except UpstreamFailed:
            at = -1  # the errand will say so
        stencil = self.road.stencil
        if at < 0 or stencil is None:
            self.unfolded().heard(data)
            return
        mark = self.id.encode()
        marks = (mark, mark) if self.lane.known.route.dialect == "anthropic" else (mark,)
        head = stencil.form % (http_date(int(time.time())), len(data) - at, *marks)
        if self.guest.send(head + data[at:]):
            self._end(usage, over_at)
        else:
            self.unfolded().told(data)

    def _body_at(self, data: bytes) -> int:
        """Where the body begins of a whole and plain answer; -1 where `data` is none."""
        road = self.road
        at = -1 if road.stencil is None else road.stencil.fits(data)
        if at < 0:
            road.learn(self.lane, self.link, data, self.limits)
            at = -1 if road.stencil is None else road.stencil.fits(data)
        return at if len(data) - at <= self.limits.body else -1

    def _end(self, usage: Usage | None, over_at: float) -> None:
        """The client has the whole answer."""
        road, express = self.road, self._express
        name = road.neuron.name
        road.waits.end(self)
        try:
            # Before anything is written down, as `Express.give_back` has it.
            express.dispatch.leave(self.ticket)
            self.claim.end()
            express.fleet.acquit(name)
            express.books.enter(self, name, usage, over_at, express.clock())
            road.pool.taken_back(self.link)
        except Exception:
            road.pool.lost(self.link)  # it is closed for the bug, whoever may use it then
            raise
        finally:
            self.guest.answered(stays=True)

    # -- what is not

    def unfolded(self) -> "Errand":
        """The errand that goes on from here."""
        errand = self._express.unfolded(self)
        if not self.streams:
            self.road.waits.end(self)
            self.road.waits.begin(errand)
        self.guest.goes_on(errand)
        return errand

    @property
    def framing(self) -> Framing:
        return self.unfolded().framing

    def look(self, now: float) -> None:
        self.unfolded().look(now)

    def drained(self) -> None:
        self.unfolded().drained()

    def lost(self) -> None:
        self.unfolded().lost()

    def stop(self, why: CortexError | None) -> None:
        self.unfolded().stop(why)

    def drop(self, *, bug: bool) -> None:
        try:
            errand = self.unfolded()
        except Exception:
            self._express.abandon(self)
            raise
        errand.drop(bug=bug)

    def unreached(self, problem: OSError | None) -> None:
        self.unfolded().unreached(problem)

    def unwritten(self) -> None:
        self.unfolded().unwritten()

    def crash(self) -> None:
        self.drop(bug=True)

    def give_up(self, error: CortexError) -> None:
        self.unfolded().give_up(error)
