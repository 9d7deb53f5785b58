"""The engine's library and CUDA, as the thread of a device uses them.

Nothing is imported before a model is loaded, and then on the device's thread: torch first, the
extension's folder next, exllamav2 last, so that the library never compiles anything by itself.
What cannot be had is one LoadFailed with the reason and the remedy. Every call of torch.cuda is
made here; who drives models elsewhere offers the same methods over another device.
"""

import gc
import importlib
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cortex.errors import LoadFailed
from cortex.harness.exllamav2 import extension

# What a broken or foreign build of the library raises while it is imported.
_IMPORT_FAULTS: Final = (ImportError, OSError, RuntimeError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class Library:
    """The modules: `generator` is exllamav2.generator."""

    torch: Any
    exllamav2: Any
    generator: Any


class Runtime:
    """CUDA through torch. One for all devices of a process; any of their threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None

    def library(self) -> Library:
        """Imported once, whoever comes first. Raises LoadFailed."""
        with self._lock:
            if self._library is None:
                self._library = _imported()
            return self._library

    def hold(self, index: int) -> None:
        """The device is this thread's, and computes: a sick one is found before a model is read."""
        torch = self.library().torch
        if index >= torch.cuda.device_count():
            raise LoadFailed(
                f"cuda:{index} is not among the {torch.cuda.device_count()} devices that CUDA shows this "
                "process; see CUDA_VISIBLE_DEVICES and [devices] use"
            )
        extension.reach((torch.cuda.get_device_capability(index),))
        torch.cuda.set_device(index)
        torch.ones(1, device=f"cuda:{index}").add_(1)
        torch.cuda.synchronize(index)

    def capability(self, index: int) -> tuple[int, int] | None:
        """The compute capability of a device; None where tensors are on the CPU."""
        major, minor = self.library().torch.cuda.get_device_capability(index)
        return major, minor

    def held_bytes(self, indexes: Iterable[int]) -> int:
        """What this process's allocator has taken of the devices, used or kept for later."""
        torch = self.library().torch
        return sum(torch.cuda.memory_reserved(index) for index in indexes)

    def finish(self, indexes: Iterable[int]) -> None:
        """What the devices were given is done, and what went wrong there is raised."""
        torch = self.library().torch
        for index in indexes:
            torch.cuda.synchronize(index)

    def give_back(self) -> None:
        """Memory that nothing uses is the devices' again. Does nothing before the first load."""
        if self._library is None:
            return
        gc.collect()
        self._library.torch.cuda.empty_cache()


class _Streams(dict[int, Any]):
    """The library's streams by device. Every forward pass of every thread goes through all of them,
    while the first load on another device may add one."""

    def items(self) -> Any:  # noqa: ANN401 - a copy is no view
        return tuple(super().items())


def _imported() -> Library:
    try:
        import torch  # noqa: PLC0415
    except _IMPORT_FAULTS as error:
        raise LoadFailed(f"torch cannot be imported: {error}; 'cortex doctor' says what is amiss") from error
    if not torch.cuda.is_available():
        why = "it is a build without CUDA" if torch.version.cuda is None else "it finds no CUDA device"
        raise LoadFailed(f"torch {torch.__version__} cannot compute: {why}; 'cortex doctor' says what to do")
    _reach([torch.cuda.get_device_capability(at) for at in range(torch.cuda.device_count())])
    try:
        # By itself: the library takes the lack of what this one links for the lack of it, and compiles.
        importlib.import_module(extension.MODULE)
        import exllamav2  # noqa: PLC0415
        from exllamav2 import generator  # noqa: PLC0415
    except _IMPORT_FAULTS as error:
        raise LoadFailed(
            f"exllamav2 cannot be imported: {error}; build its extension for this torch: "
            "cortex engines build exllamav2"
        ) from error
    exllamav2.device.global_streams = _Streams(exllamav2.device.global_streams)
    return Library(torch, exllamav2, generator)


def _reach(capabilities: Sequence[tuple[int, int]]) -> None:
    """The extension for as many of the devices as possible is on the path: those that it does not
    cover are refused when they are to be held. Raises LoadFailed when there is none for any."""
    best = extension.choose(capabilities)
    extension.reach(capabilities if best is None else [each for each in capabilities if best.covers(each)])
