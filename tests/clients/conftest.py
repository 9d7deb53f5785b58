"""Tells at the end of a run which clients were driven, and which were not.

A test says whose client it drives by the mark `client`.
"""

from collections import defaultdict
from importlib import metadata
from typing import Final

import pytest

from tests.clients import installing

NAME: Final = "client"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A report has of its test what is put down here."""
    for item in items:
        for mark in item.iter_markers(NAME):
            item.user_properties += [(NAME, name) for name in mark.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    driven: dict[str, set[str]] = defaultdict(set)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == NAME:
                    driven[value].add(outcome)
    if not driven:
        return
    ran = [name for name in driven if driven[name] & {"passed", "failed", "error"}]
    terminalreporter.section("clients")
    terminalreporter.line(f"driven: {', '.join(map(_with_version, sorted(ran))) or 'none'}")
    if left := sorted(set(driven) - set(ran)):
        terminalreporter.line(f"not driven ({installing.WANTED}=1 installs them): {', '.join(left)}")


def _with_version(name: str) -> str:
    """One without is in the environment that runs the suite."""
    return name if " " in name else f"{name} {metadata.version(name)}"
