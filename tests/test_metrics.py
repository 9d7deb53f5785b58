"""What Prometheus reads, and what it costs to count."""

import re
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping

import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cortex import __version__
from cortex.errors import NotHereNow, Overloaded, Unreachable
from cortex.events import Usage
from cortex.metrics import CONTENT_TYPE, Done, Metrics
from cortex.web.lag import EVERY_S, watch_lag
from cortex.web.scrape import Scrape
from cortex.wire.neuron import DeviceHealth


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics({"small", "big"}.__contains__, clock=clock)


def done(model: str = "small", **more: object) -> Done:
    facts = {"dialect": "openai_chat", "outcome": "ok", "neuron": "a", "duration_s": 1.0, **more}
    return Done(model=model, **facts)  # type: ignore[arg-type]


def serve(metrics: Metrics, finished: Done) -> None:
    metrics.request_began(finished.model)
    metrics.request_done(finished)


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


@pytest.fixture
def read(metrics: Metrics, clock: Clock) -> Callable[..., float | None]:
    """The value of one sample on a fresh page; None when it is not there."""

    def value(name: str, **labels: str) -> float | None:
        clock.now += 10
        return samples(metrics.render()).get((f"cortex_{name}", tuple(sorted(labels.items()))))

    return value


Read = Callable[..., float | None]


def test_a_request_is_in_flight_from_arrival_to_end(metrics: Metrics, read: Read) -> None:
    metrics.neuron_reported("a", [], {})
    metrics.request_began("small")
    assert read("in_flight", model="small") == 1
    assert read("requests_total", model="small", neuron="a", dialect="openai_chat", outcome="ok") is None
    metrics.request_done(done())
    assert read("in_flight", model="small") == 0
    assert read("requests_total", model="small", neuron="a", dialect="openai_chat", outcome="ok") == 1


def test_a_finished_request_feeds_every_figure_once(metrics: Metrics, read: Read) -> None:
    metrics.neuron_reported("a", [], {})
    usage = Usage(prompt=100, cached=60, completion=11)
    serve(metrics, done(duration_s=3.0, ttft_s=1.0, queue_s=0.25, usage=usage))
    assert read("request_duration_seconds_sum", model="small") == 3
    assert read("time_to_first_token_seconds_sum", model="small") == 1
    assert read("queue_seconds_sum", model="small") == 0.25
    # Ten tokens after the first within two seconds.
    assert read("time_per_output_token_seconds_sum", model="small") == pytest.approx(0.2)
    assert read("tokens_per_second_sum", model="small") == pytest.approx(5)
    assert read("tokens_per_second_bucket", model="small", le="5.0") == 1
    assert read("tokens_per_second_bucket", model="small", le="2.0") == 0
    for kind, count in (("prompt", 100), ("cached_prompt", 60), ("completion", 11)):
        assert read(f"{kind}_tokens_total", model="small", neuron="a") == count


@pytest.mark.parametrize(
    ("ttft_s", "completion", "speeds"),
    [(None, 0, 0), (0.5, 1, 0), (0.5, 2, 1), (1.0, 50, 0)],
    ids=["no token came", "only one came", "two came", "all came at once"],
)
def test_speed_is_told_only_where_there_was_one(
    metrics: Metrics, read: Read, ttft_s: float | None, completion: int, speeds: int
) -> None:
    serve(metrics, done(duration_s=1.0, ttft_s=ttft_s, usage=Usage(completion=completion)))
    assert read("tokens_per_second_count", model="small") == speeds
    assert read("time_per_output_token_seconds_count", model="small") == speeds
    assert read("time_to_first_token_seconds_count", model="small") == (0 if ttft_s is None else 1)
    assert read("queue_seconds_count", model="small") == 0


def test_models_that_nobody_knows_count_as_other(metrics: Metrics, read: Read) -> None:
    metrics.neuron_reported("a", [], {})
    serve(metrics, done("invented\n"))
    serve(metrics, done("invented too"))
    assert read("requests_total", model="other", neuron="a", dialect="openai_chat", outcome="ok") == 2
    assert read("in_flight", model="other") == 0
    assert read("in_flight", model="invented too") is None


def test_ten_thousand_invented_names_add_nothing_to_the_page(metrics: Metrics, clock: Clock) -> None:
    """faults.md row 54."""
    metrics.neuron_reported("a", [], {"x": 1})
    serve(metrics, done("x"))
    before = len(samples(metrics.render()))
    for n in range(10_000):
        serve(metrics, done(f"x{n}"))
        metrics.cold_start(f"x{n}")
        metrics.loaded(f"x{n}", 1.0)
    metrics.neuron_reported("a", [], {f"x{n}": 1 for n in range(1000)})
    clock.now += 10
    assert len(samples(metrics.render())) == before
    assert before < 500


def test_every_sample_is_one_that_an_operator_asked_for(metrics: Metrics) -> None:
    serve(metrics, done())
    names = {name for name, _ in samples(metrics.render())}
    assert not [name for name in names if name.endswith("_created")]
    assert all(name.startswith(("cortex_", "process_")) for name in names)


def test_refusals_and_second_tries_are_counted_by_their_code(metrics: Metrics, read: Read) -> None:
    metrics.rejected(Overloaded("full"))
    metrics.rejected(Overloaded("full"))
    metrics.retried(Unreachable("gone"))
    metrics.retried(NotHereNow("moved"))
    assert read("rejections_total", reason="overloaded") == 2
    assert read("retries_total", reason="unsent") == 1
    assert read("retries_total", reason="not_here_now") == 1


def test_what_happens_to_models_is_counted(metrics: Metrics, read: Read) -> None:
    metrics.cold_start("big")
    metrics.loaded("big", 12.5)
    metrics.evicted("room")
    assert read("cold_starts_total", model="big") == 1
    assert read("load_seconds_sum", model="big") == 12.5
    assert read("evictions_total", reason="room") == 1


def test_who_waits_is_shown_by_model_until_he_does_not(metrics: Metrics, read: Read) -> None:
    with metrics.waiting("big"), metrics.waiting("big"), metrics.waiting("invented"):
        assert read("waiting", model="big") == 2
        assert read("waiting", model="other") == 1
    assert read("waiting", model="big") == 0


GPU = DeviceHealth(
    name="cuda:0", memory_total=100, memory_used=60, memory_free=40, utilization=0.5, temperature=70.0
)
CPU = DeviceHealth(name="cpu", memory_total=50)


def test_a_report_says_all_there_is_of_a_neuron(metrics: Metrics, read: Read) -> None:
    metrics.neuron_reported("a", [GPU, CPU], {"small": 10, "big": 20, "odd": 3, "odder": 4})
    metrics.neuron_reported("b", [CPU], {"small": 5})
    assert read("neuron_up", neuron="a") == 1
    for kind, count in (("total", 100), ("used", 60), ("free", 40)):
        assert read("device_memory_bytes", neuron="a", device="cuda:0", kind=kind) == count
    assert read("device_utilization_ratio", neuron="a", device="cuda:0") == 0.5
    assert read("device_temperature_celsius", neuron="a", device="cuda:0") == 70
    assert read("device_temperature_celsius", neuron="a", device="cpu") is None
    assert read("resident_bytes", neuron="a", model="big") == 20
    assert read("resident_bytes", neuron="a", model="other") == 7

    metrics.neuron_reported("a", [CPU], {"small": 11})
    assert read("resident_bytes", neuron="a", model="small") == 11
    assert read("resident_bytes", neuron="a", model="big") is None
    assert read("resident_bytes", neuron="b", model="small") == 5
    assert read("device_memory_bytes", neuron="a", device="cuda:0", kind="used") is None
    assert read("device_utilization_ratio", neuron="a", device="cuda:0") is None


def test_an_away_neuron_shows_only_that_it_is_away(metrics: Metrics, read: Read) -> None:
    metrics.neuron_reported("a", [GPU], {"small": 10})
    metrics.neuron_away("a")
    assert read("neuron_up", neuron="a") == 0
    assert read("device_memory_bytes", neuron="a", device="cuda:0", kind="used") is None
    assert read("resident_bytes", neuron="a", model="small") is None
    metrics.neuron_away("a")
    metrics.neuron_gone("a")
    assert read("neuron_up", neuron="a") is None
    metrics.neuron_gone("a")


def test_lost_log_records_are_shown_as_they_stand_at_the_scrape() -> None:
    """faults.md row 92."""
    lost = iter([3, 5])
    clock = Clock()
    metrics = Metrics(lambda _: True, dropped_records=lambda: next(lost), clock=clock)
    assert samples(metrics.render())[("cortex_log_records_dropped_total", ())] == 3
    clock.now += 2
    assert samples(metrics.render())[("cortex_log_records_dropped_total", ())] == 5


def test_a_page_that_is_made_in_slices_is_what_the_library_makes_at_once(clock: Clock) -> None:
    metrics = Metrics(lambda name: True, clock=clock)
    for number in range(150):
        serve(metrics, done(f"m{number}", neuron=f"n{number}", ttft_s=0.1, queue_s=0.2))
    own = {b"process", b"cortex_log"}  # which go on meanwhile
    whole = [line for line in generate_latest(metrics._registry).splitlines() if b"_created" not in line]
    made = metrics.render().splitlines()
    assert len(made) > 5000
    assert [line for line in made if line.split(b"_")[0] not in own] == [
        line for line in whole if line.split(b"_")[0] not in own
    ]
    types = [line for line in made if line.startswith(b"# TYPE")]
    assert len(types) == len(set(types))


def test_a_storm_of_scrapes_renders_once_a_second(metrics: Metrics, clock: Clock) -> None:
    """faults.md row 91."""
    first = metrics.render()
    metrics.evicted("idle")
    clock.now += 0.99
    assert metrics.render() is first
    clock.now += 0.02
    assert metrics.render() != first


def test_what_may_never_happen_reads_zero_until_it_does(metrics: Metrics, read: Read) -> None:
    """Prometheus sees no increase in a series that begins with its first happening."""
    assert read("evictions_total", reason="room") == 0
    assert read("device_faults_total", kind="sticky") == 0
    assert read("client_aborts_total", phase="stall") == 0
    assert read("rejections_total", reason="auth_rate") == 0
    assert read("config_faults") == 0


def test_two_roles_in_one_process_do_not_share_figures(metrics: Metrics) -> None:
    other = Metrics(lambda _: True)
    other.evicted("idle")
    assert samples(metrics.render())[("cortex_evictions_total", (("reason", "idle"),))] == 0


# -- the page as an ASGI application


async def get(
    app: Scrape, path: str = "/metrics", method: str = "GET"
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[MutableMapping[str, object]] = []

    async def receive() -> MutableMapping[str, object]:
        return {"type": "http.request"}

    async def send(message: MutableMapping[str, object]) -> None:
        sent.append(message)

    await app({"type": "http", "path": path, "method": method}, receive, send)
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]  # type: ignore[return-value,call-overload]


async def test_the_page_is_served_with_its_type_and_length(metrics: Metrics) -> None:
    status, headers, body = await get(Scrape(metrics))
    assert status == 200
    assert headers[b"content-type"] == CONTENT_TYPE.encode()
    assert headers[b"content-length"] == str(len(body)).encode()
    assert ("cortex_connection_crashes_total", ()) in samples(body)


@pytest.mark.parametrize(("path", "method"), [("/", "GET"), ("/metrics/", "GET"), ("/metrics", "POST")])
async def test_nothing_else_is_on_the_metrics_listener(metrics: Metrics, path: str, method: str) -> None:
    assert (await get(Scrape(metrics), path, method))[0] == 404


async def test_scrapes_at_once_are_rendered_off_the_loop_and_one_at_a_time(clock: Clock) -> None:
    """faults.md row 91."""
    threads: list[int] = []
    together, most = 0, 0

    class Slow(Metrics):
        def render(self) -> bytes:
            nonlocal together, most
            together += 1
            most = max(most, together)
            threads.append(threading.get_ident())
            try:
                return super().render()
            finally:
                together -= 1

    app = Scrape(Slow(lambda _: True, clock=clock))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(get, app)
    assert most == 1
    assert threading.get_ident() not in threads


async def test_a_scrape_while_requests_run_sees_a_whole_page(clock: Clock) -> None:
    """Rendering happens in a thread, and labels appear meanwhile."""
    metrics = Metrics(lambda _: True, clock=clock)
    pages: list[bytes] = []

    async def scrape(app: Scrape) -> None:
        for _ in range(20):
            clock.now += 2
            pages.append((await get(app))[2])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape, Scrape(metrics))
            for n in range(500):
                serve(metrics, done(f"m{n % 50}", ttft_s=0.1))
                metrics.neuron_reported("a", [GPU], {f"m{n % 7}": n})
                await trio.lowlevel.checkpoint()
    assert len(pages) == 20
    assert all(samples(page) for page in pages)


def names_of(page: bytes) -> Iterator[str]:
    return (name for name, _ in samples(page))


PROMISED = (
    "requests",
    "request_duration_seconds",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "tokens_per_second",
    "prompt_tokens",
    "cached_prompt_tokens",
    "completion_tokens",
    "queue_seconds",
    "cold_starts",
    "load_seconds",
    "evictions",
    "retries",
    "rejections",
    "in_flight",
    "waiting",
    "neuron_up",
    "device_memory_bytes",
    "device_utilization_ratio",
    "device_temperature_celsius",
    "resident_bytes",
    "log_records_dropped",
)


def test_the_names_are_those_that_the_documentation_promises(metrics: Metrics) -> None:
    serve(metrics, done(ttft_s=0.1, queue_s=0.0, usage=Usage(prompt=1, cached=1, completion=3)))
    metrics.cold_start("big")
    metrics.loaded("big", 1.0)
    metrics.evicted("room")
    metrics.rejected(Overloaded("full"))
    metrics.retried(Unreachable("gone"))
    metrics.neuron_reported("a", [GPU], {"small": 1})
    suffixes = ("_total", "_bucket", "_sum", "_count", "")
    found = set(names_of(metrics.render()))
    for name in PROMISED:
        assert any(f"cortex_{name}{suffix}" in found for suffix in suffixes), name


def test_a_load_under_way_is_read_at_the_scrape(metrics: Metrics, read: Read) -> None:
    loads: list[str] = []
    metrics.loads_from(lambda: len(loads))
    assert read("loads_in_flight") == 0
    loads.append("big")
    assert read("loads_in_flight") == 1


def test_a_device_that_serves_no_more_is_down_and_not_gone(metrics: Metrics, read: Read) -> None:
    lost = DeviceHealth(name="cuda:0", poisoned=True)
    metrics.neuron_reported("a", [lost, DeviceHealth(name="cuda:1", absent=True), CPU], {})
    assert read("device_up", neuron="a", device="cuda:0") == 0
    assert read("device_up", neuron="a", device="cuda:1") == 0
    assert read("device_up", neuron="a", device="cpu") == 1


def test_a_floor_that_rose_is_shown_until_it_falls(metrics: Metrics, read: Read) -> None:
    metrics.floor_rose("cuda:0", 2**20)
    assert read("device_leaked_bytes", device="cuda:0") == 2**20
    metrics.floor_rose("cuda:0", 0)
    assert read("device_leaked_bytes", device="cuda:0") == 0


def test_models_that_nobody_can_serve_and_those_in_quarantine_are_told_as_they_stand(
    metrics: Metrics, read: Read
) -> None:
    metrics.unservable(2)
    metrics.quarantined(1)
    assert (read("models_unservable"), read("models_quarantined")) == (2, 1)
    metrics.refused_files(3)
    assert read("config_faults") == 3
    metrics.quarantined(0)
    assert read("models_quarantined") == 0


def test_who_is_tried_out_again_is_shown_until_he_is_trusted(metrics: Metrics, read: Read) -> None:
    metrics.on_probation("a", tried=True)
    assert read("neuron_probation", neuron="a") == 1
    metrics.on_probation("a", tried=False)
    assert read("neuron_probation", neuron="a") == 0


def test_build_and_process_are_on_the_page(metrics: Metrics) -> None:
    page = metrics.render().decode()
    assert f'version="{__version__}"' in page and 'role="gateway"' in page
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "start_time_seconds"):
        assert re.search(rf"^process_{name} [1-9]", page, re.M), name


def test_lag_of_the_loop_goes_into_its_histogram(metrics: Metrics, read: Read) -> None:
    metrics.lagged(0.03)
    assert read("loop_lag_seconds_bucket", le="0.05") == 1
    assert read("loop_lag_seconds_bucket", le="0.02") == 0


async def test_a_loop_at_rest_has_no_lag(autojump_clock) -> None:
    told: list[float] = []
    with trio.move_on_after(2 * EVERY_S + 0.01):
        await watch_lag(told.append)
    assert told == [0.0, 0.0]


async def test_a_hog_on_the_loop_is_measured() -> None:
    told: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_lag, told.append)
        await trio.sleep(EVERY_S - 0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - it is the hog
        while not told:  # noqa: ASYNC110 - it tells nobody else
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert told[0] >= 0.1
