"""How late the event loop is: the time that its tasks keep it from one that is due.

Measured where everything else runs, several times a second, so that a request that hogs
the loop shows. What is done about it is for alerts and the watchdog.
"""

from collections.abc import Callable
from typing import Final

import trio

# Often enough to meet a burst, seldom enough to cost nothing.
EVERY_S: Final = 0.25


async def watch_lag(told: Callable[[float], None]) -> None:
    """`told` hears several times a second how late this task was woken, until cancelled."""
    while True:
        due = trio.current_time() + EVERY_S
        await trio.sleep_until(due)
        told(max(0.0, trio.current_time() - due))
