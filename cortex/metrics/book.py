"""The whole book of one role: what the neurons tell of themselves, added to what happens."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cortex.metrics.names import Disbelief, Done, Ejection, Role
from cortex.metrics.stock import Stock
from cortex.metrics.vllm import Load, VllmNames
from cortex.wire.neuron import DeviceHealth, ModelLoad


@dataclass(slots=True)
class _Devices:
    """The figures of all devices of one neuron, by what each gauge has for labels beside it."""

    up: dict[tuple[str, ...], float] = field(default_factory=dict)
    memory: dict[tuple[str, ...], float] = field(default_factory=dict)
    utilization: dict[tuple[str, ...], float] = field(default_factory=dict)
    temperature: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, device: DeviceHealth) -> None:
        name = device.name
        self.up[name,] = float(not device.poisoned and not device.absent)
        self.memory[name, "total"] = device.memory_total
        self.memory[name, "used"] = device.memory_used
        self.memory[name, "free"] = device.memory_free
        if device.utilization is not None:
            self.utilization[name,] = device.utilization
        if device.temperature is not None:
            self.temperature[name,] = device.temperature


class Metrics(Stock):
    """All metrics of one role.

    `known` says which model names may be a label, `clock` is monotonic seconds,
    `dropped_records` reads how many log records were lost so far.
    """

    def __init__(
        self,
        known: Callable[[str], bool],
        *,
        role: Role = "gateway",
        dropped_records: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(known, role=role, dropped_records=dropped_records, clock=clock)
        self._neuron_up = self._gauges("neuron_up", "1 when the neuron reports", "neuron")
        self._probation = self._gauges("neuron_probation", "1 while it is tried out again", "neuron")
        self._ejections = self._counters("ejections", "Neurons taken out of the choice", "neuron", "reason")
        self._refused = self._counters("reports_refused", "Reports not believed", "neuron", "reason")
        self._device_up = self._gauges("device_up", "1 when the device serves", "neuron", "device")
        self._memory = self._gauges("device_memory_bytes", "Memory of a device", "neuron", "device", "kind")
        self._utilization = self._gauges(
            "device_utilization_ratio", "How busy a device is, 0 to 1", "neuron", "device"
        )
        self._temperature = self._gauges(
            "device_temperature_celsius", "Temperature of a device", "neuron", "device"
        )
        self._resident = self._gauges("resident_bytes", "Memory of a resident model", "neuron", "model")
        self._vllm = VllmNames() if role == "neuron" else None
        if self._vllm is not None:
            self.show(self._vllm)

    def request_done(self, done: Done) -> None:
        """Count `done`; what never came (first token, seat) is left out of its histogram."""
        super().request_done(done)
        if self._vllm is not None:
            self._vllm.done(self._label(done.model), done)

    def neuron_reported(
        self, neuron: str, devices: Iterable[DeviceHealth], resident_bytes: Mapping[str, int]
    ) -> None:
        """The neuron is up, and these are all its devices and residents."""
        if self._neurons.label(neuron) != neuron:
            return
        figures = _Devices()
        for device in devices:
            figures.add(device)
        resident: dict[tuple[str, ...], float] = {}
        for model, count in resident_bytes.items():
            label = (self._label(model),)
            resident[label] = resident.get(label, 0) + count
        self._neuron_up.only(neuron, {(): 1})
        self._device_up.only(neuron, figures.up)
        self._memory.only(neuron, figures.memory)
        self._utilization.only(neuron, figures.utilization)
        self._temperature.only(neuron, figures.temperature)
        self._resident.only(neuron, resident)

    def neuron_away(self, neuron: str) -> None:
        """The neuron does not report: its old figures go, rather than look alive."""
        if self._neurons.label(neuron) != neuron:
            return
        self._clear(neuron)
        self._neuron_up.only(neuron, {(): 0})

    def neuron_gone(self, neuron: str) -> None:
        """The neuron belongs to the fleet no longer: nothing of it is shown."""
        self._clear(neuron)
        self._ejections.forget(0, neuron)
        self._refused.forget(0, neuron)
        self._forget_neuron(neuron)

    def ejected(self, neuron: str, reason: Ejection) -> None:
        """The neuron was taken out of the choice."""
        self._ejections.at(self._neurons.label(neuron), reason).inc()

    def disbelieved(self, neuron: str, reason: Disbelief) -> None:
        """A report came that nobody goes by."""
        self._refused.at(self._neurons.label(neuron), reason).inc()

    def on_probation(self, neuron: str, *, tried: bool) -> None:
        """The neuron is back and `tried` with little, or has all of its share again."""
        if self._neurons.label(neuron) == neuron:
            self._probation.only(neuron, {(): float(tried)})

    def serving(self, loads: Iterable[ModelLoad]) -> None:
        """What the residents of this neuron have to do; these are all there are."""
        if self._vllm is not None:
            told: dict[str, Load] = {}
            for load in loads:
                label = self._label(load.id)
                told[label] = told.get(label, Load()) + load
            self._vllm.serving(told)

    def _clear(self, neuron: str) -> None:
        for gauges in (
            self._neuron_up,
            self._probation,
            self._device_up,
            self._memory,
            self._utilization,
            self._temperature,
            self._resident,
        ):
            gauges.only(neuron, {})
