"""What `cortex engines` shows: each engine, whether it can run on this host, and what to do when not."""

import sys
from collections.abc import Iterable, Mapping

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cortex.logs import escape
from cortex.neuron.devices import find
from cortex.neuron.harnesses import Surveyed, survey


def show(env: Mapping[str, str], *, as_json: bool) -> None:
    """Every engine is printed."""
    # A look at the driver may set how CUDA counts its devices: for us, not for our caller.
    found = survey(find(dict(env)))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        Console(highlight=False, file=sys.stdout).print(_table(found))


def _table(found: Iterable[Surveyed]) -> Table:
    table = Table.grid(padding=(0, 2))
    for each in found:
        verdict = Text("available", "green") if each.available else Text("unavailable", "yellow")
        # Words wrap; a name, a version and a code never do.
        table.add_row(Text(each.name), Text(each.version or "-"), verdict, Text("\n".join(_told(each))))
    for column in table.columns[:3]:
        column.no_wrap = True
    # A path is to be copied: it is shown whole, however long.
    table.columns[3].overflow = "fold"
    return table


def _told(each: Surveyed) -> list[str]:
    """What there is to say of it, a line each."""
    lines = [] if each.code is None else [each.code]
    lines += [escape(each.why_not)] if each.why_not else []
    lines += [f"-> {escape(each.remedy)}"] if each.remedy else []
    return [*lines, *([f"extension for {each.archs} in {each.extension}"] if each.extension else [])]
