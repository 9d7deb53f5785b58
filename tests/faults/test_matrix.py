"""Each row of the fault matrix has tests, and README.md beside this file names them.

A test belongs to a row when its docstring begins with it: "Row 3: ...", "Rows 3, 12, 14: ...".
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
LISTED = (Path(__file__).parent / "README.md").read_text()
ROWS = range(1, 28)

_BEGINS = re.compile(r"Rows? (\d+(?:(?:, | and |, and )\d+)*)")
_LINE = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \|$", re.M)


@cache
def claims() -> frozenset[tuple[int, str]]:
    """Row and test, as docstrings have it."""
    return frozenset(_claims())


def _claims() -> Iterator[tuple[int, str]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if '"""Row' in text else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                begins = _BEGINS.match(ast.get_docstring(node) or "")
                for row in re.findall(r"\d+", begins[1]) if begins else ():
                    yield int(row), f"{path.relative_to(TESTS)}::{node.name}"


def listed() -> dict[int, list[str]]:
    """Rows and tests, as the README has it."""
    return {int(row): re.findall(r"`([^`]+)`", tests) for row, _, tests in _LINE.findall(LISTED)}


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_that_are_listed_for_a_row_are_there_and_say_so(row: int) -> None:
    named = listed().get(row, [])
    assert named, f"row {row} has no test in {Path(__file__).parent / 'README.md'}"
    assert set(named) <= {test for claimed, test in claims() if claimed == row}


def test_no_test_of_these_rooms_is_left_out() -> None:
    ours = {(row, test) for row, test in claims() if test.startswith("faults/") and row in ROWS}
    assert ours <= {(row, test) for row, tests in listed().items() for test in tests}
