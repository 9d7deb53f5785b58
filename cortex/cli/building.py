"""`cortex engines build`: a bar in a terminal, a line a minute elsewhere, and the compiler's words
when it fails. Everything is told on stderr; stdout has the folder in the end.

The first signal ends the compilers and leaves nothing behind; the second ends the process at once.
"""

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cortex.cli.interrupting import interruptible
from cortex.cli.trouble import Usage
from cortex.harness.exllamav2 import archs, build, toolchain
from cortex.harness.exllamav2.compilers import BuildFailed, Watcher
from cortex.harness.exllamav2.toolchain import Tools
from cortex.logs import escape
from cortex.neuron.cards import cards_of
from cortex.neuron.devices import Cpu, find

NAME: Final = "exllamav2"
SAY_S: Final = 60.0


def build_engine(
    name: str, wanted: str | None, jobs: int | None, *, again: bool, env: Mapping[str, str]
) -> None:
    """The extension for what is ordered is in the cache."""
    if name != NAME:
        raise Usage(f"{name} is not built here; the engine that is compiled on its host is {NAME}")
    tools = toolchain.look(env)
    order = build.Order(_archs(wanted, tools), jobs or _jobs(), again)
    if not again and (there := build.built(order)) is not None:
        typer.echo(str(there))  # also where no compiler is left
        return
    build.prepare(order, tools)
    typer.echo(f"compiling {NAME} for {', '.join(order.archs)}, {order.jobs} at a time", err=True)
    built = interruptible(partial(_build, order, tools, env), lambda: "stopped; nothing of the build is kept")
    typer.echo(str(built))


def _archs(wanted: str | None, tools: Tools) -> tuple[str, ...]:
    """Those that are named; else those of the GPUs that are here."""
    if wanted is not None:
        named = [each.strip() for each in wanted.split(",")]
        if faulty := [each for each in named if archs.parse(each) is None]:
            raise Usage(f"--arch: {', '.join(map(repr, faulty))} is not like 8.6 or 8.6+PTX")
        return tuple(archs.ordered(named))
    driver = find(dict(os.environ))
    floor = archs.least(tools.torch.cuda if tools.torch is not None else None)
    here = cards_of(driver).capabilities
    if not here:
        raise Usage(f"no GPU to compile for ({driver.why_not}); name some, like --arch 8.6,8.9,12.0")
    if not (fit := [each for each in here if each >= floor]):
        least = archs.names([floor])[0]
        raise Usage(f"the GPUs here are {', '.join(archs.names(here))}, and {least} is the least for {NAME}")
    return tuple(archs.names(fit))


def _jobs() -> int:
    return build.jobs(len(os.sched_getaffinity(0)), Cpu().look().available_bytes)


async def _build(order: build.Order, tools: Tools, env: Mapping[str, str]) -> Path:
    console = Console(stderr=True)
    shown = _Bar(console) if console.is_terminal else _Lines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.run)
        with shown:
            built = await _attempt(order, tools, shown, env)
        nursery.cancel_scope.cancel()
    return built


async def _attempt(order: build.Order, tools: Tools, shown: Watcher, env: Mapping[str, str]) -> Path:
    try:
        return await build.build(order, tools, shown, env)
    except BuildFailed as error:
        for line in error.said:
            typer.echo(escape(line), err=True)
        raise


class _Lines:
    """A line a minute, for logs and pipes."""

    def __init__(self) -> None:
        self._since, self._said = time.monotonic(), "nothing is compiled yet"

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def waits(self) -> None:
        self._tell("another build is under way: waiting for its end")

    def step(self, done: int, total: int) -> None:
        self._said = f"{done} of {total} are compiled"

    def checks(self) -> None:
        self._tell("all is compiled: importing it once")

    async def run(self) -> None:
        """Say it every minute, until cancelled."""
        while True:
            await trio.sleep(SAY_S)
            typer.echo(f"{self._said}, after {(time.monotonic() - self._since) / 60:.0f} min", err=True)

    def _tell(self, words: str) -> None:
        self._said = words
        typer.echo(words, err=True)


class _Bar:
    """A bar, which is gone when it is done."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("starting the compilers", total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def waits(self) -> None:
        self._bar.update(self._task, description="waiting for another build to end")

    def step(self, done: int, total: int) -> None:
        self._bar.update(self._task, description="compiling", completed=done, total=total)

    def checks(self) -> None:
        self._bar.update(self._task, description="importing it once")

    async def run(self) -> None:
        """Nothing: the bar draws itself."""
