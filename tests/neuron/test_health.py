"""Health and the list of residents are reads of memory: right, and there whatever else hangs."""

import builtins
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cortex.demo import GGUF, MODEL_ID
from cortex.harness.scripted import Gate, Script, tokens_of
from cortex.neuron.devices import Cpu, Reading, find
from cortex.neuron.devices import watch as watch_module
from cortex.neuron.view import View
from tests.calls import CHAT, calling, hello, residents, settings, until
from tests.fake_nvml import GIB, Card, FakeNvml
from tests.roles import Running, demo_neuron, running_neuron, specs

MIB = 2**20


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_tokens_in_the_cache_are_those_of_live_jobs(tmp_path: Path) -> None:
    gate = Gate()
    script = Script(endless=True, hold=gate)
    catalogue = specs(tmp_path, "a", context=512)
    async with running_neuron(tmp_path, catalogue, script, config=settings(slots=3)) as role:

        async def kv() -> tuple[int, int]:
            rows = (await role.http.get("/health")).json()["models"]
            return next(((row["kv_tokens_used"], row["kv_tokens_total"]) for row in rows), (-1, -1))

        async def is_(used: int) -> None:
            async def so() -> bool:
                return await kv() == (used, 3 * 512)

            await until(so, 10)

        async with calling(role) as first:
            await first.ask(CHAT, hello(stream=True))
            await is_(0)
            gate.let(1)

            async def read() -> bool:
                return (await kv())[0] > 0

            await until(read, 10)
            (job,) = role.engines["a"].jobs
            prompt = len(tokens_of(job.prompt))
            await is_(prompt + 1)
            gate.let(4)
            await is_(prompt + 5)
            assert await kv() == (prompt + 5, 3 * 512), "and it stays, while nothing is computed"
            async with calling(role) as second:
                await second.ask(CHAT, hello(stream=True))
                await until(lambda: taken(role, 2), 10)
                gate.let(1)
                await is_(2 * prompt + 7)
            gate.open()
        await is_(0)


async def taken(role: Running, jobs: int) -> bool:
    return len(role.engines["a"].jobs) == jobs


@contextmanager
def untouched() -> Iterator[None]:
    """Whoever touches a file or starts a thread in this block is caught."""

    def caught(*what: object, **more: object) -> None:
        raise AssertionError(f"touched {what} {more}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", caught)
        for name in ("open", "stat", "lstat", "listdir", "scandir", "read", "write", "replace", "fsync"):
            patch.setattr(os, name, caught)
        patch.setattr(threading.Thread, "start", caught)
        patch.setattr(trio.to_thread, "run_sync", caught)
        yield


async def test_health_and_models_touch_no_file_no_thread_and_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def held(name: str) -> Callable[[View], object]:
        read = getattr(View, name)

        def reads(view: View) -> object:
            asked.append(name)
            with untouched():
                return read(view)

        return reads

    for name in ("health", "models"):
        monkeypatch.setattr(View, name, held(name))
    async with running_neuron(tmp_path, specs(tmp_path, "a", "b"), Script()) as role:
        assert (await role.http.post("/models/load", json={"spec": {"id": "a"}})).status_code == 200
        assert (await role.http.get("/health")).status_code == 200
        assert (await role.http.get("/models")).status_code == 200
    assert {"health", "models"} <= set(asked)


async def test_health_answers_while_the_device_its_thread_and_the_disk_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LOOK_S", 0.005)
    look, hang, stall = Cpu.look, threading.Event(), threading.Event()
    stuck = False

    def hangs(cpu: Cpu) -> Reading:
        if stuck:
            hang.wait(20)
        return look(cpu)

    monkeypatch.setattr(Cpu, "look", hangs)
    monkeypatch.setattr(os, "fsync", lambda descriptor: hang.wait(20))
    gate = Gate(1)
    script = Script(endless=True, stall=stall, hold=gate)
    try:
        async with running_neuron(tmp_path, specs(tmp_path, "a"), script) as role:
            stuck = True
            async with calling(role) as caller:
                await caller.ask(CHAT, hello(stream=True))

                async def busy() -> bool:
                    (row,) = (await role.http.get("/health")).json()["models"] or [{}]
                    return row.get("in_flight") == 1

                await until(busy, 10)
                for path in ("/health", "/models") * 5:
                    with trio.fail_after(5):
                        assert (await role.http.get(path)).status_code == 200
                stall.set()
                hang.set()
    finally:
        stall.set()
        hang.set()


async def test_every_device_has_its_own_figures_in_health_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [
        Card("GPU-1", total=24 * GIB, used=GIB, heat=50),
        Card("GPU-2", total=12 * GIB, used=0, busy=None),
    ]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(watch_module, "find", lambda env: find(env, FakeNvml(cards)))
    catalogue = specs(tmp_path, "a")
    async with running_neuron(tmp_path, catalogue, Script(bytes=100 * MIB), memory=16 * GIB) as role:
        await role.http.post("/models/load", json={"spec": {"id": "a"}})
        rows = {row["name"]: row for row in (await role.http.get("/health")).json()["devices"]}
        assert list(rows) == ["cpu", "cuda:0", "cuda:1"]
        assert (rows["cuda:0"]["memory_total"], rows["cuda:0"]["memory_used"]) == (16 * GIB, 0)
        assert (rows["cuda:1"]["memory_total"], rows["cuda:1"]["memory_free"]) == (12 * GIB, 12 * GIB)
        assert rows["cpu"]["memory_total"] - rows["cpu"]["memory_free"] >= 100 * MIB
        assert (rows["cuda:0"]["temperature"], rows["cuda:0"]["utilization"]) == (50, 0.37)
        assert rows["cuda:1"]["utilization"] is None
        assert [row["place"] for row in rows.values()] == ["cpu", "cuda:0", "cuda:1"]
        assert all(row["heartbeat_age_s"] is not None for row in rows.values())

        async def told() -> bool:
            page = (await role.http.get(role.metrics_url)).text
            return 'cortex_resident_bytes{model="a",neuron="n1"} 1.048576e+08' in page

        await until(told, 10)
        page = (await role.http.get(role.metrics_url)).text
        assert 'cortex_device_memory_bytes{device="cuda:1",kind="total",neuron="n1"} 1.2884901888e+10' in page
        assert 'cortex_device_temperature_celsius{device="cuda:0",neuron="n1"} 50.0' in page
        assert 'cortex_device_utilization_ratio{device="cuda:0",neuron="n1"} 0.37' in page
        assert 'cortex_device_utilization_ratio{device="cuda:1"' not in page


async def test_the_bytes_of_a_real_model_are_split_as_they_were_measured() -> None:
    async with demo_neuron() as role:
        told = {"model": MODEL_ID, "prompt": "Hi", "max_tokens": 1}
        assert (await role.http.post("/v1/completions", json=told)).status_code == 200
        row = (await residents(role))[MODEL_ID]
        parts = [row[name] for name in ("weights_bytes", "cache_bytes", "overhead_bytes")]
        assert all(part > 0 for part in parts)
        assert row["bytes"] == {"cpu": sum(parts)}
        assert parts[0] < GGUF.stat().st_size
