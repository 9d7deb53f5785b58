"""A gateway that dies, and one that begins anew: what the neurons keep, and how soon all is known again."""

import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from cortex.config.gateway import GatewayConfig, NeuronRef
from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, figures, hello, residents, settings, text_of
from tests.fake_neuron import fake_neuron
from tests.roles import MIB, Running, eventually, running_gateway, running_neuron, specs

# The promise: what was known is known again so soon after a start, whatever a neuron does.
REBUILT_S = 5.0


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def kill(gateway: Running) -> None:
    """Its connections break where they are, as with a process that is gone."""
    gateway.scope.cancel()
    await gateway.done.wait()


async def states(neuron: Running) -> dict[str, str]:
    return {model: row["state"] for model, row in (await residents(neuron)).items()}


@pytest.mark.parametrize("ends", [True, False], ids=["finished", "dropped"])
async def test_a_load_whose_gateway_dies_leaks_nothing(tmp_path: Path, ends: bool) -> None:
    """Row 67: the neuron finishes the load, or drops it when somebody needs its room; its memory is
    accounted for either way."""
    done = threading.Event()
    scripts = {
        "a": Script(reply="ay", bytes=60 * MIB, slow_load=done),
        "b": Script(reply="bee", bytes=60 * MIB),
    }
    catalogue = specs(tmp_path, "a", "b", footprint=60 * MIB)
    try:
        async with (
            running_neuron(tmp_path, catalogue, scripts, memory=100 * MIB, config=settings()) as neuron,
            trio.open_nursery() as nursery,
        ):
            async with running_gateway(neuron, catalogue=catalogue) as gateway:

                async def ask() -> None:
                    with suppress(httpx.TransportError):
                        await gateway.http.post(CHAT, json=hello("a"))

                async def loading() -> bool:
                    return await states(neuron) == {"a": "loading"}

                nursery.start_soon(ask)
                await eventually(loading)
                await kill(gateway)
            if ends:
                done.set()

                async def loaded() -> bool:
                    return await states(neuron) == {"a": "loaded"}

                await eventually(loaded)
                assert await figures(neuron) == {"a": (0, 0)}, "nobody sits or waits there"
                assert (await neuron.http.post("/models/unload", json={"id": "a"})).status_code == 200
            assert text_of(await neuron.http.post(CHAT, json=hello("b"))) == "bee"
            assert await states(neuron) == {"b": "loaded"}
            device = (await neuron.http.get("/health")).json()["devices"][0]
            assert device["memory_total"] - device["memory_free"] == 60 * MIB
            nursery.cancel_scope.cancel()
    finally:
        done.set()


@pytest.mark.slow
async def test_a_gateway_that_begins_anew_knows_all_within_five_seconds(tmp_path: Path) -> None:
    """Who lives where, and what others have in flight there; a neuron that hangs and one that is gone
    keep it from nothing."""
    gate = Gate()
    scripts = {"a": Script(hold=gate, reply="ay"), "b": Script(reply="bee")}
    catalogue = specs(tmp_path, "a", "b")
    async with (
        running_neuron(tmp_path, catalogue, scripts, config=settings()) as one,
        running_neuron(tmp_path, catalogue, Script(reply="bee"), config=settings()) as two,
        fake_neuron() as hung,
        fake_neuron() as dead,
        trio.open_nursery() as nursery,
    ):
        assert text_of(await two.http.post(CHAT, json=hello("b"))) == "bee"
        async with running_gateway(one, two) as gateway:
            assert (await gateway.http.post("/fleet/models/load", json={"model": "a"})).status_code == 200
            await kill(gateway)

        async def held() -> None:
            await one.http.post(CHAT, json=hello("a"))

        nursery.start_soon(held)

        async def in_flight() -> bool:
            return (await figures(one)).get("a") == (1, 0)

        await eventually(in_flight)
        hung.silent = True
        await dead.die()
        refs = tuple(
            NeuronRef(f"n{number}", url)
            for number, url in enumerate((one.url, two.url, hung.url, dead.url), 1)
        )
        began = trio.current_time()
        async with running_gateway(config=GatewayConfig(neurons=refs)) as gateway:
            assert trio.current_time() - began < REBUILT_S
            fleet = (await gateway.http.get("/fleet")).json()
            assert {row["name"]: row["state"] for row in fleet["neurons"]} == {
                "n1": "ok",
                "n2": "ok",
                "n3": "away",
                "n4": "away",
            }
            where = {row["id"]: [at["neuron"] for at in row["locations"]] for row in fleet["models"]}
            assert where == {"a": ["n1"], "b": ["n2"]}
            assert fleet["neurons"][0]["models"][0]["in_flight"] == 1
            assert text_of(await gateway.http.post(CHAT, json=hello("b"))) == "bee"
        gate.open()
        nursery.cancel_scope.cancel()
