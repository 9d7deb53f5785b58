"""Ends what keys have under way when they expire.

The guard refuses an expired key by itself; here is the timer for what it began before. The time of day
may be set: so the timer never sleeps for long, and each moment at which a key ends counts once.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import trio

from cortex.config.keys import Key

# With what a stream has left after that, within the minute that is promised.
LONGEST_S: Final = 5.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def end_expired(
    keys: Callable[[], Iterable[Key]],
    end: Callable[[frozenset[str]], None],
    now: Callable[[], datetime] = _utc_now,
) -> None:
    """Until cancelled, `end` hears the names of `keys` that have expired."""
    ended: set[tuple[str, datetime]] = set()
    while True:
        known = {(key.name, key.expires) for key in keys() if key.expires is not None}
        moment = now()
        over = {(name, expires) for name, expires in known if expires <= moment}
        if fresh := over - ended:
            end(frozenset(name for name, _ in fresh))
        ended = over
        next_s = min(((expires - moment).total_seconds() for _, expires in known - over), default=LONGEST_S)
        await trio.sleep(min(next_s, LONGEST_S))
