"""Changes one key of models.toml, and leaves every other byte as it was written.

Comments, order and layout are the operator's. The result is read again before it is
trusted: it must say what the file said, with the one key changed. Writing replaces the
file whole, and only as long as it is the one that was read.
"""

import hashlib
import os
import re
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array, InlineTable, Item, Table

from cortex.errors import ConfigError

KEY = "pinned_on"


def pins_of(text: str, model: str) -> tuple[str, ...] | None:
    """`pinned_on` of the entry of `model`; None when there is no such entry."""
    for row in tomllib.loads(text).get("models", []):
        if row["id"] == model:
            return tuple(row.get(KEY, ()))
    return None


def pinned(text: str, model: str, neurons: Sequence[str]) -> str:
    """The text with `pinned_on` of `model`, which has an entry, saying `neurons`; without the key for
    none. ConfigError when the text is laid out so that it cannot be changed safely."""
    try:
        changed = _changed(text, model, neurons)
    except TOMLKitError as error:
        raise _unsafe(model) from error
    wanted = tomllib.loads(text)
    for row in wanted["models"]:
        if row["id"] == model:
            row.pop(KEY, None)
            row.update({KEY: list(neurons)} if neurons else {})
    if tomllib.loads(changed) != wanted:
        raise _unsafe(model)
    # A line that had no end gets one from tomlkit, and not the file's.
    windows = text.count("\n") == text.count("\r\n") > 0
    return re.sub(r"(?<!\r)\n", "\r\n", changed) if windows else changed


def replace_file(path: Path, before: bytes, after: bytes) -> None:
    """`path` holds `after`, with the owner and mode of before, unless it no longer holds `before`:
    then ConfigError, and it is untouched. What links to it still does."""
    target = path.resolve(strict=True)
    found = target.stat()
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(after)
            file.flush()
            os.fchmod(handle, found.st_mode & 0o7777)
            if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
                _give_back(handle, found, path)
            os.fsync(handle)
        if target.read_bytes() != before:
            raise ConfigError([f"{path}: was changed by somebody else meanwhile; nothing was written"])
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _give_back(handle: int, found: os.stat_result, path: Path) -> None:
    try:
        os.fchown(handle, found.st_uid, found.st_gid)
    except PermissionError as error:
        raise ConfigError(
            [
                f"{path}: belongs to user {found.st_uid} and group {found.st_gid}, and would not any more; "
                "nothing was written. Run this as that user, or as root"
            ]
        ) from error


def digest_of(data: bytes) -> str:
    """As `Whole.digest` has it."""
    return hashlib.sha256(data).hexdigest()


def _changed(text: str, model: str, neurons: Sequence[str]) -> str:
    document = tomlkit.parse(text)
    for row in document["models"]:
        if row["id"] != model:
            continue
        if not neurons:
            row.pop(KEY, None)
        elif KEY in row or not isinstance(row, Table):
            _rewrite(row, neurons)
        else:
            # Appended, it would stand below the comment that belongs to the next entry.
            row.value._insert_after("id", KEY, _like(row["id"], neurons))
    return tomlkit.dumps(document)


def _rewrite(row: Table | InlineTable, neurons: Sequence[str]) -> None:
    """In the list that is there, where those who stay keep their comments; anew when nobody does."""
    names = row.get(KEY)
    if isinstance(names, Array) and any(name in neurons for name in names):
        for gone in [name for name in names if name not in neurons]:
            names.remove(gone)
        for name in neurons:
            if name not in names:
                names.append(name)
    if not isinstance(names, Array) or list(names) != list(neurons):
        row[KEY] = list(neurons)


def _like(other: Item, neurons: Sequence[str]) -> Item:
    """The value of a line that is indented and ended as `other`'s."""
    made = tomlkit.item(list(neurons))
    made.trivia.indent = other.trivia.indent
    made.trivia.trail = other.trivia.trail
    return made


def _unsafe(model: str) -> ConfigError:
    return ConfigError(
        [
            f"models.toml: the entry of '{model}' is laid out so that it cannot be edited safely; "
            f"write its {KEY} by hand"
        ]
    )
