"""Children of metrics, kept by their label values: finding one anew costs more than counting.

`Counters` grow with what happens, `Gauges` come and go with what a neuron reports, and a
model has all its series at once. Which values there may be is decided before they come here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# A chat answer takes seconds, a refusal milliseconds, a long agent turn minutes.
_DURATION_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# From a cached prompt on a small model to the longest wait for a cold load (300 s).
_FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# 500 tokens a second down to 2; people read at about 0.2 s a token.
_TOKEN_S: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5)
_TOKENS_PER_S: Final = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500)
# A free seat is found within a millisecond; queue_wait_s (60) and max_wait_s (300) end it.
_QUEUE_S: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
# From a demo model out of the page cache to 100 GB from a disk.
LOAD_S: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class ModelSeries:
    """The children of one model."""

    in_flight: Gauge
    waiting: Gauge
    cold_starts: Counter
    duration: Histogram
    first_token: Histogram
    token: Histogram
    rate: Histogram
    queue: Histogram
    cold_wait: Histogram
    load: Histogram


def model_series(registry: CollectorRegistry) -> Callable[[str], ModelSeries]:
    """What makes the children of a model: all of them at once, so that a histogram that
    nobody fed yet reads zero instead of missing."""

    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cortex_{name}", text, ["model"], buckets=buckets, registry=registry)

    metrics = (
        Gauge("cortex_in_flight", "Requests between arrival and end", ["model"], registry=registry),
        Gauge("cortex_waiting", "Requests that wait for a seat", ["model"], registry=registry),
        Counter("cortex_cold_starts_total", "Loads begun for a request", ["model"], registry=registry),
    )
    histograms = (
        histogram("request_duration_seconds", "Arrival to the end of the answer", _DURATION_S),
        histogram("time_to_first_token_seconds", "Arrival to the first token", _FIRST_TOKEN_S),
        histogram("time_per_output_token_seconds", "Mean per token after the first", _TOKEN_S),
        histogram("tokens_per_second", "Tokens after the first, per second, one a request", _TOKENS_PER_S),
        histogram("queue_seconds", "Arrival to a seat", _QUEUE_S),
        histogram("cold_wait_seconds", "Arrival to a seat, of requests that needed a load", LOAD_S),
        histogram("load_seconds", "How long loads took", LOAD_S),
    )
    in_flight, waiting, cold_starts = metrics

    def children(model: str) -> ModelSeries:
        return ModelSeries(
            in_flight.labels(model),
            waiting.labels(model),
            cold_starts.labels(model),
            *(each.labels(model) for each in histograms),
        )

    return children


class Counters:
    """The children of one counter, kept by their label values."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def at(self, *labels: str) -> Counter:
        """The child of these values, in the metric's order."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._counter.labels(*labels)
        return child

    def begin(self, values: Iterable[str]) -> None:
        """Each of these values of the only label reads zero from the start: of a series that begins
        with its first happening, Prometheus sees no increase."""
        for value in values:
            self.at(value)

    def forget(self, position: int, value: str) -> None:
        """Children that have `value` for the label at `position` are not shown any more."""
        for labels in [labels for labels in self._children if labels[position] == value]:
            del self._children[labels]
            self._counter.remove(*labels)


class Gauges:
    """The children of one gauge, which come and go with what its owner (a neuron, say) tells."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._told: dict[str, set[tuple[str, ...]]] = {}

    def only(self, owner: str, values: Mapping[tuple[str, ...], float]) -> None:
        """`values` are all there is of `owner`; what it told before and not here is removed."""
        for labels in self._told.pop(owner, set()) - values.keys():
            self._gauge.remove(owner, *labels)
        for labels, value in values.items():
            self._gauge.labels(owner, *labels).set(value)
        if values:
            self._told[owner] = set(values)

    def all(self, values: Mapping[str, float]) -> None:
        """`values` by owner are all there is."""
        for owner in self._told.keys() - values.keys():
            self.only(owner, {})
        for owner, value in values.items():
            self.only(owner, {(): value})


class Names:
    """A label's values, first come first shown: at most `most` at a time, the rest is `rest`.

    For names that configuration or the fleet gives, and that come and go: whoever can invent
    them could fill the page.
    """

    def __init__(self, most: int, rest: str) -> None:
        self._most, self._rest = most, rest
        self._known: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def label(self, name: str) -> str:
        """What stands for `name`."""
        if name in self._known:
            return name
        if len(self._known) >= self._most:
            return self._rest
        self._known.add(name)
        return name

    def of(self, name: str) -> str:
        """The same for who takes no room: a name that is not shown is `rest`."""
        return name if name in self._known else self._rest

    def forget(self, name: str) -> None:
        """There is room for another."""
        self._known.discard(name)
