"""The fake neuron of `examples/fake-fleet` answers as a neuron does: the same questions to both.

Beside it stands a real neuron with a scripted engine. Compared is what a gateway looks at: statuses,
headers, codes, and reports by their `cortex.wire` shapes. Each has room for one of two models, and a
third is larger than its device.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from cortex.harness.scripted import Script
from cortex.wire import keeping
from cortex.wire import neuron as wire
from tests.calls import CHAT, TEXT, calling, fault_of, hello, settings
from tests.fake_process import NeuronProcess
from tests.roles import MIB, Running, eventually, running_neuron, specs

ROUTED = {wire.ROUTE: "a-gateway", wire.REQUEST_ID: "mine-1"}
SIZES = {"a": 60, "b": 60, "big": 101}


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture(params=["fake", "real"])
async def role(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """One neuron of the two, with nothing loaded."""
    kind = fake if request.param == "fake" else real
    async with kind(tmp_path) as running:
        yield running


@asynccontextmanager
async def fake(folder: Path) -> AsyncIterator[Running]:
    models = tuple(f"{model}={size}MiB" for model, size in SIZES.items())
    process = NeuronProcess(folder, "n1", device="cpu=100MiB", model=models, slots=1, queue=1)
    async with process, httpx.AsyncClient(base_url=process.url, timeout=None, trust_env=False) as http:
        yield Running(process.url, "", http)


@asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Running]:
    usual = Script(reply="0 1 2 3 4 5 ", bytes=60 * MIB)
    scripts = {"a": usual, "b": usual, "big": replace(usual, bytes=101 * MIB)}
    config = settings(slots=1, queue=1)
    async with running_neuron(
        folder, specs(folder, *scripts), scripts, memory=100 * MIB, config=config
    ) as one:
        yield one


async def load(role: Running, model: str, **order: Any) -> httpx.Response:
    known = {"id": model, "footprint": SIZES.get(model, 1) * MIB}
    return await role.http.post("/models/load", json={"spec": known, **order})


async def told(role: Running, path: str, kind: Any) -> Any:
    """A report, read as its shape."""
    answer = await role.http.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    return msgspec.json.decode(answer.content, type=kind)


def refused(answer: httpx.Response) -> tuple[int, str, str | None]:
    """What a refusal is to a gateway."""
    return answer.status_code, fault_of(answer)["code"], answer.headers.get(wire.NOT_STARTED)


async def test_an_empty_neuron_says_who_it_is_and_what_it_could_load(role: Running) -> None:
    health = await told(role, "/health", wire.Health)
    residents = await told(role, "/models", wire.Residents)
    discovery = await told(role, "/discovery", wire.Discovery)
    assert health.boot_id == residents.boot_id == discovery.boot_id != ""
    assert health.name == discovery.name == "n1"
    assert 0 < health.seq < residents.seq < (await told(role, "/health", wire.Health)).seq
    assert health.activation.state == "ready"
    assert [(each.memory_total, each.memory_used) for each in health.devices] == [(100 * MIB, 0)]
    assert [each.device for each in discovery.devices] == [each.name for each in health.devices] or (
        [each.name for each in health.devices] == ["cpu"]
    )
    assert "openai_chat" in discovery.dialects
    assert residents.models == [] and residents.known == ["a", "b", "big"]
    assert (await role.http.get("/version")).json()["version"]
    assert [row["id"] for row in (await role.http.get("/v1/models")).json()["data"]] == ["a", "b", "big"]
    for probe in ("/livez", "/readyz"):
        assert (await role.http.get(probe)).status_code == 200


async def test_a_load_brings_a_model_and_sends_another_away(role: Running) -> None:
    first = msgspec.json.decode((await load(role, "a")).content, type=wire.LoadAnswer)
    assert (first.resident.id, first.resident.state, first.evicted) == ("a", "loaded", [])
    assert first.resident.servable.ok and first.resident.slots == 1 and first.resident.queue == 1
    assert sum(first.resident.bytes.values()) == 60 * MIB and first.resident.devices == ["cpu"]
    again = msgspec.json.decode((await load(role, "a")).content, type=wire.LoadAnswer)
    assert again.resident.id == "a" and again.evicted == []
    second = msgspec.json.decode((await load(role, "b", victims=["a"])).content, type=wire.LoadAnswer)
    assert second.evicted == ["a"]
    [resident] = (await told(role, "/models", wire.Residents)).models
    assert resident.id == "b" and sum(resident.bytes.values()) == 60 * MIB
    [row] = (await told(role, "/health", wire.Health)).models
    assert (row.id, row.in_flight, row.queue, row.slots) == ("b", 0, 0, 1)


async def test_what_can_never_fit_is_refused_with_figures(role: Running) -> None:
    answer = await load(role, "big")
    assert refused(answer) == (507, "does_not_fit", None)
    assert fault_of(answer)["needed_bytes"] == 101 * MIB


async def test_a_load_that_may_not_evict_names_who_is_in_the_way(role: Running) -> None:
    await load(role, "a")
    answer = await load(role, "b", evict="never")
    assert refused(answer)[:2] == (409, "busy")
    assert fault_of(answer)["blocked_by"] == ["a"]


async def test_a_routed_request_is_refused_where_its_model_is_not(role: Running) -> None:
    for model in ("a", "nobody-knows-it"):
        answer = await role.http.post(CHAT, json=hello(model), headers=ROUTED)
        assert refused(answer) == (409, "not_here_now", "1")
    assert (await told(role, "/models", wire.Residents)).models == []


async def test_a_request_of_ones_own_loads_what_the_neuron_knows(role: Running) -> None:
    answer = await role.http.post(CHAT, json=hello("a"))
    assert answer.status_code == 200
    assert [each.id for each in (await told(role, "/models", wire.Residents)).models] == ["a"]
    answer = await role.http.post(CHAT, json=hello("nobody-knows-it"))
    assert refused(answer) == (404, "model_not_found", None)


@pytest.mark.parametrize("path", [CHAT, TEXT])
async def test_a_stream_has_its_head_its_end_mark_and_its_usage(role: Running, path: str) -> None:
    await load(role, "a")
    body = {**hello("a"), "prompt": "one", "stream": True, "max_tokens": 3}
    del body["messages" if path == TEXT else "prompt"]
    async with calling(role) as caller:
        await caller.ask(path, body, **{name.replace("-", "_"): value for name, value in ROUTED.items()})
        answer = await caller.all()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers[wire.NEURON] == "n1" and answer.headers[wire.MODEL] == "a"
    assert answer.headers[wire.REQUEST_ID] == "mine-1"
    chunks = [msgspec.json.decode(data) for data in answer.data[:-1]]
    assert answer.data[-1] == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {
        "chat.completion.chunk" if path == CHAT else "text_completion"
    }
    assert [chunk["choices"][0].get("finish_reason") for chunk in chunks if chunk["choices"]][-1] == "length"
    said = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    text = "".join(each.get("text") or each.get("delta", {}).get("content") or "" for each in said)
    assert text.split() == ["0", "1", "2"]
    usage = wire.parse_usage(answer.trailers[wire.USAGE])
    assert usage is not None and usage.completion == 3


async def test_a_whole_answer_has_its_usage(role: Running) -> None:
    await load(role, "a")
    answer = await role.http.post(CHAT, json=hello("a", max_tokens=2), headers=ROUTED)
    said = answer.json()
    assert said["choices"][0]["message"]["content"].split() == ["0", "1"]
    assert said["usage"]["completion_tokens"] == 2 and said["usage"]["prompt_tokens"] > 0
    assert answer.headers[wire.REQUEST_ID] == "mine-1"


async def test_unloading_and_pinning_are_answered_alike(role: Running) -> None:
    await load(role, "a")
    answer = await role.http.post("/models/pin", json={"id": "a"})
    pinned = msgspec.json.decode(answer.content, type=keeping.PinAnswer)
    assert pinned == keeping.PinAnswer(id="a", pinned=True, resident=True)
    assert (await told(role, "/models", wire.Residents)).models[0].pinned
    assert refused(await load(role, "b"))[0] in (409, 503), "what is pinned is sent away for nobody"
    await role.http.post("/models/unpin", json={"id": "a"})
    assert not (await told(role, "/models", wire.Residents)).models[0].pinned
    answer = await role.http.post("/models/keep", json={"id": "b", "keep": {}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_resident")
    answer = await role.http.get("/models/a/endpoint")
    assert answer.json() == {"url": f"{role.url}/v1"}
    assert (await role.http.get("/models/a/capabilities")).json()["capabilities"]
    assert (await role.http.post("/models/unload", json={"id": "a"})).json() == {"id": "a", "unloaded": True}
    answer = await role.http.post("/models/unload", json={"id": "a"})
    assert refused(answer) == (404, "not_resident", None)


async def test_a_load_that_nobody_waits_for_is_a_job(role: Running) -> None:
    answer = await role.http.post("/models/load?wait=false", json={"spec": {"id": "a"}})
    assert answer.status_code == 202
    job = msgspec.json.decode(answer.content, type=keeping.LoadJob)
    assert job.model == "a" and job.state in ("queued", "loading")

    async def over() -> bool:
        return (await told(role, f"/models/jobs/{job.id}", keeping.LoadJob)).state == "done"

    await eventually(over)
    assert [each.id for each in (await told(role, "/models/jobs", keeping.LoadJobs)).jobs] == [job.id]
    assert refused(await role.http.get("/models/jobs/none")) == (404, "job_not_found", None)


async def test_what_is_no_route_is_a_404(role: Running) -> None:
    assert refused(await role.http.get("/nowhere"))[0] == 404
