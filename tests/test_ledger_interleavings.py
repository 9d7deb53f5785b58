"""Every order in which a few requests, loads, unloads and hang-ups can meet, walked through.

Up to three requests for two models that do not fit together on one device. At each point anything
that can happen next does, in a world of its own; worlds that are the same are walked once. Rows 60
(one load for many), 61 (who began it leaves), 62 (it fails), 64 (the one who is sent away is asked
for in the same breath), 65 (nobody is sent away who is spoken to), 66 (young ones stay), 70 (an
unload under way) and 72 (whoever waits hears something).
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import pytest

from cortex.errors import CortexError, LoadFailed
from cortex.ledger import Decision, Ledger, Load, Serve, Ticket, Wait
from cortex.places import Place, Room
from tests.fake_ledger import AGE_S, OVERTAKE_S, Clock, policy, resident, want

TOTAL, SIZE, SLOTS = 100, 60, 1
# What happens besides requests, at most: enough for each pair of happenings to meet.
BUDGET = {"time": 2, "fail": 1, "unload": 1, "call off": 1}

Step: TypeAlias = tuple[str, Callable[["World"], None]]


@dataclass
class World:
    """One device, and requests by their place in the order that the test gave."""

    wanted: str
    pinned: str = ""
    clock: Clock = field(default_factory=Clock)
    tickets: dict[int, Ticket] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=lambda: dict(BUDGET))
    unloading: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.clock, policy())
        self.ledger.open("p", [Room("g", TOTAL)])

    @property
    def place(self) -> Place:
        found = self.ledger.place("p")
        assert found is not None
        return found

    # -- what can happen next

    def steps(self) -> Iterator[Step]:
        """Requests come in their order; all else in any."""
        came = len(self.tickets)
        if came < len(self.wanted):
            yield "arrive", partial(World.arrive, number=came)
        for number, ticket in self.tickets.items():
            if number not in self.ended or ticket.resident is not None:
                yield f"leave {number}", partial(World.leave, number=number)
        for model, load in self.ledger.loads.items():
            present = [victim for victim in load.victims if victim in self.place.residents]
            if load in self.called_off:
                yield "unwinds", partial(World.unwinds, model=model)
                yield "load comes", partial(World.load_comes, model=model)
                continue
            if self.called_off & set(load.calls_off):
                pass  # it begins when they have ended
            elif present:
                yield "victim goes", partial(World.gone, model=present[0])
            else:
                yield "load comes", partial(World.load_comes, model=model)
            yield "fail", partial(World.load_fails, model=model)
            if not self.ledger.waiting_for(model):
                yield "call off", partial(World.call_off, model=model)
        for one in self.place:
            if one.model in self.unloading:
                yield "gone", partial(World.gone, model=one.model)
            elif one.phase == "loaded" and one.idle and not one.pinned:
                yield "unload", partial(World.unload, model=one.model)
        yield ("only time", World.time_moves) if self.stuck else ("time", World.time_passes)

    def arrive(self, number: int) -> None:
        model = self.wanted[number]
        ticket, decision = self.ledger.arrive(want(model, SIZE, pinned=model == self.pinned))
        self.tickets[number] = ticket
        self.hear(ticket, decision)

    def leave(self, number: int) -> None:
        ticket = self.tickets[number]
        self.ended[number] = "served" if ticket.resident is not None else "left"
        self.ledger.depart(ticket)

    @property
    def called_off(self) -> set[Load]:
        """Loads that end for the sake of others. They may have come in at that very moment."""
        under_way = set(self.ledger.loads.values())
        return {load for load in under_way if load.resident.phase == "leaving"}

    def unwinds(self, model: str) -> None:
        self.ledger.withdrawn(self.ledger.loads[model])

    def load_comes(self, model: str) -> None:
        load = self.ledger.loads[model]
        facts = resident(model, SIZE, slots=SLOTS, pinned=model == self.pinned)
        self.ledger.loaded(load, facts)

    def load_fails(self, model: str) -> None:
        for ticket in self.ledger.failed(self.ledger.loads[model], LoadFailed("torn")):
            self.ended[self.number_of(ticket)] = "told"

    def call_off(self, model: str) -> None:
        self.ledger.withdrawn(self.ledger.loads[model])

    def unload(self, model: str) -> None:
        self.ledger.leaving("p", model)
        self.unloading.add(model)

    def gone(self, model: str) -> None:
        self.ledger.gone("p", model)
        self.unloading.discard(model)

    def time_passes(self) -> None:
        self.clock.pass_by(AGE_S + OVERTAKE_S)

    @property
    def stuck(self) -> bool:
        """Somebody waits although nothing is under way and nobody sits: only time can help."""
        busy = self.ledger.loads or any(one.phase == "leaving" or one.seats for one in self.place)
        return not busy and self.ledger.waiting > 0

    def time_moves(self) -> None:
        """It helps."""
        self.time_passes()
        self.settle()
        assert not self.stuck, (self.ended, self.ledger)

    # -- what the dispatcher does after each

    def settle(self) -> None:
        for ticket, decision in self.ledger.settle():
            self.hear(ticket, decision)
        assert self.ledger.settle() == []

    def hear(self, ticket: Ticket, decision: Decision) -> None:
        match decision:
            case Load():
                self.check_load(decision)
            case Serve(_, at):
                assert at.servable and ticket.resident is at
                self.ended[self.number_of(ticket)] = "served"
            case Wait():
                pass
            case _:
                assert isinstance(decision.error, CortexError)
                self.ended[self.number_of(ticket)] = "told"

    def check_load(self, load: Load) -> None:
        for victim in load.victims:
            one = self.place.residents[victim]
            assert one.seats == 0 and not one.pinned and one.phase == "leaving"
            if one in [other.resident for other in load.calls_off]:
                assert self.ledger.waiting_for(victim) == 0
            else:
                assert self.clock() >= one.loaded_at + AGE_S

    def number_of(self, ticket: Ticket) -> int:
        # A ticket is known from its arrival on, the one that arrives at this moment included.
        found = [number for number, each in self.tickets.items() if each is ticket]
        return found[0] if found else len(self.tickets)

    # -- what always holds

    def check(self) -> None:
        for one in self.place:
            sitting = [each for each in self.tickets.values() if each.resident is one]
            assert one.seats == len(sitting) <= SLOTS
            assert not (sitting and one.phase != "loaded")
        going = {one.model for load in self.ledger.loads.values() for one in load.staying}
        leaving = {one.model for one in self.place if one.phase == "leaving"}
        ending = {load.want.model for load in self.called_off}
        assert leaving == self.unloading | ending | going
        assert sum(one.bytes for one in self.place if one.phase != "leaving") <= TOTAL
        assert len(self.ledger.loads) - len(ending) <= 1
        waiting = [number for number in self.tickets if number not in self.ended]
        assert self.ledger.waiting == len(waiting)

    def signature(self) -> object:
        """Worlds with the same one have the same future: times count by what is left of them, and
        uses by their order."""
        ledger, now = self.ledger, self.clock()
        here = sorted(self.place, key=lambda one: one.last_used)
        of = {ticket.number: number for number, ticket in self.tickets.items()}
        line = sorted(of.items())
        return (
            tuple(self.budget.values()),
            tuple((one.model, one.phase, one.seats, now < one.loaded_at + AGE_S) for one in here),
            tuple((load.want.model, load.victims, load.resident.phase) for load in ledger.loads.values()),
            tuple((model, now < rest.until) for model, rest in sorted(ledger._rests._models.items())),
            tuple((number, *self.state_of(self.tickets[number])) for _, number in line),
            tuple(
                (model, each.plan.victims, of[each.ticket.number], each.closes)
                for model, each in sorted(ledger._claims._claims.items())
            ),
            tuple(sorted(ledger._blocked)),
            tuple(sorted((model, ledger._timed.at(model) - now) for model in ledger._timed)),
        )

    def state_of(self, ticket: Ticket) -> tuple[str, bool]:
        """Where a request is, and whether it has the right to more than to wait."""
        if ticket.resident is not None:
            return ("sits", False)
        waits = any(ticket in line for line in self.ledger._lines.values())
        return ("waits", self.clock() >= ticket.arrived + OVERTAKE_S) if waits else ("over", False)


def walk(world: World) -> int:
    """Every future of `world` keeps the promises; answers how many worlds there are."""
    seen: set[object] = set()
    ahead = [world]
    while ahead:
        at = ahead.pop()
        for kind, step in at.steps():
            spent = kind if kind in BUDGET else None
            if spent is not None and not at.budget[spent]:
                continue
            after = deepcopy(at)
            if spent is not None:
                after.budget[spent] -= 1
            step(after)
            after.settle()
            after.check()
            signature = after.signature()
            if signature not in seen:
                seen.add(signature)
                ahead.append(after)
    return len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["aab", "aba", "abb"])
def test_every_interleaving_keeps_the_promises(wanted: str) -> None:
    assert walk(World(wanted)) > 500


def test_with_one_model_pinned_too() -> None:
    assert walk(World("aba", pinned="a")) > 250
