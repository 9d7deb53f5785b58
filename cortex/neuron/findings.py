"""What the doctor finds: a line with a verdict, and the remedy where something is amiss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's: `remedy` is empty where all is well."""

    subject: str
    verdict: Verdict
    what: str
    remedy: str = ""


Check: TypeAlias = Callable[[], Iterable[Finding]]
