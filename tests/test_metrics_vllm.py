"""What a neuron tells in the names of vLLM, whose dashboards and autoscalers read it."""

from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cortex.events import Usage
from cortex.metrics import Done, Metrics
from cortex.wire.neuron import ModelLoad

Read = Callable[..., float | None]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics({"small", "big"}.__contains__, role="neuron", clock=iter(range(0, 10**6, 10)).__next__)


@pytest.fixture
def read(metrics: Metrics) -> Read:
    def value(name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(metrics.render().decode()):
            for sample in family.samples:
                if sample.name == f"vllm:{name}" and sample.labels == {"model_name": "small", **labels}:
                    return sample.value
        return None

    return value


def serve(metrics: Metrics, **more: object) -> None:
    facts = {"dialect": "openai_chat", "outcome": "ok", "duration_s": 3.0, "neuron": "n1", **more}
    metrics.request_done(Done(metrics.request_began("small"), **facts))  # type: ignore[arg-type]


def test_what_a_resident_has_to_do_is_told_as_it_stands(metrics: Metrics, read: Read) -> None:
    metrics.serving([ModelLoad(id="small", in_flight=2, queue=3, kv_tokens_used=25, kv_tokens_total=100)])
    assert read("num_requests_running") == 2
    assert read("num_requests_waiting") == 3
    assert read("kv_cache_usage_perc") == read("gpu_cache_usage_perc") == 0.25
    metrics.serving([])
    assert read("num_requests_running") is None


def test_a_cache_that_is_somebody_elses_is_not_told(metrics: Metrics, read: Read) -> None:
    metrics.serving([ModelLoad(id="small", in_flight=1)])
    assert read("num_requests_running") == 1
    assert read("kv_cache_usage_perc") is None


def test_tokens_and_times_are_those_of_the_requests(metrics: Metrics, read: Read) -> None:
    serve(metrics, ttft_s=1.0, queue_s=0.5, usage=Usage(prompt=100, cached=60, completion=11), stop="stop")
    assert read("prompt_tokens_total") == read("prefix_cache_queries_total") == 100
    assert read("prefix_cache_hits_total") == 60
    assert read("generation_tokens_total") == 11
    assert read("time_to_first_token_seconds_sum") == 1.0
    assert read("time_to_first_token_seconds_bucket", le="1.0") == 1
    assert read("time_to_first_token_seconds_bucket", le="0.75") == 0
    assert read("e2e_request_latency_seconds_sum") == 3.0
    assert read("request_queue_time_seconds_sum") == 0.5


def test_each_token_counts_at_the_mean_of_its_request(metrics: Metrics, read: Read) -> None:
    serve(metrics, ttft_s=1.0, usage=Usage(completion=11))  # ten after the first within two seconds
    serve(metrics, ttft_s=1.0, usage=Usage(completion=101))
    for name in ("inter_token_latency_seconds", "time_per_output_token_seconds"):
        assert read(f"{name}_count") == 110
        assert read(f"{name}_sum") == pytest.approx(4.0)
        assert read(f"{name}_bucket", le="0.025") == 100
        assert read(f"{name}_bucket", le="0.2") == 110
        assert read(f"{name}_bucket", le="+Inf") == 110
    assert read("request_time_per_output_token_seconds_count") == 2


def test_requests_are_told_by_why_they_finished(metrics: Metrics, read: Read) -> None:
    for stop in ("stop", "tool_calls", "length"):
        serve(metrics, queue_s=0.0, stop=stop)
    serve(metrics, outcome="hung_up", queue_s=0.0)
    serve(metrics, outcome="cut", queue_s=0.0)
    serve(metrics, outcome="caller")
    assert read("request_success_total", finished_reason="stop") == 2
    assert read("request_success_total", finished_reason="length") == 1
    assert read("request_success_total", finished_reason="abort") == 2
    assert read("e2e_request_latency_seconds_count") == 5, "who was refused was never there"


def test_a_gateway_is_no_engine_and_says_nothing_so(metrics: Metrics) -> None:
    gateway = Metrics(lambda _: True)
    gateway.serving([ModelLoad(id="small", in_flight=2)])
    assert b"vllm:" not in gateway.render()
