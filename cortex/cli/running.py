"""A role runs until a signal ends it: the first drains, the second leaves at once.

SIGTERM and SIGINT mean the same. SIGHUP has a gateway read its files again; a neuron
reads its own at start only, and says so rather than be killed. A role that ends by
itself ends the command, with its error if it had one; a neuron that lost a device ends it
with 71, so that whoever supervises it starts it again.
"""

import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn, TypeAlias

import trio
from rich.console import Console

from cortex import logs
from cortex.cli.trouble import tell
from cortex.errors import DeviceLost
from cortex.harness.watch import LOST

log = logging.getLogger(__name__)

Service: TypeAlias = Callable[[trio.Event], Awaitable[None]]


class Bell:
    """Rung by a signal, heard by a role, which may not listen yet."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Whoever waits is woken, or the next one who does."""
        self._rung.set()

    async def wait(self) -> None:
        """It was rung since the last `wait` returned."""
        await self._rung.wait()
        self._rung = trio.Event()


def hold(service: Service, level: str, form: logs.Format | None, hung_up: Bell | None = None) -> None:
    """Run `service` to its end; the event that it gets is set by the first signal, and `hung_up` is
    rung by each SIGHUP. A service that lost a device ends the process here: what is left of the
    device must not be tidied up."""
    with logged(level, form):
        try:
            trio.run(_hold, service, hung_up)
        except BaseExceptionGroup as errors:
            if (lost := errors.split(DeviceLost)[0]) is None:
                raise
            tell(lost)
            leave(LOST)


@contextmanager
def logged(level: str, form: logs.Format | None, more: Mapping[str, str] = {}) -> Iterator[None]:
    """What is logged within goes to stderr, with `more` in every line."""
    outlet = logs.configure(level, form, sys.stderr, more)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(outlet)
        outlet.close()


def settle() -> None:
    """What was imported stays: no collection of garbage walks through it again, which would hold up the
    loop for some 50 ms each time. To be called when all that a role imports is there."""
    gc.collect()
    gc.freeze()


async def _hold(service: Service, hung_up: Bell | None) -> None:
    stop = trio.Event()
    # Before the first task: KeyboardInterrupt may come while trio starts one, and that one would never run.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, stop, hung_up)
            await service(stop)
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], stop: trio.Event, hung_up: Bell | None) -> None:
    async for number in signals:
        if number == signal.SIGHUP and hung_up is not None:
            hung_up.ring()
        elif number == signal.SIGHUP:
            log.warning("reload.unsupported signal=SIGHUP remedy='restart to read the files again'")
        elif stop.is_set():
            leave(128 + number)
        else:
            log.info("stop.begun signal=%s", signal.Signals(number).name)
            stop.set()


def leave(code: int) -> NoReturn:
    """The process is gone, whatever still runs in it; the terminal is as it was."""
    console = Console(stderr=True)
    if console.is_terminal:
        console.show_cursor()
    logging.shutdown()
    os._exit(code)
