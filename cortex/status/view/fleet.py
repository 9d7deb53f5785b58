"""The whole fleet: a headline, devices, models, what loads, who waits, and what is wrong.

It fits the width that it is given: what matters less is left out of a narrow window, and nothing
that stays is cut, but folded. Given a height too, it keeps what loads, who waits and what is
wrong, and says how many lines of the tables are not shown.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from cortex import units
from cortex.logs import escape
from cortex.status.view.words import causes, plain, state, table, warning, where
from cortex.wire.fleet import FleetLoad, FleetModel, FleetNeuron, FleetReport
from cortex.wire.neuron import DeviceHealth

_BAR_CELLS: Final = 12
# Cells below which the columns of less weight are left out, and above which all are there.
_NARROW: Final = 60
_WIDE: Final = 100
# Models whose lines, or whose causes, are told; the others are counted.
_LINES: Final = 5
# Of each table at least its head and a line or two.
_LEAST_ROWS: Final = 3


@dataclass(frozen=True, slots=True)
class _Picture:
    """A renderable that asks how large it may be."""

    report: FleetReport
    endpoint: str
    rows: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report, width = self.report, options.max_width
        head = [_headline(report, self.endpoint), Text()]
        notes = [*_loads(report.loads), *_waiting(report), *causes(report.models, _LINES), *_warnings(report)]
        tables = [_devices(report.neurons, width)]
        if report.models or any(neuron.models for neuron in report.neurons):
            tables.append(_models(report, width))
        foot = [Text(), *notes] if notes else []
        if self.rows is None:
            yield Group(*head, *_apart(tables), *foot)
            return
        rest = self.rows - sum(_height(console, options, part) for part in (*head, *foot))
        yield from head
        yield from _fitted(console, options, tables, rest)
        yield from foot


def picture(report: FleetReport, endpoint: str, rows: int | None = None) -> RenderableType:
    """The whole fleet, in at most so many rows."""
    return _Picture(report, endpoint, rows)


def silence(
    why: str, silent_s: float, last: FleetReport | None, endpoint: str, rows: int | None
) -> RenderableType:
    """That nobody answers, since when and why; below it the fleet as it was seen last."""
    line = Text(f"no answer for {units.span(silent_s)}: {escape(why)}", "red")
    if last is None:
        return line
    # The line may take a second row.
    return Group(line, Text(), Styled(picture(last, endpoint, None if rows is None else rows - 3), "dim"))


def load_line(load: FleetLoad) -> str:
    """A load in words."""
    doing = load.phase if load.phase in ("download", "verify") else "loading"
    line = f"{doing} {load.model} on {load.neuron}"
    if load.total_bytes:
        line += f"  {units.size(load.done_bytes)} of {units.size(load.total_bytes)}"
        line += f" ({load.done_bytes / load.total_bytes:.0%})"
    if load.running_s:
        line += f"  for {units.span(load.running_s)}"
    if load.eta_s is not None:
        line += f"  {units.span(load.eta_s)} left"
    if load.waiting:
        line += f"  {load.waiting} waiting"
    return line


# -- in a window


def _apart(parts: Iterable[RenderableType]) -> list[RenderableType]:
    return list(chain.from_iterable((Text(), part) for part in parts))[1:]


def _height(console: Console, options: ConsoleOptions, part: RenderableType) -> int:
    return len(console.render_lines(part, options, pad=False))


def _fitted(
    console: Console, options: ConsoleOptions, tables: list[Table | Text], rows: int
) -> Iterator[RenderableType | Segment]:
    """The tables in so many rows. The last gives way first: it ends with what is loaded nowhere."""
    drawn = [console.render_lines(part, options, pad=False) for part in tables]
    rest = rows - (len(drawn) - 1)
    least = min(_LEAST_ROWS, rest // len(drawn))
    for index, lines in enumerate(drawn):
        others = sum(min(len(later), least) for later in drawn[index + 1 :])
        room = rest - others
        if room < 1:
            return
        shown = lines if len(lines) <= room else lines[: room - 1]
        if index:
            yield Text()
        for line in shown:
            yield from line
            yield Segment.line()
        if len(shown) < len(lines):
            yield Text(f"{len(lines) - len(shown)} more lines do not fit", "dim")
        rest -= min(len(lines), room)


# -- its parts


def _headline(report: FleetReport, endpoint: str) -> Text:
    gateway = report.gateway
    who = f"gateway {gateway.version}".strip() if gateway.boot_id else "neuron"
    line = Text.assemble((f"cortex {escape(who)}", "bold"), f" at {escape(endpoint)}  ", state(report.status))
    if gateway.boot_id:
        line.append(f"  up {units.span(gateway.uptime_s)}")
    if report.waiting:
        line.append(f"  {report.waiting} waiting", "yellow")
    return line


def _devices(neurons: list[FleetNeuron], width: int) -> Table | Text:
    if not neurons:
        return Text("No neuron is configured: nothing can be served.")
    narrow = width < _NARROW
    columns = ("USED", "TOTAL") if narrow else ("MEMORY", "USED", "TOTAL", "UTIL", "TEMP")
    rows = table("NEURON", "STATE", "DEVICE", *columns, right=2 if narrow else 4)
    for neuron in neurons:
        if not neuron.devices:
            rows.add_row(plain(neuron.name), state(neuron.state), "-")
        for index, device in enumerate(neuron.devices):
            name, how = ("", Text()) if index else (neuron.name, state(neuron.state))
            cells = _device(device)
            rows.add_row(plain(name), how, plain(device.name), *(cells[1:3] if narrow else cells))
    return rows


def _device(device: DeviceHealth) -> list[RenderableType]:
    return [
        _memory(device),
        units.size(device.memory_used),
        units.size(device.memory_total),
        "" if device.utilization is None else f"{device.utilization:.0%}",
        "" if device.temperature is None else f"{device.temperature:.0f}°C",
    ]


def _memory(device: DeviceHealth) -> RenderableType:
    """A bar, unless there is worse to say."""
    if device.poisoned or device.absent:
        return state("poisoned" if device.poisoned else "absent")
    # A device of unknown size shows an empty bar.
    return _bar(min(device.memory_used, device.memory_total), max(device.memory_total, 1))


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=_BAR_CELLS, finished_style="bar.complete")


def _models(report: FleetReport, width: int) -> Table:
    columns = _columns(report, width)
    rows = table("MODEL", "STATE", "WHERE", *columns, right=len(columns))
    for neuron in report.neurons:
        for model in neuron.models:
            cells = _figures(model)
            how = Text.assemble(state(model.state), " pinned" if model.pinned else "")
            at = plain(f"{neuron.name} {' '.join(model.devices)}")
            rows.add_row(plain(model.id), how, at, *(cells[column] for column in columns))
    here = {model.id for neuron in report.neurons for model in neuron.models}
    for spec in report.models:
        if spec.id not in here:
            rows.add_row(plain(spec.id), state(spec.state), plain(where(spec)))
    return rows


def _columns(report: FleetReport, width: int) -> tuple[str, ...]:
    if not any(neuron.models for neuron in report.neurons):
        return ()  # they would take the room of names, and hold nothing
    if width < _NARROW:
        return "BUSY", "QUEUE", "TOK/S"
    told = any(model.tok_s_prefill is not None for neuron in report.neurons for model in neuron.models)
    prefill = ("PREFILL",) if told and width >= _WIDE else ()
    return "SIZE", "BUSY", "QUEUE", *prefill, "TOK/S", "IDLE"


def _figures(model: FleetModel) -> dict[str, str]:
    return {
        "SIZE": units.size(sum(model.bytes.values())),
        "BUSY": f"{model.in_flight}/{model.slots}" if model.slots else str(model.in_flight),
        "QUEUE": str(model.queue) if model.queue else "",
        "PREFILL": "" if model.tok_s_prefill is None else f"{model.tok_s_prefill:.0f}",
        "TOK/S": "" if model.tok_s is None else f"{model.tok_s:.1f}",
        "IDLE": "" if model.in_flight else units.span(model.idle_s),
    }


def _loads(loads: list[FleetLoad]) -> Iterator[RenderableType]:
    for load in loads:
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        # Where nothing is known there is nothing to draw.
        bar = _bar(min(load.done_bytes, load.total_bytes), load.total_bytes) if load.total_bytes else ""
        line.add_row(bar, plain(load_line(load)))
        yield line if load.total_bytes else plain(load_line(load))


def _waiting(report: FleetReport) -> Iterator[Text]:
    """Who waits for what, the longest lines first; those who wait for a load are told with it."""
    shown = {load.model for load in report.loads}
    lines = [model for model in report.models if model.waiting and model.id not in shown]
    lines.sort(key=lambda model: -model.waiting)
    if lines:
        told = ", ".join(f"{model.waiting} for {model.id}" for model in lines[:_LINES])
        more = f" and for {len(lines) - _LINES} other models" if len(lines) > _LINES else ""
        yield plain(f"waiting: {told}{more}")


def _warnings(report: FleetReport) -> Iterator[Text]:
    for text in report.warnings:
        yield warning(text)
    for neuron in report.neurons:
        if neuron.why:
            age = neuron.report_age_s
            heard = " (never heard from)" if age is None else f" (last report {units.span(age)} ago)"
            at = "" if neuron.endpoint in neuron.why else f" at {neuron.endpoint}"
            yield warning(f"{neuron.name}{at}: {neuron.why}{heard}")
        for text in neuron.warnings:
            yield warning(f"{neuron.name}: {text}")
