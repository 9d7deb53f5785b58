"""A load that fails leaves nothing: no memory taken, no engine, no thread or process, no file."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import trio

from cortex.errors import DoesNotFit, LoadFailed
from cortex.harness.scripted import Script
from tests.calls import CHAT, Json, fault_of, hello, residents, settings, text_of, until
from tests.roles import MIB, Running, running_neuron, specs

BIG = Script(reply="hi", bytes=60 * MIB)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def raises(error: Exception) -> Callable[[], object]:
    def do() -> object:
        raise error

    return do


# Where it fails: the script, the status and whether somebody left for it.
POINTS = {
    "header": (replace(BIG, unfit="it is cut"), 422, False),
    "too big": (replace(BIG, bytes=101 * MIB), 507, False),
    "engine refuses": (replace(BIG, load_error=LoadFailed("the weights are torn")), 502, True),
    "no memory left": (replace(BIG, load_error=DoesNotFit("no 40 MiB left")), 507, True),
    "engine raises": (replace(BIG, on_load=raises(RuntimeError("boom"))), 502, True),
    "allocation fails": (replace(BIG, on_load=raises(MemoryError())), 507, True),
    "disk fails": (replace(BIG, on_load=raises(OSError(errno.EIO, "I/O error"))), 502, True),
}


@pytest.mark.parametrize("point", POINTS)
async def test_nothing_is_left_of_a_load_wherever_it_fails(tmp_path: Path, point: str) -> None:
    """Rows 62 and 68."""
    script, status, evicts = POINTS[point]
    catalogue, scripts = specs(tmp_path, "bad", "good", "other"), {"bad": script, "good": BIG, "other": BIG}
    async with running_neuron(tmp_path, catalogue, scripts, memory=100 * MIB, config=settings()) as role:
        await speak(role, "other")
        files = files_in(tmp_path)
        answer = await role.http.post(CHAT, json=hello("bad"))
        assert answer.status_code == status, answer.text
        assert set(await residents(role)) == (set() if evicts else {"other"})
        assert await free(role) == (100 if evicts else 40) * MIB
        assert "bad" not in role.engines and files_in(tmp_path) == files
        jobs = (await role.http.get("/models/jobs")).json()["jobs"]
        assert [job["state"] for job in jobs if job["model"] == "bad"] == (["failed"] if evicts else [])
        # The device is whole: what needs most of it comes in.
        await speak(role, "good")
        assert await free(role) == 40 * MIB


async def test_nothing_is_left_of_a_load_that_is_called_off_half_way(tmp_path: Path) -> None:
    slow = Event()
    scripts = {"slow": replace(BIG, slow_load=slow), "good": BIG}
    catalogue = specs(tmp_path, *scripts)
    async with running_neuron(tmp_path, catalogue, scripts, memory=100 * MIB, config=settings()) as role:
        job = (await role.http.post("/models/load?wait=false", json={"spec": {"id": "slow"}})).json()
        await until(lambda: half_way(role), 5)
        assert await free(role) == 40 * MIB
        assert (await role.http.delete(f"/models/jobs/{job['id']}")).json()["state"] == "cancelled"
        assert await free(role) == 100 * MIB
        await speak(role, "good")


async def test_a_load_too_big_names_each_device_with_what_it_needs_and_has(tmp_path: Path) -> None:
    scripts = {"big": replace(BIG, bytes=101 * MIB), "good": BIG}
    catalogue = specs(tmp_path, *scripts)
    async with running_neuron(tmp_path, catalogue, scripts, memory=100 * MIB, config=settings()) as role:
        await speak(role, "good")
        answer = await role.http.post("/models/load", json={"spec": {"id": "big"}})
        fault = fault_of(answer)
        assert (answer.status_code, fault["code"]) == (507, "does_not_fit")
        assert fault["needed_bytes"] == 101 * MIB
        assert fault["free_by_device"] == {"cpu": 40 * MIB}
        assert fault["total_by_device"] == {"cpu": 100 * MIB}
        assert "101MiB" in fault["message"] and "cpu has 40MiB of 100MiB free" in fault["message"]


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def speak(role: Running, model: str) -> None:
    assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def free(role: Running) -> int:
    (device,) = (await role.http.get("/health")).json()["devices"]
    return device["memory_free"]


async def half_way(role: Running) -> bool:
    rows: dict[str, Json] = await residents(role)
    return "slow" in rows and rows["slow"]["done_bytes"] > 0
