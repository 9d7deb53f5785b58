"""The NVIDIA devices of this host, as NVML tells of them and as CUDA will count them.

`find` loads the driver's library, which may block for seconds, and never raises: a host without
a driver has no such devices, and `Driver.why_not` says why. The order is that of the PCI bus,
which nvidia-smi has too; CUDA's own order is by speed, so the environment is told to use this
one before any engine starts. CUDA_VISIBLE_DEVICES chooses and renumbers as it does for CUDA.
"""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from cortex.neuron.devices.probe import Absent, Reading

T = TypeVar("T")

_ORDER: Final = "CUDA_DEVICE_ORDER"
_TEMPERATURE: Final = 0  # NVML_TEMPERATURE_GPU, the only sensor that every card has
_MIG_ON: Final = 1
# What NVML answers about a card that will not come back while this process lives: not found, no
# driver, fell off the bus, wants a reset.
_LOST: Final = frozenset({6, 9, 15, 16})


class _Memory(Protocol):
    total: int
    free: int


class _Rates(Protocol):
    gpu: int


class Library(Protocol):
    """The part of nvidia-ml-py that is used, by NVML's own names. A handle is whatever it hands out."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str: ...
    def nvmlSystemGetCudaDriverVersion_v2(self) -> int: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int) -> object: ...
    def nvmlDeviceGetUUID(self, handle: object) -> str: ...
    def nvmlDeviceGetName(self, handle: object) -> str: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]: ...
    def nvmlDeviceGetMigMode(self, handle: object) -> Sequence[int]: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: object, index: int) -> object: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> _Memory: ...
    def nvmlDeviceGetUtilizationRates(self, handle: object) -> _Rates: ...
    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int: ...


@dataclass(frozen=True, slots=True)
class _Card:
    """Something that CUDA could compute on: a GPU, or one instance of a GPU that is divided."""

    handle: object
    uuid: str
    model: str
    compute: str
    number: int  # of the GPU, on the bus
    parent: object | None = None


class Gpu:
    """One CUDA device."""

    def __init__(self, library: Library, card: _Card, index: int) -> None:
        self.name, self.kind, self.model = f"cuda:{index}", "cuda", card.model
        self.compute: str | None = card.compute
        self.uuid: str | None = card.uuid
        self._library, self._card = library, card

    def look(self) -> Reading:
        library, card = self._library, self._card
        try:
            memory = library.nvmlDeviceGetMemoryInfo(card.handle)
        except library.NVMLError as error:
            if getattr(error, "value", None) in _LOST:
                raise Absent(f"NVML says: {error}") from error
            raise
        rates = self._optional(lambda: library.nvmlDeviceGetUtilizationRates(card.handle))
        # An instance has no sensor of its own.
        sensor = card.handle if card.parent is None else card.parent
        heat = self._optional(lambda: library.nvmlDeviceGetTemperature(sensor, _TEMPERATURE))
        return Reading(
            int(memory.total),
            int(memory.free),
            utilization=None if rates is None else rates.gpu / 100,
            at=time.monotonic(),
            temperature=None if heat is None else float(heat),
        )

    def _optional(self, ask: Callable[[], T]) -> T | None:
        """The answer, if this kind of card gives one."""
        return _optional(self._library, ask)


@dataclass(frozen=True, slots=True)
class Driver:
    """What the NVIDIA driver offers. `why_not` says why there is no CUDA device, `notes` what an
    operator may not expect; `cards` are the models by uuid of all that is plugged in."""

    version: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    why_not: str | None = None
    notes: tuple[str, ...] = ()
    cards: Mapping[str, str] = field(default_factory=dict)


def find(env: MutableMapping[str, str], library: Library | None = None) -> Driver:
    """The driver and its devices. Blocks."""
    try:
        nvml = _library() if library is None else library
    except ImportError:
        return Driver(why_not="the package nvidia-ml-py is not installed: pip install nvidia-ml-py")
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Driver(why_not=f"the NVIDIA driver cannot be used: {error}; see whether nvidia-smi works")
    notes: list[str] = []
    cards = [card for number in range(count) for card in _cards(nvml, number, notes)]
    visible, why_not = _visible(env.get("CUDA_VISIBLE_DEVICES"), cards, notes)
    if len(visible) > 1 and env.setdefault(_ORDER, "PCI_BUS_ID") != "PCI_BUS_ID":
        notes.append(
            f"{_ORDER} is {env[_ORDER]}, so that an engine may count the devices in another order than "
            "shown here; leave it unset"
        )
    return Driver(
        version=_optional(nvml, nvml.nvmlSystemGetDriverVersion),
        cuda=_cuda(_optional(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)),
        gpus=tuple(Gpu(nvml, card, index) for index, card in enumerate(visible)),
        why_not=None if visible else why_not,
        notes=tuple(notes),
        cards={card.uuid: card.model for card in cards},
    )


def _library() -> Library:
    import pynvml  # noqa: PLC0415 - most hosts of a CPU-only fleet never need it

    library: Library = pynvml
    return library


def _cards(library: Library, number: int, notes: list[str]) -> Iterator[_Card]:
    """The GPU at `number` on the bus: itself, or its instances when it is divided."""
    try:
        handle = library.nvmlDeviceGetHandleByIndex(number)
        gpu = _card(library, handle, number)
        library.nvmlDeviceGetMemoryInfo(handle)
    except library.NVMLError as error:
        notes.append(f"GPU {number} cannot be used: {error}; see nvidia-smi and the kernel's log")
        return
    mode = _optional(library, lambda: library.nvmlDeviceGetMigMode(handle))
    if mode is None or mode[0] != _MIG_ON:
        yield gpu
        return
    instances = list(_instances(library, gpu))
    if not instances:
        notes.append(f"GPU {number} is in MIG mode and has no instance: make one, or turn the mode off")
    yield from instances


def _instances(library: Library, gpu: _Card) -> Iterator[_Card]:
    for index in range(_optional(library, lambda: library.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)) or 0):
        try:
            handle = library.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, index)
            uuid, model = library.nvmlDeviceGetUUID(handle), library.nvmlDeviceGetName(handle)
        except library.NVMLError:
            continue  # as many as could be made are counted, whether they are there or not
        yield _Card(handle, uuid, model, gpu.compute, gpu.number, gpu.handle)


def _card(library: Library, handle: object, number: int) -> _Card:
    major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    uuid, model = library.nvmlDeviceGetUUID(handle), library.nvmlDeviceGetName(handle)
    return _Card(handle, uuid, model, f"{major}.{minor}", number)


def _visible(said: str | None, cards: Sequence[_Card], notes: list[str]) -> tuple[list[_Card], str]:
    """Those that CUDA will show, in its order, and why there are none when there are none."""
    if said is None:
        chosen, why = list(cards), "no GPU is plugged in that works"
    else:
        chosen, why = _chosen(said, cards, notes), f"CUDA_VISIBLE_DEVICES={said} shows none"
    instance = next((card for card in chosen if card.parent is not None), None)
    if instance is None or len(chosen) == 1:
        return chosen, why
    # CUDA shows a process one instance, and then no other device at all.
    notes.append(f"CUDA uses one MIG instance a process: {instance.model}; run one neuron for each of them")
    return [instance], why


def _chosen(said: str, cards: Sequence[_Card], notes: list[str]) -> list[_Card]:
    """What the variable names. CUDA reads it up to the first entry that means nothing."""
    chosen: list[_Card] = []
    for entry in said.split(","):
        name = entry.strip()
        meant = [card for card in cards if _means(name, card)]
        if not meant or (len(meant) > 1 and not name.isdigit()):
            if name and name != "-1":
                notes.append(f"CUDA_VISIBLE_DEVICES names {name}, which is no device here; it ends there")
            break
        if any(card in chosen for card in meant):
            notes.append(f"CUDA_VISIBLE_DEVICES names {name} twice, so that CUDA shows no device at all")
            return []
        chosen.extend(meant)
    return chosen


def _means(name: str, card: _Card) -> bool:
    if name.isdigit():
        return card.number == int(name)
    return name.startswith(("GPU-", "MIG-")) and card.uuid.startswith(name)


def _optional(library: Library, ask: Callable[[], T]) -> T | None:
    """The answer, or None where card or driver has none to give."""
    try:
        return ask()
    except library.NVMLError:
        return None


def _cuda(version: int | None) -> str | None:
    return None if version is None else f"{version // 1000}.{version % 1000 // 10}"
