"""A model's life on a card: load, promise against measured memory, cancels, unload and what comes back.

    python -m tests.gpu.bench_lifetimes FOLDER [--shapes 0.6B 8B]

By a device's worker, as a neuron has it. Models are random, and made in FOLDER when missing. What a
preflight promised has to be within a tenth of what the load took, and every byte has to come back.
Ends with 1 where that is missed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final

import trio

from cortex.events import Tokens
from cortex.harness.base import Harness, Job, LoadOrder
from cortex.harness.worker import DeviceWorker
from cortex.units import size
from tests.exllamav2 import place
from tests.exllamav2.parity import GREEDY
from tests.gpu import shapes
from tests.gpu.record import record
from tests.gpu.test_device_gpu import held, used_bytes

MIB: Final = 2**20
CONTEXT: Final = 8192
SLOTS: Final = 8
WITHIN: Final = 0.10
PROMPT: Final = tuple(100 + number % 800 for number in range(6000))
CANCELS: Final = 10
LONGEST_S: Final = 0.03  # some turns; the prompt is still being read by then


@dataclass(frozen=True, slots=True)
class Variant:
    """How a shape is loaded."""

    cache: str
    context: int = CONTEXT
    slots: int = SLOTS

    def __str__(self) -> str:
        return f"{self.cache} cache, {self.slots} x {self.context}"


@dataclass(slots=True)
class Life:
    """One load, what was measured of it, and what of that is not as promised."""

    worker: DeviceWorker
    harness: Harness
    order: LoadOrder
    what: str
    missed: list[str]

    async def live(self) -> None:
        before, used = held(), used_bytes()
        promised = self.harness.preflight(self.order)
        began = time.perf_counter()
        facts = await self.worker.load(self.harness, self.order)
        load_s = time.perf_counter() - began
        taken = used_bytes() - used
        told = await self._cancels()
        began = time.perf_counter()
        await self.worker.unload(self.order.model)
        unload_s = time.perf_counter() - began
        after = held()
        off = promised.bytes / facts.bytes - 1
        record(
            "memory", model=self.what, promised=promised.bytes, measured=facts.bytes, off=off,
            weights=promised.weights_bytes, cache=promised.cache_bytes,
            promised_overhead=promised.overhead_bytes, overhead=facts.memory.overhead_bytes, driver=taken,
            load_s=load_s, unload_s=unload_s, returned=taken - (used_bytes() - used),
            left=after[0] - before[0], kept=after[1] - before[1],
        )  # fmt: skip
        record("cancel", model=self.what, **told)
        print(f"{self.what}: load {load_s:.2f} s, promise {off:+.1%}, unload {unload_s:.2f} s", flush=True)
        self._judge(off, after[0] - before[0], after[1] - before[1])

    def _judge(self, off: float, left: int, kept: int) -> None:
        if place.on_card() and abs(off) > WITHIN:
            self.missed.append(f"{self.what}: the promise is off by {off:+.1%}")
        if left > 0 or kept > 0:
            self.missed.append(f"{self.what}: {size(left)} are left, and {size(kept)} kept")

    async def _cancels(self) -> dict[str, object]:
        """Milliseconds until the slot is free again, left while it writes and while it reads."""
        # At any moment of a turn; and prompts are alike in nothing, so that none is cached.
        waits = [LONGEST_S * at / CANCELS for at in range(1, CANCELS + 1)]
        writing = [await self._left(PROMPT[:20], wait, writes=True) for wait in waits]
        reading = [
            await self._left(PROMPT[at:] + PROMPT[:at], wait, writes=False) for at, wait in enumerate(waits)
        ]
        return {"writing_ms": median(writing), "writing_most_ms": max(writing),
                "reading_ms": median(reading), "reading_most_ms": max(reading)}  # fmt: skip

    async def _left(self, prompt: Sequence[int], wait_s: float, *, writes: bool) -> float:
        most = self.order.context - 600
        job = Job(0, tuple(prompt[:most]), GREEDY, 500)
        said = 0
        async with self.worker.generate(self.order.model, (job,)) as mailbox:
            while writes and said < 3:
                said += sum(isinstance(event, Tokens) for _, event in await mailbox.take())
            await trio.sleep(wait_s)
            began = time.perf_counter()
        return 1000 * (time.perf_counter() - began)


async def _lives(lives: Sequence[Life], worker: DeviceWorker) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        for life in lives:
            await life.live()
        nursery.cancel_scope.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the models are, or come")
    parser.add_argument("--shapes", nargs="+", choices=tuple(shapes.SHAPES), default=["0.6B", "8B"])
    parser.add_argument("--caches", nargs="+", choices=("fp16", "q8", "q4"), default=["fp16", "q8", "q4"])
    said = parser.parse_args(arguments)
    worker, missed = DeviceWorker("cuda-dev-0"), list[str]()
    lives = [
        life for name in said.shapes for life in _planned(said.folder, name, said.caches, worker, missed)
    ]
    trio.run(_lives, lives, worker)
    for each in missed:
        print(f"missed: {each}")
    return int(bool(missed))


def _planned(
    folder: Path, name: str, caches: Sequence[str], worker: DeviceWorker, missed: list[str]
) -> list[Life]:
    path, harness = (folder / name).resolve(), place.harness()
    shapes.write(path, shapes.SHAPES[name], "cuda" if place.on_card() else "cpu")
    plain = LoadOrder(name, path, "cuda:0", CONTEXT, SLOTS)
    # The first load of a process makes what it keeps: kernels, handles, workspaces.
    first = [Life(worker, harness, replace(plain, context=2048, slots=1), f"{name}, first of all", [])]
    variants = [Variant(cache) for cache in caches if place.on_card()] + [Variant("fp16", 2048, 1)]
    return first + [
        Life(worker, harness, replace(plain, cache=each.cache, context=each.context, slots=each.slots),
             f"{name}, {each}", missed)
        for each in variants
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
