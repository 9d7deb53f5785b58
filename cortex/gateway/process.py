"""What a gateway has of the process that it runs in: whom it tells how it goes, and who serves with it."""

import time
from dataclasses import dataclass, field

from cortex.notify import Notify
from cortex.web.listening import Shared
from cortex.workers.crew import Crew


@dataclass(frozen=True, slots=True)
class Process:
    """`api` and `page` are listeners that others accept from, too; without them the gateway has its own."""

    notify: Notify = Notify()
    crew: Crew = field(default_factory=Crew)
    api: Shared | None = None
    page: Shared | None = None
    # Of several that are one gateway: what that is called, and since when it is there (Unix seconds).
    boot_id: str = ""
    since: float | None = None

    @property
    def began(self) -> float:
        """Since when the gateway is there, which may be longer than this process is."""
        return time.time() if self.since is None else self.since
