"""How far a load has come is seen wherever somebody looks."""

import threading
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Script
from cortex.status.fetch import asker
from tests.calls import CHAT, Json, hello, residents, text_of, until
from tests.roles import MIB, Running, running_gateway, running_neuron, specs

HALF = 30 * MIB


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def loads(gateway: Running) -> list[Json]:
    return (await gateway.http.get("/fleet")).json()["loads"]


async def test_the_progress_of_a_load_reaches_status_by_neuron_and_gateway(tmp_path: Path) -> None:
    slow = threading.Event()
    catalogue = specs(tmp_path, "a", footprint=61 * MIB)
    script = Script(reply="hi", bytes=2 * HALF, slow_load=slow)
    async with (
        running_neuron(tmp_path, catalogue, script) as role,
        running_gateway(role, catalogue=catalogue) as gateway,
        trio.open_nursery() as nursery,
    ):
        answers: list[str] = []

        async def ask() -> None:
            answers.append(text_of(await gateway.http.post(CHAT, json=hello())))

        async def half_way() -> bool:
            rows = await residents(role)
            return "a" in rows and rows["a"]["done_bytes"] == HALF

        async def half_way_at_the_gateway() -> bool:
            return [load["done_bytes"] for load in await loads(gateway)] == [HALF]

        nursery.start_soon(ask)
        await until(half_way, 5)
        row = (await residents(role))["a"]
        assert (row["state"], row["phase"], row["total_bytes"]) == ("loading", "load", 2 * HALF)
        await until(half_way_at_the_gateway, 5)
        (load,) = await loads(gateway)
        # Of what the neuron reads, rather than of what the model will take.
        assert (load["model"], load["neuron"], load["total_bytes"]) == ("a", "n1", 2 * HALF)
        for endpoint in (role.url, gateway.url):
            async with asker(endpoint, None) as at:
                (shown,) = (await at.report()).loads
                assert (shown.model, shown.done_bytes, shown.total_bytes) == ("a", HALF, 2 * HALF)
        slow.set()
        while not answers:  # noqa: ASYNC110
            await trio.sleep(0.005)
        row = (await residents(role))["a"]
        assert (row["state"], row["phase"]) == ("loaded", None)
        assert (row["done_bytes"], row["total_bytes"]) == (0, 0)
        assert answers == ["hi"]
