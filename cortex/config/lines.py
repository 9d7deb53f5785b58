"""Finds the line on which every key of a TOML text stands.

No TOML reader at hand keeps positions, and a fault without its line sends people
searching. This is a second look at a text that `tomllib` has already accepted: it
follows headers, dotted keys, arrays and inline tables, and leaves values alone.
"""

import re
import tomllib
from typing import Final, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
"""A dotted key: names of tables and keys, and positions in arrays from 0."""

_QUOTED: Final = r'"(?:\\.|[^"\\])*"|' + r"'[^']*'"
_KEY: Final = re.compile(rf"[ \t]*({_QUOTED}|[A-Za-z0-9_-]+)[ \t]*")
_GAP: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
# A multi-line string may end in one or two quotes of its own: the closing run is three to five.
_VALUE: Final = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"{3,5}(?!")|' + r"'''[\s\S]*?'{3,5}(?!')|" + rf"{_QUOTED}|[^,\]}}\n#]+"
)


def line_index(text: str) -> dict[Path, int]:
    """Line numbers, from 1, of every table, key and array element of a valid TOML text."""
    scan = _Scan(text)
    scan.document()
    return scan.lines


class _Scan:
    """One pass over a text: `at` is the next character to look at."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.counted = 0
        self.lines: dict[Path, int] = {}
        self.rows: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self.gap():
            if self.text.startswith("[[", self.at):
                table = self.header(2)
            elif self.text[self.at] == "[":
                table = self.header(1)
            else:
                self.pair(table)

    def header(self, brackets: int) -> Path:
        """`[a.b]` or `[[a.b]]`; inside an array of tables it speaks of the last one."""
        line = self.here()
        self.at += brackets
        names = self.names()
        self.at += brackets
        path: Path = ()
        for depth, name in enumerate(names, 1):
            path = (*path, name)
            self.lines.setdefault(path, line)
            if brackets == 2 and depth == len(names):
                self.rows[path] = self.rows.get(path, 0) + 1
            if path in self.rows:
                path = (*path, self.rows[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def pair(self, table: Path) -> None:
        """`a.b = value`."""
        line = self.here()
        path = table
        for name in self.names():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self.at += 1
        self.value(path)

    def names(self) -> list[str]:
        """The parts of a dotted key."""
        parts: list[str] = []
        while found := _KEY.match(self.text, self.at):
            parts.append(_bare(found[1]))
            self.at = found.end()
            if self.text[self.at] != ".":
                break
            self.at += 1
        return parts

    def value(self, path: Path) -> None:
        self.gap()
        if self.text[self.at] == "[":
            self.array(path)
        elif self.text[self.at] == "{":
            self.inline(path)
        elif found := _VALUE.match(self.text, self.at):
            self.at = found.end()

    def array(self, path: Path) -> None:
        self.at += 1
        count = 0
        while self.gap() and self.text[self.at] != "]":
            self.lines[(*path, count)] = self.here()
            self.value((*path, count))
            count += 1
            self.comma()
        self.at += 1

    def inline(self, path: Path) -> None:
        self.at += 1
        while self.gap() and self.text[self.at] != "}":
            self.pair(path)
            self.comma()
        self.at += 1

    def comma(self) -> None:
        self.gap()
        if self.text[self.at] == ",":
            self.at += 1

    def gap(self) -> bool:
        """Past blanks, line ends and comments; whether anything follows."""
        if found := _GAP.match(self.text, self.at):
            self.at = found.end()
        return self.at < len(self.text)

    def here(self) -> int:
        """The line of `at`. Counts on from the last look, so that a file is counted once."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line


def _bare(part: str) -> str:
    """One part of a key without its quotes."""
    return next(iter(tomllib.loads(f"{part} = 0"))) if part[0] in "\"'" else part
