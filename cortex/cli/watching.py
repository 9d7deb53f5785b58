"""`cortex status`: the fleet as it is, or with --watch as it changes.

On a terminal the picture is redrawn in place, as large as the window is at that moment, and the
last one stays on the screen behind it. Elsewhere there is one report after another: with --json
one JSON document a line. While the other side does not answer, the last picture stays, with the
reason above it. The exit code is that of the last look.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import trio
import typer
from rich.console import Console, RenderableType
from rich.live import Live

from cortex.cli.asking import ANSWER_S, ask, draw, within
from cortex.cli.options import Site
from cortex.cli.trouble import Interrupted, tell
from cortex.errors import CortexError
from cortex.logs import escape
from cortex.status import view
from cortex.status.fetch import Asker, asker
from cortex.wire.fleet import FleetReport

REDRAW_S: Final = 1.0
UNREACHABLE: Final = 2

Draw: TypeAlias = Callable[[RenderableType], object]


def look(site: Site, *, watch: bool, as_json: bool) -> int:
    """The exit code. 1 is kept for a fleet that is not well: what was not seen at all is 2."""
    try:
        return (keep_watching if watch else once)(site, as_json=as_json)
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - `tell` raises again what is a bug
        tell(error)
        return UNREACHABLE


def once(site: Site, *, as_json: bool) -> int:
    """The exit code, after the report has been printed."""
    report = ask(site, Asker.report)
    if as_json:
        typer.echo(view.as_json(report))
    else:
        draw(view.picture(report, site.endpoint))
    return view.exit_code(report)


def keep_watching(site: Site, *, as_json: bool) -> int:
    """The exit code of the last look, after Ctrl-C."""
    console = Console(highlight=False)
    if as_json:
        return trio.run(_watch, site, _Lines())
    redrawn = console.is_terminal
    with _screen(console) if redrawn else nullcontext(console.print) as place:
        shown = _Pictures(place, console if redrawn else None, site.endpoint)
        code = trio.run(_watch, site, shown)
    if redrawn:
        shown.window, shown.place = None, console.print
        shown.farewell()
    return code


class _Shown(Protocol):
    """What becomes of each look."""

    def report(self, seen: FleetReport) -> None: ...
    def trouble(self, error: CortexError) -> None: ...
    def again(self) -> None:
        """The window may have changed."""


class _Lines:
    """A JSON document a line, and troubles on stderr."""

    def report(self, seen: FleetReport) -> None:
        typer.echo(view.as_json(seen, lines=False))

    def trouble(self, error: CortexError) -> None:
        typer.echo(f"cortex: {escape(error.message)}", err=True)

    def again(self) -> None:
        """A line is a line."""


@dataclass(slots=True)
class _Pictures:
    """Pictures at a place, which fit `window` where that is one. The last one outlives troubles."""

    place: Draw
    window: Console | None
    endpoint: str
    last: FleetReport | None = None
    trouble_since: float | None = None
    why: str = ""

    def report(self, seen: FleetReport) -> None:
        self.last, self.trouble_since = seen, None
        self.again()

    def trouble(self, error: CortexError) -> None:
        if self.trouble_since is None:
            self.trouble_since = trio.current_time()
        self.why = error.message
        self.again()

    def again(self) -> None:
        if self.trouble_since is not None:
            silent_s = trio.current_time() - self.trouble_since
            # A pipe has had the last picture.
            last = None if self.window is None else self.last
            self.place(view.silence(self.why, silent_s, last, self.endpoint, self._rows))
        elif self.last is not None:
            self.place(view.picture(self.last, self.endpoint, self._rows))

    def farewell(self) -> None:
        """What was seen last stays on the screen, and that nobody answered since if that is so."""
        if self.last is not None:
            self.place(view.picture(self.last, self.endpoint))
        if self.trouble_since is not None:
            typer.echo(f"cortex: {escape(self.why)}", err=True)

    @property
    def _rows(self) -> int | None:
        return None if self.window is None else self.window.height


async def _watch(site: Site, shown: _Shown) -> int:
    code = UNREACHABLE
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGWINCH) as signals:
        async with asker(site.endpoint, site.token()) as at, trio.open_nursery() as nursery:

            async def look() -> None:
                nonlocal code
                while True:
                    try:
                        seen = await within(ANSWER_S, at, Asker.report)
                    except CortexError as error:
                        code = UNREACHABLE
                        shown.trouble(error)
                    else:
                        code = view.exit_code(seen)
                        shown.report(seen)
                    await trio.sleep(REDRAW_S)

            nursery.start_soon(look)
            async for number in signals:
                if number == signal.SIGWINCH:
                    shown.again()
                else:
                    nursery.cancel_scope.cancel()
    return code


@contextmanager
def _screen(console: Console) -> Iterator[Draw]:
    """The alternate screen, which gives the terminal back as it was."""
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda picture: live.update(picture, refresh=True)
