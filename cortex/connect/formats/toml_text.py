"""TOML, changed through tomlkit, which keeps comments, order and layout.

Neither it nor tomllib takes the mark (U+FEFF) that some editors put before a text: it is kept from
them, and stays.
"""

import tomllib
from collections.abc import MutableMapping
from typing import Final

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from cortex.ask import Json
from cortex.connect.formats.unreadable import Unreadable

_MARK: Final = "\ufeff"


def read(text: str) -> Json:
    """What the text says."""
    try:
        return tomllib.loads(text.removeprefix(_MARK))
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(str(error)) from error


def put(text: str, path: tuple[str, ...], value: Json) -> str:
    """What stands at `path` is `value`; tables on the way are made."""
    document = _document(text)
    here: MutableMapping[str, object] = document
    for depth, key in enumerate(path[:-1], 1):
        if key not in here:
            # Its own header would say nothing when all it holds are tables.
            here[key] = tomlkit.table(is_super_table=isinstance(value, dict) or depth < len(path) - 1)
        here = _table(here[key], key)
    try:
        here[path[-1]] = (
            _table_of(value, inline=isinstance(here, InlineTable)) if isinstance(value, dict) else value
        )
    except (TOMLKitError, ValueError) as error:
        raise Unreadable(str(error)) from error
    return _marked(text, tomlkit.dumps(document))


def add(text: str, path: tuple[str, ...], value: Json) -> str:
    """No client of ours has a list in TOML."""
    raise Unreadable(f"'{'.'.join(path)}' is a list")


def drop(text: str, path: tuple[str, ...]) -> str:
    """Nothing stands at `path`. A table without a header of its own went with the last that it held."""
    document = _document(text)
    here: MutableMapping[str, object] = document
    for key in path[:-1]:
        if key not in here:
            return text
        here = _table(here[key], key)
    here.pop(path[-1], None)
    return _marked(text, tomlkit.dumps(document))


def take(text: str, path: tuple[str, ...], value: Json) -> str:
    """As `add`."""
    return add(text, path, value)


def _document(text: str) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(text.removeprefix(_MARK))
    except TOMLKitError as error:
        raise Unreadable(str(error)) from error


def _marked(before: str, after: str) -> str:
    return _MARK + after if before.startswith(_MARK) else after


def _table(value: object, key: str) -> MutableMapping[str, object]:
    if not isinstance(value, MutableMapping):
        raise Unreadable(f"'{key}' is no table")
    return value


def _table_of(value: dict[str, Json], *, inline: bool) -> MutableMapping[str, object]:
    """With a header of its own, unless it is to stand in a table that has none."""
    table = tomlkit.inline_table() if inline else tomlkit.table()
    for key, inner in value.items():
        table[key] = _table_of(inner, inline=inline) if isinstance(inner, dict) else inner
    return table
