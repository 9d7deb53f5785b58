"""The catalogue as a table, and one model of it with all that is known."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cortex import units
from cortex.status.view.words import causes, plain, state, table, where
from cortex.wire.fleet import CatalogueModel


def catalogue(models: list[CatalogueModel]) -> RenderableType:
    """One line a model: what can be asked for, and where it is; below, what some of them lack."""
    rows = table("MODEL", "STATE", "WHERE", "ALIASES", "SIZE", right=1)
    for model in models:
        size = sum(place.bytes for place in model.locations)
        rows.add_row(
            plain(model.id),
            state(model.state),
            plain(where(model)),
            plain(", ".join(model.aliases)),
            units.size(size) if size else "",
        )
    told = list(causes(models))
    return Group(rows, Text(), *told) if told else rows


def one(model: CatalogueModel, pinned_at: Sequence[str] = ()) -> RenderableType:
    """All there is to know of one model, a line each; `pinned_at` are the neurons that keep it."""
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column(no_wrap=True, style="bold")
    rows.add_column(overflow="fold")
    rows.add_row("model", plain(model.id))
    rows.add_row("state", state(model.state))
    for place in model.locations:
        line = f"{place.neuron} {' '.join(place.devices)} {place.state} {units.size(place.bytes)}"
        rows.add_row("lives on", plain(line))
    rows.add_row("may live on", plain(", ".join(model.feasible_on) or "no neuron"))
    if pinned_at:
        rows.add_row("pinned at", plain(", ".join(pinned_at)))
    if model.waiting:
        rows.add_row("waiting", units.counted(model.waiting, "request"))
    if model.aliases:
        rows.add_row("aliases", plain(", ".join(model.aliases)))
    if model.why:
        rows.add_row("why", plain(model.why))
    return rows
