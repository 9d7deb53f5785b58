"""How words, sizes and tables look, wherever they are shown.

What came over the wire is escaped before a terminal sees it. Colour only stresses what a word
already says, so a pipe or NO_COLOR loses nothing.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from rich.table import Table
from rich.text import Text

from cortex.logs import escape
from cortex.wire.fleet import CatalogueModel

# More are counted; `cortex models show` has them all.
_NAMED: Final = 3
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
    """Where a model is, or where it may be."""
    if model.locations:
        return _some([f"{each.neuron} {' '.join(each.devices)}".rstrip() for each in model.locations])
    return f"may live on {_some(model.feasible_on)}" if model.feasible_on else ""


def causes(models: Iterable[CatalogueModel], most: int | None = None) -> Iterator[Text]:
    """Why models are not served, a line each and so many at most; the others are counted."""
    told = [model for model in models if model.why]
    for model in told[:most]:
        yield warning(f"{model.id}: {model.why}")
    if most is not None and len(told) > most:
        yield warning(f"and {len(told) - most} other models: `cortex models list` tells why")


def warning(text: str) -> Text:
    """A line of its own."""
    return Text.assemble(("! ", "bold yellow"), escape(text))


def plain(text: str) -> Text:
    """As it is, and nothing in it is obeyed."""
    return Text(escape(text))


def state(word: str) -> Text:
    """A word that says how something is."""
    return Text(escape(word), COLOURS.get(word, ""))


def _some(names: list[str]) -> str:
    """A few of the names, and how many others there are: a column is no place for a hundred."""
    rest = len(names) - _NAMED
    return f"{', '.join(names[:_NAMED])} and {rest} others" if rest > 1 else ", ".join(names)


def table(*columns: str, right: int) -> Table:
    """A table whose last `right` columns hold numbers, and never wrap."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    words = len(columns) - right
    for name in columns[:words]:
        # Folded rather than cut: a long model id is worth a second line.
        made.add_column(name, overflow="fold")
    for name in columns[words:]:
        made.add_column(name, justify="right", no_wrap=True)
    return made
