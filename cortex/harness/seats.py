"""Who sits on a device, as trio sees it: mailboxes, and the jobs that feed them.

Bookkeeping without threads or awaiting (reading a mailbox aside): a resident knows which
jobs its engine has and which still wait for a slot.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

import trio

from cortex.errors import CortexError
from cortex.events import EngineEvent, Failed, Prefilled, Stopped, Tokens
from cortex.harness.base import EngineFacts, Job, Said

# Events, each with the index of the job that said it.
Batch: TypeAlias = list[tuple[int, EngineEvent]]


class Mailbox:
    """What the jobs of one `generate` say, in order. One reader: a task that takes it, or a callback."""

    def __init__(self, jobs: int) -> None:
        self._heard: Batch = []
        self._speaking = jobs
        self._bell = trio.Event()
        self._reader: Callable[[Batch], bool] | None = None
        self._bug: Exception | None = None

    async def take(self) -> Batch:
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

    async def pour(self, into: Callable[[Batch], bool]) -> None:
        """`into` is handed all that has arrived, and then what each turn brings, when it is over: without
        a switch of tasks. Until it answers False, or every job has ended and was heard. Raises what it
        raises. Cancelled, what was not handed over stays.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._reader, self._bell = into, trio.Event()
        try:
            self._hand_over(into)
            await self._bell.wait()
        finally:
            self._reader = None
        if (bug := self._bug) is not None:
            self._bug = None
            raise bug

    def hear(self, index: int, event: EngineEvent) -> None:
        """It is read when the bell is rung."""
        self._heard.append((index, event))

    def over(self) -> None:
        """One of the jobs has said its last."""
        self._speaking -= 1

    def ring(self) -> None:
        """Nothing more is said for the moment: whoever reads does so."""
        if self._reader is None:
            self._bell.set()
        else:
            self._hand_over(self._reader)

    def _hand_over(self, into: Callable[[Batch], bool]) -> None:
        heard, self._heard = self._heard, []
        goes_on = True
        if heard:
            # It is called by whoever rings, whose concern its bugs are not.
            try:
                goes_on = into(heard)
            except Exception as bug:  # noqa: BLE001 - raised in the task that reads
                self._bug, goes_on = bug, False
        if not (goes_on and self._speaking):
            self._reader = None
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

    def hear(self, said: Iterable[Said], heard: dict[Mailbox, None]) -> None:
        """What the engine's jobs said goes to their mailboxes, which are added to `heard`: they are to be
        rung."""
        live = self.live
        for job_id, event in said:
            seated = live.get(job_id)
            if seated is None:
                continue  # its slot was written off by a fault or an unload
            mailbox = seated.mailbox
            if isinstance(event, Tokens):
                seated.kv_tokens += event.count
            elif isinstance(event, Prefilled):
                seated.kv_tokens += event.prompt_tokens
            elif isinstance(event, Stopped | Failed):
                del live[job_id]
                mailbox.over()
                self._free()
            mailbox.hear(seated.index, event)
            heard[mailbox] = None

    def fail_all(self, live: CortexError, waiting: CortexError) -> None:
        """Two errors, since of the waiting ones it is certain that nothing ran."""
        failed = [(seated, live) for seated in self.live.values()]
        failed += [(seated, waiting) for seated in self.waiting]
        self.live.clear()
        self.waiting.clear()
        for seated, error in failed:
            seated.mailbox.hear(seated.index, Failed(error))
            seated.mailbox.over()
        for mailbox in {seated.mailbox: None for seated, _ in failed}:
            mailbox.ring()
        self._free()

    def jobs_of(self, mailbox: Mailbox) -> tuple[int, ...]:
        return tuple(job_id for job_id, seated in self.live.items() if seated.mailbox is mailbox)

    def _free(self) -> None:
        freed, self.freed = self.freed, trio.Event()
        freed.set()
