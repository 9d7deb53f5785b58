"""Tells the service manager how it goes: ready, reloading, stopping, still alive, needs longer.

The protocol is sd_notify(3): datagrams of KEY=VALUE lines to the socket that
NOTIFY_SOCKET names. Where nobody listens, nothing is said, and nothing is ever waited
for: a service manager that is busy must not hold a role up. What is told is decided by
the roles; when the process is alive is decided here, by the lag of trio's loop.
"""

import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Final

import trio

log = logging.getLogger(__name__)

# A loop that is later than this has work of ours that blocks it; the watchdog is then not fed.
LAG_S: Final = 5.0
# A message may be lost while the manager is busy: each promise covers several of them.
EXTEND_S: Final = 60.0
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(frozen=True, slots=True)
class Notify:
    """`address` is the manager's socket, None without one; `watchdog_s` is how often it wants
    to hear that we live, None when it does not ask."""

    address: str | None = None
    watchdog_s: float | None = None

    @classmethod
    def taken_from(cls, env: MutableMapping[str, str]) -> "Notify":
        """What the environment says. Its variables are taken out: children must not speak for us."""
        address, usec, pid = (env.pop(name, "") for name in _VARIABLES)
        if address[:1] not in ("/", "@"):
            return cls()
        told = usec.isascii() and usec.isdigit() and len(usec) < 16 and int(usec) > 0
        ours = told and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if ours else None)

    def ready(self, status: str) -> None:
        """The start is over."""
        self._say("READY=1", f"STATUS={status}")

    def reloading(self, status: str, began_us: int) -> None:
        """The files are read anew; `ready` ends it. The manager pairs what it asked for with it by the
        monotonic time, in microseconds, at which it began."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={began_us}", f"STATUS={status}")

    def starting(self, status: str) -> None:
        """The start goes on, and may take EXTEND_S from now whatever the unit's limit says."""
        self._say(f"EXTEND_TIMEOUT_USEC={round(EXTEND_S * 1e6)}", f"STATUS={status}")

    def stopping(self, takes_s: float, status: str) -> None:
        """The stop has begun, and ends within `takes_s`."""
        self._say("STOPPING=1", f"EXTEND_TIMEOUT_USEC={round(takes_s * 1e6)}", f"STATUS={status}")

    async def feed(self, sick: Callable[[], str | None] = lambda: None) -> None:
        """Feed the watchdog until cancelled, unless the loop lags or `sick` answers a reason."""
        if self.watchdog_s is None:
            return
        hungry = False
        while True:
            due = trio.current_time() + self.watchdog_s / 3
            await trio.sleep_until(due)
            lag_s = trio.current_time() - due
            why = f"the loop is {lag_s:.1f} s late" if lag_s > LAG_S else sick()
            if why is None:
                self._say("WATCHDOG=1")
            elif not hungry:
                log.error("watchdog.unfed cause=%s", why)
            hungry = why is not None

    def _say(self, *lines: str) -> None:
        if self.address is None:
            return
        # A leading @ stands for the abstract namespace's zero byte.
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
            line.setblocking(False)
            try:
                line.sendto("\n".join(text.replace("\n", " ") for text in lines).encode(), address)
            except OSError as error:
                log.warning("notify.failed cause=%s", error)
