"""The switches of the fake neuron do what its README says: how often, for whom, and on what.

What they do to requests is seen in the rows; here are loads, reports, and the script itself.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio

from tests.calls import CHAT, hello
from tests.fake_neuron import QUICK
from tests.fake_process import NeuronProcess, two_neurons
from tests.faults.runs import running, where
from tests.roles import eventually


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture
async def neuron(tmp_path: Path) -> AsyncIterator[tuple[NeuronProcess, httpx.AsyncClient]]:
    process = NeuronProcess(tmp_path, "n1", "a", "b", tokens=1, model="c=1MiB")
    async with process, httpx.AsyncClient(base_url=process.url, timeout=None, trust_env=False) as http:
        yield process, http


async def load(http: httpx.AsyncClient, model: str = "c") -> httpx.Response:
    return await http.post("/models/load", json={"spec": {"id": model}})


async def test_a_switch_is_used_up_and_meant_for_one_model_if_it_says_so(neuron) -> None:
    process, http = neuron

    async def statuses(*models: str) -> list[int]:
        return [(await http.post(CHAT, json=hello(model))).status_code for model in models]

    await process.switch({"do": "full", "times": 2, "model": "a"})
    assert await statuses("b", "a", "a", "b", "a") == [200, 503, 503, 200, 200]
    await process.switch({"do": "full", "times": 0})
    assert await statuses(*"abababab") == [503] * 8
    await process.switch({"do": "status", "status": 418}, {"do": "stopping"})
    assert await statuses(*"aaa") == [418, 503, 200]
    assert (await http.get("/faults")).json() == {"faults": []}


@pytest.mark.parametrize(
    "wrong",
    [
        {"do": "nothing"},
        {"do": "full", "at": "tokens"},
        {"do": "fail", "on": "report"},
        {"do": "kill", "when": 1},
    ],
    ids=str,
)
async def test_a_switch_that_there_is_not_is_refused_and_turns_nothing_on(neuron, wrong) -> None:
    _, http = neuron
    answer = await http.post("/faults", json={"faults": [{"do": "full"}, wrong]})
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert (await http.post(CHAT, json=hello())).status_code == 200


async def test_a_load_fails_hangs_or_takes_its_time(neuron) -> None:
    process, http = neuron
    await process.switch({"on": "load", "do": "fail"}, {"on": "load", "do": "slow", "seconds": 0.2})
    answer = await load(http)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "load_failed")
    began = trio.current_time()
    assert (await load(http)).status_code == 200
    assert trio.current_time() - began >= 0.2
    await http.post("/models/unload", json={"id": "c"})
    await process.switch({"on": "load", "do": "hang"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load, http)

        async def loading() -> bool:
            rows = (await http.get("/models")).json()["models"]
            return any(row["id"] == "c" and row["state"] == "loading" for row in rows)

        await eventually(loading)
        [job] = [row for row in (await http.get("/models/jobs")).json()["jobs"] if row["state"] == "loading"]
        await http.delete(f"/models/jobs/{job['id']}")
    assert (await load(http)).status_code == 200


async def test_a_report_that_hangs_keeps_nobody_else_waiting(neuron) -> None:
    process, http = neuron
    await process.switch({"on": "report", "do": "hang"})
    with trio.move_on_after(0.1) as waited:
        await http.get("/health")
    assert waited.cancelled_caught
    assert (await http.get("/health")).status_code == 200


async def test_a_boot_id_that_is_new_drops_what_was_believed(tmp_path: Path) -> None:
    """Row 24: the same connections, no poll that failed, and another neuron."""
    async with NeuronProcess(tmp_path, "n1", "a") as process, running(process, catalogue=["a"]) as run:
        await run.ask("before")
        await process.switch({"on": "report", "do": "restart"})
        await run.heard_of("neuron.lost", "restarted")
        await run.gateway.knows(lambda ledger: ledger.place("n1").ready)
        assert (await run.ask("after")).data[-1] == "[DONE]"
        await run.heard_of("load.done")
        assert await run.findings() == []


async def test_who_takes_the_boot_id_of_another_is_refused_and_the_other_serves(tmp_path: Path) -> None:
    """Row 25: at run time, as when a host is cloned."""
    async with two_neurons(tmp_path, "a") as (one, two), running(one, two, poll=QUICK) as run:
        async with httpx.AsyncClient(trust_env=False) as http:
            boot = (await http.get(f"{one.url}/health")).json()["boot_id"]
        await two.switch({"on": "report", "do": "claim", "boot_id": boot})
        assert " ERROR " in await run.heard_of("neuron.refused", "neuron=n2", boot)
        await run.state("n2", "away")
        assert {where(await run.ask(f"r{number}")) for number in range(3)} == {"n1"}
        assert await run.findings() == []
