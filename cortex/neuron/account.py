"""What one request came to: when it got how far, and what it used.

Kept while it runs, entered into the metrics at its end, also when it is cut short.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from cortex.events import Event, Stopped, StopReason, Text, Thought, ToolCall, Usage
from cortex.logs import OPEN, request_id, say
from cortex.metrics import Dialect, Done, Outcome, Phase

log = logging.getLogger(__name__)

_DONE: Final = (
    "request.done model=%s outcome=%s key=%s seconds=%.3f prompt=%d cached=%d completion=%d "
    "dialect=%s code=%s stop=%s queue_s=%s ttft_s=%s"
)


@dataclass(slots=True)
class Account:
    """One request. `label` is its model as metrics name it, `key` the caller's as a gateway tells it, and
    `code` that of the error that it came to; times are trio's."""

    arrived: float
    label: str
    neuron: str
    seated: float | None = None
    first: float | None = None
    usage: Usage = Usage()
    cold: bool = False
    stop: StopReason | None = None
    key: str = ""
    code: str = "-"
    told: bool = False  # the client was sent all of it

    def hear(self, events: Sequence[Event]) -> None:
        """Take note of what was said. What was used is told at the end."""
        if self.first is None and any(isinstance(event, Text | Thought | ToolCall) for event in events):
            self.first = trio.current_time()
        for event in events:
            if isinstance(event, Stopped):
                self.stop = event.reason

    def phase(self, *, stalled: bool, loading: bool) -> Phase:
        """How far the request has come; `loading` says that its model is being loaded."""
        if stalled:
            return "stall"
        if self.seated is None:
            return "load" if loading else "queue"
        return "answer" if self.first is None else "stream"

    def rates(self, before: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
        """`before`, with this request's prefill and decode speed taken into the mean."""
        if self.first is None or self.seated is None:
            return before
        computed = self.usage.prompt - self.usage.cached
        return (
            _mean(before[0], computed, self.first - self.seated),
            _mean(before[1], self.usage.completion - 1, trio.current_time() - self.first),
        )

    def done(self, dialect: Dialect, outcome: Outcome) -> Done:
        """The entry in the books."""
        return Done(
            model=self.label,
            dialect=dialect,
            outcome=outcome,
            duration_s=trio.current_time() - self.arrived,
            neuron=self.neuron,
            ttft_s=None if self.first is None else self.first - self.arrived,
            queue_s=None if self.seated is None else self.seated - self.arrived,
            usage=self.usage,
            cold=self.cold,
            stop=self.stop,
        )

    def tell(self, done: Done) -> None:
        """The one line of the log that every request has. Figures that it never had are "-"."""
        ending = (
            done.model,
            done.outcome,
            self.key or "-",
            OPEN,
            OPEN,
            OPEN,
            OPEN,
            done.dialect,
            self.code,
            self.stop or "-",
            OPEN,
            OPEN,
        )
        used, waited, first = done.usage, _figure(done.queue_s), _figure(done.ttft_s)
        figures = done.duration_s, used.prompt, used.cached, used.completion, waited, first
        say(log, request_id(), _DONE, ending, figures)


def _figure(seconds: float | None) -> float | str:
    return "-" if seconds is None else round(seconds, 3)


def _mean(before: float | None, count: int, seconds: float) -> float | None:
    # A fifth of the newest: steady within some ten requests, and quick to follow a new load.
    if count < 1 or seconds <= 0:
        return before
    return count / seconds if before is None else 0.8 * before + 0.2 * count / seconds
