"""Where a model would go, and a reason for every neuron."""

from collections.abc import Iterator
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cortex.logs import escape
from cortex.status.view.words import COLOURS, plain, warning
from cortex.wire.plan import PlanPlace, PlanReport

_NAME_CELLS: Final = 20
_SIZELESS: Final = (
    "its size is not known here: models.toml has no footprint, and the neuron looks at the file"
)
# What a plan comes to, with the place for the neuron's name.
_DECIDED: Final = {
    "serve": "would be served by {}",
    "load": "would be loaded on {}",
    "join": "is being loaded on {}",
    "wait": "would have to wait",
    "refuse": "would be refused",
}


def plan(report: PlanReport) -> RenderableType:
    """Where a model would go, and a line for every neuron; the chosen one is marked."""
    verdict = _DECIDED.get(report.decision, report.decision).format(report.neuron or "a neuron")
    line = Text.assemble((escape(report.model), "bold"), f" {escape(verdict)}: {escape(report.why)}")
    if report.code is not None:
        line.append(f" ({report.status} {escape(report.code)})")
    sizeless = report.need_bytes is None and report.decision in ("load", "refuse")
    if not report.places:
        return Group(line, Text("No neuron is configured: nothing can be served."))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("NEURON", overflow="fold", max_width=_NAME_CELLS)
    table.add_column("STANDING", no_wrap=True)
    table.add_column("WHY", overflow="fold")
    for place in report.places:
        table.add_row(*_planned(place))
    return Group(line, Text(), table, *([Text(), warning(_SIZELESS)] if sizeless else []))


def _planned(place: PlanPlace) -> Iterator[RenderableType]:
    yield Text(">" if place.chosen else "", "bold green")
    yield plain(place.neuron)
    yield Text(escape(place.standing.replace("_", " ")), COLOURS.get(place.standing, ""))
    yield plain(place.why)
