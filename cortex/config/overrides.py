"""Lets environment variables override keys of a file, `CORTEX_GATEWAY__LISTEN` style.

Two underscores stand for the dot. Text, sizes and spans are taken as they are; flags
and numbers as TOML writes them; lists as a TOML array or separated by commas. One
environment may serve both roles, so a variable of the other role is left alone; one
that is of neither is a fault, since a misspelt override must not pass for a set one.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from typing import Final

from cortex.config.lines import Path
from cortex.config.reading import Document, Finding, Known, Table

PREFIX: Final = "CORTEX_"


def overridable(table: Table, at: Path = ()) -> Iterator[tuple[str, Path, Known]]:
    """Variable, key path and key of all that the environment can set in a file."""
    for name, node in table.keys.items():
        path = (*at, name)
        if isinstance(node, Table) and not node.many:
            yield from overridable(node, path)
        elif isinstance(node, Known) and at:
            yield PREFIX + "__".join(str(part).upper() for part in path), path, node


def override(document: Document, mine: Table, other: Table, env: Mapping[str, str]) -> None:
    """Write the variables of `env` over the document's values; wrong names become faults."""
    known = {variable: (path, node) for variable, path, node in overridable(mine)}
    foreign = {variable for variable, _, _ in overridable(other)}
    for variable, text in sorted(env.items()):
        if variable in known:
            path, node = known[variable]
            if _put(document.plain, path, _plain(node, text)):
                document.found.origins[path] = variable
        elif _ours(variable) and variable not in foreign:
            close = difflib.get_close_matches(variable, sorted({*known, *foreign}), n=1, cutoff=0.8)
            hint = f"; did you mean {close[0]}?" if close else ""
            message = f"names no key that the environment can set{hint}"
            document.found.faults.append(Finding(0, variable, (), message))


def _ours(variable: str) -> bool:
    """Whether it has the form `CORTEX_<TABLE>__<KEY>`."""
    table, mark, _ = variable.removeprefix(PREFIX).partition("__")
    return variable.startswith(PREFIX) and bool(table and mark)


def _put(plain: dict[str, object], path: Path, value: object) -> bool:
    """Whether there was a place to put it; a table that is none is a fault found later."""
    *tables, key = (str(part) for part in path)
    for name in tables:
        inner = plain.setdefault(name, {})
        if not isinstance(inner, dict):
            return False
        plain = inner
    plain[key] = value
    return True


def _plain(node: Known, text: str) -> object:
    if node.form == "list" and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    return _literal(text) if node.form == "list" or node.kind.literal else text


def _literal(text: str) -> object:
    """The TOML value that `text` writes; the text itself, which its kind then refuses, if none."""
    try:
        values = tomllib.loads(f"x = {text}")
    except (ValueError, RecursionError):
        return text
    return values["x"] if len(values) == 1 else text
