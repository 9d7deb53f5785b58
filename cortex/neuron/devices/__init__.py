"""What this host has: its devices, and what each of them has to say of itself at the moment."""

from cortex.neuron.devices.cpu import Cpu
from cortex.neuron.devices.nvml import Driver, Gpu, find
from cortex.neuron.devices.probe import Absent, Probe, Reading
from cortex.neuron.devices.rooms import Rooms, layout, thread_name
from cortex.neuron.devices.watch import Devices, Host

__all__ = [
    "Absent",
    "Cpu",
    "Devices",
    "Driver",
    "Gpu",
    "Host",
    "Probe",
    "Reading",
    "Rooms",
    "find",
    "layout",
    "thread_name",
]
