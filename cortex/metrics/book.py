"""Every figure that Prometheus reads, in one object with its own registry.

A role makes one `Metrics` and passes it down; there is a method for each happening,
so that no caller knows a metric's name. Label sets are closed: types close the
dialects, outcomes and reasons, `known` closes the models (any other name counts as
"other", so that invented names cannot grow the page). Children of labels are kept,
since finding one costs more than counting. `render` makes the page at most once a
second, from any thread; serving it is left to `web.scrape`.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from cortex.errors import CortexError
from cortex.events import Usage
from cortex.wire.neuron import DeviceHealth

Dialect: TypeAlias = Literal["openai_chat", "openai_text", "openai_responses", "anthropic_messages"]
# Whom an unfinished request is blamed on; `hung_up` is a client that left, `bug` a plain 500.
Outcome: TypeAlias = Literal["ok", "caller", "cortex", "engine", "hung_up", "bug"]
# `room` for another model, `idle` by its own limit, `asked` by an operator, `stopping` with the process.
Eviction: TypeAlias = Literal["room", "idle", "asked", "stopping"]
# What an engine raised, as it was judged; `child`: its process died; `crash`: so did the last neuron.
Fault: TypeAlias = Literal["memory", "job", "unknown", "sticky", "child", "crash"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
OTHER: Final = "other"
FRESH_S: Final = 1.0  # a storm of scrapes costs one rendering a second

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
_LOAD_S: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class Done:
    """One request at its end. Spans are seconds since its arrival; None = never came so far."""

    model: str
    dialect: Dialect
    outcome: Outcome
    duration_s: float
    neuron: str = "none"
    ttft_s: float | None = None
    queue_s: float | None = None
    usage: Usage = Usage()

    @property
    def token_s(self) -> float | None:
        """Mean seconds per token after the first; None when there was no second one."""
        if self.ttft_s is None or self.usage.completion < 2 or self.duration_s <= self.ttft_s:
            return None
        return (self.duration_s - self.ttft_s) / (self.usage.completion - 1)


class Metrics:
    """All metrics of one role.

    `known` says which model names may be a label, `clock` is monotonic seconds,
    `dropped_records` reads how many log records were lost so far.
    """

    def __init__(
        self,
        known: Callable[[str], bool],
        *,
        dropped_records: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known, self._clock = known, clock
        self._registry = CollectorRegistry()
        self._registry.register(_Dropped(dropped_records))
        self._requests = self._counters(
            "requests", "Requests at their end", "model", "neuron", "dialect", "outcome"
        )
        self._models: dict[str, _ModelSeries] = {}
        self._series = _series(self._registry)
        self._tokens = {
            kind: self._counters(f"{kind}_tokens", f"{text} tokens", "model", "neuron")
            for kind, text in (
                ("prompt", "Prompt"),
                ("cached_prompt", "Prompt tokens not computed again, as part of prompt"),
                ("completion", "Completion"),
            )
        }
        self._evictions = self._counters("evictions", "Models unloaded", "reason")
        self._defrags = Counter(
            "cortex_defrags_total", "Devices emptied and refilled", registry=self._registry
        )
        self._defrag_bytes = Counter(
            "cortex_defrag_bytes_total", "Memory that this gave back", registry=self._registry
        )
        self._retries = self._counters("retries", "Requests tried on another neuron, by error code", "reason")
        self._rejections = self._counters("rejections", "Requests refused before a seat, by code", "reason")
        self._faults = self._counters("device_faults", "What engines raised or died of, by kind", "kind")
        self._waiting = Gauge("cortex_waiting", "Requests that wait for a seat", registry=self._registry)
        self._neuron_up = self._gauges("neuron_up", "1 when the neuron reports", "neuron")
        self._memory = self._gauges("device_memory_bytes", "Memory of a device", "neuron", "device", "kind")
        self._utilization = self._gauges(
            "device_utilization_ratio", "How busy a device is, 0 to 1", "neuron", "device"
        )
        self._temperature = self._gauges(
            "device_temperature_celsius", "Temperature of a device", "neuron", "device"
        )
        self._resident = self._gauges("resident_bytes", "Memory of a resident model", "neuron", "model")
        self._page, self._made_at = b"", -FRESH_S

    # -- requests

    def request_began(self, model: str) -> str:
        """Each call is followed by one `request_done` with the label that it answers: what is
        known may change while the request runs."""
        label = self._label(model)
        self._of(label).in_flight.inc()
        return label

    def request_done(self, done: Done) -> None:
        """Count `done`; what never came (first token, seat) is left out of its histogram."""
        model, series = self._label(done.model), self._of(done.model)
        series.in_flight.dec()
        self._requests.at(model, done.neuron, done.dialect, done.outcome).inc()
        series.duration.observe(done.duration_s)
        if done.queue_s is not None:
            series.queue.observe(done.queue_s)
        if done.ttft_s is not None:
            series.first_token.observe(done.ttft_s)
        if (token_s := done.token_s) is not None:
            series.token.observe(token_s)
            series.rate.observe(1 / token_s)
        for kind, count in (
            ("prompt", done.usage.prompt),
            ("cached_prompt", done.usage.cached),
            ("completion", done.usage.completion),
        ):
            if count:
                self._tokens[kind].at(model, done.neuron).inc(count)

    def rejected(self, error: CortexError) -> None:
        """A request was refused before it had a seat."""
        self._rejections.at(error.code).inc()

    def retried(self, error: CortexError) -> None:
        """A request goes to another neuron because of `error`."""
        self._retries.at(error.code).inc()

    def waiting(self, count: int) -> None:
        """So many requests wait for a seat."""
        self._waiting.set(count)

    # -- models

    def cold_start(self, model: str) -> None:
        """A request found its model not resident and a load begins for it."""
        self._of(model).cold_starts.inc()

    def loaded(self, model: str, load_s: float) -> None:
        """A load came to its good end."""
        self._of(model).load.observe(load_s)

    def evicted(self, reason: Eviction) -> None:
        """A resident was sent away."""
        self._evictions.at(reason).inc()

    def defragged(self, won_bytes: int) -> None:
        """A device was emptied and refilled, which gave back so many bytes."""
        self._defrags.inc()
        self._defrag_bytes.inc(won_bytes)

    def device_fault(self, kind: Fault) -> None:
        """An engine raised, or a process died of one."""
        self._faults.at(kind).inc()

    # -- the fleet

    def neuron_reported(
        self, neuron: str, devices: Iterable[DeviceHealth], resident_bytes: Mapping[str, int]
    ) -> None:
        """The neuron is up, and these are all its devices and residents."""
        memory: dict[tuple[str, ...], float] = {}
        utilization: dict[tuple[str, ...], float] = {}
        temperature: dict[tuple[str, ...], float] = {}
        for device in devices:
            memory[device.name, "total"] = device.memory_total
            memory[device.name, "used"] = device.memory_used
            memory[device.name, "free"] = device.memory_free
            if device.utilization is not None:
                utilization[device.name,] = device.utilization
            if device.temperature is not None:
                temperature[device.name,] = device.temperature
        resident: dict[tuple[str, ...], float] = {}
        for model, count in resident_bytes.items():
            label = (self._label(model),)
            resident[label] = resident.get(label, 0) + count
        self._neuron_up.only(neuron, {(): 1})
        self._memory.only(neuron, memory)
        self._utilization.only(neuron, utilization)
        self._temperature.only(neuron, temperature)
        self._resident.only(neuron, resident)

    def neuron_away(self, neuron: str) -> None:
        """The neuron does not report: its old figures go, rather than look alive."""
        self.neuron_gone(neuron)
        self._neuron_up.only(neuron, {(): 0})

    def neuron_gone(self, neuron: str) -> None:
        """The neuron belongs to the fleet no longer: nothing of it is shown."""
        for gauges in (self._neuron_up, self._memory, self._utilization, self._temperature, self._resident):
            gauges.only(neuron, {})

    # -- the page

    def render(self) -> bytes:
        """The page in `CONTENT_TYPE`, at most `FRESH_S` old. Takes tens of milliseconds in
        a big fleet: call it off the loop, one call at a time."""
        now = self._clock()
        if now - self._made_at >= FRESH_S:
            self._page, self._made_at = generate_latest(_WithoutBirths(self._registry)), now
        return self._page

    def _label(self, model: str) -> str:
        return model if model in self._models or model == OTHER or self._known(model) else OTHER

    def _of(self, model: str) -> "_ModelSeries":
        label = self._label(model)
        series = self._models.get(label)
        if series is None:
            series = self._models[label] = self._series(label)
        return series

    def _counters(self, name: str, text: str, *labels: str) -> "_Counters":
        return _Counters(Counter(f"cortex_{name}_total", text, labels, registry=self._registry))

    def _gauges(self, name: str, text: str, *labels: str) -> "_Gauges":
        return _Gauges(Gauge(f"cortex_{name}", text, labels, registry=self._registry))


@dataclass(frozen=True, slots=True)
class _ModelSeries:
    """The children of one model."""

    in_flight: Gauge
    cold_starts: Counter
    duration: Histogram
    first_token: Histogram
    token: Histogram
    rate: Histogram
    queue: Histogram
    load: Histogram


def _series(registry: CollectorRegistry) -> Callable[[str], _ModelSeries]:
    """What makes the children of a model: all of them at once, so that a histogram that
    nobody fed yet reads zero instead of missing."""

    def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"cortex_{name}", text, ["model"], buckets=buckets, registry=registry)

    metrics = (
        Gauge("cortex_in_flight", "Requests between arrival and end", ["model"], registry=registry),
        Counter("cortex_cold_starts_total", "Loads begun for a request", ["model"], registry=registry),
    )
    histograms = (
        histogram("request_duration_seconds", "Arrival to the end of the answer", _DURATION_S),
        histogram("time_to_first_token_seconds", "Arrival to the first token", _FIRST_TOKEN_S),
        histogram("time_per_output_token_seconds", "Mean per token after the first", _TOKEN_S),
        histogram("tokens_per_second", "Tokens after the first, per second, one a request", _TOKENS_PER_S),
        histogram("queue_seconds", "Arrival to a seat", _QUEUE_S),
        histogram("load_seconds", "How long loads took", _LOAD_S),
    )
    in_flight, cold_starts = metrics

    def children(model: str) -> _ModelSeries:
        return _ModelSeries(
            in_flight.labels(model), cold_starts.labels(model), *(each.labels(model) for each in histograms)
        )

    return children


class _Counters:
    """The children of one counter, kept by their label values."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def at(self, *labels: str) -> Counter:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._counter.labels(*labels)
        return child


class _Gauges:
    """The children of one gauge, which come and go with what a neuron reports."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._told: dict[str, set[tuple[str, ...]]] = {}

    def only(self, neuron: str, values: Mapping[tuple[str, ...], float]) -> None:
        """`values` are all there is of `neuron`; what it told before and not here is removed."""
        for labels in self._told.pop(neuron, set()) - values.keys():
            self._gauge.remove(neuron, *labels)
        for labels, value in values.items():
            self._gauge.labels(neuron, *labels).set(value)
        if values:
            self._told[neuron] = set(values)


class _Dropped(Collector):
    """How many log records were lost, read where they are counted."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "cortex_log_records_dropped", "Log records lost because nobody read the log", value=self._read()
        )


class _WithoutBirths(Collector):
    """A registry without the `_created` samples: the plain text format makes a second
    gauge of each, a third more series that nobody asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            family.samples = [each for each in family.samples if not each.name.endswith("_created")]
            yield family
