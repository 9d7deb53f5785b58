"""Settings files are written and restored, and it is remembered what they were.

A file is replaced whole, with its mode, and only as long as it is the one that was read; beside it
lies what it was before. The memory of it is a file of ours, for its owner alone. Writing again
begins with what stood there before the first time, so the second time changes nothing; a time that
fails leaves all of it as it was.
"""

import hashlib
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from cortex.ask import Json
from cortex.config.editing import digest_of, replace_file
from cortex.connect.edits import Change, applied, reverted, shown
from cortex.connect.formats import FORMS, Unreadable
from cortex.connect.recipe import FormName, Settings
from cortex.errors import ConfigError

BESIDE: Final = ".before-cortex"


class _Row(msgspec.Struct, frozen=True):
    """A `Change` as it is remembered; its values are JSON."""

    path: tuple[str, ...]
    value: msgspec.Raw
    add: bool
    had: tuple[msgspec.Raw, ...]
    kept: int

    @classmethod
    def of(cls, change: Change) -> "_Row":
        """To be remembered."""
        had = tuple(map(_raw, change.had))
        return cls(change.path, _raw(change.value), change.add, had, change.kept)

    def change(self) -> Change:
        """As it was."""
        decode = msgspec.json.decode
        return Change(self.path, decode(self.value), self.add, tuple(map(decode, self.had)), self.kept)


class Memory(msgspec.Struct, frozen=True):
    """What was done to one file. `before` is None when there was none; `folders` were made for it."""

    client: str
    path: str
    form: FormName
    before: str | None
    after_sha256: str
    rows: tuple[_Row, ...]
    backup: str | None
    folders: tuple[str, ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """What undoes it."""
        return tuple(row.change() for row in self.rows)


@dataclass(frozen=True, slots=True)
class Deed:
    """What is to be done to one file: `now` is what it holds, `before` what it held before us."""

    client: str
    path: Path
    form: FormName
    now: str | None
    before: str | None
    after: str
    changes: tuple[Change, ...]
    earlier: Memory | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to do."""
        return self.now != self.after


@dataclass(frozen=True, slots=True)
class Undone:
    """A file as it was before, but for what others changed at the paths of `left`."""

    path: Path
    left: tuple[str, ...] = ()


def prepare(state: Path, client: str, settings: Settings) -> Deed:
    """What is to be done; nothing is done. ConfigError when the file cannot be read or changed."""
    if settings.path is None:
        raise ConfigError([f"{client} has no usual settings file: name one with --file"])
    path = settings.path.absolute()
    form, now = FORMS[settings.form], _text(path)
    earlier = _remembered(_place(state, client, path))
    try:
        before = _before(now, earlier)
        after, changes = applied(form, "" if before is None else before, settings.edits)
    except Unreadable as error:
        raise ConfigError(
            [
                f"{path}: {error}; nothing was written. Mend it, or put this into it by hand:",
                *_lines(settings),
            ]
        ) from error
    return Deed(client, path, settings.form, now, before, after, changes, earlier)


def write(state: Path, deed: Deed) -> None:
    """It is done, and can be undone. A file that was changed meanwhile is left alone: ConfigError."""
    folders = deed.earlier.folders if deed.earlier else _missing(deed.path.parent)
    backup = _beside(deed) if deed.before is not None else None
    memory = Memory(
        client=deed.client,
        path=str(deed.path),
        form=deed.form,
        before=deed.before,
        after_sha256=digest_of(deed.after.encode()),
        rows=tuple(map(_Row.of, deed.changes)),
        backup=None if backup is None else str(backup),
        folders=folders,
    )
    with ExitStack() as otherwise:
        for folder in folders:
            otherwise.callback(_leave, Path(folder))
        deed.path.parent.mkdir(parents=True, exist_ok=True)
        if backup is not None and deed.before is not None:
            there = _text(backup)
            if there is None:
                otherwise.callback(backup.unlink, missing_ok=True)
            _replace(backup, there, deed.before, like=deed.path)
        place = _place(state, deed.client, deed.path)
        _remember(place, memory, otherwise)
        _replace(deed.path, deed.now, deed.after)
        otherwise.pop_all()
    _aside(place).unlink(missing_ok=True)


def _remember(place: Path, memory: Memory, otherwise: ExitStack) -> None:
    """`place` holds `memory`, before the file is touched: what was done once can be undone. `otherwise`
    brings back what it held, by a name alone, since the disk may be full."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    there = _text(place)
    if there is None:
        otherwise.callback(place.unlink, missing_ok=True)
    else:
        aside = _aside(place)
        aside.unlink(missing_ok=True)
        os.link(place, aside)
        otherwise.callback(aside.replace, place)
    _replace(place, there, msgspec.json.encode(memory).decode())


def undo(state: Path, client: str, only: Path | None = None) -> list[Undone]:
    """All files that were written for `client`, or the one of them, are as before."""
    places = (
        [_place(state, client, only.absolute())]
        if only is not None
        else sorted(state.glob(f"{client}-*.json"))
    )
    found = [(place, memory) for place in places if (memory := _remembered(place)) is not None]
    return [_undone(place, memory) for place, memory in found if memory.client == client]


def _undone(place: Path, memory: Memory) -> Undone:
    path = Path(memory.path)
    now = _text(path)
    left: tuple[str, ...] = ()
    try:
        before = _before(now, memory)
        if before is not None and before != memory.before:
            left = reverted(FORMS[memory.form], now or "", memory.changes)[1]
    except Unreadable as error:
        kept = "" if memory.backup is None else f", or take what it was before from {memory.backup}"
        raise ConfigError([f"{path}: {error}; nothing was undone: mend it first{kept}"]) from error
    if before is None:
        path.unlink(missing_ok=True)
        for folder in reversed(memory.folders):
            _leave(Path(folder))
    elif before != now:
        _replace(path, now, before)
    if memory.backup is not None and before == memory.before == _text(Path(memory.backup)):
        Path(memory.backup).unlink()
    place.unlink()
    return Undone(path, left)


def _before(now: str | None, memory: Memory | None) -> str | None:
    """The text without what we made of it."""
    if memory is None or now is None:
        return now
    if digest_of(now.encode()) == memory.after_sha256:
        return memory.before
    text = reverted(FORMS[memory.form], now, memory.changes)[0]
    # Of a file that we made, with nothing of others in it, nothing is to stay.
    bare = memory.before is None and FORMS[memory.form].read(text) == {}
    return None if bare else text


def _raw(value: Json) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _lines(settings: Settings) -> list[str]:
    return shown(settings).splitlines()


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: it is not UTF-8; nothing was done"]) from error


def _remembered(place: Path) -> Memory | None:
    text = _text(place)
    try:
        return None if text is None else msgspec.json.decode(text, type=Memory)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            [f"{place}: what was written once is told here, and cannot be read ({error}); remove it to go on"]
        ) from error


def _place(state: Path, client: str, path: Path) -> Path:
    return state / f"{client}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}.json"


def _aside(place: Path) -> Path:
    """Where an earlier memory is while another one is tried."""
    return place.with_suffix(".earlier")


def _beside(deed: Deed) -> Path:
    """Where the backup is: that of before, else a name that nothing else has."""
    if deed.earlier is not None and deed.earlier.backup is not None:
        return Path(deed.earlier.backup)
    number, free = 2, deed.path.with_name(deed.path.name + BESIDE)
    while free.exists() and _text(free) != deed.before:
        free, number = deed.path.with_name(f"{deed.path.name}{BESIDE}-{number}"), number + 1
    return free


def _missing(folder: Path) -> tuple[str, ...]:
    """The folders that are to be made, the outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    return tuple(str(each) for each in reversed(missing))


def _leave(folder: Path) -> None:
    """A folder that was made is gone, unless somebody uses it."""
    try:
        folder.rmdir()
    except OSError:
        return


def _replace(path: Path, now: str | None, text: str, *, like: Path | None = None) -> None:
    """`path` holds `text`, if it holds what it did. A new file is its owner's alone, or as `like`."""
    if now is not None:
        replace_file(path, now.encode(), text.encode())
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            if like is not None:
                os.fchmod(handle, like.stat().st_mode & 0o7777)
            os.fsync(handle)
        # Fails where somebody made it meanwhile.
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
