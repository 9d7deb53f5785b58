"""What an entry of `[[keys]]` says of one caller's key.

Owns the form of its values: globs of model names, and the moment at which it ends. A key is
known by its digest alone; what it may do is held by the guard (`web`) and counted by `keys`.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from cortex.config.kinds import Kind, form, text_of, texts
from cortex.config.reading import Findings, Values, distinct

# Between the two, a key has turns enough, and the other as good as none.
LEAST_SHARE: Final = 0.01
MOST_SHARE: Final = 1000.0
# A window of so many requests is kept for each key.
MOST_A_MINUTE: Final = 10**5
MOST_IN_FLIGHT: Final = 10**5
MOST_A_DAY: Final = 10**15


@dataclass(frozen=True, slots=True)
class Key:
    """A caller's key, known by its digest (lower-case hex). Without `models` it may use all of
    them, and a limit that is None is none. From the moment `expires` it opens nothing. While it waits with
    others it has `share` turns for each of a key with 1."""

    name: str
    sha256: str = field(repr=False)
    scopes: tuple[Literal["inference", "admin"], ...] = ("inference",)
    models: tuple[str, ...] = ()
    max_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    expires: datetime | None = None
    share: float = 1.0


def check_keys(rows: list[Values], found: Findings) -> None:
    """Names and digests are unique, and no list is empty."""
    distinct(rows, "name", ("keys",), found)
    distinct(rows, "sha256", ("keys",), found)
    for i, row in enumerate(rows):
        if row.get("scopes") == ():
            found.fault(("keys", i, "scopes"), "is empty: such a key could do nothing")
        if row.get("models") == ():
            found.fault(("keys", i, "models"), "is empty: leave it out for a key that may use every model")


def _expiry(value: object) -> datetime:
    """The first moment at which a key is no longer good, in UTC. A date counts to its end."""
    moment = _moment(value)
    try:
        if not isinstance(moment, datetime):
            return datetime.combine(moment + timedelta(days=1), time.min, UTC)
        if moment.tzinfo is None:
            raise ValueError(f"needs an offset, such as Z for UTC: {moment.isoformat()}Z")
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar; leave it out for a key that never expires") from None


def _moment(value: object) -> date:
    if isinstance(value, date):
        return value
    must = "must be a date such as 2026-12-31, or a time such as 2026-12-31T18:00:00Z"
    if not isinstance(value, str):
        raise ValueError(f"{must}, not {form(value)}")
    text = text_of(value)
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _TIME.match(text):
            return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{must}, not {text!r}: {error}") from None
    raise ValueError(f"{must}, not {text!r}")


_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d", re.ASCII)

EXPIRY: Final = Kind(
    "date or time",
    _expiry,
    # TOML's own dates are of no type of JSON: readers pass them as text, or as something else.
    schema={
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2}.*)?$",
        "not": {"type": ["number", "boolean", "array", "object", "null"]},
    },
)
GLOB: Final = texts(
    "glob",
    r"[A-Za-z0-9._:/*?!\[\]-]{1,256}",
    "a glob of model names: letters, digits and ._:/-, with * for any text and ? for any character",
)
