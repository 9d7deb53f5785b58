"""No name that somebody invents makes the page grow; faults.md row 54."""

import time
from random import Random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cortex.errors import CortexError, Overloaded, TooSlow, UpstreamFailed, named
from cortex.metrics import OTHER, Done, Metrics, Role
from cortex.metrics.page import MOST_MODELS
from cortex.metrics.traffic import MOST_KEYS, MOST_NEURONS
from cortex.wire.neuron import DeviceHealth, ModelLoad

MODELS = [f"model-{number}" for number in range(20)]


def series(metrics: Metrics) -> int:
    families = text_string_to_metric_families(metrics.render().decode())
    return sum(len(family.samples) for family in families)


def made(role: Role = "gateway") -> Metrics:
    return Metrics(frozenset(MODELS).__contains__, role=role, clock=iter(range(0, 10**9, 10)).__next__)


def done(model: str, **more: object) -> Done:
    return Done(model, "openai_chat", "caller", 0.01, **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_million_random_models_are_one_series_and_a_quick_scrape() -> None:
    metrics, chance = made(), Random(54)
    for model in MODELS:
        metrics.request_began(model)
        metrics.request_done(done(model, neuron="n1"))
    metrics.request_done(done("x"))
    before = series(metrics)
    for _ in range(1_000_000):
        assert metrics._label(chance.randbytes(6).hex()) == OTHER
    # As a request does it, with every name that it carries.
    for _ in range(20_000):
        name = chance.randbytes(20).decode("latin-1")
        label = metrics.request_began(name)
        with metrics.waiting(label):
            metrics.request_done(done(label, ttft_s=0.001, queue_s=0.001))
        metrics.cold_start(name)
        metrics.load_failed(name, Overloaded(name))
        metrics.rejected(named(name, 503, name))
        metrics.upstream_failed("n1", CortexError(name, reason=name))
    assert series(metrics) - before < 10
    assert series(metrics) <= 5_000
    began = time.process_time()
    page = metrics.render()
    assert time.process_time() - began < 1.0  # a bound for a hog, not a measurement
    assert len(page) < 2**20


def test_keys_beyond_any_list_of_them_are_others() -> None:
    metrics = made()
    for number in range(MOST_KEYS + 500):
        metrics.request_began("model-1")
        metrics.request_done(done("model-1", key=f"key-{number}"))
    page = metrics.render().decode()
    assert page.count("\ncortex_key_requests_total{") == MOST_KEYS + 1
    assert f'cortex_key_requests_total{{key="{OTHER}",outcome="caller"}} 500.0' in page
    metrics.key_days({f"key-{number}": (1, 2) for number in range(MOST_KEYS + 500)})
    assert metrics.render().decode().count("\ncortex_key_day_tokens{") == MOST_KEYS


def test_keys_that_are_replaced_by_others_leave_nothing() -> None:
    """Whoever changes keys every day has had more than there is room for within a year."""
    metrics = made()
    metrics.request_began("model-1")
    metrics.request_done(done("model-1"))
    before = series(metrics)
    for number in range(2 * MOST_KEYS):
        metrics.request_began("model-1")
        metrics.request_done(done("model-1", key=f"key-{number}"))
        if number % 100 == 0:
            metrics.keys_are({f"key-{number}"})
    metrics.keys_are({"the last"})
    assert series(metrics) == before
    metrics.request_began("model-1")
    metrics.request_done(done("model-1", key="the last"))
    assert 'cortex_key_tokens_total{key="the last"}' in metrics.render().decode()


def test_what_requests_are_counted_by_is_found_again_while_the_keys_are_the_same() -> None:
    """It is told every few seconds who there is."""
    metrics = made()

    def row(key: str) -> object:
        metrics.request_began("model-1")
        told = done("model-1", key=key)
        metrics.request_done(told)
        return metrics.row(told.model, told.neuron, told.dialect, told.outcome, told.key)

    known = {f"key-{number}" for number in range(MOST_KEYS + 1)}
    for name in known - {"key-0"}:
        row(name)
    last, beyond = row("key-1"), row("key-0")
    metrics.keys_are(known)
    assert row("key-1") is last and row("key-0") is beyond
    metrics.keys_are(known - {"key-1"})
    assert row("key-0") is not beyond
    page = metrics.render().decode()
    assert 'cortex_key_requests_total{key="key-0",outcome="caller"} 1.0' in page and '"key-1"' not in page


def test_a_neuron_counts_nothing_by_keys_of_which_only_gateways_know() -> None:
    metrics = made("neuron")
    metrics.request_began("model-1")
    metrics.request_done(done("model-1"))
    assert "\ncortex_key_requests_total{" not in metrics.render().decode()


def test_neurons_beyond_any_fleet_are_others_and_have_no_gauges() -> None:
    metrics = made()
    for number in range(MOST_NEURONS + 100):
        metrics.neuron_reported(f"n{number}", [DeviceHealth(name="cpu")], {})
        metrics.neuron_away(f"n{number}")
        metrics.on_probation(f"n{number}", tried=True)
        metrics.ejected(f"n{number}", "silent")
    page = metrics.render().decode()
    for gauge in ("neuron_up", "neuron_probation"):
        assert page.count(f"\ncortex_{gauge}{{") == MOST_NEURONS
    assert f'cortex_ejections_total{{neuron="{OTHER}",reason="silent"}} 100.0' in page


def test_neurons_that_come_and_go_under_ever_new_names_leave_nothing() -> None:
    """Discovery by DNS gives every pod a name of its own."""
    metrics = made()
    metrics.request_began("model-1")
    metrics.request_done(done("model-1"))
    metrics.upstream_failed("none")
    metrics.ejected("none", "failing")
    before = series(metrics)
    for number in range(2_000):
        pod = f"neuron-{number:x}"
        metrics.neuron_reported(pod, [DeviceHealth(name="cpu")], {"model-1": 1})
        metrics.request_began("model-1")
        metrics.request_done(done("model-1", neuron=pod))
        metrics.upstream_failed(pod, TooSlow("x"))
        metrics.ejected(pod, "silent")
        metrics.on_probation(pod, tried=True)
        metrics.neuron_gone(pod)
    assert series(metrics) == before
    metrics.neuron_reported("the 2001st", [], {})
    assert 'cortex_neuron_up{neuron="the 2001st"} 1.0' in metrics.render().decode()


def test_what_ends_after_its_neuron_left_does_not_take_its_name_again() -> None:
    """A request ends in the books a moment after it gave its seat back, which its neuron waited for."""
    metrics = made()
    metrics.neuron_reported("pod", [], {})
    for known in (True, False):
        metrics.request_began("model-1")
        metrics.request_done(done("model-1", neuron="pod"))
        metrics.upstream_failed("pod")
        page = metrics.render().decode()
        assert ('neuron="pod"' in page) is known
        assert (
            f'cortex_upstream_failures_total{{kind="engine",neuron="{"pod" if known else OTHER}"}} 1.0'
            in page
        )
        metrics.neuron_gone("pod")


def test_models_beyond_any_choice_are_others() -> None:
    metrics = Metrics(lambda model: True)
    for number in range(MOST_MODELS + 20):
        metrics.load_failed(f"m{number}", TooSlow("x"))
    page = metrics.render().decode()
    assert page.count("\ncortex_load_failures_total{") == MOST_MODELS + 1
    assert f'cortex_load_failures_total{{model="{OTHER}",reason="upstream_timeout"}} 20.0' in page


def test_kinds_of_failure_are_a_closed_set() -> None:
    metrics = made()
    metrics.neuron_reported("n1", [], {})
    metrics.upstream_failed("n1", UpstreamFailed("x", reason="no_end"))
    metrics.upstream_failed("n1", UpstreamFailed("x", reason="invented"))
    metrics.upstream_failed("n1")
    page = metrics.render().decode()
    assert 'cortex_upstream_failures_total{kind="no_end",neuron="n1"} 1.0' in page
    assert 'cortex_upstream_failures_total{kind="engine",neuron="n1"} 2.0' in page


def test_models_of_a_neuron_are_closed_in_vllms_names_too() -> None:
    metrics = made("neuron")
    for number in range(1_000):
        metrics.request_began(f"x{number}")
        metrics.request_done(done(f"x{number}"))
    metrics.serving([ModelLoad(id=f"x{number}", in_flight=1) for number in range(1_000)])
    page = metrics.render().decode()
    assert page.count("\nvllm:prompt_tokens_total{") == page.count("\nvllm:num_requests_running{") == 1
    assert f'vllm:num_requests_running{{model_name="{OTHER}"}} 1000.0' in page
