"""Several pages of metrics as one."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cortex.metrics import Metrics
from cortex.metrics.joining import LEAST, MOST, SUMMED, rule_of
from cortex.workers.pages import added, kept, without

ODD = 'a "b\\c\u2028 } 1\nd'


def page(count: float, waiting: float, up: float, *spans: float) -> bytes:
    registry = CollectorRegistry()
    Counter("cortex_requests_total", "r", ["model"], registry=registry).labels(ODD).inc(count)
    Gauge("cortex_waiting", "w", registry=registry).set(waiting)
    Gauge("cortex_neuron_up", "u", ["neuron"], registry=registry).labels("n").set(up)
    Gauge("cortex_models_unservable", "m", registry=registry).set(count)
    histogram = Histogram("cortex_queue_seconds", "q", buckets=(1, 2), registry=registry)
    for span in spans:
        histogram.observe(span)
    return generate_latest(registry)


def values(page: bytes) -> dict[str, float]:
    """Samples by name and bucket; the one odd label is looked at where it is."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            assert sample.labels.get("model", ODD) == ODD
            found[sample.name + sample.labels.get("le", "")] = sample.value
    return found


def test_counters_and_histograms_are_sums_and_gauges_what_they_mean() -> None:
    whole = values(added([page(3, 2, 1, 0.5, 1.5), page(4, 5, 0, 9.0)], rule_of))
    assert whole["cortex_requests_total"] == 7
    assert whole["cortex_waiting"] == 7, "who waits does so at one of them"
    assert whole["cortex_neuron_up"] == 0, "one of them does not reach it"
    assert whole["cortex_models_unservable"] == 4, "both look at the same fleet"
    assert (whole["cortex_queue_seconds_bucket1.0"], whole["cortex_queue_seconds_bucket2.0"]) == (1, 2)
    assert (whole["cortex_queue_seconds_bucket+Inf"], whole["cortex_queue_seconds_count"]) == (3, 3)
    assert whole["cortex_queue_seconds_sum"] == 11


def test_a_worker_that_runs_out_of_descriptors_shows_though_the_others_have_many() -> None:
    """The alert is on the part of them that is in use."""

    def descriptors(used: int) -> bytes:
        registry = CollectorRegistry()
        Gauge("process_open_fds", "o", registry=registry).set(used)
        Gauge("process_max_fds", "m", registry=registry).set(100)
        return generate_latest(registry)

    whole = values(added([descriptors(95), descriptors(5), descriptors(5)], rule_of))
    assert whole["process_open_fds"] / whole["process_max_fds"] > 0.8


def test_of_who_is_gone_the_counts_stay_and_the_gauges_go() -> None:
    left = kept([kept([b"", page(3, 2, 1, 0.5)]), page(4, 5, 0)])
    assert "cortex_waiting" not in values(left)
    whole = values(added([page(1, 1, 1), left], rule_of))
    assert (whole["cortex_requests_total"], whole["cortex_waiting"]) == (8, 1)
    assert whole["cortex_queue_seconds_count"] == 1


def test_one_page_alone_reads_as_it_was() -> None:
    alone = page(3, 2, 1, 0.5)
    assert values(added([alone], rule_of)) == values(alone)
    assert values(without(alone, lambda sample: "neuron=" in sample)).keys() == (
        values(alone).keys() - {"cortex_neuron_up"}
    )


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "1.5e-07", "3.0"])
def test_a_number_of_any_form_is_written_as_it_is_read(text: str) -> None:
    alone = f"# HELP g x\n# TYPE g gauge\ng {text}\n".encode()
    assert added([alone], rule_of) == alone


def test_it_is_said_of_every_gauge_of_a_gateway_what_becomes_of_it() -> None:
    """One that is added has to be thought of: whether several processes that tell it have it together."""
    families = text_string_to_metric_families(Metrics(lambda model: True).render().decode())
    gauges = {family.name for family in families if family.type == "gauge"}
    assert gauges <= SUMMED | LEAST | MOST
    assert not (SUMMED & LEAST or SUMMED & MOST or LEAST & MOST)
    assert {name for name in SUMMED | LEAST | MOST if name not in gauges} == set()
