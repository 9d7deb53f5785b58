"""A fleet's report as a person reads it, or as a program does.

Pure: a report goes in, something to print comes out. Where it is printed, and how often, is left
to the command. `fleet` is the whole picture, `catalogue` the models, `plan` where one would go,
`words` how any of it looks.
"""

from collections.abc import Sequence

import msgspec

from cortex.status.view.catalogue import catalogue, one
from cortex.status.view.fleet import load_line, picture, silence
from cortex.status.view.plan import plan
from cortex.wire.fleet import FleetReport
from cortex.wire.plan import PlanReport

__all__ = [
    "as_json",
    "catalogue",
    "exit_code",
    "load_line",
    "one",
    "picture",
    "plan",
    "plan_exit_code",
    "silence",
]


def exit_code(report: FleetReport) -> int:
    """0 when all is well, 1 when something is missing or broken."""
    return 0 if report.status == "ok" else 1


def plan_exit_code(report: PlanReport) -> int:
    """0 when a request would be served, if not at once; 1 when it would be refused."""
    return 1 if report.decision == "refuse" else 0


def as_json(value: msgspec.Struct | Sequence[msgspec.Struct], *, lines: bool = True) -> str:
    """A report, or a part of one, as it came: indented, or else on a single line."""
    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=2) if lines else data).decode()
