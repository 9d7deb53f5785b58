"""What the NVIDIA driver tells, in the words of the harness that asks for it.

A harness knows no devices: which of them a neuron uses is decided here, above.
"""

from collections.abc import Collection

from cortex.harness.exllamav2.probe import Cards
from cortex.neuron.devices import Driver


def cards_of(driver: Driver, used: Collection[str] | None = None) -> Cards:
    """What `driver` offers of the devices that are used, which are all unless they are named."""
    gpus = [gpu for gpu in driver.gpus if used is None or gpu.name in used]
    why_not = driver.why_not
    if driver.gpus and not gpus:
        why_not = "devices.use names no CUDA device"
    told = [gpu.compute.split(".") for gpu in gpus if gpu.compute]
    return Cards(tuple((int(major), int(minor)) for major, minor in told), why_not, driver.cuda)
