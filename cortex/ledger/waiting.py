"""Who waits: each model's line, when to look at which, and what those were promised who wait long.

The ledger's second storey, on top of residency. Nothing is decided here. A line is there as long
as somebody stands in it, and takes along what was promised to it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from cortex.ledger.alarms import Alarms
from cortex.ledger.claims import Claims
from cortex.ledger.crowd import Crowd
from cortex.ledger.line import Kind, Line, kind_of
from cortex.ledger.residency import Residency
from cortex.ledger.tickets import Ticket, Wait, Want
from cortex.ledger.turns import Rank, Turns


@dataclass(slots=True, repr=False)
class Waiting(Residency):
    """Residency and the lines."""

    _lines: dict[str, Line] = field(default_factory=dict)
    _waiting: int = 0
    # By the bound that they are under: a model, or "" for all.
    _crowds: dict[str, Crowd] = field(default_factory=dict)
    # Turns at the room that all models share; those at seats are each line's.
    _room: Turns = field(default_factory=Turns)
    # Lines that wait for room, and when to look at which although nobody said anything.
    _blocked: set[str] = field(default_factory=set)
    _timed: Alarms = field(default_factory=Alarms)
    _claims: Claims = field(default_factory=Claims)

    @property
    def waiting(self) -> int:
        """How many tickets stand in line."""
        return self._waiting

    @property
    def oldest(self) -> float | None:
        """When who waits longest for a seat arrived; None when nobody waits for one. Who wants only
        that a model is there waits as long as its load takes."""
        arrivals = (line.oldest() for line in self._lines.values())
        return min((arrived for arrived in arrivals if arrived is not None), default=None)

    @property
    def due(self) -> float:
        """When to `settle` at the latest, in seconds of the clock; infinity for never."""
        return self._timed.due

    def waiting_for(self, model: str) -> int:
        """How many tickets stand in the line of `model`."""
        return len(self._lines.get(model, ()))

    def lines(self) -> dict[str, int]:
        """How many stand in each line that is not empty."""
        return {model: len(line) for model, line in self._lines.items() if len(line)}

    def before(self, ticket: Ticket) -> int:
        """How many stand before `ticket` in the line of its model."""
        line = self._lines.get(ticket.want.model)
        return line.position(ticket) - 1 if line is not None and ticket in line else 0

    def outranks(self, want: Want, other: Want) -> bool:
        """Whether `want` would have room before `other`, had both come at once."""
        mine, theirs = ((not each.key, self._room.start(each.key)) for each in (want, other))
        return mine < theirs

    def _step_in(self, ticket: Ticket) -> None:
        model = ticket.want.model
        line = self._lines.setdefault(model, Line(room=self._room))
        line.join(ticket)
        self._waiting += 1
        self._want_load(model, wanted=True)
        if ticket.want.weight:
            self._crowds.setdefault(self._bound(model), Crowd()).join(ticket)
        if len(line) > 1 and line.first() is ticket:
            self._stirred.add(model)  # it was judged behind those who come after it

    def _step_out(self, ticket: Ticket) -> None:
        model = ticket.want.model
        line = self._lines.get(model)
        if line is None or not line.leave(ticket):
            return
        self._waiting -= 1
        self._stirred.add(model)
        if (crowd := self._crowds.get(self._bound(model))) is not None:
            crowd.leave(ticket)
            if not crowd:
                del self._crowds[self._bound(model)]
        if not line:
            del self._lines[model]
            self._blocked.discard(model)
            self._timed.drop(model)
            self._unclaim(model)
            self._want_load(model, wanted=False)

    def _want_load(self, model: str, *, wanted: bool) -> None:
        """Whether anybody waits for a load under way. Without, it goes on, and gives way to whatever
        needs the room."""
        load = self._loads.get(model)
        if load is not None and load.resident.unwanted == wanted:
            load.resident.unwanted = not wanted
            self._stir(model)

    def _bound(self, model: str) -> str:
        """Which crowd waits for `model`."""
        return model if self.policy.queue_per_model else ""

    def _rank(self, ticket: Ticket) -> Rank:
        """When `ticket` is to have room, among all who wait for any."""
        return self._room.rank(ticket)

    def _note(self, model: str, wait: Wait) -> None:
        """When the line of `model` is to be looked at again."""
        if wait.reason == "room":
            self._blocked.add(model)
        if wait.until is not None:
            self._timed.put(model, wait.until)

    def _has_line(self, want: Want) -> bool:
        """Whether somebody waits before whom `want` may not be served."""
        line = self._lines.get(want.model)
        return line is not None and self._is_behind(want, line.kinds)

    def _is_behind(self, want: Want, kinds: Collection[Kind]) -> bool:
        """Whether one of `kinds` is held up wherever `want` could go, and so may not be passed by it. At
        a place that has to prove itself some are held up who have a choice, and others are not."""
        kind = kind_of(want)
        if not kinds or kind in kinds:
            return bool(kinds)
        reach = [place for place, one in self.holders(want.model) if place.ready and one.servable]
        reach = [place for place in reach if place.name not in want.avoid]
        names = [place.name for place in reach if place.most is None]
        return len(names) == len(reach) and any(
            seated == kind[0] and avoid.isdisjoint(names) for seated, avoid in kinds
        )

    def _unclaim(self, model: str) -> None:
        if self._claims.of(model) is not None:
            self._stirred |= self._claims.drop(model)
            self._roomier = True
