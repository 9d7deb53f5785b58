"""How far a load has come, as somebody outside the ledger knows it.

The ledger knows since when a model loads and what its last load took. Bytes and pace are
known to whoever watches the load; a role gives the ledger a function that answers with this.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Outlook:
    """`done_bytes` of `total_bytes` of a `phase` (queued, download, verify, load), "" and 0 of 0 while
    nobody counts them, and the seconds that are left; None when nobody can tell."""

    phase: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    left_s: float | None = None


# Of a model that loads.
Outlooks: TypeAlias = Callable[[str], Outlook]
