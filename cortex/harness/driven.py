"""An engine as its device's thread drives it: with its live jobs, and its signs of life.

Bookkeeping only. Which jobs are live is known from what was submitted and what the engine
said; so whoever has to answer for a crash can be named, and whoever must be told of one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from cortex.events import Failed, Stopped
from cortex.harness.base import Busy, Computing, Engine, Gathering, Job, Said
from cortex.harness.journal import Blamed
from cortex.harness.pulse import Doing, Phase


@dataclass(slots=True)
class Driven:
    """`ticket` is of the load that brought it. A `broken` one is driven no more until it is
    unloaded; a `cold` one has not finished a turn yet."""

    model: str
    engine: Engine
    ticket: int
    digest: str
    cold: bool = True
    broken: bool = False
    heard_at: float = field(default_factory=time.monotonic)
    _requests: dict[int, str] = field(default_factory=dict)
    _busy: Busy | None = field(init=False)
    _gathering: Gathering | None = field(init=False)
    blamed: Blamed = field(init=False)

    def __post_init__(self) -> None:
        self._busy = self.engine if isinstance(self.engine, Busy) else None
        self._gathering = self.engine if isinstance(self.engine, Gathering) else None
        self._name()

    @property
    def live(self) -> bool:
        """Whether it has jobs."""
        return bool(self._requests)

    @property
    def computes(self) -> bool:
        """Whether it may be at work although it is not its turn."""
        return isinstance(self.engine, Computing) and self.live and not self.broken

    def take(self, job: Job) -> None:
        """`job` is live from here on."""
        if not self._requests:
            self.heard_at = time.monotonic()
        self._requests[job.id] = job.request_id
        self._name()

    def hear(self, said: Sequence[Said]) -> None:
        """It had its turn, and said this."""
        self.cold, self.heard_at = False, time.monotonic()
        ended = [job_id for job_id, event in said if isinstance(event, Stopped | Failed)]
        for job_id in ended:
            self._requests.pop(job_id, None)
        if ended:
            self._name()

    def forget(self, job_id: int) -> None:
        """It did not take the job in."""
        self._requests.pop(job_id, None)
        self._name()

    def forget_all(self) -> tuple[int, ...]:
        """No job is live any more; those that were."""
        ids = tuple(self._requests)
        self._requests.clear()
        self._name()
        return ids

    def at(self, phase: Phase) -> Doing:
        """What the thread is at when it is at this engine."""
        return Doing(phase, self.model, self.blamed.requests, self.cold, self.heard_at)

    def waits(self) -> Doing:
        """The same while nobody has a turn to take: since when its quietest job says nothing."""
        beat = self.heard_at if self._busy is None else self._busy.silent_since()
        return replace(self.at("wait"), beat=beat)

    def due(self) -> float:
        """When it is to be asked again whether it is restless, in monotonic seconds."""
        due = None if self._gathering is None else self._gathering.due()
        return inf if due is None else due

    def _name(self) -> None:
        self.blamed = Blamed(self.model, self.digest, tuple(dict.fromkeys(self._requests.values())))
