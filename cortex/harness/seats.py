"""Who sits on a device, as trio sees it: mailboxes, and the jobs that feed them.

Bookkeeping without threads or awaiting (reading a mailbox aside): a resident knows which
jobs its engine has and which still wait for a slot.
"""

from collections import deque
from dataclasses import dataclass, field

import trio

from cortex.errors import CortexError
from cortex.events import EngineEvent, Failed, Prefilled, Stopped, Tokens
from cortex.harness.base import EngineFacts, Job


class Mailbox:
    """What the jobs of one `generate` say, in order."""

    def __init__(self, jobs: int) -> None:
        self._heard: list[tuple[int, EngineEvent]] = []
        self._speaking = jobs
        self._bell = trio.Event()

    async def take(self) -> list[tuple[int, EngineEvent]]:
        """All that has arrived since the last call, at least one event, with the job's index.

        Raises EndOfChannel when every job has ended and was heard. One reader only;
        cancelling it loses nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._heard:
            if not self._speaking:
                raise trio.EndOfChannel
            self._bell = trio.Event()
            await self._bell.wait()
        heard, self._heard = self._heard, []
        return heard

    def hear(self, index: int, event: EngineEvent) -> None:
        self._heard.append((index, event))
        if isinstance(event, Stopped | Failed):
            self._speaking -= 1
        self._bell.set()


@dataclass(slots=True)
class Seated:
    """One job of a mailbox, waiting or live. `kv_tokens` of it are in the engine's cache so far."""

    job: Job
    mailbox: Mailbox
    index: int
    kv_tokens: int = 0


@dataclass(slots=True)
class Seats:
    """A model on the device's thread. `live` jobs were handed over, `waiting` ones were not."""

    model: str
    facts: EngineFacts
    live: dict[int, Seated] = field(default_factory=dict)
    waiting: deque[Seated] = field(default_factory=deque)
    fault: str | None = None
    leaving: bool = False
    freed: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)

    @property
    def requests(self) -> tuple[str, ...]:
        """Whom the live jobs are for."""
        return tuple(dict.fromkeys(seated.job.request_id for seated in self.live.values()))

    @property
    def admits(self) -> bool:
        """Whether the first who waits has a slot, and room in a KV cache that jobs share. Nobody
        overtakes: a long prompt would wait for ever."""
        if not self.waiting or len(self.live) >= self.facts.slots:
            return False
        promised = sum(seated.job.kv_tokens for seated in self.live.values())
        total = self.facts.kv_tokens
        return total is None or promised + self.waiting[0].job.kv_tokens <= total

    @property
    def kv_tokens(self) -> int:
        """Prompts and answers of the live jobs."""
        return sum(seated.kv_tokens for seated in self.live.values())

    def hear(self, job_id: int, event: EngineEvent) -> None:
        seated = self.live.get(job_id)
        if seated is None:
            return  # its slot was written off by a fault or an unload
        match event:
            case Prefilled(count) | Tokens(_, count):
                seated.kv_tokens += count
            case Stopped() | Failed():
                del self.live[job_id]
                self._free()
        seated.mailbox.hear(seated.index, event)

    def fail_all(self, live: CortexError, waiting: CortexError) -> None:
        """Two errors, since of the waiting ones it is certain that nothing ran."""
        for seated in self.live.values():
            seated.mailbox.hear(seated.index, Failed(live))
        for seated in self.waiting:
            seated.mailbox.hear(seated.index, Failed(waiting))
        self.live.clear()
        self.waiting.clear()
        self._free()

    def jobs_of(self, mailbox: Mailbox) -> tuple[int, ...]:
        return tuple(job_id for job_id, seated in self.live.items() if seated.mailbox is mailbox)

    def _free(self) -> None:
        freed, self.freed = self.freed, trio.Event()
        freed.set()
