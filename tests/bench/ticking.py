"""Run cortex with two clocks on trio's loop: python -m tests.bench.ticking FILE ROLE ...

The first is a task that wants to be woken every PERIOD_S, and keeps by how much it was late: as long
would anything else have waited for the loop. It keeps to its schedule, so that a loop that stands
still for a second is late for all of that second's moments. Whatever kept the loop counts: its own
work, whoever held Python's lock, and other processes on the cores. The second keeps the processor time
of each pass of the loop, which is its own work only, however busy the machine is. Both are written to
FILE when cortex ends, in doubles: how many lags, then pairs of a moment (of time.monotonic) and a time.
"""

import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio

PERIOD_S: Final = 0.005

Moments = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Ticks:
    """By how much the loop was late at each moment that was wanted; processor time of each pass."""

    lags: Moments
    passes: Moments

    @classmethod
    def read(cls, path: Path) -> "Ticks":
        count, *told = array("d", path.read_bytes())
        pairs = list(zip(told[::2], told[1::2], strict=True))
        return cls(pairs[: int(count)], pairs[int(count) :])


class _Passes(trio.abc.Instrument):
    def __init__(self, kept: "array[float]") -> None:
        self._kept, self._began = kept, 0.0

    def after_io_wait(self, timeout: float) -> None:
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._began:
            self._kept.extend((time.monotonic(), time.thread_time() - self._began))


def main() -> None:
    path, *rest = sys.argv[1:]
    lags, passes, run = array("d"), array("d"), trio.run

    def run_with_clocks(function: Callable[..., Awaitable[object]], *said: Any) -> object:
        async def both() -> object:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tick, lags)
                done = await function(*said)
                nursery.cancel_scope.cancel()
            return done

        return run(both, instruments=[_Passes(passes)])

    trio.run = run_with_clocks
    sys.argv = ["cortex", *rest]
    from cortex.cli import main as cortex  # the way into trio is laid first

    try:
        cortex()
    finally:
        Path(path).write_bytes((array("d", [len(lags) // 2]) + lags + passes).tobytes())


async def _tick(lags: "array[float]") -> None:
    due = time.monotonic()
    while True:
        await trio.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        while due <= now:
            lags.extend((due, now - due))
            due += PERIOD_S


if __name__ == "__main__":
    main()
