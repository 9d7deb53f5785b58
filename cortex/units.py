"""Sizes and spans as people write them, to numbers and back, and numbers of things in words.

Sizes are bytes: "24GiB" is binary, "24GB" decimal, a bare number is bytes.
Spans are seconds: "90s", "5m", "250ms", a bare number is seconds.
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Final

_SIZES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SPANS: Final[Mapping[str, int | Fraction]] = {
    "": 1,
    "ms": Fraction(1, 1000),
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}
# 28 digits hold every size and span there is, and keep a slip of the hand from costing time.
_QUANTITY: Final = re.compile(r"\s*([0-9]{1,28}(?:\.[0-9]{1,28})?)\s*([A-Za-z]*)\s*\Z")


def _pattern(units: Iterable[str]) -> str:
    """What `_parse` takes, for dialects of regular expressions that know no flags inside."""
    either = "|".join("".join(f"[{c.upper()}{c}]" for c in unit) for unit in units)
    return rf"\s*[0-9]{{1,28}}(?:\.[0-9]{{1,28}})?\s*(?:{either})\s*"


SIZE_PATTERN: Final = _pattern(_SIZES)
SPAN_PATTERN: Final = _pattern(_SPANS)


def parse_size(text: str | int) -> int:
    """Bytes meant by `text`, to the nearest; ValueError names the forms that are understood."""
    return round(_parse(text, _SIZES, "a size such as 24GiB, 500MB or 1024"))


def parse_span(text: str | float) -> float:
    """Seconds meant by `text`; ValueError names the forms that are understood."""
    return float(_parse(text, _SPANS, "a time span such as 90s, 5m or 250ms"))


def size(count: int) -> str:
    """`count` bytes for people: at most one decimal, binary units."""
    if count < 0:
        return "-" + size(-count)
    for unit, step in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        # What would be shown as 1024 of a unit is shown as 1 of the next.
        if count >= step - step / 2**10 / 20:
            value = f"{count / step:.1f}".removesuffix(".0")
            return f"{value}{unit}"
    return f"{count}B"


def span(seconds: float) -> str:
    """`seconds` for people: the two largest units that say something."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n}{unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return "".join(parts[:2]) or "0s"


def counted(count: int, what: str) -> str:
    """So many of `what`, a word that only takes an s when there are several."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _parse(text: str | float, units: Mapping[str, int | Fraction], wanted: str) -> Fraction:
    """Exact, so that a size in plain bytes is not rounded on its way through a float."""
    found = _QUANTITY.match(str(text))
    factor = units.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise ValueError(f"{text!r} is not {wanted}")
    return Fraction(found[1]) * factor
