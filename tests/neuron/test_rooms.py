"""Rooms follow the readings: what others take changes what fits, and nothing is counted twice."""

from pathlib import Path

import pytest
import trio

from cortex.config.neuron import Devices as DevicesConfig
from cortex.config.neuron import NeuronConfig
from cortex.errors import ConfigError
from cortex.evictor import Rules
from cortex.harness.scripted import Script
from cortex.ledger import Ledger, Policy
from cortex.neuron.devices import Absent, Devices, Driver, Reading, Rooms, find, layout, thread_name
from cortex.neuron.devices import watch as watch_module
from cortex.places import Place, Resident
from tests.calls import until
from tests.fake_nvml import GIB, LOST, Card, FakeNvml
from tests.roles import running_neuron, specs

TOTAL = 1280  # a band of ten bytes


class Device:
    """A device whose readings are set by the test."""

    compute = uuid = None

    def __init__(self, name: str, used: int = 0, ours: int | None = None) -> None:
        self.name, self.kind, self.model = name, name.partition(":")[0], name
        self.used, self.ours = used, ours

    def look(self) -> Reading:
        return Reading(TOTAL, TOTAL - self.used, ours_bytes=self.ours)


class Host:
    """Devices, a ledger, and looks at will."""

    def __init__(self, *devices: Device, **config: object) -> None:
        self.by_name = {device.name: device for device in devices}
        self.config = DevicesConfig(**{"memory_headroom": 0, **config})
        self.devices = Devices(self.config, devices)
        self.stirred = 0
        self.ledger = Ledger(lambda: 0.0, Policy(Rules("lru", 0.0), 8, 30.0))
        for device in devices:
            self.devices._readings[device.name] = device.look()
        self.rooms = Rooms(self.config, self.devices, self.ledger)
        self.rooms.open()
        self.ledger.on_change = self.stir

    def stir(self) -> None:
        self.stirred += 1

    def look(self, name: str, used: int, ours: int | None = None) -> int:
        """Bytes that are free for models after this look."""
        device = self.by_name[name]
        device.used, device.ours = used, ours
        self.devices._readings[name] = device.look()
        self.devices.on_look(name)
        return self.place(name).free(name)

    def place(self, device: str) -> Place:
        return next(place for place in self.ledger if device in place.rooms)

    def settle(self, name: str, model: str, count: int, phase: str = "loaded") -> None:
        place = self.place(name)
        place.residents[model] = Resident(model, phase, {name: count})  # type: ignore[arg-type]


def test_what_others_take_is_gone_once_two_looks_agree() -> None:
    host = Host(Device("cuda:0", used=100))
    assert host.place("cuda:0").free("cuda:0") == TOTAL - 100
    assert host.look("cuda:0", 300) == TOTAL - 100  # this may be one that is going
    assert host.look("cuda:0", 250) == TOTAL - 250
    assert host.look("cuda:0", 260) == TOTAL - 250
    assert host.look("cuda:0", 270) == TOTAL - 260
    assert not host.stirred  # nobody who waits is better off


def test_what_others_give_back_is_room_for_those_who_wait() -> None:
    host = Host(Device("cuda:0", used=500))
    assert host.look("cuda:0", 100) == TOTAL - 500
    assert not host.stirred
    assert host.look("cuda:0", 90) == TOTAL - 100
    assert host.stirred == 1


def test_noise_stirs_nobody() -> None:
    host = Host(Device("cuda:0", used=500))
    for used in (495, 503, 497, 491, 520) * 5:
        assert host.look("cuda:0", used) == TOTAL - 500
    assert not host.stirred


def test_what_a_resident_holds_is_not_somebody_elses_too() -> None:
    host = Host(Device("cuda:0", used=100))
    host.settle("cuda:0", "a", 400)
    for _ in range(3):
        assert host.look("cuda:0", 500) == TOTAL - 100 - 400
    for _ in range(2):
        free = host.look("cuda:0", 550)
    assert free == TOTAL - 150 - 400


def test_mapped_weights_are_counted_by_the_ledger_alone() -> None:
    """The kernel does not call page cache used: of 400 bytes 100 are, and those are ours."""
    host = Host(Device("cpu", used=200, ours=0))
    host.settle("cpu", "a", 400)
    for _ in range(3):
        assert host.look("cpu", 300, ours=100) == TOTAL - 200 - 400


def test_what_this_process_holds_beyond_its_residents_is_not_free() -> None:
    host = Host(Device("cpu", used=200, ours=0))
    host.settle("cpu", "a", 50)
    for _ in range(2):
        free = host.look("cpu", 300, ours=100)
    assert free == TOTAL - 250 - 50


@pytest.mark.parametrize("phase", ["loading", "leaving"])
def test_nothing_is_given_away_while_a_model_comes_or_goes(phase: str) -> None:
    host = Host(Device("cuda:0", used=300))
    host.settle("cuda:0", "a", 400, phase)
    # It has 50 of its bytes so far: that the others had 350 is still true.
    for _ in range(3):
        assert host.look("cuda:0", 350) == TOTAL - 300 - 400
    host.settle("cuda:0", "a", 400)
    for _ in range(2):
        free = host.look("cuda:0", 650)
    assert free == TOTAL - 250 - 400


def test_one_look_from_before_an_unload_changes_nothing() -> None:
    host = Host(Device("cuda:0", used=100))
    host.settle("cuda:0", "a", 400)
    assert host.look("cuda:0", 500) == TOTAL - 500
    del host.place("cuda:0").residents["a"]
    assert host.look("cuda:0", 500) == TOTAL - 100
    assert host.look("cuda:0", 100) == TOTAL - 100
    assert not host.stirred


@pytest.mark.parametrize(
    ("config", "used", "room"),
    [
        ({"memory_limit": 200}, 100, (200, 200)),
        ({"memory_limit": 200}, 1200, (200, 80)),
        ({"memory_headroom": 100}, 300, (1180, 880)),
        ({"memory_headroom": 100, "memory_limit": 1000}, 300, (1000, 880)),
        ({"memory_headroom": 100}, 1250, (1180, 0)),
        ({"memory_headroom": 2000}, 0, (0, 0)),
    ],
)
def test_limit_and_headroom_hold_as_readings_change(
    config: dict[str, int], used: int, room: tuple[int, int]
) -> None:
    host = Host(Device("cuda:0"), **config)
    for _ in range(2):
        host.look("cuda:0", used)
    at = host.place("cuda:0")
    assert (at.rooms["cuda:0"].total_bytes, at.free("cuda:0")) == room


GROUPED = DevicesConfig(groups=(("cuda:0", "cuda:2"),))


def test_a_device_belongs_to_one_place() -> None:
    names = ("cuda:0", "cuda:1", "cuda:2", "cpu")
    assert layout(GROUPED, names) == {
        "cuda:0+cuda:2": ("cuda:0", "cuda:2"),
        "cuda:1": ("cuda:1",),
        "cpu": ("cpu",),
    }
    assert [thread_name(devices) for devices in layout(GROUPED, names).values()] == [
        "cuda-dev-0",
        "cuda-dev-1",
        "cpu-dev-0",
    ]


def test_a_group_is_one_place_with_a_room_for_each_device() -> None:
    host = Host(Device("cuda:0"), Device("cuda:2", used=50), groups=(("cuda:0", "cuda:2"),))
    (place,) = host.ledger
    assert {room: place.free(room) for room in place.rooms} == {"cuda:0": TOTAL, "cuda:2": TOTAL - 50}
    assert {room.group for room in place.rooms.values()} == {"cuda:0+cuda:2"}
    for _ in range(2):
        host.look("cuda:2", 80)
    assert {room: place.free(room) for room in place.rooms} == {"cuda:0": TOTAL, "cuda:2": TOTAL - 80}


def test_a_group_of_devices_that_are_not_here_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"devices.groups: this host has cuda:0, not cuda:2"):
        Host(Device("cuda:0"), groups=(("cuda:0", "cuda:2"),))


def test_a_host_without_a_driver_says_why_it_has_no_gpu() -> None:
    with pytest.raises(ConfigError, match=r"this host has cpu, not cuda:0 \(the NVIDIA driver cannot be"):
        Devices(DevicesConfig(use=("cpu", "cuda:0")), driver=find({}, FakeNvml(init=9)))


def test_a_card_that_is_missing_since_the_last_start_is_announced_and_costs_the_others_nothing() -> None:
    """Fault row 78."""
    driver = find({}, FakeNvml([Card("GPU-1", "NVIDIA A")]))
    config = DevicesConfig(use=("cuda:0", "cuda:1"))
    devices = Devices(config, driver=driver, known={"GPU-1": "NVIDIA A", "GPU-2": "NVIDIA B"})
    assert devices.names == ("cuda:0",)
    (warning,) = devices.warnings()
    assert "NVIDIA B (GPU-2) was in this host before and is absent" in warning
    # It is remembered until somebody says otherwise.
    assert devices.remembered == {"GPU-1": "NVIDIA A", "GPU-2": "NVIDIA B"}
    with pytest.raises(ConfigError, match="not cuda:1"):
        Devices(config, driver=driver, known={"GPU-1": "NVIDIA A"})
    with pytest.raises(ConfigError):
        Devices(DevicesConfig(use=("cuda:0",)), driver=Driver(why_not="gone"), known={"GPU-1": "NVIDIA A"})


async def test_a_card_that_falls_off_its_bus_takes_nobody_new_and_is_shown_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault row 78, in a neuron that has two cards and memory."""
    first, second = Card("GPU-1"), Card("GPU-2", "NVIDIA B", 12 * GIB)
    library = FakeNvml([first, second])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    monkeypatch.setattr(watch_module, "find", lambda env: find(env, library))
    monkeypatch.setattr(watch_module, "LOOK_S", 0.005)
    with trio.fail_after(30):
        async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), config=NeuronConfig()) as role:
            told = (await role.http.get("/discovery")).json()
            assert [device["device"] for device in told["devices"]] == ["cpu", "cuda:0", "cuda:1"]
            assert (told["driver"], told["cuda"], told["cuda_why_not"]) == ("570.86.15", "12.8", None)
            assert told["devices"][2] == {
                "index": 2,
                "device": "cuda:1",
                "name": "NVIDIA B",
                "kind": "cuda",
                "memory_total": 12 * GIB,
                "compute_capability": "8.9",
                "uuid": "GPU-2",
            }
            # A GGUF is for the CPU, however empty the cards are.
            answer = await role.http.post("/models/load", json={"spec": {"id": "a"}})
            assert answer.json()["resident"]["devices"] == ["cpu"]
            second.error = LOST

            async def absent() -> bool:
                health = (await role.http.get("/health")).json()
                rows = {device["name"]: device for device in health["devices"]}
                assert not rows["cuda:0"]["absent"] and rows["cuda:0"]["temperature"] == 61
                assert health["status"] == ("degraded" if rows["cuda:1"]["absent"] else "ok")
                return rows["cuda:1"]["absent"] and "cuda:1 is absent: NVML says" in "".join(
                    health["warnings"]
                )

            await until(absent, 10)
    assert caplog.text.count("device.absent device=cuda:1") == 1


def test_the_ledger_shuts_the_place_of_a_device_that_is_gone() -> None:
    host = Host(Device("cuda:0"), Device("cuda:1"), groups=(("cuda:0", "cuda:1"),))
    gone = Absent("it fell")
    host.devices._gone("cuda:1", str(gone))
    (place,) = host.ledger
    assert not place.ready
    assert place.why_not == "device cuda:1 is absent: it fell"
