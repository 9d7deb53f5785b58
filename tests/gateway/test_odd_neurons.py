"""Neurons that say what no neuron should: the gateway names it, and lives."""

import json
from typing import Any

import msgspec
import pytest
import trio

from cortex.config.gateway import NeuronRef
from cortex.errors import Unreachable
from cortex.gateway.member import pool_of
from cortex.gateway.remote import Remote
from cortex.wire import neuron as wire
from tests.fake_neuron import Open, fake_neuron, open_gateway, refusal
from tests.fake_upstream import whole
from tests.roles import MIB, eventually


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def row(gateway: Open, name: str) -> dict[str, Any]:
    neurons = (await gateway.http.get("/fleet")).json()["neurons"]
    return next(neuron for neuron in neurons if neuron["name"] == name)


async def state(gateway: Open, name: str, wanted: str) -> bool:
    return (await row(gateway, name))["state"] == wanted


@pytest.mark.parametrize("size", [10**400, -1], ids=["huge", "negative"])
async def test_figures_that_no_device_has_make_a_report_unusable_and_end_nothing(size: int) -> None:
    health = {"boot_id": "x", "devices": [{"name": "cpu", "memory_total": size}]}
    async with fake_neuron("a") as odd, fake_neuron("a") as good, open_gateway(odd, good) as gateway:
        odd.on["/health"].extend([odd.plan(whole(200, json.dumps(health).encode()))] * 400)
        await eventually(lambda: state(gateway, "n1", "away"))
        assert "nonsense" in (await row(gateway, "n1"))["why"]
        assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"


async def test_a_bug_in_believing_a_report_is_that_neurons_miss(caplog: pytest.LogCaptureFixture) -> None:
    async with fake_neuron("a") as odd, fake_neuron("a") as good, open_gateway(odd, good) as gateway:
        fleet = gateway.gateway._parts.report.fleet
        believe = fleet.believe

        def refuse(neuron, *report) -> None:
            if neuron.name == "n1":
                raise ZeroDivisionError("nobody thought of this")
            believe(neuron, *report)

        fleet.believe = refuse
        await eventually(lambda: state(gateway, "n1", "away"))
        assert "nobody thought of this" in (await row(gateway, "n1"))["why"]
        assert (await gateway.ask()).headers["x-cortex-neuron"] == "n2"
        assert "neuron.unusable neuron=n1" in caplog.text


async def test_a_name_that_no_resolver_takes_is_unreachable() -> None:
    ref = NeuronRef("n1", f"http://{'x' * 64}.example:1")
    with pytest.raises(Unreachable):
        await Remote(ref, pool_of(ref)).health()


async def test_a_model_that_the_neuron_knows_under_another_name_is_refused_with_both() -> None:
    """Its own catalogue may read the id as an alias of something else."""
    other = wire.LoadAnswer(resident=wire.ResidentReport(id="b", bytes={"cpu": MIB}))
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.on["/models/load"].append(neuron.plan(whole(200, msgspec.json.encode(other))))
        answer = await gateway.ask("a")
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "load_failed"
        assert "'b'" in answer.json()["error"]["message"]
        assert "'a'" in answer.json()["error"]["message"]
        assert not gateway.ledger.holders("a")
        assert not gateway.ledger.loads


async def test_the_figures_of_a_refused_load_reach_the_client() -> None:
    body = {"message": "too big", "code": "does_not_fit", "needed_bytes": 7, "free_bytes": 3}
    refused = whole(507, json.dumps({"error": body}).encode())
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.on["/models/load"].append(neuron.plan(refused))
        error = (await gateway.ask("a")).json()["error"]
        assert (error["code"], error["needed_bytes"], error["free_bytes"]) == ("no_capacity", 7, 3)


async def test_a_busy_neurons_blockers_are_told() -> None:
    said = refusal(409, "busy", message="full")
    said = said.replace(b'"param":null', b'"param":null,"blocked_by":["b","c"]')
    rest = said.partition(b"\r\n\r\n")[2]
    async with fake_neuron() as neuron, open_gateway(neuron, catalogue=["a"]) as gateway:
        neuron.on["/models/load"].append(neuron.plan(whole(409, rest)))
        error = (await gateway.ask("a")).json()["error"]
        assert error["blocked_by"] == ["b", "c"]
