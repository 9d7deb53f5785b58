"""What befalls a device in the middle of a turn: a lost context, and memory that runs out.

    python -m tests.gpu.hurt FOLDER

As a program it drives a model by a device's worker, loses the device's context for good (an index
out of range, in a kernel) and prints, as JSON, what the engine raised, how that was judged, and
which calls of CUDA were made from then on. A lost context is its process's end: hence a program.
In a rehearsal nothing is lost, and errors with the same class names are raised.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from cortex.errors import CortexError
from cortex.events import Failed, Stopped
from cortex.harness.base import Harness, Job, LoadOrder, Preflight
from cortex.harness.severity import severity
from cortex.harness.worker import DeviceWorker
from tests.exllamav2 import place
from tests.exllamav2.parity import GREEDY

PROMPT: Final = tuple(range(20, 320))
# Whatever of these is called once the context is gone raises, or hangs; the harness has its own names.
CALLS: Final = (
    "empty_cache", "synchronize", "memory_reserved", "memory_allocated", "mem_get_info", "set_device",
    "device_count", "get_device_capability", "get_device_properties", "current_stream", "stream",
)  # fmt: skip
OWN_CALLS: Final = ("hold", "held_bytes", "finish", "give_back")


class Hurt:
    """A harness whose engines meet `befall` in their turns as long as `armed`; all that was raised is
    kept in `raised`."""

    def __init__(self, harness: Harness, befall: Callable[[], None]) -> None:
        self.name, self.apart, self._harness, self._befall = harness.name, harness.apart, harness, befall
        self.armed = False
        self.raised: list[BaseException] = []
        self.lost: Callable[[], None] = lambda: None
        self.runtime: object = vars(harness)["_runtime"]

    def unavailable(self) -> str | None:
        return self._harness.unavailable()

    def preflight(self, order: LoadOrder) -> Preflight:
        return self._harness.preflight(order)

    def load(self, order: LoadOrder, progress: Any, ring: Any) -> Any:
        engine: Any = self._harness.load(order, progress, ring)
        made, hurt = engine._loaded.generator, self._hurt
        hurt(engine._generator)

        def generator() -> Any:
            return hurt(made())

        object.__setattr__(engine, "_loaded", _Instead(engine._loaded, generator))
        return engine

    def _hurt(self, generator: Any) -> Any:
        iterate = generator.iterate

        def hurt() -> Any:
            try:
                if self.armed:
                    self._befall()
                return iterate()
            except BaseException as error:
                self.raised.append(error)
                self.lost()
                raise

        generator.iterate = hurt
        return generator


class _Instead:
    """What an engine has loaded, with another way to make generators."""

    def __init__(self, loaded: Any, generator: Callable[[], Any]) -> None:
        self._own, self.generator = loaded, generator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)


def out_of_memory() -> None:
    """More is wanted than any card has."""
    import torch

    if not place.on_card():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4096.00 GiB. (a rehearsal)")
    torch.empty(2**42, dtype=torch.uint8, device="cuda")


def lost_context() -> None:
    """A kernel stops at an assertion: the context is gone, and says so at the next opportunity."""
    import torch

    if not place.on_card():
        kind = getattr(torch, "AcceleratorError", RuntimeError)
        raise kind("CUDA error: device-side assert triggered (a rehearsal)")
    torch.zeros(4, device="cuda")[torch.tensor([4096], device="cuda")]


@contextmanager
def watched(runtime: object, calls: list[str]) -> Iterator[None]:
    """Which of CALLS are made, and of the harness's own to its `runtime`."""
    import torch

    def watch(place: object, name: str) -> Callable[..., Any]:
        own = getattr(place, name)

        def call(*said: Any, **more: Any) -> Any:
            calls.append(name)
            return own(*said, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for place, names in ((torch.cuda, CALLS), (runtime, OWN_CALLS)):
            for name in names:
                patch.setattr(place, name, watch(place, name))
        yield


def order(folder: Path) -> LoadOrder:
    return LoadOrder("m", folder, "cuda:0", 1024, 4)


async def answer(worker: DeviceWorker, prompt: tuple[int, ...] = PROMPT) -> list[Any]:
    """All events of a greedy answer to it."""
    said: list[Any] = []
    async with worker.generate("m", (Job(0, prompt, GREEDY, 16),)) as mailbox:
        while not said or not isinstance(said[-1], Stopped | Failed):
            said += [event for _, event in await mailbox.take()]
    return said


async def _lose(folder: Path) -> dict[str, object]:
    """The device is lost in a turn, and the worker is stopped after that."""
    harness, calls = Hurt(place.harness(), lost_context), []
    told: dict[str, object] = {}
    worker = DeviceWorker("cuda-dev-0")
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            await worker.load(harness, order(folder))
            told["before"] = type((await answer(worker))[-1]).__name__
            began = 0

            def mark() -> None:
                nonlocal began
                began = len(calls)

            harness.lost, harness.armed = mark, True
            with watched(harness.runtime, calls):
                end = (await answer(worker))[-1]
                told["job"] = type(getattr(end, "error", end)).__name__
                told["poisoned"] = worker.poisoned
                try:
                    async with worker.generate("m", (Job(0, PROMPT, GREEDY, 1),)):
                        told["next"] = "taken in"
                except CortexError as error:
                    told["next"] = type(error).__name__
                nursery.cancel_scope.cancel()
    error = harness.raised[0]
    names = [kind.__name__ for kind in type(error).__mro__]
    return told | {
        "class": type(error).__name__,
        "classes": names,
        "message": str(error).splitlines()[0],
        "severity": severity(error),
        "raised": len(harness.raised),
        "calls": calls[began:],
    }


def main() -> None:
    told = trio.run(_lose, Path(sys.argv[1]))
    print(json.dumps(told), flush=True)
    os._exit(0)  # at its usual end torch might touch the device


if __name__ == "__main__":
    main()
