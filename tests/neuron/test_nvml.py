"""CUDA devices are those that CUDA will show, by the names and in the order that it will use."""

import inspect

import pytest

from cortex.neuron.devices import Absent, find
from cortex.neuron.devices.nvml import Driver, Library
from tests.fake_nvml import GIB, LOST, NOT_SUPPORTED, Card, FakeNvml

BIG = Card("GPU-aaaa-1", "NVIDIA RTX 5090", 32 * GIB)
SMALL = Card("GPU-abbb-2", "NVIDIA RTX 3060", 12 * GIB, compute=(8, 6))
THIRD = Card("GPU-cccc-3")


def found(*cards: Card, **env: str) -> Driver:
    return find(env, FakeNvml(list(cards)))


def shown(driver: Driver) -> dict[str, str | None]:
    return {gpu.name: gpu.uuid for gpu in driver.gpus}


def test_a_card_is_told_whole() -> None:
    driver = found(SMALL)
    (gpu,) = driver.gpus
    assert (gpu.name, gpu.kind, gpu.model, gpu.compute) == ("cuda:0", "cuda", "NVIDIA RTX 3060", "8.6")
    assert (driver.version, driver.cuda, driver.why_not, driver.notes) == ("570.86.15", "12.8", None, ())
    assert driver.cards == {"GPU-abbb-2": "NVIDIA RTX 3060"}
    reading = gpu.look()
    assert (reading.total_bytes, reading.available_bytes, reading.used_bytes) == (12 * GIB, 11 * GIB, GIB)
    assert (reading.utilization, reading.temperature, reading.ours_bytes) == (0.37, 61.0, None)
    assert reading.at > 0


def test_a_card_that_knows_less_says_less() -> None:
    (gpu,) = found(Card("GPU-1", busy=None, heat=None)).gpus
    assert (gpu.look().utilization, gpu.look().temperature) == (None, None)


@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ["GPU-aaaa-1", "GPU-abbb-2", "GPU-cccc-3"]),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-cccc-3", "GPU-aaaa-1"]),
        ("1", ["GPU-abbb-2"]),
        (" 1 , 2 ", ["GPU-abbb-2", "GPU-cccc-3"]),
        ("GPU-cccc-3,GPU-ab", ["GPU-cccc-3", "GPU-abbb-2"]),
        ("0,7,1", ["GPU-aaaa-1"]),  # CUDA reads up to the first that it does not know
        ("0,-1,1", ["GPU-aaaa-1"]),
        ("GPU-a", []),  # two begin like that
        ("none", []),
        ("0,0", []),
    ],
)
def test_cuda_visible_devices_chooses_and_renumbers(visible: str | None, devices: list[str]) -> None:
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    driver = found(BIG, SMALL, THIRD, **env)
    assert shown(driver) == {f"cuda:{index}": uuid for index, uuid in enumerate(devices)}
    assert (driver.why_not is None) == bool(devices)
    if not devices:
        assert f"CUDA_VISIBLE_DEVICES={visible}" in (driver.why_not or "")
    assert len(driver.cards) == 3  # what is hidden is in the host all the same


@pytest.mark.parametrize("visible", ["0,7", "none", "GPU-a", "1,1"])
def test_an_entry_that_means_nothing_is_named(visible: str) -> None:
    (note,) = found(BIG, SMALL, CUDA_VISIBLE_DEVICES=visible).notes
    assert f"CUDA_VISIBLE_DEVICES names {visible.rsplit(',', maxsplit=1)[-1]}" in note


def test_engines_are_told_to_count_as_the_driver_does() -> None:
    env: dict[str, str] = {}
    find(env, FakeNvml([BIG, SMALL]))
    assert env == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    env = {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    (note,) = find(env, FakeNvml([BIG, SMALL])).notes
    assert "CUDA_DEVICE_ORDER is FASTEST_FIRST" in note
    assert env == {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert not find(env, FakeNvml([BIG])).notes


def divided(*instances: Card | None) -> Card:
    return Card("GPU-mig", "NVIDIA H200", 141 * GIB, divided=True, instances=instances)


def instance(number: int) -> Card:
    return Card(f"MIG-{number}", f"NVIDIA H200 MIG {number}g.18gb", 18 * GIB, heat=None, busy=None)


def test_a_divided_card_is_its_instances_and_never_counted_whole() -> None:
    driver = found(divided(None, instance(1), None))
    assert shown(driver) == {"cuda:0": "MIG-1"}
    (gpu,) = driver.gpus
    reading = gpu.look()
    assert (reading.total_bytes, reading.utilization) == (18 * GIB, None)
    assert reading.temperature == 61  # that of the card: an instance has no sensor


def test_cuda_shows_a_process_one_instance_and_nothing_beside_it() -> None:
    driver = found(BIG, divided(instance(1), instance(2)))
    assert shown(driver) == {"cuda:0": "MIG-1"}
    assert "one MIG instance a process" in driver.notes[0]
    assert shown(found(BIG, divided(instance(1), instance(2)), CUDA_VISIBLE_DEVICES="MIG-2")) == {
        "cuda:0": "MIG-2"
    }
    assert shown(found(BIG, divided(instance(1)), CUDA_VISIBLE_DEVICES="0")) == {"cuda:0": "GPU-aaaa-1"}


def test_a_divided_card_without_an_instance_is_no_device() -> None:
    driver = found(divided(None, None))
    assert not driver.gpus
    assert "has no instance" in driver.notes[0]


def test_mig_that_could_be_but_is_off_changes_nothing() -> None:
    assert shown(found(Card("GPU-h", divided=False, instances=(instance(1),)))) == {"cuda:0": "GPU-h"}


@pytest.mark.parametrize("error", [LOST, NOT_SUPPORTED])
def test_a_broken_card_costs_the_others_nothing(error: int) -> None:
    driver = found(Card("GPU-broken", error=error), SMALL)
    assert shown(driver) == {"cuda:0": "GPU-abbb-2"}
    assert "GPU 0 cannot be used" in driver.notes[0]
    assert driver.why_not is None
    assert "no GPU is plugged in that works" in (found(Card("GPU-broken", error=error)).why_not or "")


def test_a_card_that_fell_off_its_bus_is_absent_and_one_that_only_errs_is_not() -> None:
    """Fault row 78."""
    card = Card("GPU-1")
    (gpu,) = found(card).gpus
    card.error = LOST
    with pytest.raises(Absent, match="GPU is lost"):
        gpu.look()
    card.error = 999
    with pytest.raises(FakeNvml.NVMLError):
        gpu.look()


def test_a_host_without_a_driver_has_no_devices_and_says_why() -> None:
    driver = find({}, FakeNvml(init=9))
    assert (driver.gpus, driver.version, driver.cards) == ((), None, {})
    assert driver.why_not == ("the NVIDIA driver cannot be used: NVML error 9; see whether nvidia-smi works")


def test_the_real_library_answers_without_raising() -> None:
    """Here it mostly finds no driver; where there is one, it finds the cards."""
    driver = find({})
    assert bool(driver.gpus) == (driver.why_not is None)
    for gpu in driver.gpus:
        assert gpu.look().total_bytes > 0


def test_the_fake_has_the_surface_of_the_real_library() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = [name for name in vars(Library) if name.startswith("nvml")]
    assert len(names) == 14
    for name in names:
        real, fake = inspect.signature(getattr(pynvml, name)), inspect.signature(getattr(FakeNvml(), name))
        required = [p for p in real.parameters.values() if p.default is p.empty]
        if "args" not in real.parameters:  # the decorated ones hide theirs
            assert len(required) == len(fake.parameters), name
    assert issubclass(pynvml.NVMLError, Exception)
    assert pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST).value == LOST
    from cortex.neuron.devices import nvml

    assert {
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    } == nvml._LOST
    assert pynvml.NVML_TEMPERATURE_GPU == nvml._TEMPERATURE
    assert pynvml.NVML_DEVICE_MIG_ENABLE == nvml._MIG_ON
