"""A model of a hub is downloaded as the first part of its load, and nobody pays for it before.

Fault rows: "download cut / wrong hash" (80) and "disk full" (79), as those see it who wait.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.hub import HubConfig
from cortex.harness.scripted import Script
from tests.calls import CHAT, Json, fault_of, hello, residents, settings, text_of, until
from tests.fake_hub import FakeHub, Repo, fake_hub
from tests.roles import MIB, Running, demo_neuron, running_gateway, running_neuron

WEIGHTS = bytes(range(256)) * 2000
ID = "org/m"
GGUF = ModelSpec(ID, harness="llamacpp")  # which the name of the repo does not tell
CATALOGUE = Catalogue({ID: GGUF})


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def hub_of(hub: FakeHub, tmp_path: Path, **more) -> HubConfig:
    return HubConfig(cache_dir=tmp_path / "cache", endpoint=hub.url, **more)


@asynccontextmanager
async def neuron(
    hub: FakeHub,
    tmp_path: Path,
    script: Script | dict[str, Script] = Script(reply="hi", bytes=10 * MIB),
    catalogue: Catalogue = CATALOGUE,
    memory: int = 64 * MIB,
    **more,
) -> AsyncIterator[Running]:
    """A neuron with scripted engines, and models of `hub`."""
    config = settings(hub=hub_of(hub, tmp_path, **more))
    async with running_neuron(tmp_path, catalogue, script, config=config, memory=memory) as role:
        yield role


def weights(name: str = "m.gguf", data: bytes = WEIGHTS) -> Repo:
    return Repo({name: data})


async def load(role: Running, spec: Json) -> httpx.Response:
    return await role.http.post("/models/load", json={"spec": spec})


async def test_a_model_of_a_hub_is_downloaded_loaded_and_speaks(tmp_path: Path) -> None:
    spec = ModelSpec("small", source="hf:org/demo", quant="Q8_0", context=512)
    catalogue = Catalogue({"small": spec})
    files = {"demo-Q8_0.gguf": demo.GGUF.read_bytes(), "demo-F16.gguf": WEIGHTS}
    async with fake_hub(demo=Repo(files)) as hub:
        config = settings(hub=hub_of(hub, tmp_path))
        async with demo_neuron(config, catalogue) as role:
            first = text_of(await role.http.post(CHAT, json=hello("small")))
            assert first
        asked = len(hub.requests)
        # From the cache, as it is; nobody is asked.
        async with demo_neuron(config, catalogue) as role:
            assert text_of(await role.http.post(CHAT, json=hello("small"))) == first
        assert len(hub.requests) == asked
        assert not hub.asked("F16.gguf")


async def test_how_far_a_download_is_shows_in_the_list_and_at_the_gateway(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub, trio.open_nursery() as nursery:
        go = trio.Event()
        hub.halts[".gguf"] = (300_000, go)
        async with neuron(hub, tmp_path) as role, running_gateway(role, catalogue=CATALOGUE) as gateway:
            answers: list[str] = []

            async def ask() -> None:
                answers.append(text_of(await gateway.http.post(CHAT, json=hello(ID))))

            async def on_its_way() -> bool:
                return (await residents(role)).get(ID, {}).get("phase") == "download"

            async def seen_at_the_gateway() -> bool:
                loads = (await gateway.http.get("/fleet")).json()["loads"]
                return [(load["model"], load["total_bytes"]) for load in loads] == [(ID, len(WEIGHTS))]

            nursery.start_soon(ask)
            await until(on_its_way, 5)
            row = (await residents(role))[ID]
            assert (row["state"], row["total_bytes"]) == ("loading", len(WEIGHTS))
            await until(seen_at_the_gateway, 5)
            go.set()
            while not answers:  # noqa: ASYNC110
                await trio.sleep(0.005)
            row = (await residents(role))[ID]
            assert (row["state"], row["phase"], row["bytes"]) == ("loaded", None, {"cpu": 10 * MIB})
    assert answers == ["hi"]


async def test_nobody_makes_room_before_the_model_is_here(tmp_path: Path) -> None:
    (tmp_path / "old.gguf").touch()
    old = ModelSpec("old", source=f"path:{tmp_path}/old.gguf")
    both = Catalogue({ID: GGUF, "old": old})
    scripts = {ID: Script(reply="new", bytes=40 * MIB), "old": Script(reply="old", bytes=40 * MIB)}
    async with fake_hub(m=weights()) as hub, trio.open_nursery() as nursery:
        go = trio.Event()
        hub.halts[".gguf"] = (1000, go)
        async with neuron(hub, tmp_path, scripts, both) as role:
            assert text_of(await role.http.post(CHAT, json=hello("old"))) == "old"
            answers: list[str] = []

            async def ask() -> None:
                answers.append(text_of(await role.http.post(CHAT, json=hello(ID))))

            for _ in range(3):
                nursery.start_soon(ask)
            await hub.halted.wait()
            # It serves as if nothing were on the way.
            assert text_of(await role.http.post(CHAT, json=hello("old"))) == "old"
            go.set()
            while len(answers) < 3:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert answers == ["new"] * 3
            assert set(await residents(role)) == {ID}
            jobs = (await role.http.get("/models/jobs")).json()["jobs"]
            # From the first byte of the download to the last of the load: one job.
            assert [(job["model"], job["state"]) for job in jobs] == [(ID, "done"), ("old", "done")]
        assert len(hub.asked(".gguf", "cdn")) == 1


async def test_a_download_that_is_called_off_ends_at_once_and_goes_on_later(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub:
        hub.halts[".gguf"] = (300_000, trio.Event())
        async with neuron(hub, tmp_path) as role:
            job = (
                await role.http.post(
                    "/models/load?wait=false", json={"spec": {"id": ID, "harness": "llamacpp"}}
                )
            ).json()
            await hub.halted.wait()

            async def downloading() -> bool:
                told = (await role.http.get(f"/models/jobs/{job['id']}")).json()
                return (told["phase"], told["total_bytes"]) == ("download", len(WEIGHTS))

            await until(downloading, 5)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(1):
                told = (await role.http.delete(f"/models/jobs/{job['id']}")).json()
            assert told["state"] == "cancelled"
            assert await residents(role) == {}
            (partial,) = (tmp_path / "cache").rglob("*.incomplete")
            assert partial.stat().st_size == 300_000
            hub.halts.clear()
            job = (
                await role.http.post(
                    "/models/load?wait=false", json={"spec": {"id": ID, "harness": "llamacpp"}}
                )
            ).json()

            async def done() -> bool:
                return (await role.http.get(f"/models/jobs/{job['id']}")).json()["state"] == "done"

            await until(done, 5)
            assert set(await residents(role)) == {ID}
        assert hub.asked(".gguf", "cdn")[-1].range == "bytes=300000-"


async def test_a_neuron_that_stops_leaves_its_download_for_the_next_start(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub:
        hub.halts[".gguf"] = (300_000, trio.Event())
        async with neuron(hub, tmp_path) as role:
            await role.http.post("/models/load?wait=false", json={"spec": {"id": ID, "harness": "llamacpp"}})
            await hub.halted.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(3):
                role.stop.set()
                await role.done.wait()
        (partial,) = (tmp_path / "cache").rglob("*.incomplete")
        assert partial.stat().st_size == 300_000


async def test_a_download_that_fails_is_told_to_all_who_wait_and_rests(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub:
        hub.lies[".gguf"] = [WEIGHTS[::-1]]
        async with neuron(hub, tmp_path) as role:
            answers: list[httpx.Response] = []

            async def ask() -> None:
                answers.append(await role.http.post(CHAT, json=hello(ID)))

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
            asked = len(hub.requests)
            answers.append(await role.http.post(CHAT, json=hello(ID)))
            assert [answer.status_code for answer in answers] == [502] * 4
            for answer in answers:
                assert fault_of(answer)["code"] == "load_failed"
                assert "m.gguf of org/m is not what the hub says" in fault_of(answer)["message"]
            assert int(answers[-1].headers["retry-after"]) <= 10
            assert len(hub.requests) == asked
            assert await residents(role) == {}


@pytest.mark.parametrize(
    ("files", "spec", "words"),
    [
        ({"a-Q4_0.gguf": b"1234", "a-Q8_0.gguf": b"12345678"}, {}, ["several", "Q4_0 (4B)", "Q8_0 (8B)"]),
        ({"a-Q4_0.gguf": b"1234"}, {"quant": "Q5_0"}, ["no 'Q5_0'", "Q4_0"]),
        ({"model.safetensors": b"1234", "config.json": b"{}"}, {}, ["holds safetensors", "GGUF", "m-GGUF"]),
        ({"pytorch_model.bin": b"1234"}, {}, ["pickles", "never loaded"]),
        ({"README.md": b"1234"}, {}, ["no weights"]),
        ({"a.gguf": b"1234"}, {"harness": "exllamav2"}, ["exllamav2", "llamacpp"]),
        ({"a.gguf": b"1234"}, {"revision": "v9"}, ["no revision 'v9'"]),
        ({"a.gguf": b"1234"}, {"source": "hf:org/other"}, ["no model org/other", "spelling"]),
    ],
    ids=["several", "no-quant", "format", "pickles", "none", "harness", "revision", "repo"],
)
async def test_what_cannot_be_loaded_is_refused_before_any_of_it_is_downloaded(
    tmp_path: Path, files: dict[str, bytes], spec: Json, words: list[str]
) -> None:
    async with fake_hub(m=Repo(files)) as hub, neuron(hub, tmp_path, catalogue=Catalogue()) as role:
        answer = await load(role, {"id": ID, "harness": "llamacpp", **spec})
        assert (answer.status_code, fault_of(answer)["code"]) == (422, "unfit_model")
        for word in words:
            assert word in fault_of(answer)["message"]
        assert not [seen for seen in hub.requests if "/resolve/" in seen.path]
        assert await residents(role) == {}


async def test_who_meant_the_gguf_of_a_repo_that_does_not_say_so_is_told_what_to_write(
    tmp_path: Path,
) -> None:
    async with fake_hub(m=weights()) as hub, neuron(hub, tmp_path, catalogue=Catalogue()) as role:
        answer = await load(role, {"id": ID})
        assert answer.status_code == 422
        assert "wants harness 'exllamav2'" in fault_of(answer)["message"]
        assert 'GGUF files, set harness = "llamacpp"' in fault_of(answer)["message"]
        assert hub.requests == []
        assert (await load(role, {"id": ID, "quant": "Q4_0"})).status_code == 422
        assert hub.requests, "a quant is one of GGUF"


async def test_a_model_larger_than_every_device_is_not_downloaded(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub, neuron(hub, tmp_path, memory=len(WEIGHTS) - 1) as role:
        answer = await load(role, {"id": ID, "harness": "llamacpp"})
        assert (answer.status_code, fault_of(answer)["code"]) == (507, "does_not_fit")
        assert fault_of(answer)["needed_bytes"] == len(WEIGHTS)
        assert not [seen for seen in hub.requests if "/resolve/" in seen.path]


async def test_a_model_that_turns_out_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    script = Script(bytes=65 * MIB)
    async with fake_hub(m=weights()) as hub, neuron(hub, tmp_path, script, memory=64 * MIB) as role:
        answer = await role.http.post(CHAT, json=hello(ID))
        assert (answer.status_code, fault_of(answer)["code"]) == (507, "does_not_fit")
        assert fault_of(answer)["needed_bytes"] == 65 * MIB
        assert await residents(role) == {}
        assert len(hub.asked(".gguf", "cdn")) == 1


async def test_offline_what_is_not_in_the_cache_is_refused(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub:
        async with neuron(hub, tmp_path, offline=True) as role:
            answer = await role.http.post(CHAT, json=hello(ID))
            assert answer.status_code == 422
            assert "[hub] offline" in fault_of(answer)["message"]
            assert hub.requests == []
        async with neuron(hub, tmp_path) as role:
            assert text_of(await role.http.post(CHAT, json=hello(ID))) == "hi"
        async with neuron(hub, tmp_path, offline=True) as role:
            assert text_of(await role.http.post(CHAT, json=hello(ID))) == "hi"


async def test_no_name_that_a_client_says_is_asked_of_the_hub(tmp_path: Path) -> None:
    async with fake_hub(m=weights(), other=weights()) as hub, neuron(hub, tmp_path) as role:
        for name in ("org/other", "hf:org/other", "org/m:Q4_0"):
            assert (await role.http.post(CHAT, json=hello(name))).status_code == 404
        assert hub.requests == []


async def test_a_request_that_never_fits_its_slots_downloads_nothing(tmp_path: Path) -> None:
    async with fake_hub(m=weights()) as hub, neuron(hub, tmp_path) as role:
        answer = await role.http.post(CHAT, json=hello(ID, n=5))
        assert (answer.status_code, fault_of(answer)["param"]) == (400, "n")
        assert hub.requests == []


async def test_a_default_model_that_cannot_be_had_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    specs = (ModelSpec("org/none-GGUF"), ModelSpec("a"))
    async with fake_hub() as hub:
        config = replace(settings(hub=hub_of(hub, tmp_path)), default_models=specs)
        async with running_neuron(tmp_path, Catalogue(), Script(reply="hi"), config=config) as role:

            async def ready() -> bool:
                return (await role.http.get("/readyz")).status_code == 200

            await until(ready, 5)
            activation = (await role.http.get("/health")).json()["activation"]
            assert activation["completed"] == ["a"]
            assert "no model org/none-GGUF" in activation["failed"]["org/none-GGUF"]


async def test_a_model_that_was_replaced_meanwhile_is_loaded_as_it_is(tmp_path: Path) -> None:
    """Between download and load the room goes to another: the download was not for nothing."""
    scripts = {ID: Script(reply="new", bytes=40 * MIB), "x": Script(reply="x", bytes=40 * MIB)}
    (tmp_path / "x.gguf").touch()
    async with fake_hub(m=weights()) as hub, trio.open_nursery() as nursery:
        go = trio.Event()
        hub.halts[".gguf"] = (1000, go)
        catalogue = Catalogue({ID: GGUF})
        async with neuron(hub, tmp_path, scripts, catalogue) as role:
            answers: list[str] = []

            async def ask(model: str) -> None:
                answers.append(text_of(await role.http.post(CHAT, json=hello(model))))

            nursery.start_soon(ask, ID)
            await hub.halted.wait()
            await ask("x")
            go.set()
            while len(answers) < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
    assert answers == ["x", "new"]
