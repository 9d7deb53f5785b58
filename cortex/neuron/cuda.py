"""What the doctor says of CUDA: the driver, the GPUs, torch, and the compiled extension.

A host without any NVIDIA device gets one calm line. On another, what is missing is told in the
order in which it would be mended, each with the one step that does it. Nothing of CUDA is
imported, and no GPU is touched but through its driver's management library.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from cortex.config.neuron import NeuronConfig
from cortex.harness.exllamav2 import archs, extension, installed, toolchain
from cortex.harness.exllamav2.archs import Capability
from cortex.harness.exllamav2.probe import EXTRA
from cortex.neuron.cards import cards_of
from cortex.neuron.devices import Driver, Gpu, find
from cortex.neuron.findings import Finding
from cortex.units import size

_NVIDIA, _DISPLAY = "0x10de", "0x03"


def plugged(bus: Path = Path("/sys/bus/pci/devices"), wsl: Path = Path("/dev/dxg")) -> int:
    """How many NVIDIA GPUs the kernel knows of, with a driver or without."""
    found = 0
    for device in bus.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
        except OSError:
            continue
        found += vendor.strip() == _NVIDIA and kind.startswith(_DISPLAY)
    # Windows passes its GPUs to Linux without a bus.
    return found or int(wsl.exists() and Path("/usr/lib/wsl/lib/libcuda.so.1").exists())


def devices(config: NeuronConfig) -> Iterator[Finding]:
    """What CUDA devices there are. None is no fault, unless the configuration wants one."""
    wanted = [name for name in config.devices.use if name.startswith("cuda")]
    if spared(config):
        yield Finding("devices", "ok", "[devices] use names no CUDA device: models run on the CPU")
        return
    driver, there = find(dict(os.environ)), plugged()
    if driver.why_not is not None:
        if wanted:
            remedy = f"see to it, or take {', '.join(wanted)} out of [devices] use"
            yield Finding("devices", "fail", f"no CUDA device: {driver.why_not}", remedy)
        elif there:
            remedy = "install NVIDIA's driver and see that nvidia-smi works, or leave it to the CPU"
            yield Finding("driver", "warn", f"{there} NVIDIA GPUs, and {driver.why_not}", remedy)
        else:
            yield Finding("devices", "ok", "no NVIDIA GPU here: models run on the CPU")
    used = [gpu for gpu in driver.gpus if not wanted or gpu.name in wanted]
    for gpu in used:
        yield _gpu(gpu, driver)
    for note in driver.notes:
        yield Finding("devices", "warn", "not as one may expect", note)
    if used:
        yield from _engine(driver, cards_of(driver, wanted or None).capabilities)


def spared(config: NeuronConfig) -> bool:
    """Whether the devices to use are named, and none of CUDA's is among them."""
    use = config.devices.use
    return bool(use) and not any(name.startswith("cuda") for name in use)


def _gpu(gpu: Gpu, driver: Driver) -> Finding:
    what = f"{gpu.model}, {size(gpu.look().total_bytes)}, driver {driver.version}"
    what += f", CUDA up to {driver.cuda}, compute capability {gpu.compute}"
    torch = installed.torch()
    floor = archs.least(None if torch is None else torch.cuda)
    if any(each < floor for each in cards_of(driver, {gpu.name}).capabilities):
        remedy = f"it cannot be used for exllamav2, which needs {archs.names([floor])[0]}"
        return Finding(f"device {gpu.name}", "warn", what, remedy)
    return Finding(f"device {gpu.name}", "ok", what)


def _engine(driver: Driver, capabilities: tuple[Capability, ...]) -> Iterator[Finding]:
    """What exllamav2 needs beside a GPU."""
    torch, missing = installed.torch(), installed.missing()
    if torch is None:
        yield Finding("torch", "warn", "not installed", EXTRA)
    elif torch.cuda is None:
        yield Finding(
            "torch", "warn", f"{torch.version}, a build without CUDA", f"pip uninstall torch, then {EXTRA}"
        )
    else:
        yield Finding("torch", "ok", f"{torch.version}, built for CUDA {torch.cuda}")
    if others := [name for name in missing if name != "torch"]:
        yield Finding("packages", "warn", f"{', '.join(others)} not installed", EXTRA)
    here = extension.choose(capabilities)
    if here is not None:
        yield from _extension(here, capabilities)
    elif torch is not None and torch.cuda is not None:
        yield Finding("extension", "warn", extension.absence(capabilities), extension.command())
    yield from _compilers(needed=here is None)


def _extension(here: extension.Extension, capabilities: tuple[Capability, ...]) -> Iterator[Finding]:
    what = f"{here.folder}, for {here.archs}"
    if short := [each for each in capabilities if not here.covers(each)]:
        what += f", not for {', '.join(archs.names(short))}"
        yield Finding("extension", "warn", what, extension.command())
    else:
        yield Finding("extension", "ok", what)


def _compilers(*, needed: bool) -> Iterator[Finding]:
    """What would compile the extension; no business of a host that has it."""
    tools = toolchain.look(os.environ)
    faults = list(tools.compilers())
    if faults and needed:
        for fault in faults:
            yield Finding("compiler", "warn", fault.what, fault.remedy)
    elif faults:
        yield Finding("compiler", "ok", "not all is here, and nothing is left to compile")
    elif tools.nvcc is not None and tools.compiler is not None:
        what = (
            f"nvcc {tools.nvcc.version} in {tools.nvcc.home}, {tools.compiler.path} {tools.compiler.version}"
        )
        yield Finding("compiler", "ok", what)
