"""Schedulers to compare ours with: they know the fleet at every moment, and have simple rules.

`FirstFit`: the first neuron by name that has room; where none has, the first one where sending away
the least recently used makes it. `Coldest` sends away who was used least recently in all the fleet.
`Counted` keeps so many models a neuron, whatever their size, and takes the neuron with the most free
memory, as the predecessor does. None sends away who is seated, and all serve in order of arrival.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cortex.errors import NoRoom, Overloaded
from tests.bench.trace import Model
from tests.fake_fleet import GIB, PATIENCE, Make


@dataclass(slots=True, eq=False)
class Held:
    """A model at a host; `line` waits for a seat. `cold` as long as nobody has sat here."""

    model: Model
    host: "Host"
    loaded: bool = False
    seats: int = 0
    used: float = 0.0
    line: deque[trio.Event] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Host:
    name: str
    make: Make
    held: dict[str, Held] = field(default_factory=dict)
    disk: trio.Lock = field(default_factory=trio.Lock)

    @property
    def total(self) -> int:
        return sum(size - GIB for size in self.make.devices)

    @property
    def free(self) -> int:
        return self.total - sum(one.model.bytes for one in self.held.values())

    def leaving(self, need: int, most: int) -> list[Held] | None:
        """Who leaves, least recently used first, so that `need` fits beside fewer than `most` models."""
        idle = (one for one in self.held.values() if one.loaded and not one.seats and not one.line)
        chosen: list[Held] = []
        free, count = self.free, len(self.held)
        for one in sorted(idle, key=lambda one: one.used):
            if free >= need and count < most:
                break
            chosen.append(one)
            free, count = free + one.model.bytes, count - 1
        return chosen if free >= need and count < most else None


class Rule(Protocol):
    """Where a model goes, and who leaves for it; None: nowhere at present."""

    def place(self, model: Model, hosts: Iterable[Host]) -> tuple[Host, list[Held]] | None: ...


class FirstFit:
    def place(self, model: Model, hosts: Iterable[Host]) -> tuple[Host, list[Held]] | None:
        return min(_ways(model, hosts), key=lambda way: bool(way[1]), default=None)


class Coldest:
    def place(self, model: Model, hosts: Iterable[Host]) -> tuple[Host, list[Held]] | None:
        return min(
            _ways(model, hosts),
            key=lambda way: (bool(way[1]), max((one.used for one in way[1]), default=0.0), -way[0].free),
            default=None,
        )


@dataclass(frozen=True, slots=True)
class Counted:
    most: int

    def place(self, model: Model, hosts: Iterable[Host]) -> tuple[Host, list[Held]] | None:
        ways = _ways(model, hosts, self.most)
        return min(ways, key=lambda way: (bool(way[1]), -way[0].free, way[0].name), default=None)


def _ways(model: Model, hosts: Iterable[Host], most: int = 1000) -> Iterator[tuple[Host, list[Held]]]:
    for host in hosts:
        # One device holds it or, as in ours, all of a group together.
        if model.bytes <= host.total and (chosen := host.leaving(model.bytes, most)) is not None:
            yield host, chosen


class Plain:
    """Requests wait for models by `rule`; one copy of each, loaded once for all who wait."""

    def __init__(self, makes: dict[str, Make], models: dict[str, Model], slots: int, rule: Rule) -> None:
        self._hosts = [Host(name, make) for name, make in sorted(makes.items())]
        self._models, self._slots, self._rule = models, slots, rule
        self._where: dict[str, Held] = {}
        self._homeless: dict[str, list[trio.Event]] = {}
        self.loads = self.swaps = self.bytes_read = 0
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def seat(self, model: str) -> AsyncIterator[tuple[Make, bool]]:
        """The make of the host where the request sits, and whether it had to wait for a load."""
        began, cold = trio.current_time(), False
        while (held := self._where.get(model)) is None:
            cold = True
            self._homeless.setdefault(model, [])
            self._settle(model)
            if model not in self._where:
                await self._wait(self._homeless[model], began + PATIENCE.load_s)
        cold = cold or not held.loaded
        if not held.loaded or held.line or held.seats >= self._slots:
            await self._wait(held.line, began + (PATIENCE.load_s if cold else PATIENCE.queue_s))
        else:
            held.seats += 1
        held.used = trio.current_time()
        try:
            yield held.host.make, cold
        finally:
            held.seats -= 1
            held.used = trio.current_time()
            self._serve(held)
            if not held.seats:
                self._settle()

    async def _wait(self, line: list[trio.Event] | deque[trio.Event], until: float) -> None:
        called = trio.Event()
        line.append(called)
        with trio.move_on_at(until):
            await called.wait()
        if not called.is_set():
            line.remove(called)
            raise NoRoom("nobody left in time") if isinstance(line, list) else Overloaded("no seat")

    def _serve(self, held: Held) -> None:
        while held.loaded and held.line and held.seats < self._slots:
            held.seats += 1  # theirs from here on
            held.line.popleft().set()

    def _settle(self, wanted: str = "") -> None:
        for model in [model for model, waiting in self._homeless.items() if waiting or model == wanted]:
            found = self._rule.place(self._models[model], self._hosts)
            if found is None:
                continue
            host, leaving = found
            held = self._where[model] = host.held[model] = Held(self._models[model], host)
            for one in leaving:
                del self._where[one.model.name], host.held[one.model.name]
            for called in self._homeless.pop(model):
                called.set()
            assert self._nursery is not None
            self._nursery.start_soon(self._load, held, len(leaving))

    async def _load(self, held: Held, leaving: int) -> None:
        self.loads += 1
        self.swaps += bool(leaving)
        self.bytes_read += held.model.bytes
        await trio.sleep(leaving * held.host.make.unload_s)
        async with held.host.disk:
            await trio.sleep(held.model.bytes / held.host.make.disk_bps)
        held.loaded, held.used = True, trio.current_time()
        self._serve(held)
        self._settle()
