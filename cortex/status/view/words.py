"""How words, sizes and tables look, wherever they are shown.

What came over the wire is escaped before a terminal sees it. Colour only stresses what a word
already says, so a pipe or NO_COLOR loses nothing.
"""

from typing import Final

from rich.table import Table
from rich.text import Text

from cortex.logs import escape
from cortex.wire.fleet import CatalogueModel

COLOURS: Final = {
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
    "ejected": "red",
    "unfit": "red",
    "probation": "yellow",
    "unservable": "red",
    "poisoned": "red",
    "absent": "red",
    "unloaded": "dim",
    "serves": "green",
    "fits": "green",
    "evicts": "yellow",
    "waits": "yellow",
}


def where(model: CatalogueModel) -> str:
    """Where a model is, why it is nowhere, or where it may be."""
    if model.locations:
        return ", ".join(f"{each.neuron} {' '.join(each.devices)}".rstrip() for each in model.locations)
    if model.why:
        return model.why
    return f"may live on {', '.join(model.feasible_on)}" if model.feasible_on else ""


def warning(text: str) -> Text:
    """A line of its own."""
    return Text.assemble(("! ", "bold yellow"), escape(text))


def plain(text: str) -> Text:
    """As it is, and nothing in it is obeyed."""
    return Text(escape(text))


def state(word: str) -> Text:
    """A word that says how something is."""
    return Text(escape(word), COLOURS.get(word, ""))


def table(*columns: str, right: int) -> Table:
    """A table whose last `right` columns hold numbers, and never wrap."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns[:-right]:
        # Folded rather than cut: a long model id is worth a second line.
        made.add_column(name, overflow="fold")
    for name in columns[-right:]:
        made.add_column(name, justify="right", no_wrap=True)
    return made
