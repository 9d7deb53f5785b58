"""Every load of this neuron as a job: how far it is, how long it will take, and how it ended.

A load is a job whoever wants it: an order, a request, a default model. `Jobs` stands between the
dispatcher and the loader, and sees each of them begin and end. An order that nobody waits for has
a job before there is a load, which ends when the order does. Finished jobs are kept for a while,
for those who ask late.
"""

import itertools
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from cortex.dispatch import Loader, Revised
from cortex.errors import CortexError, LoadFailed, Stopping, UnknownJob
from cortex.ledger import Ledger, Load
from cortex.ledger.outlook import Outlook
from cortex.neuron.progress import Progress
from cortex.places import Resident
from cortex.wire import keeping as wire

# Long enough for whoever ordered a load and was away for a moment; a hundred are some 50 KiB.
KEEP_S: Final = 600.0
KEEP: Final = 100
LOOK_S: Final = 0.25  # a bar moves four times a second


@dataclass(slots=True, eq=False)
class Job:
    """One load. `since` is when its phase began, and `from_bytes` what was done of it by then;
    `load` is there while it runs, `ordered` while an order stands in line for it, until it has
    `left`. `over` comes with `ended`."""

    id: str
    model: str
    begun: float
    state: wire.State = "queued"
    device: str | None = None
    load: Load | None = None
    ordered: trio.CancelScope | None = None
    unwanted: bool = False
    progress: Progress | None = None
    since: float = 0.0
    from_bytes: int = 0
    ended: float | None = None
    error: CortexError | None = None
    left: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)

    def look(self, progress: Progress | None, now: float) -> None:
        """Take note of how far it is."""
        if progress is None or self.state != "loading":
            return
        if self.progress is None or self.progress.phase != progress.phase:
            self.since, self.from_bytes = now, progress.done_bytes
        self.progress = progress


class Jobs:
    """Implements `dispatch.Loader` around another one."""

    def __init__(self, loader: Loader, ledger: Ledger, progress: Callable[[str], Progress | None]) -> None:
        self._loader, self._ledger, self._progress = loader, ledger, progress
        self._active: dict[str, Job] = {}
        self._finished: OrderedDict[str, Job] = OrderedDict()
        self._numbers = itertools.count(1)
        self._begun, self._looked = trio.lowlevel.ParkingLot(), trio.lowlevel.ParkingLot()
        ledger.outlook = self.outlook

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look at jobs under way until cancelled: the pace of a load is measured between looks."""
        task_status.started()
        while True:
            if not self._active:
                await self._begun.park()
            for job in list(self._active.values()):
                if job.load is None and job.ordered is None and not self._ledger.waiting_for(job.model):
                    # It was to be placed anew, and whoever wanted it has left.
                    self.end(job, _given_up(job.model))
                job.look(self._progress(job.model), trio.current_time())
            self._looked.unpark_all()
            await trio.sleep(LOOK_S)

    async def load(self, load: Load) -> Resident:
        """As the loader does it, and its job knows."""
        job = self._opened_for(load)
        end: CortexError | None = _given_up(job.model)
        goes_on = False
        try:
            resident = await self._loader.load(load)
            end = None
            return resident
        except Revised:
            goes_on = not job.unwanted
            raise
        except CortexError as error:
            end = error
            raise
        except Exception as bug:
            end = LoadFailed(f"The load of '{job.model}' failed unexpectedly: {bug}")
            raise
        finally:
            if job.load is load:
                job.load, job.progress = None, None
                if goes_on or (end is not None and _stands(job)):
                    job.state = "queued"  # it is heard in a moment what becomes of it
                else:
                    self.end(job, end)

    def _opened_for(self, load: Load) -> Job:
        """The job of `load`. One whose place was lost may be ending yet: an order that stands goes on with
        this one, and any other is over."""
        job = self.open(load.want.model)
        if job.load is not None and not _stands(job):
            self.end(job, _given_up(job.model))
            job = self.open(load.want.model)
        job.load, job.state, job.device, job.progress = load, "loading", load.place.name, None
        return job

    def open(self, model: str) -> Job:
        """The job under way for `model`, or one that begins."""
        job = self._active.get(model)
        if job is None:
            job = self._active[model] = Job(f"load-{next(self._numbers)}", model, trio.current_time())
            self._begun.unpark_all()
        return job

    def end(self, job: Job, error: CortexError | None = None) -> None:
        """It has come to its end, for good unless there is an error. Harmless when done twice."""
        if job.ended is not None:
            return
        given_up = isinstance(error, Stopping) or (job.unwanted and error is not None)
        job.state = "done" if error is None else "cancelled" if given_up else "failed"
        job.error = None if given_up else error
        job.ended, job.load = trio.current_time(), None
        job.over.set()
        self._looked.unpark_all()
        del self._active[job.model]
        self._finished[job.id] = job
        while len(self._finished) > KEEP:
            self._finished.popitem(last=False)

    def find(self, job_id: str) -> Job:
        """The job with that id. UnknownJob when there is none, or it is long over."""
        self._tidy()
        active = {job.id: job for job in self._active.values()}
        job = active.get(job_id) or self._finished.get(job_id)
        if job is None:
            raise UnknownJob(
                f"There is no job '{job_id[:40]}'; a finished one is kept for {KEEP_S / 60:.0f} minutes"
            )
        return job

    def others(self, job: Job) -> int:
        """How many wait for its model, without its own order."""
        standing = job.ordered is not None and job.ended is None
        return max(0, self._ledger.waiting_for(job.model) - standing)

    def report(self) -> wire.LoadJobs:
        """GET /models/jobs."""
        self._tidy()
        newest_first = reversed(self._finished.values())
        return wire.LoadJobs(jobs=[self.told(job) for job in (*self._active.values(), *newest_first)])

    def told(self, job: Job) -> wire.LoadJob:
        """GET /models/jobs/{id}."""
        now = trio.current_time()
        if job.ended is None:
            job.look(self._progress(job.model), now)
        progress, error = job.progress or Progress("queued"), job.error
        return wire.LoadJob(
            id=job.id,
            model=job.model,
            state=job.state,
            device=job.device,
            phase=progress.phase if job.state == "loading" else None,
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            running_s=round((job.ended or now) - job.begun, 3),
            eta_s=self._eta_s(job, now),
            waiting=self._ledger.waiting_for(job.model) if job.ended is None else 0,
            error=None if error is None else wire.Failure.of(error),
        )

    def outlook(self, model: str) -> Outlook:
        """How far the load of `model` is."""
        job = self._active.get(model)
        if job is None:
            return Outlook()
        told = self.told(job)
        # One that is late by what it usually takes (0.0) is late by nobody knows how much.
        return Outlook(told.phase or "", told.done_bytes, told.total_bytes, told.eta_s or None)

    async def follow(self, job: Job) -> AsyncGenerator[wire.LoadJob, None]:
        """The job each time it is looked at; the last one is how it ended."""
        while job.ended is None:
            yield self.told(job)
            await self._looked.park()
        yield self.told(job)

    def _eta_s(self, job: Job, now: float) -> float | None:
        """By the pace of its phase, else by what its loads usually take. None when neither is known."""
        usual, progress = self._ledger.usual_load_s(job.model), job.progress
        if job.load is None or progress is None:
            return None
        done, took = progress.done_bytes - job.from_bytes, now - job.since
        if done > 0 and took > 0 and progress.total_bytes:
            left = (progress.total_bytes - progress.done_bytes) * took / done
            return round(left + (0.0 if progress.phase == "load" else usual or 0.0), 1)
        return None if usual is None else round(max(0.0, usual - (now - job.load.resident.loaded_at)), 1)

    def _tidy(self) -> None:
        oldest = trio.current_time() - KEEP_S
        for job in [job for job in self._finished.values() if (job.ended or 0.0) < oldest]:
            del self._finished[job.id]


def _stands(job: Job) -> bool:
    """Whether an order stands in line for it."""
    return job.ordered is not None and not job.unwanted


def _given_up(model: str) -> Stopping:
    return Stopping(f"The load of '{model}' was given up")
