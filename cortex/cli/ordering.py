"""Orders to a running cortex: load and unload a model, and how far a load has come meanwhile.

The answer goes to stdout; a bar goes to stderr, and only to a terminal. An order takes what it
takes: the other side has the deadlines for it. Ctrl-C ends the waiting, and calls nothing off.
"""

from functools import partial
from typing import Final

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cortex.cli.interrupting import interruptible
from cortex.cli.options import Site
from cortex.errors import CortexError
from cortex.logs import escape
from cortex.status import view
from cortex.status.fetch import Asker, asker, named_in

# Between two looks at a load.
LOOK_S: Final = 0.5
STOPPED: Final = "stopped waiting; `cortex status` shows what becomes of it"


def load(model: str, site: Site) -> str:
    """The model is resident somewhere; answers where."""
    return interruptible(partial(_load, model, site), lambda: STOPPED)


def unload(model: str, site: Site, *, force: bool) -> str:
    """The model is resident nowhere; answers that."""

    async def run() -> None:
        async with asker(site.endpoint, site.token()) as at:
            await at.unload(model, force=force)

    with Console(stderr=True).status(escape(f"unloading {model}")):
        interruptible(run, lambda: STOPPED)
    return f"{model} is unloaded"


async def _load(model: str, site: Site) -> str:
    async with asker(site.endpoint, site.token()) as at:
        with _bar() as bar:
            task = bar.add_task(f"loading {escape(model)}", total=None)
            async with trio.open_nursery() as nursery:
                if not bar.disable:
                    nursery.start_soon(_follow, at, model, bar, task)
                where = await at.load(model)
                nursery.cancel_scope.cancel()
    return f"{model} is loaded" + (f" on {escape(', '.join(where))}" if where else "")


async def _follow(at: Asker, model: str, bar: Progress, task: TaskID) -> None:
    """The bar shows what the report tells of the load. A report that does not come is no fault of it."""
    while True:
        await trio.sleep(LOOK_S)
        try:
            report = await at.report()
            name = named_in(report, model).id
        except CortexError:
            continue
        for each in report.loads:
            if each.model == name:
                total, done = each.total_bytes or None, each.done_bytes
                bar.update(task, total=total, completed=done, description=escape(view.load_line(each)))


def _bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
