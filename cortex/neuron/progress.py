"""How far a load has come: a phase, and the bytes of it.

One frozen value per look. Whoever brings a model in tells the phases that come before the
device's thread has it (`Underway`); from there on the thread's own figures stand.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["queued", "download", "verify", "load"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`done_bytes` of `total_bytes` of this phase; 0 of 0 while not known. Each phase counts anew."""

    phase: Phase
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(slots=True)
class Underway:
    """Models on their way to a device, by the last thing told of each."""

    _told: dict[str, Progress] = field(default_factory=dict)

    def of(self, model: str) -> Progress | None:
        """How far `model` has come; None when it is not on its way."""
        return self._told.get(model)

    def tell(self, model: str, progress: Progress) -> None:
        """`model` has come so far. Told by whoever holds its `coming` block, or inside of it."""
        if model in self._told:
            self._told[model] = progress

    @contextmanager
    def coming(self, model: str) -> Iterator[None]:
        """`model` is on its way while the block runs: "queued", until something else is told.
        One block inside another is one way."""
        outer = model in self._told
        self._told.setdefault(model, Progress("queued"))
        try:
            yield
        finally:
            if not outer:
                del self._told[model]
