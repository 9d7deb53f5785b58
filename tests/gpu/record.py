"""What a run on a card came to, row by row: tests and benches write, the report reads.

Rows go to the file that CORTEX_TEST_RECORD names, one JSON object a line; without it nothing is kept.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "CORTEX_TEST_RECORD"

Rows = Mapping[str, list[dict[str, Any]]]


def record(table: str, **row: object) -> None:
    """One more row of a table. Several processes may write."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, **row}) + "\n")


def read(path: Path) -> Rows:
    """All rows by table; a line that was cut off is left out."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        tables.setdefault(row.pop("table"), []).append(row)
    return tables
