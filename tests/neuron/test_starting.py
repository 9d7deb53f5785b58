"""From the first socket to ready: the listener first, then one default model after another."""

import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import trio

from cortex import neuron
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import Devices, NeuronConfig
from cortex.errors import ConfigError, LoadFailed
from cortex.harness.exllamav2 import ExLlamaV2Harness
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.scripted import Script
from cortex.translator.dialects import DIALECTS
from tests.calls import CHAT, hello, residents, settings, text_of, until
from tests.roles import ANY, Running, demo_neuron, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def activation(role: Running) -> dict:
    return (await role.http.get("/health")).json()["activation"]


async def ready(role: Running) -> bool:
    return (await activation(role))["state"] == "ready"


async def test_default_models_come_one_by_one_and_a_failure_does_not_stop_the_next(tmp_path: Path) -> None:
    """Meanwhile the listener answers, and says how far it is."""
    slow = Event()
    scripts = {
        "a": Script(load_error=LoadFailed("a: torn weights")),
        "b": Script(unfit="a cut header"),
        "c": Script(reply="hi", slow_load=slow),
        "d": Script(reply="hi"),
        "e": Script(reply="hi", bytes=2 * 2**30),
        "f": Script(load_error=ValueError("a bug")),  # type: ignore[arg-type]
    }
    catalogue = specs(tmp_path, *scripts)
    default = tuple(ModelSpec(model) for model in ("a", "missing", "b", "f", "c", "e", "d"))
    config = settings(default_models=default)
    async with running_neuron(tmp_path, catalogue, scripts, config=config) as role:
        await until(lambda: comes(role, "c"), 5)
        assert (await role.http.get("/livez")).status_code == 200
        assert (await role.http.get("/readyz")).status_code == 503
        seen = await activation(role)
        assert (seen["state"], seen["pending"], seen["completed"]) == ("activating", ["e", "d"], [])
        assert set(seen["failed"]) == {"a", "missing", "b", "f"}
        slow.set()
        await until(lambda: ready(role), 5)
        seen = await activation(role)
        assert (seen["pending"], seen["in_progress"], seen["completed"]) == ([], None, ["c", "d"])
        failed = seen["failed"]
        assert "torn weights" in failed["a"]
        assert "has no source" in failed["missing"]
        assert "a cut header" in failed["b"]
        assert "could ever hold" in failed["e"]
        assert (await role.http.get("/readyz")).status_code == 200
        assert (await role.http.get("/health")).json()["status"] == "impaired"
        assert set(await residents(role)) == {"c", "d"}
        assert text_of(await role.http.post(CHAT, json=hello("d"))) == "hi"


async def comes(role: Running, model: str) -> bool:
    return (await activation(role))["in_progress"] == model


async def test_a_neuron_without_default_models_is_ready_at_once(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        await until(lambda: ready(role), 5)
        health = (await role.http.get("/health")).json()
        assert (health["status"], health["models"], health["warnings"]) == ("ok", [], [])


async def test_files_in_the_roots_are_models_by_their_names(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, ("x", "y", "no model id")), (second, ("y", "z"))):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.gguf").touch()
    (first / "readme.md").touch()
    config = NeuronConfig(model_roots=(first, second))
    async with demo_neuron(config) as role:
        assert (await role.http.get("/models")).json()["known"] == ["x", "y", "z"]
        answer = await role.http.post(CHAT, json=hello("y"))
        assert str(first / "y.gguf") in answer.json()["error"]["message"]


async def test_the_demo_model_stands_in_only_where_there_is_nothing_else(tmp_path: Path) -> None:
    async with demo_neuron() as role:
        assert (await role.http.get("/models")).json()["known"] == ["cortex-demo"]
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        assert (await role.http.get("/models")).json()["known"] == ["a"]


async def test_discovery_tells_what_this_host_is(tmp_path: Path) -> None:
    async with demo_neuron() as role:
        told = (await role.http.get("/discovery")).json()
        assert told["name"] == "n1"
        assert told["hostname"]
        assert told["dialects"] == [dialect.name for dialect in DIALECTS]
        (device,) = told["devices"]
        assert (device["kind"], device["index"]) == ("cpu", 0)
        assert device["memory_total"] > 2**28
        harnesses = {each.pop("name"): each for each in told["harnesses"]}
        version = LlamaCppHarness().version
        assert harnesses["llamacpp"] == {"available": True, "version": version, "code": None, "why_not": None}
        cuda = harnesses["exllamav2"]
        # A host with a GPU may have all that it needs, or lack any of it.
        assert cuda["available"] == (cuda["code"] is None) == (cuda["why_not"] is None)
        assert set(harnesses) == {"exllamav2", "llamacpp"}
        about = (await role.http.get("/version")).json()
        cuda = ExLlamaV2Harness().version
        assert (about["role"], about["engines"]) == ("neuron", {"exllamav2": cuda, "llamacpp": version})
        boots = {
            (await role.http.get(path)).json()["boot_id"] for path in ("/discovery", "/health", "/models")
        }
        assert len(boots) == 1


async def test_an_engine_that_cannot_run_here_is_told_with_its_remedy(tmp_path: Path) -> None:
    shutil.copy(__file__, tmp_path / "x.gguf")
    poor = LlamaCppHarness(cpu_flags=lambda: frozenset({"fma", "f16c"}))
    async with demo_neuron(NeuronConfig(model_roots=(tmp_path,)), harnesses={"llamacpp": poor}) as role:
        (harness,) = (await role.http.get("/discovery")).json()["harnesses"]
        assert (harness["available"], harness["code"]) == (False, "unsupported_cpu")
        assert "avx2" in harness["why_not"]
        answer = await role.http.post(CHAT, json=hello("x"))
        assert answer.status_code == 422
        assert "avx2" in answer.json()["error"]["message"]


async def test_a_device_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    config = replace(NeuronConfig(), listen=ANY, metrics_listen=ANY, devices=Devices(use=("cuda:7",)))
    with pytest.raises(ExceptionGroup) as caught:
        await neuron.run(config, Catalogue())
    assert caught.group_contains(ConfigError, match="cuda:7")


async def test_the_metrics_page_tells_of_devices_and_residents(tmp_path: Path) -> None:
    async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_device_memory_bytes{device="cpu",kind="total",neuron="n1"} 1.073741824e+09' in page
        assert 'cortex_neuron_up{neuron="n1"} 1.0' in page
        assert "cortex_build_info{" in page and 'role="neuron"' in page
