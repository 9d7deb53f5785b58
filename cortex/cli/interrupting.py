"""Work that a person waits for, and may stop: the first signal ends it in order, the second at once.

A signal is only ever heard between two steps of trio. Where Ctrl-C is KeyboardInterrupt instead, it may
come while trio starts a task: a nursery then waits for ever for one that never runs.
"""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import trio

from cortex.cli.running import leave
from cortex.cli.trouble import Interrupted

T = TypeVar("T")


def interruptible(work: Callable[[], Awaitable[T]], left: Callable[[], str]) -> T:
    """What `work` answers. SIGINT or SIGTERM cancel it: Interrupted, with what `left` then says of what
    was done; also where the last step could not be cancelled, since nothing is to follow. The second signal
    leaves the process, should a disk or a login hang."""
    return trio.run(_run, work, left)


async def _run(work: Callable[[], Awaitable[T]], left: Callable[[], str]) -> T:
    heard: list[int] = []
    answers: list[T] = []
    failed: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, heard, scope := trio.CancelScope())
            with scope:
                # An error is raised as it is, and not as one of the nursery's.
                try:
                    answers.append(await work())
                except Exception as error:  # noqa: BLE001
                    failed = error
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    if heard:
        raise Interrupted(heard[0], left())
    return answers[0]


async def _obey(signals: AsyncIterator[int], heard: list[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        if heard:
            leave(128 + number)
        heard.append(number)
        scope.cancel()
