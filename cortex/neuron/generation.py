"""The answer to one request as it is generated: the events of all its choices, and its usage.

Everything that was said before a failure is handed over before the failure is raised.
Whether anybody still listens, and what the events look like outside, is the caller's.
"""

from collections.abc import Sequence
from dataclasses import replace

import trio

from cortex.errors import CortexError, EngineFailed
from cortex.events import EngineEvent, Event, Failed, Prefilled, Stopped, Tokens, Usage
from cortex.harness.worker import Mailbox
from cortex.text.projection import Projection


class Generation:
    """One mailbox, read through one projection a choice. `usage` is what was used so far."""

    def __init__(self, mailbox: Mailbox, projections: Sequence[Projection]) -> None:
        self._mailbox, self._projections = mailbox, projections
        self._failure: CortexError | None = None
        self._counts = [Usage() for _ in projections]

    @property
    def finished(self) -> bool:
        """Whether every choice has come to its good end."""
        return self._failure is None and all(projection.finished for projection in self._projections)

    @property
    def usage(self) -> Usage:
        """The prompt counts once, however many choices it has; cached is what the first of
        them found, since the others find what it left behind."""
        return Usage(
            max(count.prompt for count in self._counts),
            min(count.cached for count in self._counts),
            sum(count.completion for count in self._counts),
            sum(count.reasoning for count in self._counts),
        )

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
        if self._failure is not None or self._projections[index].finished:
            return ()
        self._count(index, heard)
        events = self._projections[index].feed(heard)
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
        self._counts[index] = count
