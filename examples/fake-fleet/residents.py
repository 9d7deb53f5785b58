"""Which models live at the fake neuron, on devices of a size, and the loads that bring them.

A model is a name and a number of bytes. Seats, pins and the order of use are kept as a neuron
keeps them; a load takes as long as it is told to and goes on without whoever asked for it.
"""

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import trio

from cortex.errors import Busy, CortexError, DoesNotFit, NotResident, Stopping, UnknownJob
from cortex.units import size
from cortex.wire import keeping
from cortex.wire import neuron as wire


@dataclass
class Job:
    """One load; `over` comes with its end, good or bad."""

    id: str
    model: str
    device: str
    evicted: list[str]
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    state: keeping.State = "loading"
    error: CortexError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def took(self) -> float:
        return (self.ended or time.monotonic()) - self.began


@dataclass
class Model:
    """A model that lives here, or is on its way: `job` is its load."""

    id: str
    device: str
    bytes: int
    seats: trio.Semaphore
    job: Job | None = None
    keep: keeping.Keep = keeping.Keep()
    in_flight: int = 0
    since: float = field(default_factory=time.monotonic)
    used: float = field(default_factory=time.monotonic)

    @property
    def loading(self) -> bool:
        return self.job is not None and self.job.ended is None


class Residents:
    """`devices` by name with their bytes; a load takes `load_s`, and each model has `slots`."""

    def __init__(self, devices: Mapping[str, int], *, load_s: float, slots: int) -> None:
        self.devices, self.load_s, self.slots = devices, load_s, slots
        self.models: dict[str, Model] = {}
        self.pinned: set[str] = set()
        self.jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)

    def used(self, device: str) -> int:
        """Bytes of all models there."""
        return sum(model.bytes for model in self.models.values() if model.device == device)

    def loaded(self, id: str) -> Model | None:
        """The model, when it can be asked."""
        model = self.models.get(id)
        return None if model is None or model.loading else model

    def put(self, id: str, bytes_: int) -> None:
        """The model is here without a load."""
        device, _ = self._room(bytes_, frozenset(), may_evict=False)
        self.models[id] = Model(id, device, bytes_, trio.Semaphore(self.slots))

    def begin(self, order: wire.LoadRequest, id: str, bytes_: int) -> Job:
        """The load has its room, whoever had it before; it is `finish`ed by whoever runs it."""
        device, evicted = self._room(bytes_, order.victims, may_evict=order.evict == "allow")
        for victim in evicted:
            del self.models[victim]
        job = Job(f"load-{next(self._numbers)}", id, device, evicted)
        self.jobs[job.id] = job
        self.models[id] = Model(id, device, bytes_, trio.Semaphore(self.slots), job)
        return job

    async def finish(self, job: Job, read: Callable[[], Awaitable[None]]) -> None:
        """The load has ended as `read` did, or was called off."""
        state: keeping.State = "done"
        error: CortexError | None = None
        with job.scope:
            try:
                await read()
            except CortexError as mishap:
                state, error = "failed", mishap
        if job.scope.cancelled_caught:
            state, error = "cancelled", Stopping(f"The load of '{job.model}' was called off")
        job.state, job.error, job.ended = state, error, time.monotonic()
        if job.error is not None:
            del self.models[job.model]
        else:
            self.models[job.model].since = time.monotonic()
        job.over.set()

    def unload(self, order: wire.UnloadRequest) -> None:
        """The model is gone."""
        model = self.models.get(order.id)
        if model is None:
            raise NotResident(f"Model '{order.id}' is not resident; see GET /models", param="id")
        if model.loading or (model.in_flight and not order.force):
            raise Busy(f"Model '{order.id}' is in use", facts={"in_flight": model.in_flight})
        del self.models[order.id]

    def job(self, id: str) -> Job:
        """The load with that id."""
        if id not in self.jobs:
            raise UnknownJob(f"There is no job '{id[:40]}'")
        return self.jobs[id]

    def told(self, job: Job) -> keeping.LoadJob:
        """A load as GET /models/jobs tells it."""
        total = self.models[job.model].bytes if job.model in self.models else 0
        return keeping.LoadJob(
            id=job.id,
            model=job.model,
            state=job.state,
            device=job.device,
            phase="load" if job.ended is None else None,
            done_bytes=int(total * self._share(job)),
            total_bytes=total,
            running_s=job.took,
            eta_s=max(0.0, self.load_s - job.took) if job.ended is None else None,
            error=None if job.error is None else keeping.Failure.of(job.error),
        )

    def report(self, model: Model, queue: int) -> wire.ResidentReport:
        """A model as GET /models tells it."""
        now, job = time.monotonic(), model.job
        return wire.ResidentReport(
            id=model.id,
            harness="fake",
            state="loading" if model.loading else "loaded",
            devices=[model.device],
            bytes={model.device: model.bytes},
            context_length=4096,
            slots=self.slots,
            queue=queue,
            idle_s=now - model.used,
            age_s=now - model.since,
            load_s=self.load_s if job is None else job.took,
            pinned=model.keep.pinned or model.id in self.pinned,
            priority=model.keep.priority,
            phase="load" if model.loading else None,
            done_bytes=int(model.bytes * self._share(job)) if job is not None and model.loading else 0,
            total_bytes=model.bytes if model.loading else 0,
        )

    def heed(self, order: keeping.KeepRequest) -> keeping.KeepAnswer:
        """A gateway's catalogue says of a model here how it is kept. Nothing idles away in this fleet."""
        if (model := self.loaded(order.id)) is None:
            raise NotResident(f"Model '{order.id}' is not loaded on this neuron", param="id")
        model.keep = keeping.Keep(pinned=order.keep.pinned, priority=order.keep.priority)
        pinned = model.keep.pinned or model.id in self.pinned
        return keeping.KeepAnswer(id=order.id, keep=keeping.Keep(pinned=pinned, priority=model.keep.priority))

    def _share(self, job: Job) -> float:
        """How far it is."""
        return 1.0 if job.ended is not None else min(1.0, job.took / (self.load_s or 1.0))

    def _room(self, need: int, named: Iterable[str], *, may_evict: bool) -> tuple[str, list[str]]:
        """The device where `need` bytes are free once the victims have left."""
        most = max(self.devices.values())
        if need > most:
            facts = {"needed_bytes": need, "free_bytes": most}
            raise DoesNotFit(f"{size(need)} are more than any device here has", facts=facts)
        choices = [(device, self._victims(device, need, frozenset(named))) for device in self.devices]
        able = [
            (device, victims)
            for device, victims in choices
            if victims is not None and (may_evict or not victims)
        ]
        if not able:
            stay = self.models if not may_evict else (id for id in self.models if not self._may_leave(id))
            blocked = sorted(stay)
            raise Busy("What lives here is in use or pinned", facts={"blocked_by": blocked})
        return min(able, key=lambda choice: (len(choice[1]), self.used(choice[0])))

    def _victims(self, device: str, need: int, named: frozenset[str]) -> list[str] | None:
        """Who leaves `device`, those that were named first, then the coldest; None if that is too little."""
        free, victims = self.devices[device] - self.used(device), list[str]()
        for model in sorted(self.models.values(), key=lambda each: (each.id not in named, each.used)):
            if free >= need:
                break
            if model.device == device and self._may_leave(model.id):
                free += model.bytes
                victims.append(model.id)
        return victims if free >= need else None

    def _may_leave(self, id: str) -> bool:
        model = self.models[id]
        return not (model.in_flight or model.loading or model.keep.pinned or id in self.pinned)
