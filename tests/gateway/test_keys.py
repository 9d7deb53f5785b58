"""What a key may do at a gateway: its models, its limits, its end. With real sockets and clocks."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network

import httpx
import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import GatewayConfig, Poll
from cortex.config.keys import Key
from cortex.keys import digest
from cortex.wire import neuron as wire
from tests.fake_neuron import (
    NOT_HERE,
    STREAMED,
    WHOLE,
    FakeNeuron,
    Open,
    body,
    fake_neuron,
    open_gateway,
    refusal,
)
from tests.fake_upstream import STREAM_HEAD, Hang, chunks, whole
from tests.fake_web import Client, ask
from tests.roles import MIB

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SECRET, OTHER = "sk-ann", "sk-free"
ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def keyed(*scopes: str, **limits: object) -> GatewayConfig:
    """A key with limits, and one without."""
    ann = Key("ann", digest(SECRET), scopes or ("inference",), **limits)  # type: ignore[arg-type]
    return GatewayConfig(keys=(ann, Key("free", digest(OTHER))))


def catalogue(*models: str, **aliases: str) -> Catalogue:
    return Catalogue({name: ModelSpec(name, footprint=MIB) for name in models}, aliases)


@asynccontextmanager
async def opened(
    config: GatewayConfig, *models: str, **aliases: str
) -> AsyncIterator[tuple[FakeNeuron, Open]]:
    async with (
        fake_neuron(*models) as neuron,
        open_gateway(neuron, catalogue=catalogue(*models, **aliases), config=config) as gateway,
    ):
        gateway.http.headers["x-api-key"] = SECRET
        yield neuron, gateway


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def ids(gateway: Open, **headers: str) -> list[str]:
    answer = await gateway.http.get("/v1/models", headers=headers)
    return [each["id"] for each in answer.json()["data"]]


# -- models


async def test_a_key_sees_and_uses_its_models_only() -> None:
    async with opened(keyed(models=("org/*",)), "org/a", "org/b", "secret", quick="org/a") as (
        neuron,
        gateway,
    ):
        assert await ids(gateway) == ["org/a", "org/b"] == await ids(gateway, **ANTHROPIC)
        entry = (await gateway.http.get("/v1/models/org%2Fa")).json()
        assert (entry["id"], entry["aliases"]) == ("org/a", ["quick"])
        for name in ("org/a", "org/b", "quick"):
            assert (await gateway.ask(name)).status_code == 200
            assert (await gateway.http.get(f"/v1/models/{name}")).status_code == 200
        assert len(neuron.requests) == 3
        assert (await gateway.ask("secret")).status_code == 404
        assert (await gateway.http.get("/v1/models/secret")).status_code == 404
        assert len(neuron.requests) == 3
        assert await ids(gateway, **{"x-api-key": OTHER}) == ["org/a", "org/b", "secret"]


async def test_a_model_of_others_and_one_that_is_not_there_get_the_same_answer() -> None:
    """Neither the words nor the hint tells that it exists."""
    config = keyed("inference", "admin", models=("org/*",))
    models = "org/qwen3-8b", "orgs/qwen3-9b", "qwen3-32b"
    async with opened(config, *models, strong="qwen3-32b") as (neuron, gateway):
        for path in ("/v1/models/{}", CHAT, TEXT, "/fleet/models/load", "/fleet/models/unload"):
            said = []
            for name in ("qwen3-32b", "qwen3-99b"):
                method = "GET" if "{}" in path else "POST"
                answer = await gateway.http.request(
                    method, path.format(name), content=b"" if method == "GET" else body(name)
                )
                assert told(answer) == (404, "model_not_found")
                error = answer.json()["error"]
                said.append(error["message"].replace(name, "?"))
                assert "'ann' sees only the models that it may use" in error["message"]
            assert said[0] == said[1]
            assert "32b" not in said[0]
        assert (await gateway.ask("strong")).status_code == 404
        assert (await gateway.ask("org/qwen3")).status_code == 404, "a glob has it, and nobody knows it"
        slip = (await gateway.ask("org/qwen3-9b")).text
        assert "Did you mean org/qwen3-8b?" in slip and "orgs/" not in slip
        assert not neuron.requests and not neuron.orders


async def test_an_alias_that_a_glob_has_is_all_that_its_key_sees_of_the_model() -> None:
    async with opened(keyed(models=("fast",)), "org/a", fast="org/a", slow="org/a") as (neuron, gateway):
        assert await ids(gateway) == ["fast"] == await ids(gateway, **ANTHROPIC)
        entry = (await gateway.http.get("/v1/models/fast")).json()
        assert (entry["id"], entry["aliases"], entry["state"]) == ("fast", [], "loaded")
        anthropic = await gateway.http.get("/v1/models/fast", headers=ANTHROPIC)
        assert anthropic.json()["id"] == "fast"
        assert (await gateway.ask("fast")).status_code == 200
        for name in ("org/a", "slow"):
            assert (await gateway.ask(name)).status_code == 404
            assert (await gateway.http.get(f"/v1/models/{name}")).status_code == 404
        assert len(neuron.requests) == 1


ENGINES_WORDS = "tuned: the file of 'tuned' is cut short"


async def test_who_may_use_an_alias_alone_hears_nothing_of_the_id_from_cortex() -> None:
    """The answer's own body is the neuron's, and names the id."""
    async with opened(keyed(models=("fast",)), "tuned", fast="tuned", slow="tuned") as (neuron, gateway):
        for stream, said in ((False, WHOLE), (True, STREAMED)):
            neuron.then(said)
            answer = await gateway.ask("fast", stream=stream)
            assert answer.headers["x-cortex-model"] == "fast"
        for key, name, called in ((SECRET, "fast", "fast"), (OTHER, "slow", "tuned")):
            neuron.scripts.extend([neuron.plan(NOT_HERE)] * 3)
            headers = {"x-api-key": key}
            moved = await gateway.http.post(CHAT, content=body(name), headers=headers)
            assert told(moved) == (503, "no_capacity") and moved.headers["x-cortex-model"] == called
            assert f"Model '{called}' is moving" in moved.json()["error"]["message"]
        neuron.scripts.clear()
        neuron.residents.clear()
        neuron.on["/models/load"].append(neuron.plan(refusal(502, "load_failed", message=ENGINES_WORDS)))
        await gateway.knows(lambda ledger: not ledger.holders("tuned"))
        failed = await gateway.ask("fast")
        assert failed.json()["error"]["message"] == "fast: the file of 'fast' is cut short (neuron 'n1')"
        assert failed.headers["x-cortex-model"] == "fast"
        for path in ("/v1/models/fast", "/v1/models", "/fleet"):
            seen = (await gateway.http.get(path)).text
            assert "tuned" not in seen and "fast: the file of 'fast' is cut short" in seen
        entry = (await gateway.http.get("/v1/models/slow", headers={"x-api-key": OTHER})).json()
        assert ENGINES_WORDS in entry["why"]


@pytest.mark.slow
async def test_who_may_use_an_alias_alone_waits_for_it_by_that_name() -> None:
    config = keyed(models=("fast",))
    async with fake_neuron(otherwise=STREAMED) as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=catalogue("tuned", fast="tuned"), config=config) as gateway:
            client = await gateway.dial()
            headers = {"x_cortex_progress": "reasoning", "x_api_key": SECRET}
            await client.send(ask(CHAT, body("fast", stream=True), **headers))
            waits = await client.until(b" on n1")
            assert b"x-cortex-model: fast\r\n" in waits and b'"model":"fast"' in waits
            assert waits.endswith(b"Loading fast on n1") and b"tuned" not in waits
            neuron.loading.set()
            await client.until(b"\r\n0\r\n\r\n")


async def test_a_key_sees_of_the_fleet_what_it_may_use() -> None:
    """Rows, residents and loads; an alias where that alone is its; and no word of files."""
    config = keyed(models=("org/*", "fast"))
    admin = Key("ops", digest("sk-ops"), ("admin",))
    config = replace(config, keys=(*config.keys, admin))
    models = "org/a", "secret", "hidden"
    async with opened(config, *models, fast="hidden", slow="hidden", quick="org/a") as (neuron, gateway):
        neuron.warnings = ["the weights of secret are odd"]
        neuron.has("secret", servable=wire.Servable(ok=False, reason="broken"))
        neuron.has("hidden", servable=wire.Servable(ok=False, reason="broken"))
        await neuron.polled()
        fleet = (await gateway.http.get("/fleet")).json()
        assert {row["id"]: row["aliases"] for row in fleet["models"]} == {"fast": [], "org/a": ["quick"]}
        assert {row["id"] for row in fleet["neurons"][0]["models"]} == {"org/a", "fast"}
        assert fleet["neurons"][0]["warnings"] == []
        assert fleet["neurons"][0]["devices"][0]["memory_used"] == 3 * MIB, "the device is as it is"
        assert not re.search("secret|hidden|slow", (await gateway.http.get("/fleet")).text)
        health = (await gateway.http.get("/health")).json()
        assert (health["status"], health["unservable"]) == ("impaired", ["fast"])
        for key in (OTHER, "sk-ops"):
            fleet = (await gateway.http.get("/fleet", headers={"x-api-key": key})).json()
            assert {row["id"] for row in fleet["models"]} == set(models)
            assert {row["id"] for row in fleet["neurons"][0]["models"]} == set(models)
            assert fleet["neurons"][0]["warnings"] == neuron.warnings
            health = (await gateway.http.get("/health", headers={"x-api-key": key})).json()
            assert health["unservable"] == ["hidden", "secret"]


async def test_who_blocks_the_room_is_told_to_who_may_know_of_them() -> None:
    """A neuron's refusal names them all, in its words and in its facts."""
    said = refusal(409, "busy", message="'secret' may not be evicted")
    facts = b'"param":null,"needed_bytes":7,"blocked_by":["secret","mine too"]'
    busy = whole(409, said.partition(b"\r\n\r\n")[2].replace(b'"param":null', facts))
    config = keyed(models=("mine*",))
    for key, seen in ((SECRET, False), (OTHER, True)):
        async with (
            fake_neuron() as neuron,
            open_gateway(neuron, catalogue=catalogue("mine"), config=config) as gateway,
        ):
            neuron.on["/models/load"].append(neuron.plan(busy))
            gateway.http.headers["x-api-key"] = key
            answer = await gateway.ask("mine")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["needed_bytes"]) == (503, "no_capacity", 7)
            assert ("secret" in answer.text, "blocked_by" in error) == (seen, seen)
            assert "retry-after" in answer.headers


async def test_a_load_is_seen_by_who_may_use_its_model() -> None:
    config = keyed(models=("mine",))
    async with (
        fake_neuron() as neuron,
        open_gateway(neuron, catalogue=catalogue("mine", "others"), config=config) as gateway,
    ):
        neuron.loading = trio.Event()
        seen: dict[str, list[str]] = {}
        async with trio.open_nursery() as nursery:
            for number, name in enumerate(("mine", "others"), 1):
                ordered = partial(gateway.http.post, CHAT, content=body(name), headers={"x-api-key": OTHER})
                nursery.start_soon(ordered)
                while neuron.ordered("/models/load") < number:  # noqa: ASYNC110 - told over HTTP
                    await trio.sleep(0.002)
            for key in (SECRET, OTHER):
                fleet = (await gateway.http.get("/fleet", headers={"x-api-key": key})).json()
                seen[key] = [load["model"] for load in fleet["loads"]]
            neuron.loading.set()
        assert seen == {SECRET: ["mine"], OTHER: ["mine", "others"]}


async def test_a_client_cannot_say_whose_key_it_has() -> None:
    async with opened(keyed(models=("b",)), "a", "b") as (_, gateway):
        assert await ids(gateway, **{"x-cortex-key-name": "free"}) == ["b"]
        assert await ids(gateway, **{"x-cortex-key-name": ""}) == ["b"]
        assert (await gateway.ask("a")).status_code == 404


async def test_without_keys_nobody_is_narrowed_by_a_header() -> None:
    async with opened(GatewayConfig(), "a", "b") as (_, gateway):
        assert await ids(gateway, **{"x-cortex-key-name": "ann"}) == ["a", "b"]


# -- expiry


@pytest.mark.parametrize(("days", "status"), [(1, 200), (-1, 401)])
async def test_a_key_that_has_expired_opens_nothing_and_says_so(days: int, status: int) -> None:
    moment = datetime.now(UTC) + timedelta(days=days)
    async with opened(keyed("inference", "admin", expires=moment), "a") as (_, gateway):
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/fleet")):
            answer = await gateway.http.request(method, path, content=body() if method == "POST" else b"")
            assert answer.status_code == status
            if status == 401:
                assert told(answer) == (401, "invalid_api_key")
                why = f"'ann' expired at {moment:%Y-%m-%d %H:%M} UTC"
                assert f"Incorrect API key provided: {why}" in answer.text
                assert answer.headers["x-should-retry"] == "false"


async def test_who_guesses_keys_is_held_off_and_the_log_has_fingerprints_only(caplog) -> None:
    """Row 56: wrong keys only, since a good one may come from the same address, behind a proxy."""
    config = replace(keyed(), trusted_proxies=(ip_network("127.0.0.0/8"),))
    evil, good = {"x-forwarded-for": "192.0.2.66"}, {"x-forwarded-for": "192.0.2.7"}
    async with opened(config, "a") as (neuron, gateway):
        for number in range(21):
            answer = await gateway.http.get("/fleet", headers={"x-api-key": f"canary-{number}", **evil})
            assert answer.status_code == 401 and "Incorrect API key provided:" in answer.text
        for key in ("canary-99", "canary-0"):
            answer = await gateway.http.post(CHAT, content=body(), headers={"x-api-key": key, **evil})
            assert told(answer) == (429, "rate_limit_exceeded")
            assert 50 <= int(answer.headers["retry-after"]) <= 60
        assert not neuron.requests
        answer = await gateway.http.post(CHAT, content=body(), headers={"x-api-key": "canary-99", **good})
        assert answer.status_code == 401, "another address is not held off"
        for where in (evil, good):
            assert (await gateway.http.post(CHAT, content=body(), headers=where)).status_code == 200
        assert (await gateway.http.get("/livez", headers=evil)).status_code == 200
    said = [record.getMessage() for record in caplog.records if "auth.refused" in record.getMessage()]
    assert len(said) == 22 and sum("peer=192.0.2.66 fingerprint=" in line for line in said) == 21
    assert "canary" not in caplog.text


# -- limits


async def send(gateway: Open, *, stream: bool = False, key: str = SECRET) -> Client:
    """A request whose answer nobody has read yet."""
    client = await gateway.dial()
    await client.send(ask(CHAT, body(stream=stream), x_api_key=key))
    return client


async def refused(gateway: Open) -> httpx.Response:
    answer = await gateway.ask()
    assert told(answer) == (429, "rate_limit_exceeded")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    return answer


async def served_again(gateway: Open) -> None:
    """The place of one who left is free as soon as that is noticed."""
    with trio.fail_after(2):
        while (await gateway.ask()).status_code != 200:  # noqa: ASYNC110 - told over HTTP
            await trio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_place_of_a_client_that_hangs_up_is_free_again(stream: bool) -> None:
    """Row 30: and of one that is served no one else's key has less."""
    async with opened(keyed(max_in_flight=1), "a") as (neuron, gateway):
        neuron.then(Hang())
        client = await send(gateway, stream=stream)
        await neuron.seen(1)
        answer = await refused(gateway)
        assert (answer.headers["retry-after"], answer.json()["error"]["limit"]) == ("1", "max_in_flight")
        assert (await gateway.ask()).status_code == 429
        assert (await (await send(gateway, key=OTHER)).answer()).status == 200
        await client.close()
        await served_again(gateway)


async def test_a_request_in_the_middle_of_its_stream_is_in_flight_until_it_ends() -> None:
    async with opened(keyed(max_in_flight=1), "a") as (neuron, gateway):
        hold = STREAM_HEAD, chunks(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'), Hang()
        neuron.then(*hold)
        client = await send(gateway, stream=True)
        await client.until(b'"x"')
        await refused(gateway)
        await client.close()
        await served_again(gateway)
        for said, stream, status in (
            (STREAMED, True, 200),
            (refusal(400, "unsupported_parameter"), True, 400),
            (refusal(503, "no_capacity"), False, 503),
            (whole(200, b"no JSON"), False, 502),
        ):
            neuron.then(said)
            assert (await gateway.ask(stream=stream)).status_code == status
            assert (await gateway.ask()).status_code == 200, "the place of the last one is free"
        for sent in (b"{", body("nobody's")):
            assert (await gateway.http.post(CHAT, content=sent)).status_code in (400, 404)
            assert (await gateway.ask()).status_code == 200


async def test_a_request_that_waits_for_a_seat_is_in_flight() -> None:
    async with opened(keyed(max_in_flight=2)) as (neuron, gateway):
        neuron.has("a", slots=1, queue=0)
        await neuron.polled()
        neuron.then(Hang())
        first = await send(gateway)
        await gateway.knows(lambda ledger: "seats=1 waiting=0" in repr(ledger))
        second = await send(gateway)
        await gateway.knows(lambda ledger: "seats=1 waiting=1" in repr(ledger))
        await refused(gateway)
        await second.close()
        await gateway.knows(lambda ledger: "seats=1 waiting=0" in repr(ledger))
        await first.close()
        await served_again(gateway)
        # The one that hung, and the one that was served: nobody else came so far.
        assert len(neuron.requests) == 2


async def test_requests_of_a_minute_are_counted_and_the_wait_is_told() -> None:
    async with opened(keyed(requests_per_minute=2), "a") as (neuron, gateway):
        began = trio.current_time()
        for _ in range(2):
            assert (await gateway.ask()).status_code == 200
        answer = await refused(gateway)
        passed_s = trio.current_time() - began
        assert 60 - passed_s <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["limit"] == "requests_per_minute"
        assert (await gateway.ask(stream=True)).status_code == 429, "a status, not an event in a stream"
        assert len(neuron.requests) == 2
        gateway.http.headers["x-api-key"] = OTHER
        assert (await gateway.ask()).status_code == 200
        assert 'cortex_rejections_total{reason="rate_limit_exceeded"} 2.0' in await gateway.page()


async def test_requests_that_cannot_be_read_count_as_well() -> None:
    """A flood of them is work, and one key's limit is what it may ask for."""
    async with opened(keyed(requests_per_minute=3, models=("a",)), "a") as (neuron, gateway):
        bad = {CHAT: b'{"model":', TEXT: b"{}"}
        for path, sent in bad.items():
            assert (await gateway.http.post(path, content=sent)).status_code == 400
        assert (await gateway.ask("secret")).status_code == 404
        for path, sent in bad.items():
            answer = await gateway.http.post(path, content=sent)
            assert told(answer) == (429, "rate_limit_exceeded")
        await refused(gateway)
        assert not neuron.requests
        page = await gateway.page()
        assert 'cortex_rejections_total{reason="rate_limit_exceeded"} 3.0' in page


def midnight_s() -> float:
    now = datetime.now(UTC)
    return 86400 - (now - now.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()


async def test_tokens_of_the_day_are_those_of_all_neurons_and_of_what_ended_since() -> None:
    async with fake_neuron("a") as one, fake_neuron("a") as two:
        one.spent, two.spent = {"ann": 40}, {"ann": 45, "free": 999}
        async with open_gateway(one, two, config=keyed(tokens_per_day=100)) as gateway:
            gateway.http.headers["x-api-key"] = SECRET
            assert (await gateway.ask()).status_code == 200  # 85 before it, and 10 more
            one.spent["ann"] += 10
            await one.polled()
            assert (await gateway.ask()).status_code == 200, "counted once, by the neuron alone"
            two.spent["ann"] += 5
            await two.polled(3)
            answer = await gateway.ask()
            assert told(answer) == (429, "insufficient_quota"), "Codex asks six times for any other 429"
            error = answer.json()["error"]
            assert (error["limit"], error["type"]) == ("tokens_per_day", "insufficient_quota")
            assert abs(int(answer.headers["retry-after"]) - midnight_s()) <= 2
            assert answer.headers["x-should-retry"] == "false"
            answer = await gateway.http.post("/v1/messages", json={"model": "a", "messages": []})
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (429, "rate_limit_error")
            assert error["details"]["error_code"] == "insufficient_quota"
            gateway.http.headers["x-api-key"] = OTHER
            assert (await gateway.ask()).status_code == 200


async def test_what_ended_since_the_last_report_is_used_up_at_once() -> None:
    rare = Poll(interval_s=600, timeout_s=1, failures=3)
    async with fake_neuron("a") as neuron:
        neuron.spent["ann"] = 85
        async with open_gateway(neuron, config=keyed(tokens_per_day=100), poll=rare) as gateway:
            gateway.http.headers["x-api-key"] = SECRET
            neuron.then(STREAMED)
            assert (await gateway.ask(stream=True)).status_code == 200
            assert [(await gateway.ask()).status_code for _ in range(2)] == [200, 429]
            gateway.http.headers["x-api-key"] = OTHER
            assert (await gateway.ask()).status_code == 200


async def test_a_burst_does_not_go_beyond_the_day() -> None:
    """Requests under way count by what they may come to, and by what they came to when they end."""
    async with opened(keyed(tokens_per_day=1000), "a") as (neuron, gateway):
        neuron.otherwise = neuron.plan(Hang())
        clients = []
        for number in range(1, 6):
            client = await gateway.dial()
            await client.send(ask(CHAT, body(max_tokens=100, n=2), x_api_key=SECRET))
            await neuron.seen(number)
            clients.append(client)
        # Each may come to 200 tokens and its prompt.
        answer = await refused(gateway)
        assert answer.json()["error"]["limit"] == "tokens_per_day"
        assert answer.headers["retry-after"] == "1" and "x-should-retry" not in answer.headers
        assert len(neuron.requests) == 5
        neuron.otherwise = neuron.plan(WHOLE)
        for client in clients:
            await client.close()
        await served_again(gateway)


async def test_what_a_client_used_that_left_is_settled_by_the_neurons_count() -> None:
    """The gateway saw none of its prompt; the neuron did."""
    async with fake_neuron("a") as neuron:
        async with open_gateway(neuron, config=keyed(tokens_per_day=100)) as gateway:
            gateway.http.headers["x-api-key"] = SECRET
            neuron.then(Hang())
            client = await send(gateway, stream=True)
            await neuron.seen(1)
            await client.close()
            await neuron.until(hung_up=1)
            assert (await gateway.ask()).status_code == 200
            neuron.spent["ann"] = 100
            await neuron.polled(2)
            assert told(await gateway.ask()) == (429, "insufficient_quota")


async def test_a_gateway_that_starts_anew_knows_what_was_used() -> None:
    async with fake_neuron("a") as neuron:
        neuron.spent["ann"] = 100
        async with open_gateway(neuron, config=keyed(tokens_per_day=100)) as gateway:
            gateway.http.headers["x-api-key"] = SECRET
            assert told(await gateway.ask()) == (429, "insufficient_quota")
