"""A key is made: shown once, and kept nowhere; what stays is the entry with its digest.

The entry goes to stdout and can be appended to cortex.toml as it comes; the key itself goes
to stderr, so that it never lands in that file. What is said of the key is checked before
there is one, as the gateway would check it.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec
import typer

from cortex.cli.trouble import Usage
from cortex.config.keys import check_keys
from cortex.config.reading import Findings, Known, Table, take
from cortex.config.tables import GATEWAY_FILE
from cortex.keys import digest, new_key

_Said: TypeAlias = Mapping[str, list[str]]

# Said otherwise on the command line, or by nobody.
OWN: Final = ("name", "sha256", "scopes")


def mint(name: str, scopes: list[str], settings: Iterable[str], *, as_json: bool) -> None:
    """Print a new key and its entry; ConfigError when the gateway would not take the entry."""
    key = new_key()
    said = {"name": [name], "sha256": [digest(key)], "scopes": scopes or ["inference"], **_read(settings)}
    entry = _entry(said)
    _check(entry)
    if as_json:
        told = {"name": name, "key": key, "sha256": digest(key), "entry": entry}
        typer.echo(msgspec.json.encode(told).decode())
        return
    typer.echo(
        f"The key of {name!r}, shown this once:\n\n  {key}\n\n"
        "The entry below is for cortex.toml, and does not tell the key.",
        err=True,
    )
    typer.echo(f"\n{entry}", nl=False)


def _read(settings: Iterable[str]) -> dict[str, list[str]]:
    """The values by key, in the order in which they were said."""
    read: dict[str, list[str]] = {}
    for text in settings:
        key, mark, value = text.partition("=")
        if not mark or key in OWN:
            raise Usage(f"--set takes KEY=VALUE, a key of [[keys]] but {', '.join(OWN)}; not {text!r}")
        read.setdefault(key, []).append(value)
    return read


def _entry(said: _Said) -> str:
    """The TOML of one entry."""
    keys = _known()
    lines = ["[[keys]]"]
    for name, values in said.items():
        known = keys.get(name)
        if isinstance(known, Known) and known.form == "list":
            written = f"[{', '.join(map(_quoted, values))}]"
        elif len(values) > 1:
            raise Usage(f"--set {name} is said twice, and has one value")
        else:
            number = isinstance(known, Known) and known.kind.literal and _is_number(values[0])
            written = values[0] if number else _quoted(values[0])
        lines.append(f"{name if _bare(name) else _quoted(name)} = {written}")
    return "\n".join(lines) + "\n"


def _check(entry: str) -> None:
    found = Findings("new key")
    values = take(GATEWAY_FILE, tomllib.loads(entry), (), found)
    check_keys(values.get("keys", []), found)
    found.settle()


def _known() -> Mapping[str, Known | Table]:
    table = GATEWAY_FILE.keys["keys"]
    return table.keys if isinstance(table, Table) else {}


def _is_number(text: str) -> bool:
    """Whether TOML takes it for a number, and it is nothing besides."""
    if re.fullmatch(r"[\w.+-]+", text, re.ASCII) is None:
        return False
    try:
        value = tomllib.loads(f"n = {text}")["n"]
    except ValueError:
        return False
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bare(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which the check refuses in any value.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
