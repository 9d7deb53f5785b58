"""What a neuron knows, in the names that dashboards for vLLM look for.

Only what is known: what vLLM measures a token at a time is known here a request at a time, so that
its sums and counts are right, and its buckets hold each request's mean. Names and labels are those of
vLLM 0.32 (`model_name`; no `engine`, of which there is one), and two that were renamed on the way there
stand under both names. The page collects from another thread: of a request it may meet one half counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cortex.metrics.names import Done
from cortex.metrics.slots import Heap
from cortex.wire.neuron import ModelLoad

# As vLLM has them, so that heat maps made for it fit.
_FIRST_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_S: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_WHOLE_S: Final = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
# vLLM has no end of its own for a call of tools: there it is a stop.
_STOPS: Final = {"stop": "stop", "tool_calls": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Load:
    """What a resident has to do at present, and how much of its cache is taken."""

    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_total: int = 0

    def __add__(self, load: ModelLoad) -> "Load":
        return Load(
            self.running + load.in_flight,
            self.waiting + load.queue,
            self.kv_used + load.kv_tokens_used,
            self.kv_total + load.kv_tokens_total,
        )


@dataclass(slots=True)
class _Figures:
    """One model's, of all its requests."""

    prompt: int = 0
    cached: int = 0
    generation: int = 0
    success: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stop", "length", "abort"), 0))
    first: Heap = field(default_factory=lambda: Heap(_FIRST_S))
    token: Heap = field(default_factory=lambda: Heap(_TOKEN_S))
    mean: Heap = field(default_factory=lambda: Heap(_TOKEN_S))
    whole: Heap = field(default_factory=lambda: Heap(_WHOLE_S))
    queue: Heap = field(default_factory=lambda: Heap(_WHOLE_S))

    def add(self, done: Done) -> None:
        usage = done.usage
        self.prompt += usage.prompt
        self.cached += usage.cached
        self.generation += usage.completion
        if done.outcome == "ok" and done.stop is not None:
            self.success[_STOPS[done.stop]] += 1
        elif done.outcome in ("hung_up", "cut"):
            self.success["abort"] += 1
        if done.queue_s is not None:
            self.queue.observe(done.queue_s)
            self.whole.observe(done.duration_s)
        if done.ttft_s is not None:
            self.first.observe(done.ttft_s)
        if (token_s := done.token_s) is not None:
            self.mean.observe(token_s)
            self.token.observe(token_s, usage.completion - 1)


class VllmNames(Collector):
    """The families of vLLM for one neuron."""

    def __init__(self) -> None:
        self._figures: dict[str, _Figures] = {}
        self._loads: Mapping[str, Load] = {}

    def serving(self, loads: Mapping[str, Load]) -> None:
        """What there is to do, by model; these are all."""
        self._loads = loads

    def done(self, model: str, done: Done) -> None:
        """Count one request."""
        self._figures.setdefault(model, _Figures()).add(done)

    def collect(self) -> Iterable[Metric]:
        """The families, whole at any time."""
        yield from self._gauges(self._loads)
        figures = dict(self._figures)
        yield from _counters(figures)
        yield from _histograms(figures)

    def _gauges(self, loads: Mapping[str, Load]) -> Iterable[Metric]:
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests with a seat", labels=_LABELS)
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests without one", labels=_LABELS)
        cache = [
            GaugeMetricFamily(f"vllm:{name}", "Share of the KV cache that is taken, 0 to 1", labels=_LABELS)
            for name in ("kv_cache_usage_perc", "gpu_cache_usage_perc")
        ]
        for model, load in loads.items():
            running.add_metric([model], load.running)
            waiting.add_metric([model], load.waiting)
            if load.kv_total:
                for family in cache:
                    family.add_metric([model], load.kv_used / load.kv_total)
        return (running, waiting, *cache)


_LABELS: Final = ("model_name",)


def _counters(figures: Mapping[str, _Figures]) -> Iterable[Metric]:
    prompt = CounterMetricFamily("vllm:prompt_tokens", "Prompt tokens", labels=_LABELS)
    asked = CounterMetricFamily("vllm:prefix_cache_queries", "Prompt tokens looked up", labels=_LABELS)
    hits = CounterMetricFamily("vllm:prefix_cache_hits", "Those that were cached", labels=_LABELS)
    generation = CounterMetricFamily("vllm:generation_tokens", "Tokens written", labels=_LABELS)
    success = CounterMetricFamily(
        "vllm:request_success", "Requests at their end", labels=(*_LABELS, "finished_reason")
    )
    for model, each in figures.items():
        prompt.add_metric([model], each.prompt)
        asked.add_metric([model], each.prompt)
        hits.add_metric([model], each.cached)
        generation.add_metric([model], each.generation)
        for reason, count in each.success.items():
            success.add_metric([model, reason], count)
    return prompt, asked, hits, generation, success


def _histograms(figures: Mapping[str, _Figures]) -> Iterable[Metric]:
    def family(name: str, text: str) -> HistogramMetricFamily:
        return HistogramMetricFamily(f"vllm:{name}_seconds", text, labels=_LABELS)

    first = family("time_to_first_token", "Arrival to the first token")
    tokens = [
        family(name, "Time per token, each token at its request's mean")
        for name in ("inter_token_latency", "time_per_output_token")
    ]
    mean = family("request_time_per_output_token", "Mean per token after the first")
    whole = family("e2e_request_latency", "Arrival to the end, of requests that had a seat")
    queue = family("request_queue_time", "Arrival to a seat")
    for model, each in figures.items():
        each.first.into(first, (model,))
        for one in tokens:
            each.token.into(one, (model,))
        each.mean.into(mean, (model,))
        each.whole.into(whole, (model,))
        each.queue.into(queue, (model,))
    return first, *tokens, mean, whole, queue
