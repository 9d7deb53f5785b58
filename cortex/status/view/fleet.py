"""A fleet's report as a person reads it, or as a program does.

Pure: a report goes in, something to print comes out. What came over the wire is
escaped before a terminal sees it. Colour only stresses what a word already says,
so a pipe or NO_COLOR loses nothing. Where it is printed, and how often, is left to
the command.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cortex import units
from cortex.logs import escape
from cortex.wire.fleet import CatalogueModel, FleetLoad, FleetModel, FleetNeuron, FleetReport
from cortex.wire.neuron import DeviceHealth
from cortex.wire.plan import PlanPlace, PlanReport

_BAR_CELLS: Final = 12
_NAME_CELLS: Final = 20
_SIZELESS: Final = (
    "its size is not known here: models.toml has no footprint, and the neuron looks at the file"
)
_COLOURS: Final = {
    "ok": "green",
    "loaded": "green",
    "degraded": "yellow",
    "loading": "yellow",
    "new": "yellow",
    "stopping": "yellow",
    "leaving": "yellow",
    "recovering": "yellow",
    "impaired": "red",
    "away": "red",
    "unservable": "red",
    "poisoned": "red",
    "unloaded": "dim",
    "serves": "green",
    "fits": "green",
    "evicts": "yellow",
    "waits": "yellow",
}
# What a plan comes to, with the place for the neuron's name.
_DECIDED: Final = {
    "serve": "would be served by {}",
    "load": "would be loaded on {}",
    "join": "is being loaded on {}",
    "wait": "would have to wait",
    "refuse": "would be refused",
}


def exit_code(report: FleetReport) -> int:
    """0 when all is well, 1 when something is missing or broken."""
    return 0 if report.status == "ok" else 1


def as_json(value: msgspec.Struct | Sequence[msgspec.Struct], *, lines: bool = True) -> str:
    """A report, or a part of one, as it came: indented, or else on a single line."""
    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=2) if lines else data).decode()


def picture(report: FleetReport, endpoint: str) -> RenderableType:
    """The whole fleet: a headline, devices, models, what loads, and what is wrong."""
    parts: list[RenderableType] = [_headline(report, endpoint), Text(), _devices(report.neurons)]
    if any(neuron.models for neuron in report.neurons) or report.models:
        parts += [Text(), _models(report)]
    lines = [*_loads(report.loads), *_warnings(report)]
    return Group(*parts, *([Text(), *lines] if lines else []))


def catalogue(models: list[CatalogueModel]) -> RenderableType:
    """One line a model: what can be asked for, and where it is."""
    table = _table("MODEL", "STATE", "WHERE", "ALIASES", "SIZE", right=1)
    for model in models:
        size = sum(place.bytes for place in model.locations)
        table.add_row(
            _plain(model.id),
            _state(model.state),
            _plain(_where(model)),
            _plain(", ".join(model.aliases)),
            units.size(size) if size else "",
        )
    return table


def one(model: CatalogueModel) -> RenderableType:
    """All there is to know of one model, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("model", _plain(model.id))
    table.add_row("state", _state(model.state))
    for place in model.locations:
        line = f"{place.neuron} {' '.join(place.devices)} {place.state} {units.size(place.bytes)}"
        table.add_row("lives on", _plain(line))
    table.add_row("may live on", _plain(", ".join(model.feasible_on) or "no neuron"))
    if model.aliases:
        table.add_row("aliases", _plain(", ".join(model.aliases)))
    if model.why:
        table.add_row("why", _plain(model.why))
    return table


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
    return Group(line, Text(), table, *([Text(), _warning(_SIZELESS)] if sizeless else []))


def plan_exit_code(report: PlanReport) -> int:
    """0 when a request would be served, if not at once; 1 when it would be refused."""
    return 1 if report.decision == "refuse" else 0


def _planned(place: PlanPlace) -> Iterator[RenderableType]:
    yield Text(">" if place.chosen else "", "bold green")
    yield _plain(place.neuron)
    yield Text(escape(place.standing.replace("_", " ")), _COLOURS.get(place.standing, ""))
    yield _plain(place.why)


def _headline(report: FleetReport, endpoint: str) -> Text:
    gateway = report.gateway
    who = f"gateway {gateway.version}".strip() if gateway.boot_id else "neuron"
    line = Text.assemble(
        (f"cortex {escape(who)}", "bold"), f" at {escape(endpoint)}  ", _state(report.status)
    )
    if gateway.boot_id:
        line.append(f"  up {units.span(gateway.uptime_s)}")
    if report.waiting:
        line.append(f"  {report.waiting} waiting", "yellow")
    return line


def _devices(neurons: list[FleetNeuron]) -> RenderableType:
    if not neurons:
        return Text("No neuron is configured: nothing can be served.")
    table = _table("NEURON", "STATE", "DEVICE", "MEMORY", "USED", "TOTAL", "UTIL", "TEMP", right=4)
    for neuron in neurons:
        if not neuron.devices:
            table.add_row(_plain(neuron.name), _state(neuron.state), "-")
        for index, device in enumerate(neuron.devices):
            name, state = ("", Text()) if index else (neuron.name, _state(neuron.state))
            table.add_row(_plain(name), state, *_device(device))
    return table


def _device(device: DeviceHealth) -> Iterator[RenderableType]:
    yield _plain(device.name)
    if device.poisoned:
        yield _state("poisoned")
    else:
        # A device of unknown size shows an empty bar.
        yield ProgressBar(
            total=max(device.memory_total, 1),
            completed=min(device.memory_used, device.memory_total),
            width=_BAR_CELLS,
            finished_style="bar.complete",
        )
    yield units.size(device.memory_used)
    yield units.size(device.memory_total)
    yield "" if device.utilization is None else f"{device.utilization:.0%}"
    yield "" if device.temperature is None else f"{device.temperature:.0f}°C"


def _models(report: FleetReport) -> RenderableType:
    table = _table("MODEL", "STATE", "WHERE", "SIZE", "BUSY", "QUEUE", "TOK/S", "IDLE", right=5)
    for neuron in report.neurons:
        for model in neuron.models:
            table.add_row(*_resident(neuron, model))
    for spec in report.models:
        if not any(model.id == spec.id for neuron in report.neurons for model in neuron.models):
            table.add_row(_plain(spec.id), _state(spec.state), _plain(_where(spec)))
    return table


def _resident(neuron: FleetNeuron, model: FleetModel) -> Iterator[RenderableType]:
    yield _plain(model.id)
    yield Text.assemble(_state(model.state), " pinned" if model.pinned else "")
    yield _plain(f"{neuron.name} {' '.join(model.devices)}")
    yield units.size(sum(model.bytes.values()))
    yield f"{model.in_flight}/{model.slots}" if model.slots else str(model.in_flight)
    yield str(model.queue) if model.queue else ""
    yield "" if model.tok_s is None else f"{model.tok_s:.1f}"
    yield "" if model.in_flight else units.span(model.idle_s)


def _where(model: CatalogueModel) -> str:
    if model.locations:
        return ", ".join(f"{each.neuron} {' '.join(each.devices)}".rstrip() for each in model.locations)
    if model.why:
        return model.why
    return f"may live on {', '.join(model.feasible_on)}" if model.feasible_on else ""


def _loads(loads: list[FleetLoad]) -> Iterator[Text]:
    for load in loads:
        line = f"loading {load.model} on {load.neuron}"
        if load.total_bytes:
            line += f"  {units.size(load.done_bytes)} of {units.size(load.total_bytes)}"
            line += f" ({load.done_bytes / load.total_bytes:.0%})"
        if load.running_s:
            line += f"  for {units.span(load.running_s)}"
        if load.waiting:
            line += f"  {load.waiting} waiting"
        yield _plain(line)


def _warnings(report: FleetReport) -> Iterator[Text]:
    for text in report.warnings:
        yield _warning(text)
    for neuron in report.neurons:
        if neuron.why:
            age = neuron.report_age_s
            heard = "" if age is None else f" (last report {units.span(age)} ago)"
            yield _warning(f"{neuron.name} at {neuron.endpoint}: {neuron.why}{heard}")
        for text in neuron.warnings:
            yield _warning(f"{neuron.name}: {text}")


def _warning(text: str) -> Text:
    return Text.assemble(("! ", "bold yellow"), escape(text))


def _plain(text: str) -> Text:
    return Text(escape(text))


def _state(word: str) -> Text:
    return Text(escape(word), _COLOURS.get(word, ""))


def _table(*columns: str, right: int) -> Table:
    """A table whose last `right` columns hold numbers, and never wrap."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns[:-right]:
        # Folded rather than cut: a long model id is worth a second line.
        table.add_column(name, overflow="fold")
    for name in columns[-right:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table
