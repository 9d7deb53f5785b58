"""Watches over the devices' threads, and over the line of those who wait.

A thread that hangs ends the process: its requests hear of it first, as far as the loop still
runs, and every stack goes to stderr. A device that is lost takes nothing more; when the
others are idle, or `poison_drain_s` later, the process asks to be started again. An
interpreter that is held for ever ends by the kernel's timer (`alarm`). Waiters whom nobody
answers in time are a bug, which is shown and logged once.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Final

import trio

from cortex.dispatch import Dispatch, Patience
from cortex.errors import DeviceLost
from cortex.harness import alarm
from cortex.harness.alarm import Alarm, Ending
from cortex.harness.watch import HUNG, Hang, Limits, Watch
from cortex.harness.worker import DeviceWorker

log = logging.getLogger(__name__)

# For the error events of a hang to reach their sockets.
LAST_WORDS_S: Final = 1.0
# A waiter gives up by its own clock; one that stands in line for so long beyond is proof that
# nothing moves.
STUCK_S: Final = 5.0
IDLE_LOOK_S: Final = 0.05
SHOWN: Final = 3  # frames of a task, the innermost ones
# Of a limit, before the timer of the kernel's fires: the watch comes first where it can.
SPARE: Final = 0.25


class Vigil:
    """Of one neuron. Places that are `elsewhere` compute nothing here, and have limits of their own.
    `lost` is told of a place that is poisoned, before anything else happens."""

    def __init__(
        self,
        workers: Mapping[str, DeviceWorker],
        dispatch: Dispatch,
        limits: Limits,
        *,
        drain_s: float,
        patience: Patience,
        lost: Callable[[str], None],
        elsewhere: Collection[str] = (),
    ) -> None:
        self._workers, self._dispatch, self._limits = workers, dispatch, limits
        self._drain_s, self._patience_s, self._lost = drain_s, max(patience.queue_s, patience.load_s), lost
        self._ending: Ending | None = None
        self._here = [place for place in workers if place not in elsewhere]
        self._stuck = False
        self.doomed = trio.Event()
        self.verdict = ""

    async def run(
        self, ending: Ending | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watch until cancelled. `ending` is None where the process is not the neuron's own: then a
        hang is an error, DeviceLost."""
        self._ending = ending
        spare_s = max(1.0, min(self._limits.turn_s, self._limits.warmup_s) * SPARE)
        held = None if ending is None else ending.alarm(spare_s)
        try:
            async with trio.open_nursery() as nursery:
                for place, worker in self._workers.items():
                    nursery.start_soon(self._await_loss, place, worker)
                task_status.started()
                await self._watch(held)
        finally:
            if held is not None:
                held.close()

    def poisoned(self, place: str) -> str | None:
        """Why the place serves nothing more in this process."""
        return self._workers[place].poisoned

    def sick(self) -> str | None:
        """Why nobody can be served at present, or why nothing moves; None while all is well."""
        usable = [
            worker
            for place, worker in self._workers.items()
            if worker.poisoned is None and self._fresh(worker) and self._ready(place)
        ]
        if not usable:
            return "no device is left that serves"
        return None if self._moving() else "requests wait beyond their patience"

    def hung(self) -> str | None:
        """Why a restart would help; None while all is well. A poisoned device has an end of its own."""
        for place, worker in self._workers.items():
            if worker.poisoned is None and not self._fresh(worker):
                return f"{place} shows no sign of life"
        return None if self._moving() else "requests wait beyond their patience"

    # -- hangs ------------------------------------------------------------------------------

    async def _watch(self, held: Alarm | None) -> None:
        watch = Watch(self._limits)
        while True:
            doings = {place: self._workers[place].doing for place in self._here}
            if (hang := watch.look(time.monotonic(), doings)) is not None:
                await self._end(hang)
            if held is not None:
                limits = [self._limits.of(doing) or self._limits.turn_s for doing in doings.values()]
                held.put_off(max(limits, default=self._limits.turn_s) * (1 + SPARE))
            self._look_at_line()
            await trio.sleep(self._limits.look_s)

    async def _end(self, hang: Hang) -> None:
        log.critical("device.hung %s", hang)
        alarm.dump()
        why = f"{hang.device} hung: no sign of life for {hang.silent_s:.0f} s"
        for worker in self._workers.values():
            worker.abandon(why)
        with trio.CancelScope(shield=True):
            await trio.sleep(LAST_WORDS_S)
        if self._ending is not None:
            self._ending.leave(HUNG)
        raise DeviceLost(f"{why}; the process has to be started again")

    # -- lost devices -----------------------------------------------------------------------

    async def _await_loss(self, place: str, worker: DeviceWorker) -> None:
        await worker.lost.wait()
        why = worker.poisoned or ""
        self._lost(place)
        self._dispatch.abandon(self._dispatch.ledger.lost(place, f"poisoned: {why}"))
        with trio.move_on_after(self._drain_s):
            while self._others_busy():  # noqa: ASYNC110 - idleness of many things rings no bell
                await trio.sleep(IDLE_LOOK_S)
        if not self.doomed.is_set():
            self.verdict = f"device {place} is poisoned ({why}); the process has to be started again"
            self.doomed.set()

    def _others_busy(self) -> bool:
        """Whether anybody is served yet; of the lost place nobody is in the ledger."""
        ledger = self._dispatch.ledger
        return bool(ledger.loads) or any(resident.seats for place in ledger for resident in place)

    # -- progress ---------------------------------------------------------------------------

    def _fresh(self, worker: DeviceWorker) -> bool:
        """Whether its thread moves. Who watches over a child ends it when it hangs: that is no
        reason to start this process again."""
        return worker.silent_s <= (self._limits.of(worker.doing) or inf)

    def _ready(self, place: str) -> bool:
        at = self._dispatch.ledger.place(place)
        return at is not None and (at.ready or at.doubt)

    def _moving(self) -> bool:
        """Whether everybody who waits for a seat does so within his patience."""
        oldest = self._dispatch.ledger.oldest
        return oldest is None or trio.current_time() - oldest <= self._patience_s + STUCK_S

    def _look_at_line(self) -> None:
        stuck = not self._moving()
        if stuck and not self._stuck:
            log.error("line.stuck ledger=%r tasks=%s", self._dispatch.ledger, "\n".join(tasks()))
        self._stuck = stuck


def tasks() -> Iterator[str]:
    """Every task of trio's, under the one that waits for it, with the line that it stands at."""
    root = trio.lowlevel.current_root_task()
    if root is not None:
        yield from _below(root, 0)


def _below(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    stands = [f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in task.iter_await_frames()]
    yield f"{'  ' * depth}{task.name} at {' < '.join(reversed(stands[-SHOWN:]))}"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child, depth + 1)
