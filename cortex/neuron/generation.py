"""The answer to one request as it is generated: the events of all its choices, and its usage.

Everything that was said before a failure is handed over before the failure is raised.
Whether anybody still listens, and what the events look like outside, is the caller's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from cortex.errors import EngineFailed
from cortex.events import (
    EngineEvent,
    Event,
    Failed,
    Prefilled,
    Stopped,
    Text,
    Thought,
    Tokens,
    ToolCall,
    Usage,
)
from cortex.harness.base import Job
from cortex.harness.seats import Batch
from cortex.harness.worker import Mailbox

# Who is told what was said; whether more is to come at once.
Hearer: TypeAlias = Callable[[Sequence[Event]], bool]


class Reader(Protocol):
    """What makes events of one choice out of what its job says; `finished` once its end is said."""

    finished: bool

    def feed(self, event: EngineEvent) -> Sequence[Event]: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """One job a choice, and what reads each job's events."""

    jobs: tuple[Job, ...]
    readers: tuple[Reader, ...]


@dataclass(slots=True)
class _Choice:
    """What reads one job, and what it used so far, counted as the engine speaks: so that a request that
    is cut short is counted too."""

    reader: Reader
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    estimated: bool = False
    told: Usage | None = None

    @property
    def usage(self) -> Usage:
        """As the choice's end told it, if it has."""
        counted = Usage(self.prompt, self.cached, self.completion, estimated=self.estimated)
        return self.told or counted

    def count(self, heard: EngineEvent) -> None:
        """Take note of what its job says."""
        if isinstance(heard, Tokens):
            self.completion += heard.count
        elif isinstance(heard, Prefilled):
            self.prompt, self.cached = heard.prompt_tokens, heard.cached_tokens
        elif isinstance(heard, Text | Thought | ToolCall):
            # Of an upstream, which tells its counts at the end.
            self.completion += 1
            self.estimated = True


class Generation:
    """One mailbox, read through one reader a choice, `each` of them for one prompt. `usage` is what
    was used so far."""

    def __init__(self, mailbox: Mailbox, readers: Sequence[Reader], each: int) -> None:
        self._mailbox, self._each = mailbox, each
        self._choices = [_Choice(reader) for reader in readers]
        self._unfinished = len(readers)
        self._failure: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its good end."""
        return self._failure is None and not self._unfinished

    @property
    def usage(self) -> Usage:
        """Of all choices together."""
        return Usage.total([choice.usage for choice in self._choices], self._each)

    async def flow(self, hear: Hearer) -> None:
        """`hear` is told what is said, at the end of each turn and without a switch of tasks, until it
        answers False or the answer is complete. A choice that fails fails the request: the error is raised
        once `hear` was told all that was said before it. Cancelled, nothing is lost."""
        paused = False

        def take(batch: Batch) -> bool:
            nonlocal paused
            said = self._read(batch)
            paused = bool(said) and not hear(said)
            return not paused and self._failure is None and self._unfinished > 0

        if self._failure is None:
            await self._mailbox.pour(take)
        if paused or self.finished:
            return
        raise self._failure or EngineFailed("The engine ended without saying how; send the request again")

    def _read(self, batch: Batch) -> Sequence[Event]:
        if len(batch) == 1:
            return self._feed(*batch[0])
        said = list[Event]()
        for index, heard in batch:
            try:
                said += self._feed(index, heard)
            except Exception as bug:  # noqa: BLE001 - raised when all before it has been told
                self._failure = bug
                break
        return said

    def _feed(self, index: int, heard: EngineEvent) -> Sequence[Event]:
        choice = self._choices[index]
        reader = choice.reader
        if self._failure is not None or reader.finished:
            return ()
        choice.count(heard)
        events = reader.feed(heard)
        last = events[-1] if events else None
        if isinstance(last, Stopped):
            self._unfinished -= 1
            choice.told = last.usage
        elif isinstance(last, Failed):
            self._failure = last.error
            return events[:-1]
        return events
