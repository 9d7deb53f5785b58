"""What the books say of all that goes wrong on the way: at the door, with neurons, with clients."""

from dataclasses import replace

import pytest
import trio

from cortex.config.gateway import GatewayConfig, Poll
from cortex.config.keys import Key
from cortex.config.limits import Limits
from cortex.web import head
from cortex.web.listeners import fleet_credential
from tests.fake_neuron import (
    DONE,
    NOT_HERE,
    OPENING,
    STREAMED,
    WHOLE,
    WORDS,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Close, Hang, Reset, Wait, chunks, last_chunk, whole
from tests.fake_web import ask
from tests.figures import later, page_of
from tests.roles import patient

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


# -- neurons


HASTY = GatewayConfig(limits=Limits(first_token_s=0.2, upstream_stall_s=0.2))
FAILURES = {
    "crash": (Close(),),
    "cut": (STREAM_HEAD + chunks(OPENING, WORDS[0]), Reset()),
    "late": (Hang(),),
    "stall": (STREAM_HEAD + chunks(OPENING, WORDS[0]), Hang()),
    "no_end": (STREAM_HEAD + chunks(OPENING, WORDS[0]) + last_chunk(),),
    "protocol": (STREAM_HEAD + chunks(b"garbage\n\n"), Hang()),
    "oversize": (STREAM_HEAD + chunks(b"data: " + b"x" * 2**21), Hang()),
    "redirect": (whole(307, b"", "location: http://127.0.0.1:1/"),),
    "encoding": (whole(200, b"zipped", "content-encoding: gzip"),),
    "internal": (whole(500, b"{}"),),
    "contract": (refusal(401, "invalid_api_key"),),
    "engine": (refusal(502, "engine_failed"),),
}


@pytest.mark.parametrize("kind", FAILURES)
async def test_a_neurons_failure_is_counted_by_its_kind(kind: str) -> None:
    """faults.md rows 2, 3, 5, 10, 12, 15, 16, 17, 20, 21, 22: upfail{kind}."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=HASTY) as gateway:
        neuron.then(*FAILURES[kind])
        await gateway.ask(stream=True)
        page = await page_of(gateway)
        assert page.counted("upstream_failures_total") == {("kind", kind, "neuron", "n1"): 1}
        assert page("requests_total", outcome="engine") == 1


async def test_a_failure_that_the_neuron_told_in_a_whole_answer_is_counted_too() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(refusal(502, "engine_failed"))
        assert (await gateway.ask()).status_code == 502
        page = await page_of(gateway)
        assert page("upstream_failures_total", neuron="n1", kind="engine") == 1


async def test_a_neuron_that_is_gone_fails_as_refused_and_is_the_reason_of_the_second_try() -> None:
    """faults.md row 8: upfail{refused}, retry."""
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        async with open_gateway(one, two, poll=Poll(interval_s=60.0, timeout_s=1.0, failures=3)) as gateway:
            await one.die()
            for number in range(8):  # some of them belong to the dead one
                assert (await gateway.ask(prompt_cache_key=f"talk-{number}")).status_code == 200
            page = await page_of(gateway)
            assert page("upstream_failures_total", neuron="n1", kind="refused") == 1
            assert page("retries_total", reason="refused") == 1


async def test_a_stale_route_is_a_second_try_and_no_failure() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(NOT_HERE)
        assert (await gateway.ask()).status_code == 200
        page = await page_of(gateway)
        assert page("retries_total", reason="not_here_now") == 1
        assert not page.counted("upstream_failures_total")


# -- the door


GUARDED = GatewayConfig(
    keys=(Key("ann", fleet_credential("sk-ann").sha256),), limits=Limits(header_s=0.1, request_body_s=0.1)
)
OPEN = GatewayConfig()
REFUSED = {
    "framing": (OPEN, b"GET /v1/models HTTP/1.1\nhost: a\n\n"),
    "proto": (OPEN, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "upgrade": (OPEN, ask("/v1/models", b"", "GET", upgrade="websocket", connection="upgrade")),
    "headers_too_large": (OPEN, ask(x="y" * 2**15)),
    "slow_header": (GUARDED, b"POST /v1/chat/completions HTTP/1.1\r\nhost: a"),
    "slow_body": (GUARDED, ask(authorization="Bearer sk-ann", content_length="100")),
    "auth": (GUARDED, ask(authorization="Bearer sk-bob")),
    "scope": (GUARDED, ask("/fleet/models/load", authorization="Bearer sk-ann")),
    "origin": (OPEN, ask(origin="http://evil.example")),
    "host": (OPEN, ask(host="evil.example")),
    "method_not_allowed": (OPEN, ask(method="GET")),
    "request_too_large": (OPEN, ask(content_length="99999999999")),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_refusal_at_the_door_is_counted_by_its_reason(kind: str) -> None:
    """faults.md rows 34, 35, 37, 38, 40, 41, 55, 57, 58: reject{reason}."""
    config, request = REFUSED[kind]
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        client = await gateway.dial()
        await client.send(request)
        assert 400 <= (await client.answer()).status < 500
        page = await page_of(gateway)
        reason = "proto" if kind == "upgrade" else kind
        assert page.counted("rejections_total") == {("reason", reason): 1}
        assert not page.counted("requests_total"), "it is no request yet"


async def test_whoever_tries_keys_is_counted_apart() -> None:
    """faults.md row 56: reject{auth_rate}."""
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=GUARDED) as gateway:
        for number in range(22):
            await gateway.http.get("/v1/models", headers={"x-api-key": f"sk-{number}"})
        page = await page_of(gateway)
        assert page("rejections_total", reason="auth") == 21
        assert page("rejections_total", reason="auth_rate") == 1


async def test_a_connection_too_many_is_counted() -> None:
    """faults.md row 36: shed{conn}."""
    config = GatewayConfig(limits=Limits(connections=1))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        first, second = await gateway.dial(), await gateway.dial()
        assert (await second.answer()).status == 503
        page = await page_of(gateway)
        assert page("rejections_total", reason="connections") == 1
        await first.send(ask(CHAT, body()))
        assert (await first.answer()).status == 200


async def test_a_crash_of_a_connection_is_counted(monkeypatch, caplog) -> None:
    """faults.md row 42: conncrash."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        with monkeypatch.context() as patch:
            patch.setattr(head, "parse", lambda _: 1 / 0)
            client = await gateway.dial()
            await client.send(ask(CHAT, body()))
            assert await client.gone()
        page = await page_of(gateway)
        assert page("connection_crashes_total") == 1
    assert "connection.crashed" in caplog.text


# -- clients


async def test_a_client_that_leaves_is_counted_by_how_far_its_request_was() -> None:
    """faults.md rows 28 to 30: abort{client,phase}."""
    async with fake_neuron() as neuron:
        neuron.has("a", slots=2, queue=0)
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a", "cold"]) as gateway:
            neuron.then(Hang())
            neuron.then(STREAM_HEAD, chunks(OPENING, WORDS[0]), Hang())
            late, stream, queued, cold, half = [await gateway.dial() for _ in range(5)]
            await late.send(ask(CHAT, body()))
            await neuron.seen(1)
            await stream.send(ask(CHAT, body(stream=True)))
            await stream.until(WORDS[0])
            await queued.send(ask(CHAT, body()))
            await cold.send(ask(CHAT, body("cold")))
            await half.send(ask(CHAT, body())[:-3])
            await gateway.knows(lambda ledger: "seats=2 waiting=2" in repr(ledger))
            for client in (cold, queued, stream, late, half):
                await trio.aclose_forcefully(client.stream)
            phases = {("phase", name) for name in ("answer", "stream", "queue", "load", "body")}
            page = await later(gateway, lambda page: page.counted("client_aborts_total").keys() >= phases)
            assert page.counted("client_aborts_total") == dict.fromkeys(phases, 1)
            assert page("requests_total", outcome="hung_up") == 4
            # Nobody told: the one content event stands for a token.
            assert page("completion_tokens_total", model="a") == 1


async def test_a_client_that_takes_nothing_is_counted_as_stalled() -> None:
    """faults.md row 32: abort{client,stall}."""
    flood = chunks(*[b"data: " + b"x" * 60_000 + b"\n\n"] * 400)
    config = GatewayConfig(limits=Limits(stall_s=0.2))
    async with fake_neuron("a") as neuron, open_gateway(neuron, config=config) as gateway:
        neuron.then(STREAM_HEAD, flood, Hang())
        await (await gateway.dial()).send(ask(CHAT, body(stream=True)))
        page = await later(gateway, lambda page: page.counted("client_aborts_total"))
        assert page.counted("client_aborts_total") == {("phase", "stall"): 1}


async def test_what_a_drain_cuts_is_no_client_that_left() -> None:
    """faults.md row 87."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.then(STREAM_HEAD, chunks(OPENING), Hang())
        client = await gateway.dial()
        await client.send(ask(CHAT, body(stream=True)))
        await client.until(OPENING + b"\r\n")
        await gateway.gateway._parts.api.drain(0.05)
        page = await page_of(gateway)
        assert page("requests_total", model="a", outcome="cut") == 1
        assert page("requests_total") == 1
        assert not page.counted("client_aborts_total")


# -- time


async def test_overhead_has_neither_the_wait_for_a_load_nor_the_neurons_time() -> None:
    async with fake_neuron() as neuron:
        neuron.loading, first, last = trio.Event(), trio.Event(), trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            neuron.then(
                STREAM_HEAD, Wait(first), chunks(OPENING, *WORDS), Wait(last), chunks(DONE), last_chunk()
            )
            client = await gateway.dial()
            await client.send(ask(CHAT, body(stream=True)))
            await neuron.told_to_load()
            await trio.sleep(0.2)
            neuron.loading.set()
            await neuron.seen(1)
            for event in (first, last):
                await trio.sleep(0.2)
                event.set()
            await client.until(b"\r\n0\r\n\r\n")
            page = await page_of(gateway)
            assert page("overhead_seconds_count") == 1
            # Whatever a busy machine adds, it adds to both.
            assert 0 < page("overhead_seconds_sum") <= page("request_duration_seconds_sum") - 0.6


async def test_a_wait_for_a_load_is_told_apart_from_one_for_a_seat() -> None:
    async with fake_neuron() as neuron:
        neuron.has("a", slots=1, queue=0)
        neuron.loading, busy = trio.Event(), trio.Event()
        async with open_gateway(neuron, catalogue=["a", "cold"]) as gateway:
            neuron.then(Wait(busy), WHOLE)
            clients = [await gateway.dial() for _ in range(3)]
            for client, model in zip(clients, ("a", "a", "cold"), strict=True):
                await client.send(ask(CHAT, body(model)))
            await gateway.knows(lambda ledger: "seats=1 waiting=2" in repr(ledger))
            assert (await page_of(gateway))("loads_in_flight") == 1
            busy.set()
            neuron.loading.set()
            for client in clients:
                assert (await client.answer()).status == 200
            page = await later(gateway, lambda page: page("cold_wait_seconds_count", model="cold") == 1)
            assert page("cold_wait_seconds_count", model="a") == 0
            assert page("queue_seconds_count") == 3
            assert page("loads_in_flight") == 0


async def test_a_load_that_fails_is_counted_with_its_code() -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.on["/models/load"].append(neuron.plan(refusal(502, "load_failed")))
        assert (await gateway.ask()).status_code == 502
        page = await page_of(gateway)
        assert page("load_failures_total", model="a", reason="load_failed") == 1
        assert page("models_unservable") == 0


async def test_a_model_that_nobody_can_serve_is_counted() -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        await neuron.die()
        page = await later(gateway, lambda page: page("models_unservable") == 1)
        assert page("neuron_up", neuron="n1") == 0
        assert page("ejections_total", neuron="n1", reason="unreachable") == 1


# -- keys


async def test_keys_are_counted_by_their_names_and_shown_with_their_day() -> None:
    keys = (
        Key("ann", fleet_credential("sk-ann").sha256, tokens_per_day=1000),
        Key("bob", fleet_credential("sk-bob").sha256),
    )
    async with (
        fake_neuron("a") as neuron,
        open_gateway(neuron, config=replace(patient(), keys=keys, anonymous=True)) as gateway,
    ):
        neuron.spent = {"ann": 10}
        neuron.then(STREAMED)  # 7 prompt, 3 completion
        for key in ("sk-ann", "sk-bob", ""):
            client = await gateway.dial()
            headers = {"authorization": f"Bearer {key}"} if key else {}
            await client.send(ask(CHAT, body(stream=key == "sk-ann"), **headers))
            assert (await client.answer()).status == 200
        page = await later(gateway, lambda page: page("key_day_tokens", key="ann") == 10)
        for key in ("ann", "bob", "none"):
            assert page("key_tokens_total", key=key) == 10
            assert page("key_requests_total", key=key, outcome="ok") == 1
        assert page.counted("key_day_limit_tokens") == {("key", "ann"): 1000}
        assert "sk-ann" not in await gateway.page()
