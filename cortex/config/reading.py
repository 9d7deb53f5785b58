"""Turns a TOML text into checked values, and gathers everything that is wrong with it.

A file is described by a `Table` of known keys, and nothing else decides what is
known: checking, environment overrides and the test of the documentation walk the
same tables. All faults of a file come at once, each as `file:line: key: message`;
warnings are kept apart. What the values mean together is the files' own business.
"""

import codecs
import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path as FilePath
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

from cortex.config.kinds import Kind, form
from cortex.config.lines import Path, line_index
from cortex.errors import ConfigError

Values: TypeAlias = dict[str, Any]


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Shape = TypeVar("Shape", bound=_Dataclass)


@dataclass(frozen=True, slots=True)
class Known:
    """One key. `form` says whether it holds one value, a list, or names with values.

    `idle`: read and checked, but nothing acts on it, and a warning says so. `old`: a key of the
    predecessor, with what becomes of it. `former`: values that only the predecessor had; they are
    taken out with a warning before kinds are checked.
    """

    kind: Kind
    form: Literal["one", "list", "map"] = "one"
    names: Kind | None = None
    required: bool = False
    idle: bool = False
    old: str = ""
    former: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The type as the documentation has it."""
        wrap = {"one": "{}", "list": "list of {}", "map": "table of {}"}
        return wrap[self.form].format(self.kind.word)


@dataclass(frozen=True, slots=True)
class Table:
    """A TOML table, or with `many` an array of them, or with `named` one for each name of that
    kind. `idle` as with a key."""

    keys: "Mapping[str, Known | Table]"
    many: bool = False
    named: Kind | None = None
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault or a warning. `where` is `file:line`, or the environment variable."""

    line: int
    where: str
    path: Path
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, dotted(self.path), self.message) if part)


@dataclass(slots=True)
class Findings:
    """Faults and warnings of one file. `origins` are keys that the environment set."""

    file: str
    lines: Mapping[Path, int] = field(default_factory=dict)
    origins: dict[Path, str] = field(default_factory=dict)
    faults: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def fault(self, path: Path, message: str) -> None:
        self.faults.append(self._finding(path, message))

    def warn(self, path: Path, message: str) -> None:
        self.warnings.append(self._finding(path, message))

    def settle(self) -> list[str]:
        """The warnings, in the order of the file; ConfigError when there are faults.

        The error carries the warnings among its facts, for who wants to show both.
        """
        warnings = [str(finding) for finding in sorted(self.warnings, key=_by_line)]
        if self.faults:
            error = ConfigError([str(finding) for finding in sorted(self.faults, key=_by_line)])
            error.facts["warnings"] = warnings
            raise error
        return warnings

    def _finding(self, path: Path, message: str) -> Finding:
        """Placed at the key itself, else at the nearest table around it."""
        for size in range(len(path), 0, -1):
            if variable := self.origins.get(path[:size]):
                return Finding(0, variable, path, message)
            if line := self.lines.get(path[:size]):
                return Finding(line, f"{self.file}:{line}", path, message)
        return Finding(0, self.file, path, message)


@dataclass(slots=True)
class Document:
    """One file, parsed and not yet checked. Relative paths in it count from `folder`."""

    folder: FilePath
    plain: dict[str, object]
    found: Findings


def dotted(path: Path) -> str:
    """`models[2].sampling.top_k`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # Keys are free text; a line end in one must not make a second line of a fault.
            bare = part.replace("_", "").replace("-", "").isalnum() and part.isascii()
            text += f".{part}" if bare else f".{part!r}"
    return text.removeprefix(".")


def open_document(path: FilePath | None) -> Document:
    """The file's values and lines; ConfigError when it cannot be read or is not TOML.

    Without a file all is default, and relative paths count from the working folder.
    """
    if path is None:
        return Document(FilePath.cwd(), {}, Findings("configuration"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror or error}"]) from error
    if data.startswith(codecs.BOM_UTF8):
        raise ConfigError([f"{path}:1: begins with a byte order mark; save it as UTF-8 without one"])
    try:
        text = data.decode()
        plain = tomllib.loads(text)
        lines = line_index(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    except ValueError as error:
        raise ConfigError([_syntax(path, text, str(error))]) from error
    return Document(path.absolute().parent, plain, Findings(str(path), lines))


def take(table: Table, plain: Mapping[str, object], at: Path, found: Findings) -> Values:
    """The good values of one table; what is not good goes to `found`."""
    values: Values = {}
    for name, value in plain.items():
        match table.keys.get(name):
            case Table() as inner:
                values[name] = _table(inner, value, (*at, name), found)
            case Known() as known:
                for read in _known(known, value, (*at, name), found):
                    values[name] = read
            case None:
                found.fault((*at, name), "unknown key" + near(name, table.keys))
    for name, node in table.keys.items():
        if isinstance(node, Known) and node.required and name not in plain:
            found.fault((*at, name), "is missing")
    return values


def fill(shape: type[Shape], values: Values) -> Shape:
    """A dataclass from those values that it has fields for; defaults are its own."""
    names = {field.name for field in fields(shape)}
    return shape(**{name: value for name, value in values.items() if name in names})


def distinct(rows: list[Values], key: str, at: Path, found: Findings) -> None:
    """A fault for each row whose `key` an earlier row has."""
    seen: dict[object, int] = {}
    for i, row in enumerate(rows):
        if key in row and seen.setdefault(row[key], i) != i:
            found.fault((*at, i, key), f"is the same as that of {dotted((*at, seen[row[key]]))}")


def near(name: str, known: Mapping[str, object]) -> str:
    """A hint at what was meant, or what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(known) > 30:  # a wall of names helps nobody
        return ""
    return f"; known here: {', '.join(known)}" if known else "; nothing is known here"


def _table(table: Table, value: object, at: Path, found: Findings) -> Values | list[Values]:
    if table.idle:
        found.warn(at, "has no effect in this version")
    if not table.many:
        if isinstance(value, dict):
            return take(table, value, at, found) if table.named is None else _named(table, value, at, found)
        found.fault(at, f"must be a table, not {form(value)}")
        return {}
    rows = value if isinstance(value, list) else [value]
    good = [(i, row) for i, row in enumerate(rows) if isinstance(row, dict)]
    if not isinstance(value, list) or len(good) < len(rows):
        found.fault(at, f"must be an array of tables, written [[{dotted(at)}]]")
    return [take(table, row, (*at, i), found) for i, row in good]


def _named(table: Table, value: Mapping[str, object], at: Path, found: Findings) -> Values:
    """The tables of `value` by the names that they have."""
    values: Values = {}
    for name, inner in value.items():
        if table.named is not None:
            _read(table.named, name, (*at, name), found)
        values[name] = _table(Table(table.keys), inner, (*at, name), found)
    return values


def _known(known: Known, value: object, at: Path, found: Findings) -> Iterator[object]:
    """The value as the program uses it, or nothing when it is faulty."""
    before = len(found.faults)
    read = _value(known, value, at, found)
    if len(found.faults) > before:
        return
    if known.old:
        found.warn(at, known.old)
    if known.idle:
        found.warn(at, "has no effect in this version")
    yield read


def _value(known: Known, value: object, at: Path, found: Findings) -> object:
    match known.form:
        case "one":
            return _read(known.kind, value, at, found)
        case "list":
            return _list(known.kind, value, at, found)
        case "map":
            return _map(known, value, at, found)


def _list(kind: Kind, value: object, at: Path, found: Findings) -> tuple[object, ...]:
    if not isinstance(value, list):
        found.fault(at, f"must be a list, not {form(value)}")
        return ()
    items = tuple(_read(kind, item, (*at, i), found) for i, item in enumerate(value))
    for i, item in enumerate(items):
        if item is not None and item in items[:i]:
            found.fault((*at, i), "is listed twice")
    return items


def _map(known: Known, value: object, at: Path, found: Findings) -> dict[object, object]:
    if not isinstance(value, dict):
        found.fault(at, f"must be a table, not {form(value)}")
        return {}
    return {
        _read(known.names, name, (*at, name), found) if known.names else name: _read(
            known.kind, item, (*at, name), found
        )
        for name, item in value.items()
    }


def _read(kind: Kind, value: object, at: Path, found: Findings) -> object:
    try:
        return kind.read(value)
    except ValueError as error:
        found.fault(at, str(error))
        return None


def _syntax(path: FilePath, text: str, message: str) -> str:
    """tomllib's error in our form: it puts the line into the message."""
    said, _, where = message.partition(" (at ")
    words = where.rstrip(")").replace(",", "").split()
    line = words[1] if words[:1] == ["line"] else str(text.count("\n") + 1)
    return f"{path}:{line}: {said} (is not TOML)"


def _by_line(finding: Finding) -> int:
    return finding.line
