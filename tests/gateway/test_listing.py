"""The catalogue, health and fleet as a gateway tells them, and orders to it."""

import time
from types import SimpleNamespace

import msgspec
import pytest
import trio

from cortex import __version__
from cortex.catalogue import Catalogue, Cost, ModelSpec
from cortex.config.gateway import GatewayConfig, Poll
from cortex.config.network import Address
from cortex.gateway import service
from cortex.gateway.report import Report
from cortex.status import fetch
from cortex.wire.fleet import FleetReport
from cortex.wire.neuron import ModelLoad, Servable
from tests.fake_neuron import ANSWER, Open, body, fake_neuron, open_gateway, refusal
from tests.fake_upstream import Wait, whole
from tests.fake_web import ask
from tests.roles import ANY, MIB

RICH = ModelSpec(
    "org/rich",
    harness="llamacpp",
    context=4096,
    footprint=MIB,
    capabilities=("chat", "tools", "vision"),
    cost=Cost(0.5, 1.5, cache_read=0.1),
)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def listed(gateway: Open) -> dict[str, dict]:
    told = (await gateway.http.get("/v1/models")).json()
    assert told["object"] == "list"
    return {each["id"]: each for each in told["data"]}


async def test_the_catalogue_is_merged_from_the_file_and_the_neurons() -> None:
    catalogue = Catalogue({"org/rich": RICH, "plain": ModelSpec("plain")}, {"short": "org/rich"})
    async with fake_neuron("loaded", known=["plain", "theirs"]) as one, fake_neuron("loaded") as two:
        one.residents["loaded"] = msgspec.structs.replace(
            one.residents["loaded"], context_length=2048, capabilities=["completion", "tools"]
        )
        async with open_gateway(one, two, catalogue=catalogue) as gateway:
            models = await listed(gateway)
            assert sorted(models) == ["loaded", "org/rich", "plain", "theirs"]
            created = models["plain"]["created"]
            assert abs(created - time.time()) < 60
            assert models["plain"] == {
                "id": "plain",
                "object": "model",
                "created": created,
                "owned_by": "cortex",
                "state": "unloaded",
                "locations": [],
                "feasible_on": ["n1", "n2"],
                "aliases": [],
            }, "absent, never 0, when unknown"
            assert models["org/rich"] == {
                **models["plain"],
                "id": "org/rich",
                "aliases": ["short"],
                "context_length": 4096,
                "max_model_len": 4096,
                "capabilities": ["chat", "tools"],
                "tool_call": True,
                "reasoning": False,
                "vision": False,
                "cost": {"input": 0.5, "output": 1.5, "cache_read": 0.1},
            }
            assert models["theirs"]["feasible_on"] == ["n1"]
            loaded = models["loaded"]
            place = {"devices": ["cpu"], "state": "loaded", "bytes": MIB}
            assert loaded["locations"] == [{"neuron": "n1", **place}, {"neuron": "n2", **place}]
            assert loaded["state"] == "loaded" and loaded["context_length"] == 2048
            assert loaded["capabilities"] == ["completion", "tools"] and loaded["vision"] is False
            assert {name: each["created"] for name, each in (await listed(gateway)).items()} == dict.fromkeys(
                models, created
            ), "what it says does not change from call to call"


async def test_a_model_is_found_by_id_alias_and_escaped_id() -> None:
    catalogue = Catalogue({"org/rich": RICH}, {"short": "org/rich"})
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue) as gateway:
        for name in ("org/rich", "org%2Frich", "org%2frich", "short"):
            client = await gateway.dial()
            await client.send(ask(f"/v1/models/{name}", b"", "GET"))
            answer = await client.answer()
            assert (answer.status, msgspec.json.decode(answer.body)["id"]) == (200, "org/rich")
        for name in ("org", "rich", "org/rich/", "org%2F..%2Frich", "Short"):
            client = await gateway.dial()
            await client.send(ask(f"/v1/models/{name}", b"", "GET"))
            answer = await client.answer()
            assert answer.status in (400, 404), name
            assert msgspec.json.decode(answer.body)["error"]["type"] == "invalid_request_error"


async def test_anthropic_clients_get_their_own_shape() -> None:
    async with fake_neuron("a", "b") as neuron, open_gateway(neuron, catalogue=["c"]) as gateway:
        version = {"anthropic-version": "2023-06-01"}
        page = (await gateway.http.get("/v1/models", headers=version)).json()
        entry = {"type": "model", "id": "a", "display_name": "a", "created_at": "1970-01-01T00:00:00Z"}
        assert page["data"][0] == entry
        assert [each["id"] for each in page["data"]] == ["a", "b", "c"]
        assert (page["has_more"], page["first_id"], page["last_id"]) == (False, "a", "c")
        assert (await gateway.http.get("/v1/models/a", headers=version)).json() == entry
        missing = await gateway.http.get("/v1/models/d", headers=version)
        assert missing.status_code == 404
        assert missing.json()["type"] == "error"
        assert missing.json()["error"]["type"] == "not_found_error"
        assert (
            missing.headers["request-id"] == missing.headers["x-request-id"] == missing.json()["request_id"]
        )


async def test_a_load_shows_while_it_runs() -> None:
    """No bytes are made up for a model whose size nobody said."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=Catalogue({"a": ModelSpec("a")})) as gateway:
            clients = [await gateway.dial() for _ in range(3)]
            for client in clients:
                await client.send(ask("/v1/chat/completions", body()))
            await gateway.knows(lambda ledger: ledger.waiting == 3)
            model = (await listed(gateway))["a"]
            assert model["state"] == "loading"
            assert model["locations"] == [{"neuron": "n1", "devices": ["cpu"], "state": "loading"}]
            report = (await gateway.http.get("/fleet")).json()
            (load,) = report["loads"]
            assert (load["model"], load["neuron"], load["waiting"]) == ("a", "n1", 3)
            assert 0 <= load["running_s"] < 30 and report["waiting"] == 3
            neuron.loading.set()
            assert [(await client.answer()).status for client in clients] == [200] * 3


async def test_a_model_that_fits_nowhere_is_unservable_and_the_gateway_impaired() -> None:
    catalogue = Catalogue({"huge": ModelSpec("huge", footprint=2**50), "a": ModelSpec("a")})
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=catalogue) as gateway:
        models = await listed(gateway)
        assert (models["huge"]["state"], models["huge"]["feasible_on"]) == ("unservable", [])
        assert "`cortex plan`" in models["huge"]["why"]
        assert models["a"]["state"] == "unloaded"
        health = (await gateway.http.get("/health")).json()
        assert (health["status"], health["unservable"]) == ("impaired", ["huge"])


async def test_a_missing_neuron_or_device_degrades_while_all_can_be_served() -> None:
    async with (
        fake_neuron("a") as one,
        fake_neuron() as two,
        open_gateway(one, two, catalogue=["a"]) as gateway,
    ):

        async def status() -> str:
            return (await gateway.http.get("/health")).json()["status"]

        assert await status() == "ok"
        two.poisoned = True
        await two.polled(3)
        assert await status() == "degraded"
        two.poisoned = False
        await two.polled(3)
        assert await status() == "ok"
        await two.die()
        await gateway.knows(lambda ledger: not ledger.place("n2").ready)
        assert await status() == "degraded"
        assert (await gateway.http.get("/readyz")).status_code == 200


async def test_the_fleet_is_read_by_the_status_command() -> None:
    async with fake_neuron("a") as one, fake_neuron("b") as two, open_gateway(one, two) as gateway:
        one.loads["a"] = ModelLoad(id="a", in_flight=2, queue=1, tok_s_decode=12.5)
        two.has("b", servable=Servable(ok=False, reason="broken"))
        await one.polled()
        await two.polled()
        async with fetch.asker(gateway.url, None) as asker:
            report = await asker.report()
        assert isinstance(report, FleetReport)
        assert report.gateway.version == __version__ and len(report.gateway.boot_id) == 16
        first, second = report.neurons
        assert (first.name, first.endpoint, first.state) == ("n1", one.url, "ok")
        assert first.report_age_s is not None and 0 <= first.report_age_s < 10
        assert first.devices[0].memory_total == one.memory
        (model,) = first.models
        assert (model.id, model.in_flight, model.queue, model.tok_s, model.slots) == ("a", 2, 1, 12.5, 4)
        assert second.models[0].state == "recovering"
        assert {each.id: each.state for each in report.models} == {"a": "loaded", "b": "recovering"}
        assert next(each.why for each in report.models if each.id == "b") == "broken"


async def test_an_order_to_load_waits_for_the_model_and_takes_no_seat() -> None:
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        for _ in range(2):
            answer = await gateway.http.post("/fleet/models/load", json={"model": "a"})
            assert (answer.status_code, answer.json()["state"]) == (200, "loaded")
        assert neuron.ordered("/models/load") == 1 and not neuron.requests
        await gateway.knows(lambda ledger: "residents=1 seats=0 waiting=0 loads=0" in repr(ledger))
        unknown = await gateway.http.post("/fleet/models/load", json={"model": "b"})
        assert unknown.json()["error"]["code"] == "model_not_found"
        nonsense = await gateway.http.post("/fleet/models/load", content=b'{"model":5}')
        assert nonsense.status_code == 400


async def test_an_order_to_unload_reaches_every_neuron_that_has_the_model() -> None:
    async with fake_neuron("a") as one, fake_neuron("a", "b") as two, open_gateway(one, two) as gateway:
        order = {"model": "a"}
        answer = await gateway.http.post("/fleet/models/unload", json=order)
        assert answer.json() == {"model": "a", "unloaded": True}
        assert [neuron.ordered("/models/unload") for neuron in (one, two)] == [1, 1]
        sent = msgspec.json.decode(one.orders[0].body)
        assert sent == {"id": "a", "force": False}
        assert not gateway.ledger.holders("a")
        again = await gateway.http.post("/fleet/models/unload", json=order)
        assert again.status_code == 404


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (refusal(409, "busy", message="2 requests in flight"), 409),
        (refusal(404, "not_resident"), 200),
        (refusal(500, "internal"), 502),
        (b"\x00\r\n\r\n", 502),
    ],
)
async def test_a_neurons_answer_to_an_unload_is_told(said: bytes, status: int) -> None:
    """That it is gone already is what was wanted."""
    async with fake_neuron("a") as neuron, open_gateway(neuron) as gateway:
        neuron.on["/models/unload"].append(neuron.plan(said))
        answer = await gateway.http.post("/fleet/models/unload", json={"model": "a", "force": True})
        assert answer.status_code == status
        if status == 409:
            assert "2 requests in flight" in answer.json()["error"]["message"]
            assert gateway.ledger.holders("a")


async def test_a_neuron_that_is_gone_when_it_should_unload_is_looked_at_at_once() -> None:
    poll = Poll(interval_s=60.0, timeout_s=2.0)
    async with fake_neuron("a") as neuron, open_gateway(neuron, poll=poll) as gateway:
        await neuron.die()
        answer = await gateway.http.post("/fleet/models/unload", json={"model": "a"})
        assert answer.status_code == 502
        await gateway.knows(lambda ledger: not ledger.holders("a"))


async def test_an_id_that_no_model_may_have_is_refused_though_a_neuron_claims_it() -> None:
    async with fake_neuron(known=["a b", "ok"]) as neuron, open_gateway(neuron) as gateway:
        answer = await gateway.ask("a b")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "model")
        assert (await gateway.ask("ok")).status_code == 200


async def test_a_model_that_loads_is_not_unloaded() -> None:
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            client = await gateway.dial()
            await client.send(ask("/v1/chat/completions", body()))
            await gateway.knows(lambda ledger: ledger.loads)
            answer = await gateway.http.post("/fleet/models/unload", json={"model": "a"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "busy")
            neuron.loading.set()
            assert (await client.answer()).body == ANSWER


async def test_an_unload_that_is_answered_late_leaves_a_load_alone_that_began_meanwhile() -> None:
    async with fake_neuron("a") as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        answered, neuron.loading = trio.Event(), trio.Event()
        neuron.on["/models/unload"].append(neuron.plan(Wait(answered), whole(200, b"{}")))
        orders, client = await gateway.dial(), await gateway.dial()
        await orders.send(ask("/fleet/models/unload", b'{"model":"a"}'))
        await neuron.told_to("/models/unload")
        del neuron.residents["a"]
        await gateway.knows(lambda ledger: not ledger.holders("a"))
        await client.send(ask("/v1/chat/completions", body()))
        await neuron.told_to_load()
        answered.set()
        assert (await orders.answer()).status == 200
        assert [one.phase for _, one in gateway.ledger.holders("a")] == ["loading"]
        neuron.loading.set()
        assert (await client.answer()).body == ANSWER


async def test_a_line_that_does_not_move_is_not_ready(autojump_clock) -> None:
    """Spec, readiness is progress: somebody waits beyond all patience, so nothing decides any more."""

    class Stuck:
        oldest = 0.0

    listing = SimpleNamespace()
    report = Report("b", 0.0, Stuck(), [], listing, patience_s=300.0)  # type: ignore[arg-type]
    began = trio.current_time()
    Stuck.oldest = began
    assert report.moving() and report.status([]) == "ok"
    await trio.sleep(304)
    assert report.moving()
    await trio.sleep(2)
    assert not report.moving() and report.status([]) == "impaired"
    Stuck.oldest = None  # type: ignore[assignment]
    assert report.moving()


async def test_an_order_may_wait_for_its_load_without_the_gateway_being_stuck() -> None:
    """An operator's order has no patience that could run out; readiness asks for those who have."""
    async with fake_neuron() as neuron:
        neuron.loading = trio.Event()
        async with open_gateway(neuron, catalogue=["a"]) as gateway:
            client = await gateway.dial()
            await client.send(ask("/fleet/models/load", b'{"model":"a"}'))
            await gateway.knows(lambda ledger: ledger.waiting == 1)
            assert gateway.ledger.oldest is None
            await (await gateway.dial()).send(ask("/v1/chat/completions", body()))
            await gateway.knows(lambda ledger: ledger.waiting == 2)
            assert gateway.ledger.oldest is not None
            neuron.loading.set()
            assert (await client.answer()).status == 200


async def test_an_open_gateway_warns_in_health_fleet_and_log(caplog) -> None:
    config = GatewayConfig(listen=Address("0.0.0.0", 0), metrics_listen=ANY)
    async with service.opened(config, Catalogue()) as gateway:
        assert gateway.ports.api[0] == "0.0.0.0"
    assert "no [[keys]]" in caplog.text
