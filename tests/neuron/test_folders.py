"""Folders of safetensors on a GPU: offered, placed, brought in with what goes with them."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.hub import HubConfig
from cortex.config.neuron import Devices, ExLlamaV2, LlamaCpp, NeuronConfig
from cortex.harness.base import LoadOrder, Progress
from cortex.harness.scripted import Script, ScriptedEngine, ScriptedHarness
from cortex.neuron.devices import watch as watch_module
from cortex.neuron.devices.nvml import find
from tests import fake_safetensors as weights
from tests.calls import CHAT, fault_of, hello, residents, settings, text_of
from tests.fake_hub import Repo, fake_hub
from tests.fake_nvml import GIB, Card, FakeNvml
from tests.roles import MIB, Running, demo_neuron, eventually, running_gateway, running_neuron, specs

CUDA = "exllamav2"


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture(autouse=True)
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("GPU-1", total=GIB, used=0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(watch_module, "find", lambda env: find(env, FakeNvml([card])))


class Recording(ScriptedHarness):
    """Keeps the orders that were carried out."""

    def __init__(self, script: Script = Script(reply="hi", bytes=MIB)) -> None:
        super().__init__(script)
        self.orders: list[LoadOrder] = []

    def load(self, order: LoadOrder, progress: Progress, ring) -> ScriptedEngine:
        self.orders.append(order)
        return super().load(order, progress, ring)


@asynccontextmanager
async def gpu(
    root: Path, *known: ModelSpec, harness: ScriptedHarness | None = None, **said: object
) -> AsyncIterator[Running]:
    """A neuron with a GPU, for whose folders an engine with a script stands in."""
    devices = Devices(use=("cuda:0",), memory_limit=64 * MIB, memory_headroom=0)
    config: NeuronConfig = replace(settings(), devices=devices, model_roots=(root,), **said)
    catalogue = Catalogue({spec.id: spec for spec in known})
    async with demo_neuron(config, catalogue, {CUDA: harness or Recording()}) as role:
        yield role


async def test_a_folder_of_a_root_is_offered_and_lives_on_the_gpu(tmp_path: Path) -> None:
    weights.folder(tmp_path / "name-4.0bpw")
    harness = Recording()
    async with gpu(tmp_path, harness=harness) as role:
        listed = (await role.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["name-4.0bpw"]
        assert text_of(await role.http.post(CHAT, json=hello("name-4.0bpw"))) == "hi"
        row = (await residents(role))["name-4.0bpw"]
        assert (list(row["bytes"]), row["harness"]) == (["cuda:0"], "scripted")
        assert [(order.path, order.device) for order in harness.orders] == [
            (tmp_path / "name-4.0bpw", "cuda:0")
        ]


async def test_the_cache_that_an_entry_names_is_what_requests_share(tmp_path: Path) -> None:
    spec = ModelSpec("m", source=f"path:{weights.folder(tmp_path / 'm')}", context=512, cache_tokens=700)
    async with gpu(tmp_path, spec) as role:
        await role.http.post("/models/load", json={"spec": {"id": "m"}})
        load = (await role.http.get("/health")).json()["models"][0]
        assert load["kv_tokens_total"] == 768


@pytest.mark.parametrize(("told", "runs"), [("thread", "thread"), ("process", "process")])
async def test_isolation_is_as_its_own_harness_is_told(tmp_path: Path, told: str, runs: str) -> None:
    weights.folder(tmp_path / "m")
    other = LlamaCpp(isolation="process" if told == "thread" else "thread")
    async with gpu(tmp_path, exllamav2=ExLlamaV2(isolation=told), llamacpp=other) as role:
        await role.http.post("/models/load", json={"spec": {"id": "m"}})
        row = (await residents(role))["m"]
        assert row["isolation"] == runs
        assert (row["pid"] == os.getpid()) is (runs == "thread")


def repo() -> Repo:
    return Repo({"model.safetensors": weights.shard(), "config.json": json.dumps(weights.CONFIG).encode()})


async def test_a_draft_of_a_hub_is_brought_first_as_a_phase_of_the_load(tmp_path: Path) -> None:
    model = weights.folder(tmp_path / "large")
    large = ModelSpec("large", source=f"path:{model}", draft="small")
    small = ModelSpec("small", source="hf:org/small")
    harness = Recording()
    async with fake_hub(small=repo()) as hub:
        go = trio.Event()
        hub.halts["model.safetensors"] = (100, go)
        config = HubConfig(cache_dir=tmp_path / "cache", endpoint=hub.url)
        async with gpu(tmp_path, large, small, harness=harness, hub=config) as role:
            job = (await role.http.post("/models/load?wait=false", json={"spec": {"id": "large"}})).json()
            await hub.halted.wait()

            async def downloading() -> bool:
                (row,) = (await role.http.get("/models/jobs")).json()["jobs"]
                return (row["model"], row["phase"]) == ("large", "download")

            await eventually(downloading)
            assert harness.orders == []
            go.set()

            async def done() -> bool:
                return (await role.http.get(f"/models/jobs/{job['id']}")).json()["state"] == "done"

            await eventually(done)
            (order,) = harness.orders
            assert order.path == model
            assert order.draft is not None
            assert order.draft.is_relative_to(tmp_path / "cache" / "models--org--small" / "snapshots")
            asked = len(hub.requests)
            await role.http.post("/models/unload", json={"id": "large"})
            await role.http.post("/models/load", json={"spec": {"id": "large"}})
            assert len(harness.orders) == 2
            assert len(hub.requests) == asked, "it was in the cache"


async def test_a_draft_that_cannot_be_loaded_is_refused_before_its_model_is_downloaded(
    tmp_path: Path,
) -> None:
    spec = {"id": "org/large", "draft": "hf:org/small"}
    harness = Recording()
    async with fake_hub(large=repo(), small=Repo({"m.gguf": b"1234"})) as hub:
        config = HubConfig(cache_dir=tmp_path / "cache", endpoint=hub.url)
        async with gpu(tmp_path, harness=harness, hub=config) as role:
            answer = await role.http.post("/models/load", json={"spec": spec})
            assert answer.status_code == 422
            assert "org/small holds gguf, and safetensors is what" in fault_of(answer)["message"]
            assert not [seen for seen in hub.requests if "/resolve/" in seen.path]
    async with fake_hub(large=repo(), small=repo()) as hub:
        config = HubConfig(cache_dir=tmp_path / "cache", endpoint=hub.url)
        async with gpu(tmp_path, harness=harness, hub=config) as role:
            await role.http.post("/models/load", json={"spec": {"id": "org/small"}})
            of_small = [seen.path for seen in hub.requests]
            assert (await role.http.post("/models/load", json={"spec": spec})).status_code == 200
            asked = [seen.path for seen in hub.requests[len(of_small) :]]
            assert asked and not [path for path in asked if "small" in path], "it was in the cache"
            _, order = harness.orders
            assert [path.parts[-3] for path in (order.path, order.draft)] == [
                "models--org--large",
                "models--org--small",
            ]


async def test_a_gateway_places_a_folder_on_a_gpu_and_says_where_its_draft_is(tmp_path: Path) -> None:
    """Fault: sent to a host without a GPU, which can only refuse it."""
    large, small = (weights.folder(tmp_path / name) for name in ("large", "small"))
    big = ModelSpec("big", source=f"path:{large}", draft="ahead")
    catalogue = Catalogue({"big": big, "ahead": ModelSpec("ahead", source=f"path:{small}")})
    harness, cpu = Recording(), settings(devices=Devices(use=("cpu",)))
    async with (
        running_neuron(tmp_path / "large", Catalogue(), Script(), config=cpu, memory=GIB) as one,
        gpu(tmp_path, harness=harness) as two,
        running_gateway(one, two, catalogue=catalogue) as gateway,
    ):
        assert text_of(await gateway.http.post(CHAT, json=hello("big"))) == "hi"
        assert [(order.path, order.draft) for order in harness.orders] == [(large, small)]


async def test_where_only_the_neuron_knows_a_model_its_name_tells_the_gateway_nothing(
    tmp_path: Path,
) -> None:
    """A name like that of a hub's repo is no format: the neuron's own file may say GGUF."""
    catalogue = specs(tmp_path, "m")
    known = Catalogue({"org/name": replace(catalogue.specs["m"], id="org/name")})
    cpu = settings(devices=Devices(use=("cpu",)))
    async with (
        running_neuron(tmp_path, known, Script(reply="hi"), config=cpu) as role,
        running_gateway(role) as gateway,
    ):
        assert text_of(await gateway.http.post(CHAT, json=hello("org/name"))) == "hi"
