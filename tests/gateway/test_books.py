"""What metrics and log say after known traffic; and what they never say."""

import io
import logging
import re
from random import Random

import pytest
import trio

from cortex import logs
from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import (
    DONE,
    FULL,
    OPENING,
    QUICK,
    STREAMED,
    WHOLE,
    WORDS,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Close, Wait, chunks, last_chunk, whole
from tests.fake_web import ask
from tests.figures import later, page_of
from tests.roles import MIB, patient

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_each_request_is_counted_once_by_what_became_of_it() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        for said in (WHOLE, WHOLE, STREAMED):
            neuron.then(said)
            await gateway.ask(stream=said is STREAMED)
        await gateway.http.post("/v1/completions", content=body())
        neuron.then(refusal(400, "unsupported_parameter"))
        await gateway.ask()
        neuron.then(refusal(503, "no_capacity", "retry-after: 1"))
        await gateway.ask()
        neuron.then(Close())
        await gateway.ask()
        neuron.then(STREAM_HEAD + chunks(OPENING, WORDS[0]) + last_chunk())
        await gateway.ask(stream=True)
        await gateway.ask("unknown")
        await gateway.http.post(CHAT, content=b'{"model":')
        page = await page_of(gateway)
        chat = {"model": "a", "neuron": "n1", "dialect": "openai_chat"}
        assert page("requests_total", **chat, outcome="ok") == 3
        assert page("requests_total", **{**chat, "dialect": "openai_text"}, outcome="ok") == 1
        assert page("requests_total", **chat, outcome="caller") == 1
        assert page("requests_total", **chat, outcome="cortex") == 1
        assert page("requests_total", **chat, outcome="engine") == 2
        assert page("requests_total", model="other", neuron="none", outcome="caller") == 2
        assert page("requests_total") == 10
        assert page("request_duration_seconds_count") == 10
        assert page("request_duration_seconds_count", model="a") == 8
        assert page("rejections_total", reason="model_not_found") == 1
        assert page("rejections_total", reason="invalid_request") == 1
        assert page("in_flight", model="a") == page("in_flight", model="other") == page("waiting") == 0


async def test_tokens_come_from_the_neurons_own_count() -> None:
    """From the trailer of a stream, from the body of a whole answer; else one for each content event."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAMED)  # 7 prompt, 2 of them cached, 3 completion
        await gateway.ask(stream=True)
        neuron.then(WHOLE)  # 7 and 3
        await gateway.ask()
        neuron.then(STREAM_HEAD + chunks(OPENING, *WORDS, WORDS[0], DONE) + last_chunk())  # 4 events
        await gateway.ask(stream=True)
        page = await page_of(gateway)
        where = {"model": "a", "neuron": "n1"}
        assert page("prompt_tokens_total", **where) == 14
        assert page("cached_prompt_tokens_total", **where) == 2
        assert page("completion_tokens_total", **where) == 3 + 3 + 4


async def test_times_are_those_of_the_client() -> None:
    """TTFT from arrival to the first content, duration to the end of the stream, one rate a request."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        first, last = trio.Event(), trio.Event()
        neuron.then(
            STREAM_HEAD,
            chunks(OPENING),
            Wait(first),
            chunks(*WORDS),
            Wait(last),
            chunks(DONE),
            last_chunk("x-cortex-usage: prompt=7,cached=0,completion=3"),
        )
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True)))
        await client.until(OPENING)
        await trio.sleep(0.12)
        first.set()
        await client.until(WORDS[-1])
        await trio.sleep(0.2)
        last.set()
        await client.until(b"\r\n0\r\n\r\n")
        page = await page_of(gateway)
        assert page("time_to_first_token_seconds_count", model="a") == 1
        ttft = page("time_to_first_token_seconds_sum", model="a")
        duration = page("request_duration_seconds_sum", model="a")
        assert 0.12 <= ttft < duration - 0.2
        token = page("time_per_output_token_seconds_sum", model="a")
        assert token == pytest.approx((duration - ttft) / 2, rel=0.01)
        assert page("tokens_per_second_count", model="a") == 1
        assert page("tokens_per_second_sum", model="a") == pytest.approx(1 / token, rel=0.01)
        assert 0 <= page("queue_seconds_sum", model="a") <= ttft - 0.12


async def test_loads_evictions_and_waits_are_counted() -> None:
    async with fake_neuron() as neuron:
        neuron.memory = 3 * MIB // 2
        async with open_gateway(neuron, catalogue=["a", "b"]) as gateway:
            for model in ("a", "b", "b", "a"):
                assert (await gateway.ask(model)).status_code == 200
                neuron.has(model, age_s=100)
                await neuron.polled()
            page = await page_of(gateway)
            assert page("cold_starts_total", model="a") == 2
            assert page("cold_starts_total", model="b") == 1
            assert page("load_seconds_count", model="a") == 2
            assert page("evictions_total", reason="room") == 2


async def test_a_request_that_waits_counts_as_waiting_and_as_in_flight() -> None:
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            for _ in range(3):
                await (await gateway.dial()).send(ask(CHAT, body()))
            await gateway.knows(lambda ledger: ledger.waiting == 3)
            page = await page_of(gateway)
            assert page("waiting") == page("in_flight", model="a") == 3
            neuron.loading.set()
            for client in gateway.clients:
                assert (await client.answer()).status == 200
            page = await later(gateway, lambda page: page("waiting") == 0)
            assert page("in_flight", model="a") == 0


async def test_a_wait_that_was_too_long_counts_as_rejected() -> None:
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"], config=patient(load_s=0.1)) as gateway:
            for _ in range(3):
                assert (await gateway.ask()).status_code == 503
            page = await later(gateway, lambda page: page("rejections_total", reason="model_loading") == 3)
            assert page("waiting") == page("in_flight", model="a") == 0


async def test_a_thousand_invented_models_make_no_series() -> None:
    """Row 54: nor do dialects, methods, paths or ids of their own."""
    chance = Random(54)
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        for model in ("a", "unknown"):
            await gateway.ask(model)
        before = len((await page_of(gateway)).samples)
        client = await gateway.dial()
        for number in range(1000):
            name = "".join(chr(chance.randrange(33, 1000)) for _ in range(chance.randrange(2, 40)))
            sent = body(name.replace('"', "x") if number % 2 else f"model-{number}")
            await client.send(ask(CHAT, sent, x_request_id=f"id-{number}"))
            assert (await client.answer()).status in (400, 404)
        page = await later(gateway, lambda page: page("requests_total", model="other") == 1001)
        assert page.labels("model") == {"a", "other"}
        assert len(page.samples) < before + 5


async def test_models_that_only_a_neuron_has_are_labels_too() -> None:
    async with fake_neuron("resident", known=["known"]) as neuron, open_gateway(neuron) as gateway:
        for model in ("resident", "known"):
            assert (await gateway.ask(model)).status_code == 200
        assert (await page_of(gateway)).labels("model") == {"resident", "known"}


async def test_lost_log_records_are_counted() -> None:
    class Stuck(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError("nobody reads")

    root = logging.getLogger()
    level = root.level
    outlet = logs.configure("info", "text", Stuck())
    try:
        async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
            while not logs.dropped():  # noqa: ASYNC110 - a thread of its own loses them
                await trio.sleep(0.005)
            page = await page_of(gateway)
            assert page("log_records_dropped_total") >= 1
    finally:
        root.removeHandler(outlet)
        root.setLevel(level)
        outlet.close()


# -- the log


def lines(caplog, start: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(start)]


async def test_a_request_is_one_line_with_its_ids_and_its_end(caplog) -> None:
    caplog.set_level(logging.INFO, logger="cortex")
    config = GatewayConfig(keys=(Key("ann", fleet_credential("sk-canary").sha256),))
    ids: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("request.done"):
                ids.append(logs.request_id())

    note = Note()
    logging.getLogger("cortex").addHandler(note)
    try:
        async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
            client = await gateway.dial()
            await client.send(ask(CHAT, body(), x_api_key="sk-canary", x_request_id="mine-7"))
            assert (await client.answer()).status == 200
    finally:
        logging.getLogger("cortex").removeHandler(note)
    (line,) = lines(caplog, "request.")
    assert line.startswith("request.done model=a neuron=n1 route=only-replica outcome=ok key=ann seconds=0.")
    figures = (
        "prompt=7 completion=3 estimated=False cached=0 dialect=openai_chat status=200 code=- queue_s=0."
    )
    assert f" {figures}" in line
    assert ids == ["mine-7"]


async def test_a_cold_load_is_one_line_at_info_and_its_end_another(caplog) -> None:
    caplog.set_level(logging.INFO, logger="cortex")
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        for _ in range(3):
            assert (await gateway.ask()).status_code == 200
    assert len(lines(caplog, "load.started model=a place=n1")) == 1
    assert len(lines(caplog, "load.done model=a place=n1")) == 1
    routes = [line.split(" route=")[1].split()[0] for line in lines(caplog, "request.done")]
    assert routes == ["cold", "only-replica", "only-replica"]


async def test_what_a_client_was_told_is_in_its_line(caplog) -> None:
    """A refusal of ours, one that a neuron gave, and nothing to one that hung up."""
    caplog.set_level(logging.INFO, logger="cortex")
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        assert (await gateway.ask("none")).status_code == 404
        neuron.then(refusal(429, "rate_limit_exceeded"))
        assert (await gateway.ask()).status_code == 429
        neuron.then(Wait(trio.Event()))
        client = await gateway.dial()
        await client.send(ask(CHAT, body()))
        await neuron.seen(2)
        await client.close()
        while len(lines(caplog, "request.done")) < 3:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.005)
    ends = [
        re.search(r"outcome=\S+|$", line)[0] + re.search(r" status=\S+ code=\S+", line)[0]
        for line in lines(caplog, "request.done")
    ]
    assert ends == [
        "outcome=caller status=404 code=model_not_found",
        "outcome=caller status=429 code=-",
        "outcome=hung_up status=- code=-",
    ]


CANARY = "canary-of-a-prompt"


async def test_contents_and_keys_are_never_logged(caplog) -> None:
    """P4: in no level, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    config = GatewayConfig(keys=(Key("ann", fleet_credential("sk-canary").sha256),))
    ends = (
        WHOLE,
        STREAMED,
        FULL,
        refusal(400, "unsupported_parameter", message=CANARY),
        whole(500, CANARY.encode()),
        Close(),
        CANARY.encode() + b"\r\n\r\n",
        STREAM_HEAD + chunks(OPENING, CANARY.encode()) + last_chunk(),
    )
    async with (
        fake_neuron("a") as neuron,
        open_gateway(neuron, config=config, token="fleet-canary") as gateway,
    ):
        for end in ends:
            for stream in (False, True):
                neuron.then(end, Close())
                client = await gateway.dial()
                sent = body(stream=stream, messages=[{"role": "user", "content": CANARY}])
                await client.send(ask(CHAT, sent, authorization="Bearer sk-canary"))
                await client.answer()
        for sent in (
            b'{"model":"a","messages":"%b"' % CANARY.encode(),
            body(stream=CANARY),
            body("b" * 300),
        ):
            client = await gateway.dial()
            await client.send(ask(CHAT, sent, x_api_key="sk-canary"))
            assert (await client.answer()).status in (400, 404)
        client = await gateway.dial()
        await client.send(ask(CHAT, body(), x_api_key="sk-canary-wrong"))
        assert (await client.answer()).status == 401
        page = await gateway.page()
        fleet = (await gateway.http.get("/fleet", headers={"x-api-key": "sk-canary"})).text
    ours = [record for record in caplog.records if record.name.startswith("cortex")]
    text = "\n".join(record.getMessage() + str(record.exc_info) for record in ours)
    assert "request.done" in text
    for secret in (CANARY, "sk-canary", "fleet-canary", fleet_credential("sk-canary").sha256):
        assert secret not in text and secret not in page and secret not in fleet


async def test_what_changes_in_the_fleet_is_logged_once(caplog) -> None:
    caplog.set_level(logging.INFO, logger="cortex.gateway")
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        await neuron.polled(3)
        await neuron.die()
        await gateway.knows(lambda ledger: not ledger.place("n1").ready)
        lost = gateway.gateway._parts.fleet["n1"]
        while lost.failures < 3 * QUICK.failures:  # noqa: ASYNC110 - it tells nobody
            await trio.sleep(0.005)
        await neuron.listen()
        await gateway.knows(lambda ledger: ledger.place("n1").ready)
        await neuron.polled(3)
    said = [line.split()[0] for line in lines(caplog, "neuron.")]
    assert said == ["neuron.up", "neuron.lost", "neuron.up", "neuron.probation"]
