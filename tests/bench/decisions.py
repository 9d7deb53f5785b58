"""What one decision costs a gateway, by the size of its fleet; and what it remembers.

    python -m tests.bench.decisions [--sizes 10 100 1000] [--rounds 400]

Fleets of unlike neurons, five models of the catalogue for each. Timed is what the ledger does from a
request's arrival to its verdict, and what a report costs; told are the median and the 99th of 100.
Machines differ: compare the columns with each other.
"""

import argparse
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

from cortex import evictor, router
from cortex.catalogue import ModelSpec
from cortex.errors import Stopping
from cortex.evictor import Rules
from cortex.ledger import Ledger, Load, Policy, Refuse, Serve, Want
from cortex.places import Resident
from tests.bench.trace import MAKES
from tests.fake_fleet import GIB
from tests.fake_ledger import Clock

EACH: Final = 5
LIVING: Final = 3


class Fleet:
    """A gateway's ledger over `size` neurons. `taken` of each one's memory is used by its residents, and
    one of these is the same model on all of them where it is `hot`."""

    def __init__(self, size: int, taken: float, **facts: bool) -> None:
        self.size, self._taken = size, taken
        self._pinned, self._busy, self._hot = (facts.get(name, False) for name in ("pinned", "busy", "hot"))
        self.dice, self.clock = random.Random(size), Clock(10_000.0)
        self.ledger = Ledger(self.clock, Policy(Rules("lru", 30.0), 1024, 30.0, delegates=True))
        self.makes = [self.dice.choice(list(MAKES.values())) for _ in range(self.size)]
        self.told = [self._residents(number) for number in range(self.size)]
        for number in range(self.size):
            self.report(number)

    def _residents(self, number: int) -> list[Resident]:
        found = []
        for each in range(LIVING):
            room = each % len(self.makes[number].devices)
            share = self.makes[number].devices[room] * len(self.makes[number].devices)
            need = int(self._taken * share / LIVING * self.dice.uniform(0.95, 1.0))
            model = "hot" if self._hot and not each else f"m{number * EACH + each}"
            one = Resident(model, "loaded", {f"cuda:{room}": need}, slots=72)
            one.loaded_at, one.load_s = self.dice.uniform(0.0, 9_000.0), self.dice.uniform(2.0, 60.0)
            one.last_used = self.dice.uniform(one.loaded_at, 9_990.0)
            one.pinned, one.elsewhere = self._pinned, int(self._busy)
            found.append(one)
        return found

    def report(self, number: int) -> None:
        """As a neuron's answer is believed."""
        make = self.makes[number]
        told = [Resident(one.model, one.phase, dict(one.room_bytes)) for one in self.told[number]]
        for made, one in zip(told, self.told[number], strict=True):
            for name in ("pinned", "slots", "elsewhere", "loaded_at", "last_used", "load_s"):
                setattr(made, name, getattr(one, name))
        self.ledger.report(f"n{number:04}", make.rooms(), told, self.clock())

    def some_report(self) -> None:
        """The part of the fleet that reports in a tenth of a second has used some of its models."""
        self.clock.pass_by(0.1)
        for number in self.dice.sample(range(self.size), max(1, self.size // 20)):
            self.dice.choice(self.told[number]).last_used = self.clock()
            self.report(number)
        self.ledger.settle()


def warm(fleet: Fleet, number: int) -> Iterator[None]:
    return _warm(fleet, f"m{fleet.dice.randrange(fleet.size) * EACH + number % LIVING}", "")


def hot(fleet: Fleet, number: int) -> Iterator[None]:
    return _warm(fleet, "hot", f"conversation {number}")


def _warm(fleet: Fleet, model: str, affinity: str) -> Iterator[None]:
    want = Want(model, ModelSpec(model), 4 * GIB, affinity=affinity)
    yield
    ticket, decision = fleet.ledger.arrive(want)
    yield
    assert isinstance(decision, Serve), decision
    fleet.ledger.depart(ticket)


def cold(need_bytes: int, expected: type) -> Callable[[Fleet, int], Iterator[None]]:
    specs: dict[str, ModelSpec] = {}

    def case(fleet: Fleet, number: int) -> Iterator[None]:
        # Nobody repeats an order that was called off; what is refused is asked for again and again.
        model = f"m{(number if expected is Load else number % 16) * EACH + LIVING}"
        want = Want(model, specs.setdefault(model, ModelSpec(model)), need_bytes)
        yield
        ticket, decision = fleet.ledger.arrive(want)
        yield
        assert isinstance(decision, expected), decision
        if isinstance(decision, Load):
            fleet.ledger.failed(decision, Stopping("the next round begins as this one did"))
        fleet.ledger.depart(ticket)
        fleet.ledger.settle()

    return case


def everywhere(fleet: Fleet, number: int) -> Iterator[None]:
    """The same answer by a look at all places, to compare with."""
    rules = fleet.ledger.policy.rules
    victims = partial(evictor.victims, now=fleet.clock(), rules=rules)
    question = router.Question(ModelSpec("new"), 10 * GIB, victims, fleet.clock())
    yield
    router.placements(question, fleet.ledger)
    yield


def report(fleet: Fleet, number: int) -> Iterator[None]:
    which = fleet.dice.randrange(fleet.size)
    yield
    fleet.report(which)
    fleet.ledger.settle()
    yield


CASES: Final[dict[str, tuple[Callable[[int], Fleet], Callable[[Fleet, int], Iterator[None]]]]] = {
    "warm": (lambda size: Fleet(size, 0.9), warm),
    "warm, on all neurons": (lambda size: Fleet(size, 0.9, hot=True), hot),
    "cold, room is free": (lambda size: Fleet(size, 0.5), cold(5 * GIB, Load)),
    "the same, one model on all": (lambda size: Fleet(size, 0.5, hot=True), cold(5 * GIB, Load)),
    "cold, somebody idle leaves": (lambda size: Fleet(size, 1.0), cold(10 * GIB, Load)),
    "the same, looking at all": (lambda size: Fleet(size, 1.0), everywhere),
    "cold, all are busy": (lambda size: Fleet(size, 1.0, busy=True), cold(10 * GIB, Load)),
    "refused: all is pinned": (lambda size: Fleet(size, 1.0, pinned=True), cold(10 * GIB, Refuse)),
    "refused: larger than any": (lambda size: Fleet(size, 0.5), cold(200 * GIB, Refuse)),
    "a neuron's report": (lambda size: Fleet(size, 0.9), report),
}


def timed(size: int, name: str, rounds: int) -> tuple[float, float]:
    """Microseconds: the median, and the 99th of 100."""
    make, case = CASES[name]
    fleet, took = make(size), []
    gc.collect()
    for number in range(rounds):
        fleet.some_report()
        steps = case(fleet, number)
        next(steps)
        began = time.perf_counter_ns()
        next(steps)
        took.append((time.perf_counter_ns() - began) / 1000)
        next(steps, None)
    took.sort()
    return took[len(took) // 2], took[int(0.99 * len(took))]


def remembered(size: int) -> tuple[float, float]:
    """Bytes of the ledger, and of the catalogue's entries, for each neuron."""
    gc.collect()
    tracemalloc.start()
    specs = {f"m{number}": ModelSpec(f"m{number}") for number in range(size * EACH)}
    of_specs = tracemalloc.get_traced_memory()[0]
    fleet = Fleet(size, 0.9)
    fleet.told.clear()
    gc.collect()
    whole = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (whole - of_specs) / size, of_specs / len(specs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=400)
    chosen = parser.parse_args(arguments)
    print("| decision, us | " + " | ".join(f"{size} neurons: p50 | p99" for size in chosen.sizes) + " |")
    print("|---|" + "---|---|" * len(chosen.sizes))
    for name in CASES:
        cells = [figure for size in chosen.sizes for figure in timed(size, name, chosen.rounds)]
        print(f"| {name} | " + " | ".join(f"{figure:.0f}" for figure in cells) + " |", flush=True)
    print("\n| neurons | models | KiB a neuron | bytes a model of the catalogue |\n|---|---|---|---|")
    for size in chosen.sizes:
        neuron, spec = remembered(size)
        print(f"| {size} | {size * EACH} | {neuron / 1024:.1f} | {spec:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
