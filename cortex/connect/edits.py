"""Edits put into a text, and taken out of it again.

What an edit replaced is remembered with it, so that it can be undone in a text that was changed by
others since: what they changed is theirs, and stays. Each result is read again before it is
trusted: it says what the text said, with the edits and nothing else.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cortex.ask import Json
from cortex.connect.formats import FORMS, Form, Unreadable
from cortex.connect.recipe import Edit, Settings

__all__ = ["Change", "applied", "reverted", "shown"]

_UNSAFE: Final = "it is laid out so that it cannot be changed safely"


@dataclass(frozen=True, slots=True)
class Change:
    """An edit that was made. `had` holds what stood there, if anything did; of `path` the first `kept`
    keys were there before."""

    path: tuple[str, ...]
    value: Json
    add: bool
    had: tuple[Json, ...]
    kept: int


def shown(settings: Settings) -> str:
    """The file as it would be, if it said nothing else."""
    form = FORMS[settings.form]
    return applied(form, form.empty, settings.edits)[0]


def applied(form: Form, text: str, edits: Sequence[Edit]) -> tuple[str, tuple[Change, ...]]:
    """The text with the edits, and what undoes them. Unreadable when it cannot be done safely."""
    before = text if text.strip() else text + form.empty
    said = _read(form, before)
    after, changes = before, []
    for edit in edits:
        change = _change(said, edit)
        changes.append(change)
        _make(said, change)
        try:
            after = _made(form, after, change)
        except Unreadable as error:
            raise Unreadable(f"{_UNSAFE} ({error})") from error
    return _like(before, _proven(form, after, said)), tuple(changes)


def reverted(form: Form, text: str, changes: Sequence[Change]) -> tuple[str, tuple[str, ...]]:
    """The text without what the changes made of it, and the paths of what was changed since and is
    left alone."""
    if not text.strip():
        return text, ()
    said, left = _read(form, text), []
    after = text
    for change in reversed(changes):
        found = _stands(said, change.path)
        if change.add and found and isinstance(found[0], list) and change.value in found[0]:
            after = form.take(after, change.path, change.value)
            found[0].remove(change.value)
            after = _emptied(form, after, said, change)
        elif not change.add and found == (change.value,):
            after = _unmade(form, after, said, change)
        elif found or change.had:
            left.append(".".join(change.path))
    return _like(text, _proven(form, after, said)), tuple(left)


def _change(said: dict[str, Json], edit: Edit) -> Change:
    kept = 0
    while kept < len(edit.path) and _stands(said, edit.path[: kept + 1]):
        kept += 1
    had = _stands(said, edit.path)
    if edit.add and had and not isinstance(had[0], list):
        raise Unreadable(f"'{'.'.join(edit.path)}' is no list")
    return Change(edit.path, edit.value, edit.add, () if edit.add else copy.deepcopy(had), kept)


def _made(form: Form, text: str, change: Change) -> str:
    if not change.add:
        return form.put(text, change.path, change.value)
    there = change.kept == len(change.path)
    return (form.add if there else form.put)(text, change.path, change.value if there else [change.value])


def _make(said: dict[str, Json], change: Change) -> None:
    """The same in what the text says."""
    here = said
    for key in change.path[:-1]:
        inner = here.setdefault(key, {})
        if not isinstance(inner, dict):
            raise Unreadable(f"'{key}' is no table of settings")
        here = inner
    value, old = copy.deepcopy(change.value), here.get(change.path[-1])
    if change.add:
        here[change.path[-1]] = [value, *(old if isinstance(old, list) else [])]
    else:
        here[change.path[-1]] = value


def _unmade(form: Form, text: str, said: dict[str, Json], change: Change) -> str:
    """What stood there stands there again, and what was made to hold ours is gone if it holds nothing."""
    if change.had:
        _make(said, replace(change, value=change.had[0]))
        return form.put(text, change.path, change.had[0])
    return _emptied(form, _dropped(form, text, said, change.path), said, change)


def _emptied(form: Form, text: str, said: dict[str, Json], change: Change) -> str:
    for depth in range(len(change.path), change.kept, -1):
        found = _stands(said, change.path[:depth])
        if found and not found[0] and isinstance(found[0], dict | list):
            text = _dropped(form, text, said, change.path[:depth])
    return text


def _dropped(form: Form, text: str, said: dict[str, Json], path: tuple[str, ...]) -> str:
    holder = _stands(said, path[:-1])
    if holder and isinstance(holder[0], dict):
        del holder[0][path[-1]]
    return form.drop(text, path)


def _stands(said: Json, path: tuple[str, ...]) -> tuple[Json, ...]:
    """What stands at `path`, or nothing."""
    for key in path:
        if not isinstance(said, dict) or key not in said:
            return ()
        said = said[key]
    return (said,)


def _read(form: Form, text: str) -> dict[str, Json]:
    said = form.read(text)
    if not isinstance(said, dict):
        raise Unreadable("the settings are no table")
    return said


def _proven(form: Form, text: str, wanted: dict[str, Json]) -> str:
    try:
        good = form.read(text) == wanted
    except Unreadable:
        good = False
    if not good:
        raise Unreadable(_UNSAFE)
    return text


def _like(before: str, after: str) -> str:
    """`after` with the line ends of `before`."""
    windows = before.count("\n") == before.count("\r\n") > 0
    return re.sub(r"(?<!\r)\n", "\r\n", after) if windows else after
