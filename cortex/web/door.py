"""The front door: a listener, its connections, and an end to both.

Every connection is contained: whatever goes wrong in one ends that one. The accept loop
outlives a shortage of descriptors, and the newest connection is refused when there are
too many. `drain` promises that every client gets an end, and that it returns in time.
"""

from typing import TypeAlias

import trio

from cortex.config.limits import Limits
from cortex.web.site import Entry, Handler, Route, Site, inventory

__all__ = ["Door", "Entry", "Handler", "Route", "Site", "inventory"]

Bound: TypeAlias = trio.TaskStatus[tuple[str, int]]


class Door:
    """One listener. `run` it; `drain` it before the role goes."""

    def __init__(self, site: Site, limits: Limits) -> None:
        self._site = site
        self._limits = limits

    @property
    def in_flight(self) -> int:
        """Inference requests that have a handler at work."""
        return 0

    @property
    def connections(self) -> int:
        """Open connections."""
        return 0

    @property
    def draining(self) -> bool:
        """Whether inference is refused because the role is going."""
        return False

    async def run(
        self,
        host: str,
        port: int,
        *,
        task_status: Bound = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled or drained. `started` hands over the bound address. OSError when taken."""

    async def drain(self, grace_s: float) -> None:
        """All clients have their end, all sockets are closed, and `run` returns."""
