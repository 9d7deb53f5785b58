"""What scheduling is worth: a day of an unlike fleet under ours and under plain rules, in one run.

    python -m tests.bench.simulation [--requests 100000] [--hours 8] [--seed 1] [--ways NAME ...]

40 neurons of four makes, 60 models, twelve keys. Ours are the product's own ledgers and dispatchers, a
gateway's and each neuron's, on a mock clock; the others know the fleet at every moment. All have the
same requests, disks, devices, slots and patience. The same seed gives the same table on any machine.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from cortex.errors import Busy, CortexError
from cortex.evictor import Rules
from cortex.ledger import Policy, Want
from tests.bench.plain import Coldest, Counted, FirstFit, Plain
from tests.bench.trace import HABITS, MAKES, Model, Request, Trace, make
from tests.fake_fleet import Errand, FakeGateway, FakeNeuron, Make

SLOTS: Final = 8
SHARES: Final = {habit.key: habit.share for habit in HABITS}
WINDOW_S: Final = 120.0
LONG_S: Final = 5.0
QUEUE: Final = 1024
HEAD: Final = (
    "| way | loads | swaps per 1,000 | read TiB | wait mean s | p50 | p99 | warm p99 | chat p99 "
    "| refused % | of chats % | fairness | makespan h |"
)


BY_HABIT: Final = "| way | keys | requests | refused % | wait mean s | p50 | p99 |"


@dataclass(slots=True)
class Seen:
    """What became of one request. `wait_s` is from its arrival to its seat at a neuron, `work_s` how long
    it would sit at the largest make."""

    request: Request
    arrived: float
    work_s: float
    wait_s: float | None = None
    sat_s: float = 0.0
    cold: bool = False
    refused: str = ""


@dataclass(slots=True)
class Tally:
    """What became of all of them."""

    loads: int = 0
    swaps: int = 0
    bytes_read: int = 0
    makespan_s: float = 0.0
    seen: list[Seen] = field(default_factory=list)

    def row(self, name: str) -> str:
        chats = [each for each in self.seen if each.request.key.startswith("chat")]
        waits = waits_of(self.seen)
        cells = (
            name,
            f"{self.loads}",
            f"{1000 * self.swaps / len(self.seen):.1f}",
            f"{self.bytes_read / 2**40:.1f}",
            f"{mean(waits):.2f}",
            f"{quantile(waits, 0.5):.2f}",
            f"{quantile(waits, 0.99):.1f}",
            f"{quantile(waits_of(each for each in self.seen if not each.cold), 0.99):.1f}",
            f"{quantile(waits_of(chats), 0.99):.1f}",
            f"{100 * refused(self.seen):.2f}",
            f"{100 * refused(chats):.2f}",
            f"{self.fairness():.3f}",
            f"{self.makespan_s / 3600:.2f}",
        )
        return "| " + " | ".join(cells) + " |"

    def habits(self, name: str) -> Iterator[str]:
        """A row for all keys of one habit."""
        by_habit: dict[str, list[Seen]] = {}
        for each in self.seen:
            by_habit.setdefault(each.request.key.partition("-")[0], []).append(each)
        for habit, several in sorted(by_habit.items()):
            waits = waits_of(several)
            yield (
                f"| {name} | {habit} | {len(several)} | {100 * refused(several):.2f} "
                f"| {mean(waits):.2f} | {quantile(waits, 0.5):.2f} | {quantile(waits, 0.99):.1f} |"
            )

    def fairness(self) -> float:
        """Jain's index over what keys got where not all could get all: for each model, in windows of time
        in which somebody waited or was refused, the work that was done for a key, by what its share of
        that work would have been. 1 when every key got its due."""
        got, due = dict[str, float](), dict[str, float]()
        for window in self._contended():
            wanted, served = dict[str, float](), dict[str, float]()
            for each in window:
                wanted[each.request.key] = wanted.get(each.request.key, 0.0) + each.work_s
                if not each.refused:
                    served[each.request.key] = served.get(each.request.key, 0.0) + each.work_s
            for key, part in dues(sum(served.values()), wanted).items():
                due[key] = due.get(key, 0.0) + part
                got[key] = got.get(key, 0.0) + served.get(key, 0.0)
        return jain([got[key] / due[key] for key in due if due[key]]) if due else 1.0

    def _contended(self) -> Iterator[list[Seen]]:
        windows: dict[tuple[str, int], list[Seen]] = {}
        for each in self.seen:
            windows.setdefault((each.request.model, int(each.request.at / WINDOW_S)), []).append(each)
        for window in windows.values():
            if any(each.refused or (each.wait_s or 0.0) > LONG_S for each in window):
                yield window


class Way(Protocol):
    """A scheduler on its fleet."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None: ...
    async def serve(self, seen: Seen) -> None: ...
    def count(self, tally: Tally) -> None: ...


class Ours:
    """A gateway and its neurons."""

    def __init__(self, trace: Trace, rules: Rules, copies: int = 0) -> None:
        self._trace, self._copies = trace, copies
        policy = Policy(rules, QUEUE, 30.0)
        # A neuron lets as many wait as by its own configuration.
        at_neurons = Policy(rules, 64, 30.0)
        makes = trace.neurons.items()
        self._neurons = [FakeNeuron(name, each, at_neurons, slots=SLOTS) for name, each in makes]
        needs = {model.name: model.bytes for model in trace.models.values()}
        self._gateway = FakeGateway(self._neurons, needs, policy)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for neuron in self._neurons:
                await nursery.start(neuron.run)
            for model in list(self._trace.models.values())[: self._copies]:
                await self._copy(model)
            await nursery.start(self._gateway.run)
            task_status.started()

    async def _copy(self, model: Model) -> None:
        """An operator loads a second copy of a model that is asked for much, and pins both."""
        made = 0
        for neuron in self._neurons:
            if neuron.make is MAKES["d"] and made < 2:
                with suppress(Busy):  # pinned copies of others have its room
                    spec = self._gateway.specs[model.name]
                    await neuron.order(Want(spec.id, spec, model.bytes, 0, pinned=True))
                    made += 1

    async def serve(self, seen: Seen) -> None:
        request, model = seen.request, self._trace.models[seen.request.model]

        def seconds(neuron: FakeNeuron) -> float:
            seen.sat_s = model.seconds(neuron.make, request.prompt, request.completion)
            return seen.sat_s

        def on_seat(neuron: FakeNeuron, cold: bool) -> None:
            seen.wait_s, seen.cold = trio.current_time() - seen.arrived, cold

        errand = Errand(model.name, seconds, request.sitting, request.key, request.share)
        await self._gateway.serve(errand, on_seat)

    def count(self, tally: Tally) -> None:
        for neuron in self._neurons:
            tally.loads += neuron.deeds.loads
            tally.swaps += neuron.deeds.swaps
            tally.bytes_read += neuron.deeds.bytes_read


class Theirs:
    """A plain scheduler."""

    def __init__(self, trace: Trace, rule: FirstFit | Coldest | Counted) -> None:
        self._trace = trace
        self._plain = Plain(trace.neurons, trace.models, SLOTS, rule)
        self.run = self._plain.run

    async def serve(self, seen: Seen) -> None:
        request, model = seen.request, self._trace.models[seen.request.model]
        seat: AbstractAsyncContextManager[tuple[Make, bool]] = self._plain.seat(model.name)
        async with seat as (make, cold):
            seen.wait_s, seen.cold = trio.current_time() - seen.arrived, cold
            seen.sat_s = model.seconds(make, request.prompt, request.completion)
            await trio.sleep(seen.sat_s)

    def count(self, tally: Tally) -> None:
        plain = self._plain
        tally.loads, tally.swaps, tally.bytes_read = plain.loads, plain.swaps, plain.bytes_read


WAYS: Final[dict[str, Callable[[Trace], Way]]] = {
    "cortex-lru": lambda trace: Ours(trace, Rules("lru", 30.0)),
    "cortex-priority": lambda trace: Ours(trace, Rules("priority", 30.0)),
    "cortex-copies": lambda trace: Ours(trace, Rules("lru", 30.0), copies=6),
    "first-fit-lru": lambda trace: Theirs(trace, FirstFit()),
    "fleet-lru": lambda trace: Theirs(trace, Coldest()),
    "count-2": lambda trace: Theirs(trace, Counted(2)),
    "count-3": lambda trace: Theirs(trace, Counted(3)),
}


async def live(way: Way, trace: Trace) -> Tally:
    """The whole trace, until the last request has ended."""
    tally = Tally()
    async with trio.open_nursery() as running:
        await running.start(way.run)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for request in trace.requests:
                await trio.sleep_until(began + request.at)
                model = trace.models[request.model]
                work_s = model.seconds(MAKES["d"], request.prompt, request.completion)
                seen = Seen(request, trio.current_time(), work_s)
                tally.seen.append(seen)
                nursery.start_soon(_one, way, seen)
        tally.makespan_s = trio.current_time() - began
        running.cancel_scope.cancel()
    way.count(tally)
    return tally


async def _one(way: Way, seen: Seen) -> None:
    try:
        await way.serve(seen)
    except CortexError as error:
        seen.refused = error.code


def quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all have the same, 1/n when one of n has all."""
    return sum(values) ** 2 / (len(values) * sum(value**2 for value in values))


def dues(all_work: float, wanted: dict[str, float]) -> dict[str, float]:
    """What each key is due of `all_work`: by its share, and never more than it wanted."""
    due: dict[str, float] = {}
    left = dict(wanted)
    while left:
        shares = sum(SHARES[key] for key in left)
        unit = (all_work - sum(due.values())) / shares
        content = [key for key, want in left.items() if want <= unit * SHARES[key]]
        if not content:
            return due | {key: unit * SHARES[key] for key in left}
        for key in content:
            due[key] = left.pop(key)
    return due


def waits_of(several: Iterable[Seen]) -> list[float]:
    """How long they waited who were served."""
    return [each.wait_s or 0.0 for each in several if not each.refused]


def refused(several: Sequence[Seen]) -> float:
    """What part of them got no seat."""
    return sum(bool(each.refused) for each in several) / len(several)


def run(name: str, trace: Trace, seed: int = 0) -> Tally:
    """One way, on a clock of its own. trio throws dice for the order of those who are ready at the same
    moment: here they are thrown from a seed, as trio does under Hypothesis."""
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    try:
        living = partial(live, WAYS[name](trace), trace)
        return trio.run(living, clock=MockClock(autojump_threshold=0))
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--hours", type=float, default=8.0, help="they come within; fewer hours are a rush")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    trace = make(chosen.seed, chosen.requests, chosen.hours)
    print(*heading(HEAD), sep="\n")
    by_habit: list[str] = []
    for name in chosen.ways:
        began = time.perf_counter()
        tally = run(name, trace, chosen.seed)
        print(tally.row(name), flush=True)
        by_habit += tally.habits(name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    print("", *heading(BY_HABIT), *by_habit, sep="\n")
    return 0


def heading(cells: str) -> tuple[str, str]:
    return cells, "|" + "---|" * (cells.count("|") - 1)


if __name__ == "__main__":
    sys.exit(main())
