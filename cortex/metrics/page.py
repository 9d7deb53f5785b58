"""The registry and its page, and what is true of any process: build, resources, lag of the loop.

`render` makes the page at most once a second, from any thread; serving it is left to
`web.scrape`. What is counted is for the classes that build on this one.
"""

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex import __version__
from cortex.metrics.names import FRESH_S, OTHER, Role
from cortex.metrics.series import Gauges, ModelSeries, Names, model_series
from cortex.metrics.slots import Heap, Heaps, Slot, Slots

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# A loop at rest is late by fractions of a millisecond; a second of lag stops the watchdog's pings
# being believed.
_LAG_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

# So many lines are made at once: the thread that makes them holds the interpreter, and the loop, which lets
# go of it with each call to the kernel, has it back when that is done. Between two slices it has it all.
_SLICE: Final = 128
_REST_S: Final = 0.0005
# In all: whoever asks waits, and asks others who have as much to tell.
_RESTS_S: Final = 0.05
# Lines that say what a family is.
_ABOUT: Final = 2

# Each has some hundred lines on the page, and stays there; far more than anybody has to choose from.
MOST_MODELS: Final = 1000


class Page:
    """The page of one role. `known` says which model names may be a label, `clock` is monotonic
    seconds, `dropped_records` reads how many log records were lost so far.
    """

    def __init__(
        self,
        known: Callable[[str], bool],
        *,
        role: Role = "gateway",
        dropped_records: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known, self._clock = known, clock
        self._registry = CollectorRegistry()
        self._registry.register(_Dropped(dropped_records))
        ProcessCollector(registry=self._registry)
        build = ("version", "role", "python")
        self._gauge("build_info", "1, and what runs here", *build).labels(
            __version__, role, platform.python_version()
        ).set(1)
        self._lag = self._histogram("loop_lag_seconds", "How late the event loop woke a sleeper", _LAG_S)
        self._shown = Names(MOST_MODELS, OTHER)
        self._models: dict[str, ModelSeries] = {}
        self._series = model_series(self.show)
        self._page, self._made_at = b"", -FRESH_S
        # Of a scrape, another worker's, and the last page.
        self._rendering = threading.Lock()

    def show(self, collector: Collector) -> None:
        """What `collector` has is on the page too."""
        self._registry.register(collector)

    def lagged(self, seconds: float) -> None:
        """The loop woke a sleeper so much too late."""
        self._lag.observe(seconds)

    def render(self) -> bytes:
        """The page in `CONTENT_TYPE`, at most `FRESH_S` old. Takes a tenth of a second, and more in
        a big fleet, most of it rests: call it off the loop. Of several calls one renders."""
        with self._rendering:
            return self._fresh(_REST_S)

    def _fresh(self, rest_s: float) -> bytes:
        now = self._clock()
        if now - self._made_at >= FRESH_S:
            slices, rests_s = list[bytes](), _RESTS_S
            for each in _slices(self._registry):
                slices.append(each)
                time.sleep(rest_s if rests_s > 0 else 0)
                rests_s -= rest_s
            self._page, self._made_at = b"".join(slices), now
        return self._page

    def last(self) -> bytes:
        """The page as it is at this moment."""
        with self._rendering:
            self._made_at = -FRESH_S
            return self._fresh(0.0)

    # -- for those who count

    def _label(self, model: str) -> str:
        if model == OTHER or self._shown.of(model) == model:
            return model
        return self._shown.label(model) if self._known(model) else OTHER

    def _of(self, model: str) -> ModelSeries:
        label = self._label(model)
        series = self._models.get(label)
        if series is None:
            series = self._models[label] = self._series(label)
        return series

    def _counter(self, name: str, text: str) -> Slot:
        return self._counters(name, text).at()

    def _counters(self, name: str, text: str, *labels: str) -> Slots:
        slots = Slots(name, text, labels)
        self.show(slots)
        return slots

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"cortex_{name}", text, labels, registry=self._registry)

    def _gauges(self, name: str, text: str, *labels: str) -> Gauges:
        return Gauges(self._gauge(name, text, *labels))

    def _histogram(self, name: str, text: str, bounds: tuple[float, ...]) -> Heap:
        heaps = Heaps(name, text, (), bounds)
        self.show(heaps)
        return heaps.at()


class _Dropped(Collector):
    """How many log records were lost, read where they are counted."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "cortex_log_records_dropped", "Log records lost because nobody read the log", value=self._read()
        )


@dataclass(frozen=True, slots=True)
class _One(Collector):
    """Of one family, some samples."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        yield self.family


def _slices(registry: CollectorRegistry) -> Iterator[bytes]:
    """The page in pieces, each of which takes less than a millisecond or two. Without the `_created`
    samples: the plain text format makes a second gauge of each, a third more series that nobody asks for."""
    for family in registry.collect():
        samples = [each for each in family.samples if not each.name.endswith("_created")]
        for begin in range(0, max(len(samples), 1), _SLICE):
            family.samples = samples[begin : begin + _SLICE]
            text = generate_latest(_One(family))
            # What the family is has been said.
            yield text if begin == 0 else text.split(b"\n", _ABOUT)[_ABOUT]
