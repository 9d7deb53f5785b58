"""`cortex status`: one look at a fleet, or a look a second until Ctrl-C.

A terminal is redrawn in place; a pipe gets one picture after the other, or one JSON
object a line. A fleet that does not answer is shown as such and asked again.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import trio
import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from cortex.cli.asking import ANSWER_S, ask, draw, token_of, within
from cortex.cli.trouble import tell
from cortex.errors import CortexError
from cortex.logs import escape
from cortex.status import view
from cortex.status.fetch import Asker, asker
from cortex.wire.fleet import FleetReport

REDRAW_S: Final = 1.0
UNREACHABLE: Final = 2

Draw: TypeAlias = Callable[[RenderableType], object]


def look(endpoint: str, token_file: Path | None, *, watch: bool, as_json: bool) -> int:
    """The exit code. 1 is kept for a fleet that is not well: what was not seen at all is 2."""
    try:
        return (keep_watching if watch else once)(endpoint, token_file, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - `tell` raises again what is a bug
        tell(error)
        return UNREACHABLE


def once(endpoint: str, token_file: Path | None, *, as_json: bool) -> int:
    """The exit code, after the report has been printed."""
    report = ask(endpoint, token_file, Asker.report)
    if as_json:
        typer.echo(view.as_json(report))
    else:
        draw(view.picture(report, endpoint))
    return view.exit_code(report)


def keep_watching(endpoint: str, token_file: Path | None, *, as_json: bool) -> int:
    """The exit code of the last look, after Ctrl-C."""
    console = Console(highlight=False)
    redrawn = console.is_terminal and not as_json
    with _screen(console) if redrawn else nullcontext(console.print) as place:
        last, code = trio.run(
            _watch, endpoint, token_of(token_file), partial(_show, place, endpoint, as_json)
        )
    if redrawn and last is not None:
        console.print(view.picture(last, endpoint))
    return code


async def _watch(
    endpoint: str, token: str | None, show: Callable[[FleetReport | CortexError], None]
) -> tuple[FleetReport | None, int]:
    last: FleetReport | None = None
    code = UNREACHABLE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with asker(endpoint, token) as at, trio.open_nursery() as nursery:

            async def look() -> None:
                nonlocal last, code
                while True:
                    try:
                        last = await within(ANSWER_S, at, Asker.report)
                    except CortexError as error:
                        last, code = None, UNREACHABLE
                        show(error)
                    else:
                        code = view.exit_code(last)
                        show(last)
                    await trio.sleep(REDRAW_S)

            nursery.start_soon(look)
            async for _ in signals:
                nursery.cancel_scope.cancel()
    return last, code


@contextmanager
def _screen(console: Console) -> Iterator[Draw]:
    """The alternate screen: a fleet taller than the terminal is cut there instead of smeared."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield partial(live.update, refresh=True)


def _show(place: Draw, endpoint: str, as_json: bool, seen: FleetReport | CortexError) -> None:
    if isinstance(seen, CortexError):
        if as_json:
            typer.echo(f"cortex: {escape(seen.message)}", err=True)
        else:
            place(Text(escape(seen.message), "red"))
    elif as_json:
        typer.echo(view.as_json(seen, lines=False))
    else:
        place(view.picture(seen, endpoint))
