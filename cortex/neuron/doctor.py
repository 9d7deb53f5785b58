"""Looks a host over before a neuron is started there: what would work, and what would not.

Each check answers with findings, and each finding that is not well names its remedy.
Checks block, so each has a thread and a deadline: a disk or driver that hangs is a
finding too. Nothing is changed on the host, save a file written and removed at once
where state is kept.
"""

import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cortex.config.neuron import NeuronConfig
from cortex.harness.base import Harness
from cortex.hub import cache_of, knock
from cortex.neuron.cuda import devices, plugged, spared
from cortex.neuron.devices import Cpu
from cortex.neuron.findings import Check, Finding
from cortex.neuron.harnesses import version_of
from cortex.neuron.state import usual_folder
from cortex.units import size

# The slowest, asking the hub, gives up by itself before.
CHECK_S: Final = 15.0
# A connection, a weights file and a child each take some; the default of 1024 is soon used up.
OPEN_FILES: Final = 4096
# Less cannot hold the smallest model that is of use.
LEAST_MEMORY: Final = 2 * 2**30
LEAST_DISK: Final = 2**30


async def examine(checks: Mapping[str, Check], within_s: float = CHECK_S) -> list[Finding]:
    """What every check found, in their order. One that hangs or breaks is a finding itself;
    its thread is left to end. Cancelled, all are."""
    found: dict[str, list[Finding]] = {}

    async def look(subject: str, check: Check) -> None:
        with trio.move_on_after(within_s):
            try:
                found[subject] = await trio.to_thread.run_sync(
                    lambda: list(check()), abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )
            except Exception as bug:  # noqa: BLE001 - what one check meets must not hide the others
                what = f"cannot be looked at: {type(bug).__name__}: {bug}"
                found[subject] = [Finding(subject, "fail", what, "see to what the error names")]
            return
        remedy = "see to the disk, driver or network behind it"
        found[subject] = [Finding(subject, "fail", f"no answer in {within_s:g} s", remedy)]

    async with trio.open_nursery() as nursery:
        for subject, check in checks.items():
            nursery.start_soon(look, subject, check)
    return [finding for subject in checks for finding in found[subject]]


def checks(config: NeuronConfig, harnesses: Mapping[str, Harness]) -> dict[str, Check]:
    """What a neuron with `config` needs of its host, by subject."""
    return {
        "host": host,
        "memory": partial(memory, config),
        "state": partial(state, config),
        "weights": partial(weights, config.model_roots),
        "engines": partial(engines, harnesses, spared=spared(config)),
        "devices": partial(devices, config),
        "hub": partial(hub, config),
    }


def host() -> Iterator[Finding]:
    """The system, and what it lets a process have."""
    yield Finding(
        "host", "ok", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES and soft != resource.RLIM_INFINITY:
        remedy = (
            f"raise it: LimitNOFILE={OPEN_FILES} or more in the unit, or 'ulimit -n {min(OPEN_FILES, hard)}'"
        )
        yield Finding("open files", "warn", f"a process may have {soft}", remedy)
    else:
        yield Finding("open files", "ok", f"a process may have {soft}")


def memory(config: NeuronConfig) -> Iterator[Finding]:
    """What is left for models beside the headroom, in the container if this is one."""
    now = Cpu().look()
    left = now.available_bytes - config.devices.memory_headroom
    if config.devices.memory_limit is not None:
        left = min(left, config.devices.memory_limit)
    what = f"{size(max(0, left))} for models on the CPU, of {size(now.total_bytes)} in all"
    if left < LEAST_MEMORY:
        remedy = "end other programs, or lower memory_headroom or raise memory_limit of [devices]"
        yield Finding("memory", "warn", what, remedy)
    else:
        yield Finding("memory", "ok", what)


def state(config: NeuronConfig) -> Iterator[Finding]:
    """Whether pins, profiles and the crash journal can be kept."""
    folder = config.state_dir or usual_folder(os.environ)
    if folder is None:
        yield Finding("state", "warn", "nothing is kept over a restart", "set state_dir of [neuron]")
        return
    yield from _writable("state", folder)


def weights(roots: Iterable[Path]) -> Iterator[Finding]:
    """Whether the folders of weights are there, and may be read."""
    for root in roots:
        if not root.is_dir():
            yield Finding(
                "weights", "fail", f"{root} is not a folder", "make it, or mend model_roots of [neuron]"
            )
        elif not os.access(root, os.R_OK | os.X_OK):
            remedy = "let the neuron's user read it (chmod o+rx, or its group)"
            yield Finding("weights", "fail", f"{root} may not be read", remedy)
        else:
            yield Finding("weights", "ok", f"{root}, {size(shutil.disk_usage(root).free)} free")


def engines(harnesses: Mapping[str, Harness], *, spared: bool = False) -> Iterator[Finding]:
    """Which engines can run here. One is enough: the lack of another only costs its formats, and
    one that is for a kind of device that this host has none of, or that are `spared`, is not missed."""
    why_not = {name: harness.unavailable() for name, harness in harnesses.items()}
    none = all(why is not None for why in why_not.values())
    for name, why in why_not.items():
        subject = f"engine {name}"
        if why is None:
            yield Finding(subject, "ok", f"can run here {version_of(harnesses[name]) or ''}".rstrip())
        elif why.code == "no_driver" and not none and spared:
            yield Finding(subject, "ok", "not used: [devices] use names no CUDA device")
        elif why.code == "no_driver" and not none and not plugged():
            yield Finding(subject, "ok", "not for this host, which has no NVIDIA GPU")
        else:
            yield Finding(subject, "fail" if none else "warn", f"cannot run here: {why.what}", why.remedy)


def hub(config: NeuronConfig) -> Iterator[Finding]:
    """Whether models could be downloaded. A neuron that has its models needs no hub."""
    found = knock(config.hub)
    if found.fault is None:
        yield Finding("hub", "ok", found.words)
    else:
        yield Finding("hub", "warn", found.words, found.fault.message)
    yield from _writable("hub cache", cache_of(config.hub))


def _writable(subject: str, folder: Path) -> Iterator[Finding]:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        remedy = f"make {folder} a folder that the neuron's user may write"
        yield Finding(subject, "fail", f"{there}: {error.strerror}", remedy)
        return
    if free < LEAST_DISK:
        yield Finding(subject, "warn", f"{folder} has {size(free)} free", "make room on its disk")
    else:
        yield Finding(subject, "ok", f"{folder}, {size(free)} free")
