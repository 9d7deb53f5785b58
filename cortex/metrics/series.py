"""What is shown by name: the series of a model, and gauges that come and go.

A model has all its series at once, `Gauges` go by what a neuron reports, and `Names` are the label values
that there is room for.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Gauge
from prometheus_client.registry import Collector

from cortex.metrics.names import token_s
from cortex.metrics.slots import Heap, Heaps, Slot, Slots

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
    """The series of one model."""

    in_flight: Slot
    waiting: Slot
    cold_starts: Slot
    duration: Heap
    first_token: Heap
    token: Heap
    rate: Heap
    queue: Heap
    cold_wait: Heap
    load: Heap

    def streamed(self, ttft_s: float, duration_s: float, completion: int) -> None:
        """A request whose first token came then has ended."""
        self.first_token.observe(ttft_s)
        if (each_s := token_s(ttft_s, duration_s, completion)) is not None:
            self.token.observe(each_s)
            self.rate.observe(1 / each_s)


def model_series(show: Callable[[Collector], None]) -> Callable[[str], ModelSeries]:
    """What makes the series of a model: all of them at once, so that a histogram that
    nobody fed yet reads zero instead of missing."""
    label = ("model",)
    in_flight = Slots("in_flight", "Requests between arrival and end", label, "gauge")
    waiting = Slots("waiting", "Requests that wait for a seat", label, "gauge")
    cold_starts = Slots("cold_starts", "Loads begun for a request", label)
    histograms = (
        Heaps("request_duration_seconds", "Arrival to the end of the answer", label, _DURATION_S),
        Heaps("time_to_first_token_seconds", "Arrival to the first token", label, _FIRST_TOKEN_S),
        Heaps("time_per_output_token_seconds", "Mean per token after the first", label, _TOKEN_S),
        Heaps("tokens_per_second", "Tokens after the first, per second, one a request", label, _TOKENS_PER_S),
        Heaps("queue_seconds", "Arrival to a seat", label, _QUEUE_S),
        Heaps("cold_wait_seconds", "Arrival to a seat, of requests that needed a load", label, LOAD_S),
        Heaps("load_seconds", "How long loads took", label, LOAD_S),
    )
    for each in (in_flight, waiting, cold_starts, *histograms):
        show(each)

    def series(model: str) -> ModelSeries:
        return ModelSeries(
            in_flight.at(model),
            waiting.at(model),
            cold_starts.at(model),
            *(each.at(model) for each in histograms),
        )

    return series


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
