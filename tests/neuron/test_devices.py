"""What the host has is read off the request path, and cut to what models may use."""

import threading
from pathlib import Path

import psutil
import pytest
import trio

from cortex.config.neuron import Devices as DevicesConfig
from cortex.errors import ConfigError, TooSlow
from cortex.evictor import Rules
from cortex.harness.scripted import Script
from cortex.ledger import Ledger, Policy
from cortex.neuron.devices import Cpu, Devices, Reading, Rooms
from cortex.neuron.devices import watch as devices_module
from tests.calls import until
from tests.roles import running_neuron, specs

GIB = 2**30


class FakeProbe:
    """A device whose readings are set by the test."""

    def __init__(self, name: str, *readings: Reading) -> None:
        self.name, self.kind, self.model = name, name.partition(":")[0], f"model of {name}"
        self.compute: str | None = None
        self.uuid: str | None = None
        self.readings = list(readings) or [Reading(16 * GIB, 10 * GIB)]
        self.looks = 0
        self.hang: threading.Event | None = None
        self.error: Exception | None = None

    def look(self) -> Reading:
        self.looks += 1
        if self.hang is not None:
            self.hang.wait(20)
        if self.error is not None:
            raise self.error
        return self.readings[min(self.looks, len(self.readings)) - 1]


async def started(nursery: trio.Nursery, config: DevicesConfig, *probes: FakeProbe) -> Devices:
    devices = Devices(config, probes or None)
    await nursery.start(devices.run)
    return devices


async def rooms(config: DevicesConfig, *probes: FakeProbe) -> dict[str, tuple[int, int]]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, config, *probes)
            nursery.cancel_scope.cancel()
    ledger = empty()
    Rooms(config, devices, ledger).open()
    found = [room for place in ledger for room in place.rooms.values()]
    return {room.name: (room.total_bytes, room.total_bytes - room.other_bytes) for room in found}


def empty() -> Ledger:
    return Ledger(lambda: 0.0, Policy(Rules("lru", 0.0), 8, 30.0))


@pytest.mark.parametrize(
    ("limit", "headroom", "available", "room"),
    [
        (None, GIB, 10 * GIB, (15 * GIB, 9 * GIB)),
        (None, 0, 16 * GIB, (16 * GIB, 16 * GIB)),
        (200 * 2**20, GIB, 10 * GIB, (200 * 2**20, 200 * 2**20)),
        (200 * 2**20, GIB, GIB + 50, (200 * 2**20, 50)),
        (64 * GIB, GIB, 10 * GIB, (15 * GIB, 9 * GIB)),
        (None, GIB, GIB // 2, (15 * GIB, 0)),
        (None, 32 * GIB, 10 * GIB, (0, 0)),
    ],
)
async def test_headroom_stays_with_the_host_and_the_limit_caps_the_rest(
    limit: int | None, headroom: int, available: int, room: tuple[int, int]
) -> None:
    config = DevicesConfig(memory_limit=limit, memory_headroom=headroom)
    assert await rooms(config, FakeProbe("cpu", Reading(16 * GIB, available))) == {"cpu": room}


async def test_the_real_host_has_a_cpu() -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, DevicesConfig(memory_headroom=0))
            total = devices.reading("cpu").total_bytes
            assert total > devices.reading("cpu").available_bytes >= 0
            (listed,) = devices.report()
            assert (listed.index, listed.device, listed.kind, listed.memory_total) == (0, "cpu", "cpu", total)
            assert "threads" in listed.name
            reading = devices.reading("cpu")
            assert reading.utilization is not None
            assert 0 <= reading.utilization <= 1
            assert devices.host.hostname
            assert devices.host.kernel
            assert devices.host.os
            nursery.cancel_scope.cancel()


async def test_only_the_devices_that_were_chosen_are_used() -> None:
    config = DevicesConfig(use=("gpu:1",), memory_headroom=0)
    assert set(await rooms(config, FakeProbe("cpu"), FakeProbe("gpu:0"), FakeProbe("gpu:1"))) == {"gpu:1"}
    assert set(await rooms(DevicesConfig(), FakeProbe("cpu"), FakeProbe("gpu:0"))) == {"cpu", "gpu:0"}


def test_a_device_that_is_not_here_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        Devices(DevicesConfig(use=("cpu", "cuda:0", "cuda:1")))
    assert caught.value.faults == [
        "devices.use: this host has cpu, not cuda:0",
        "devices.use: this host has cpu, not cuda:1",
    ]


async def test_readings_are_refreshed_and_asking_costs_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "LOOK_S", 0.01)
    probe = FakeProbe("cpu", Reading(8 * GIB, 5 * GIB), Reading(8 * GIB, 3 * GIB))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, DevicesConfig(), probe)
            looks = probe.looks
            for _ in range(100):
                devices.warnings()
                devices.report()
                devices.reading("cpu")
            assert probe.looks == looks
            while devices.reading("cpu").available_bytes != 3 * GIB:  # noqa: ASYNC110
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()


async def test_what_we_hold_is_looked_up_at_this_moment() -> None:
    """Of a device that cannot tell it is all that is used; what is no device holds nothing."""
    telling = FakeProbe("cpu", Reading(100, 40, ours_bytes=7), Reading(100, 40, ours_bytes=5))
    silent = FakeProbe("cuda:0", Reading(100, 40), Reading(100, 30))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, DevicesConfig(), telling, silent)
            assert await devices.ours(["cpu"]) == 5
            assert await devices.ours(["cpu", "cuda:0", "upstream"]) == 5 + 70
            nursery.cancel_scope.cancel()


async def test_a_driver_that_hangs_leaves_the_last_reading_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices_module, "LOOK_S", 0.005)
    monkeypatch.setattr(devices_module, "LOOK_DEADLINE_S", 0.02)
    stuck, fine = FakeProbe("gpu:0"), FakeProbe("cpu")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, DevicesConfig(memory_headroom=0), stuck, fine)
            stuck.hang = threading.Event()
            while not devices.late("gpu:0"):  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert devices.reading("gpu:0").available_bytes == 10 * GIB
            looks = fine.looks
            while fine.looks < looks + 3:  # noqa: ASYNC110
                await trio.sleep(0.005)
            assert not devices.late("cpu")
            assert stuck.looks == 2  # no second thread behind the one that hangs
            stuck.hang.set()
            while devices.late("gpu:0"):  # noqa: ASYNC110
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert caplog.text.count("device.late") == 1


@pytest.mark.parametrize(
    "error", [OSError("no /proc"), psutil.AccessDenied(), KeyError("MemAvailable:"), RuntimeError("overflow")]
)
async def test_a_look_that_fails_does_not_end_the_neuron(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(devices_module, "LOOK_S", 0.005)
    probe = FakeProbe("cpu")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            devices = await started(nursery, DevicesConfig(), probe)
            probe.error = error
            while not devices.late("cpu"):  # noqa: ASYNC110
                await trio.sleep(0.005)
            looks = probe.looks
            while probe.looks < looks + 3:  # noqa: ASYNC110
                await trio.sleep(0.005)
            probe.error = None
            while devices.late("cpu"):  # noqa: ASYNC110
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert caplog.text.count("device.late device=cpu") == 1
    assert type(error).__name__ in caplog.text


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_device_that_is_never_seen_ends_the_start_by_name(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(devices_module, "LOOK_DEADLINE_S", 0.05)
    probe = FakeProbe("gpu:0")
    if hangs:
        probe.hang = threading.Event()
    else:
        probe.error = RuntimeError("no driver")
    devices = Devices(DevicesConfig(), (FakeProbe("cpu"), probe))
    with (
        trio.fail_after(10),
        pytest.RaisesGroup(pytest.RaisesExc(TooSlow, match="'gpu:0' cannot be looked at")),
    ):
        await devices.run()
    if probe.hang is not None:
        probe.hang.set()


async def test_a_device_that_is_late_shows_in_health(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "LOOK_S", 0.005)
    look, broken = Cpu.look, threading.Event()

    def breaks(cpu: Cpu) -> Reading:
        if broken.is_set():
            raise RuntimeError("no /proc")
        return look(cpu)

    monkeypatch.setattr(Cpu, "look", breaks)
    with trio.fail_after(30):
        async with running_neuron(tmp_path, specs(tmp_path, "a"), Script()) as role:

            async def late() -> bool:
                health = (await role.http.get("/health")).json()
                (device,) = health["devices"]
                assert not device["poisoned"]
                assert bool(health["warnings"]) == device["late"]
                assert not device["late"] or "device cpu" in health["warnings"][0]
                return device["late"]

            assert not await late()
            broken.set()
            await until(late, 5)
            broken.clear()

            async def well() -> bool:
                return not await late()

            await until(well, 5)


def container(tmp_path: Path, **files: str) -> Cpu:
    for name, content in files.items():
        (tmp_path / name.replace("_", ".", 1)).write_text(content)
    return Cpu(tmp_path)


def test_a_container_has_the_memory_of_its_limit(tmp_path: Path) -> None:
    cpu = container(
        tmp_path,
        memory_max=f"{64 * 2**20}\n",
        memory_current=f"{40 * 2**20}\n",
        memory_stat=f"anon 5\ninactive_file {4 * 2**20}\nactive_file {6 * 2**20}\nslab 1\n",
    )
    reading = cpu.look()
    assert (reading.total_bytes, reading.available_bytes) == (64 * 2**20, 34 * 2**20)


@pytest.mark.parametrize("limit", ["max\n", f"{2**60}\n", ""])
def test_a_container_without_a_limit_has_the_hosts_memory(tmp_path: Path, limit: str) -> None:
    assert (
        container(tmp_path, memory_max=limit).look().total_bytes
        == Cpu(tmp_path / "absent").look().total_bytes
    )


def test_a_container_that_tells_little_is_taken_at_its_limit(tmp_path: Path) -> None:
    reading = container(tmp_path, memory_max=f"{64 * 2**20}").look()
    assert (reading.total_bytes, reading.available_bytes) == (64 * 2**20, 64 * 2**20)
