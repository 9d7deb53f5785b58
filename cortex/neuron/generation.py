"""The answer to one request as it is generated: the events of all its choices, and its usage.

Everything that was said before a failure is handed over before the failure is raised.
Whether anybody still listens, and what the events look like outside, is the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from cortex.errors import CortexError, EngineFailed
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
from cortex.harness.worker import Mailbox


class Reader(Protocol):
    """What makes events of one choice out of what its job says; `finished` once its end is said."""

    finished: bool

    def feed(self, event: EngineEvent) -> Sequence[Event]: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """One job a choice, and what reads each job's events."""

    jobs: tuple[Job, ...]
    readers: tuple[Reader, ...]


class Generation:
    """One mailbox, read through one reader a choice, `each` of them for one prompt. `usage` is what
    was used so far."""

    def __init__(self, mailbox: Mailbox, readers: Sequence[Reader], each: int) -> None:
        self._mailbox, self._readers, self._each = mailbox, readers, each
        self._failure: CortexError | None = None
        self._counts = [Usage() for _ in readers]

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its good end."""
        return self._failure is None and all(reader.finished for reader in self._readers)

    @property
    def usage(self) -> Usage:
        """Of all choices together."""
        return Usage.total(self._counts, self._each)

    async def take(self) -> list[Event]:
        """What was said since the last call, at least one event. A choice that fails fails the
        request: the error is raised once all that was said before it is taken."""
        said: list[Event] = []
        while not said and not self.finished:
            if self._failure is not None:
                raise self._failure
            try:
                batch = await self._mailbox.take()
            except trio.EndOfChannel:
                raise EngineFailed("The engine ended without saying how; send the request again") from None
            said = [event for index, heard in batch for event in self._read(index, heard)]
        return said

    def _read(self, index: int, heard: EngineEvent) -> Sequence[Event]:
        if self._failure is not None or self._readers[index].finished:
            return ()
        self._count(index, heard)
        events = self._readers[index].feed(heard)
        for at, event in enumerate(events):
            if isinstance(event, Failed):
                self._failure = event.error
                return events[:at]
            if isinstance(event, Stopped):
                self._counts[index] = event.usage
        return events

    def _count(self, index: int, heard: EngineEvent) -> None:
        """As the engine speaks, so that a request that is cut short is counted too."""
        count = self._counts[index]
        if isinstance(heard, Prefilled):
            count = replace(count, prompt=heard.prompt_tokens, cached=heard.cached_tokens)
        elif isinstance(heard, Tokens):
            count = replace(count, completion=count.completion + heard.count)
        elif isinstance(heard, Text | Thought | ToolCall):
            # Of an upstream, which tells its counts at the end.
            count = replace(count, completion=count.completion + 1, estimated=True)
        self._counts[index] = count
