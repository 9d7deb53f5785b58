"""Requests from arrival to end, and all that can become of them on the way.

Counts by model, neuron, dialect and key; refusals at the door and before a seat; what
failed on neurons and was tried again; and clients that left. What `Done` says is spread over
its metrics here.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, get_args

from cortex.errors import CortexError
from cortex.events import Usage
from cortex.metrics.names import FAILURES, NO_KEY, NO_NEURON, OTHER, Dialect, Done, Outcome, Phase, Role
from cortex.metrics.page import Page
from cortex.metrics.series import ModelSeries, Names
from cortex.metrics.slots import Heap, Slot, Slots

# Beyond any fleet that one gateway serves, and any list of keys that people keep by hand.
MOST_NEURONS: Final = 256
MOST_KEYS: Final = 256
# Ways for requests to end that are found at one look; of any there are numbers.
MOST_ROWS: Final = 16_384
# From a look at a small body to a big one that a thread reads.
_OVERHEAD_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)


@dataclass(slots=True)
class Row:
    """All that one request adds to that ends in the same way as others: the same model, neuron, dialect,
    outcome and key. Finding it is one look, however many numbers there are. Tokens of a kind that nobody
    used yet have no series: `tokens` makes it."""

    series: ModelSeries
    requests: Slot
    overhead: Heap
    key_requests: Slot | None
    key_tokens: Slot | None
    tokens: Callable[[str], Slot]
    _prompt: Slot | None = None
    _cached: Slot | None = None
    _completion: Slot | None = None

    def add(
        self, duration_s: float, queue_s: float | None, overhead_s: float | None, usage: Usage
    ) -> ModelSeries:
        """One more of them has ended."""
        series = self.series
        series.in_flight.value -= 1
        self.requests.value += 1
        series.duration.observe(duration_s)
        if queue_s is not None:
            series.queue.observe(queue_s)
        if overhead_s is not None:
            self.overhead.observe(overhead_s)
        self._spend(usage)
        return series

    def _spend(self, usage: Usage) -> None:
        if usage.prompt:
            self._prompt = slot = self._prompt or self.tokens("prompt")
            slot.value += usage.prompt
        if usage.cached:
            self._cached = slot = self._cached or self.tokens("cached_prompt")
            slot.value += usage.cached
        if usage.completion:
            self._completion = slot = self._completion or self.tokens("completion")
            slot.value += usage.completion
        if self.key_requests is not None and self.key_tokens is not None:
            self.key_requests.value += 1
            self.key_tokens.value += usage.prompt + usage.completion


class Traffic(Page):
    """Every request, refusal and failure."""

    def __init__(
        self,
        known: Callable[[str], bool],
        *,
        role: Role = "gateway",
        dropped_records: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(known, role=role, dropped_records=dropped_records, clock=clock)
        self._neurons = Names(MOST_NEURONS, OTHER)
        self._keys = Names(MOST_KEYS, OTHER)
        # A neuron is told them by the gateways, which count.
        self._knows_keys = role == "gateway"
        self._requests = self._counters(
            "requests", "Requests at their end", "model", "neuron", "dialect", "outcome"
        )
        self._tokens = {
            kind: self._counters(f"{kind}_tokens", f"{text} tokens", "model", "neuron")
            for kind, text in (
                ("prompt", "Prompt"),
                ("cached_prompt", "Prompt tokens not computed again, as part of prompt"),
                ("completion", "Completion"),
            )
        }
        self._overhead = self._histogram("overhead_seconds", "What cortex took of a request", _OVERHEAD_S)
        self._key_requests = self._counters("key_requests", "Requests at their end, by key", "key", "outcome")
        self._key_tokens = self._counters("key_tokens", "Prompt and completion tokens, by key", "key")
        self._key_used = self._gauges("key_day_tokens", "Tokens of today in the whole fleet", "key")
        self._key_limit = self._gauges("key_day_limit_tokens", "tokens_per_day, where it is set", "key")
        self._retries = self._counters("retries", "Requests tried on another neuron, by cause", "reason")
        self._rejections = self._counters("rejections", "Requests refused before a seat, by cause", "reason")
        # Of the door's reasons the one that is an alarm at its first happening.
        self._rejections.begin(("auth_rate",))
        self._failures = self._counters("upstream_failures", "Exchanges that failed", "neuron", "kind")
        self._aborts = self._counters("client_aborts", "Clients that left, by phase", "phase")
        self._aborts.begin(get_args(Phase))
        self._crashes = self._counter("connection_crashes", "Connections that a bug of cortex ended")
        self._rows: dict[tuple[str, str, Dialect, Outcome, str], Row] = {}

    def request_began(self, model: str) -> str:
        """Each call is followed by one `request_done` with the label that it answers: what is
        known may change while the request runs."""
        series = self._models.get(model)
        if series is not None:  # a model whose label is its name
            series.in_flight.value += 1
            return model
        label = self._label(model)
        self._of(label).in_flight.inc()
        return label

    def request_done(self, done: Done) -> None:
        """Count `done`; what never came (first token, seat) is left out of its histogram."""
        row = self.row(done.model, done.neuron, done.dialect, done.outcome, done.key)
        series = row.add(done.duration_s, done.queue_s, done.overhead_s, done.usage)
        if done.queue_s is not None and done.cold:
            series.cold_wait.observe(done.queue_s)
        if done.ttft_s is not None:
            series.streamed(done.ttft_s, done.duration_s, done.usage.completion)

    def row(self, model: str, neuron: str, dialect: Dialect, outcome: Outcome, key: str) -> Row:
        """Where requests are counted that end so. Not to be kept: names come and go."""
        which = (model, neuron, dialect, outcome, key)
        found = self._rows.get(which)
        if found is None:
            found = self._made(*which)
            # A name that is not shown yet may be later.
            if OTHER not in (self._label(model), self._neuron(neuron)):
                if len(self._rows) >= MOST_ROWS:
                    self._rows.clear()
                self._rows[which] = found
        return found

    def _made(self, model: str, neuron: str, dialect: Dialect, outcome: Outcome, key: str) -> Row:
        label, at = self._label(model), self._neuron(neuron)
        mine = (self._keys.label(key) if key else NO_KEY) if self._knows_keys else None
        return Row(
            self._of(model),
            self._requests.at(label, at, dialect, outcome),
            self._overhead,
            None if mine is None else self._key_requests.at(mine, outcome),
            None if mine is None else self._key_tokens.at(mine),
            lambda kind: self._tokens[kind].at(label, at),
        )

    @contextmanager
    def waiting(self, label: str) -> Iterator[None]:
        """One more request for the model called so waits for a seat in the block."""
        gauge = self._of(label).waiting
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def rejected(self, error: CortexError) -> None:
        """A request was refused before it had a seat."""
        self._rejections.at(error.reason).inc()

    def retried(self, error: CortexError) -> None:
        """A request goes to another neuron because of `error`."""
        self._retries.at(error.reason).inc()

    def upstream_failed(self, neuron: str, error: CortexError | None = None) -> None:
        """An exchange with `neuron` failed by `error`, or by what the neuron itself told the client."""
        kind = error.reason if error is not None and error.reason in FAILURES else "engine"
        self._failures.at(self._neuron(neuron), kind).inc()

    def client_left(self, phase: Phase) -> None:
        """A client is gone before its answer was whole."""
        self._aborts.at(phase).inc()

    def connection_crashed(self) -> None:
        """A bug ended one connection, and that one alone."""
        self._crashes.inc()

    def keys_are(self, names: Container[str]) -> None:
        """There are no other keys: what was counted for one that is gone is not shown any more, and
        others have its room."""
        gone = [name for name in self._keys if name not in names]
        if gone:
            self._rows.clear()  # those of others, too, who may have their room
        for name in gone:
            for counters in (self._key_requests, self._key_tokens):
                counters.forget(0, name)
            self._keys.forget(name)

    def key_days(self, days: Mapping[str, tuple[int, int]]) -> None:
        """Tokens of today and the most there may be, by key: these are all that have a limit."""
        told = {name: days[name] for name in days if self._keys.label(name) == name}
        self._key_used.all({name: used for name, (used, _) in told.items()})
        self._key_limit.all({name: most for name, (_, most) in told.items()})

    def _neuron(self, name: str) -> str:
        """Of requests, which may end when their neuron has left: only the fleet says who belongs to it."""
        return name if name == NO_NEURON else self._neurons.of(name)

    def _forget_neuron(self, name: str) -> None:
        """Its counters go: fleets whose neurons come and go under ever new names stay small."""
        self._rows.clear()
        for position, counters in self._by_neuron():
            counters.forget(position, name)
        self._neurons.forget(name)

    def _by_neuron(self) -> Iterator[tuple[int, Slots]]:
        """Every counter with a neuron among its labels, and where."""
        yield 1, self._requests
        yield from ((1, counters) for counters in self._tokens.values())
        yield 0, self._failures
