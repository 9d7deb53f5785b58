"""NVIDIA's management library as nvidia-ml-py offers it, with cards that a test makes up.

Only the library is made up: names, arguments, return shapes and the way errors come are those of
the real one, which tests/neuron/test_nvml.py holds it to as far as that goes without a driver.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

NOT_SUPPORTED, NOT_FOUND, NO_DRIVER, LOST = 3, 6, 9, 15
GIB = 2**30


class NVMLError(Exception):
    """As the real one, it has the number of the error as `value`."""

    def __init__(self, value: int) -> None:
        self.value = value
        super().__init__(value)

    def __str__(self) -> str:
        return {NOT_SUPPORTED: "Not Supported", NOT_FOUND: "Not Found", LOST: "GPU is lost"}.get(
            self.value, f"NVML error {self.value}"
        )


@dataclass
class Memory:
    total: int
    free: int
    used: int


@dataclass
class Rates:
    gpu: int
    memory: int = 0


@dataclass
class Card:
    """A handle. `error` is what its memory is answered with; `instances` make it divided."""

    uuid: str
    name: str = "NVIDIA GeForce RTX 4090"
    total: int = 24 * GIB
    used: int = GIB
    busy: int | None = 37
    heat: int | None = 61
    compute: tuple[int, int] = (8, 9)
    divided: bool | None = None  # None: a card that knows no MIG
    instances: "Sequence[Card | None]" = ()
    error: int | None = None


@dataclass
class FakeNvml:
    """The library. `init` is the error that loading it ends with."""

    cards: list[Card] = field(default_factory=list)
    init: int | None = None
    NVMLError: type[Exception] = NVMLError
    asked: int = 0

    def nvmlInit(self) -> None:
        if self.init is not None:
            raise NVMLError(self.init)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 12080

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetUUID(self, handle: Card) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Card) -> str:
        return handle.name

    def nvmlDeviceGetCudaComputeCapability(self, handle: Card) -> tuple[int, int]:
        return handle.compute

    def nvmlDeviceGetMigMode(self, handle: Card) -> list[int]:
        if handle.divided is None:
            raise NVMLError(NOT_SUPPORTED)
        return [int(handle.divided), int(handle.divided)]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Card) -> int:
        return len(handle.instances)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Card, index: int) -> Card:
        instance = device.instances[index]
        if instance is None:
            raise NVMLError(NOT_FOUND)
        return instance

    def nvmlDeviceGetMemoryInfo(self, handle: Card) -> Memory:
        self.asked += 1
        if handle.error is not None:
            raise NVMLError(handle.error)
        return Memory(handle.total, handle.total - handle.used, handle.used)

    def nvmlDeviceGetUtilizationRates(self, handle: Card) -> Rates:
        if handle.busy is None:
            raise NVMLError(NOT_SUPPORTED)
        return Rates(handle.busy)

    def nvmlDeviceGetTemperature(self, handle: Card, sensor: int) -> int:
        if handle.heat is None:
            raise NVMLError(NOT_SUPPORTED)
        return handle.heat
