"""What a card does to an engine: memory that runs out, a context that is lost, memory that comes back."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.errors import DoesNotFit, OutOfMemory
from cortex.events import Failed, Stopped, Tokens
from cortex.harness.base import EngineFacts
from cortex.harness.severity import severity
from cortex.harness.worker import DeviceWorker
from tests.exllamav2 import models, place
from tests.gpu import hurt
from tests.gpu.record import record

reason = place.needs_card()
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=str(reason))]

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")


def held() -> tuple[int, int]:
    """What torch's allocator gave out, and what it keeps of the card."""
    import torch

    gc.collect()
    if not place.on_card():
        return 0, 0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()


def used_bytes() -> int:
    """Of the card, by everybody, as the driver tells."""
    if not place.on_card():
        return 0
    import pynvml

    pynvml.nvmlInit()
    index = int(os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or 0)
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).used)


def in_worker(deed: Callable[[DeviceWorker], object]) -> None:
    async def run() -> None:
        worker = DeviceWorker("cuda-dev-0")
        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                await deed(worker)
                nursery.cancel_scope.cancel()

    trio.run(run)


def said(events: list[object]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Tokens))


def test_memory_that_runs_out_in_a_turn_costs_the_turns_jobs_and_no_more(folder: Path) -> None:
    """Rows 74 and 75: the engine goes on, and says what it said before."""
    harness = hurt.Hurt(place.harness(), hurt.out_of_memory)

    async def deed(worker: DeviceWorker) -> None:
        await worker.load(harness, hurt.order(folder))
        before, memory = await hurt.answer(worker), held()
        assert isinstance(before[-1], Stopped)
        for _ in range(3):
            harness.armed = True
            end = (await hurt.answer(worker))[-1]
            harness.armed = False
            assert isinstance(end, Failed)
            assert isinstance(end.error, OutOfMemory)
            assert said(await hurt.answer(worker)) == said(before)
        assert worker.poisoned is None
        assert held()[0] <= memory[0] + MIB

    in_worker(deed)
    kinds = {type(error).__name__ for error in harness.raised}
    record("faults", fault="memory runs out in a turn", seen=True, kind=", ".join(kinds))
    assert {severity(error) for error in harness.raised} == {"memory"}


def test_a_cache_that_no_card_holds_is_refused_and_all_is_free_again(folder: Path) -> None:
    if not place.on_card():
        pytest.skip("the CPU would give the memory")
    import torch

    harness, total = place.harness(), torch.cuda.get_device_properties(0).total_memory
    order = hurt.order(folder)
    a_token = harness.preflight(order).cache_bytes // (order.context * order.slots)
    huge = replace(order, kv_tokens=2 * total // a_token // 256 * 256)

    async def deed(worker: DeviceWorker) -> None:
        await worker.load(harness, replace(order, model="other"))
        before = held()
        with pytest.raises(DoesNotFit):
            await worker.load(harness, huge)
        assert held()[0] <= before[0] + MIB
        await worker.unload("other")
        await worker.load(harness, order)
        assert isinstance((await hurt.answer(worker))[-1], Stopped)

    in_worker(deed)


def test_a_lost_context_is_judged_sticky_and_nothing_touches_the_device_again(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.hurt", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    record("faults", fault="the context is lost in a turn", seen=told["severity"] == "sticky",
           kind=told["class"], message=told["message"], calls=told["calls"])  # fmt: skip
    assert told["before"] == "Stopped"
    assert (told["severity"], told["job"], told["next"]) == ("sticky", "DeviceLost", "Recovering")
    assert told["poisoned"]
    assert (told["raised"], told["calls"]) == (1, [])


def test_what_an_unload_gives_back_is_all_of_it(folder: Path) -> None:
    facts: list[EngineFacts] = []
    harness, seen = place.harness(), []

    async def deed(worker: DeviceWorker) -> None:
        for _ in range(4):
            facts.append(await worker.load(harness, hurt.order(folder)))
            await hurt.answer(worker)
            loaded = (*held(), used_bytes())
            await worker.unload("m")
            seen.append((loaded, (*held(), used_bytes())))

    in_worker(deed)
    for number, (loaded, free) in enumerate(seen):
        record("unloads", cycle=number + 1, loaded=loaded, free=free)
    # The first load makes what a process keeps: kernels, handles, workspaces.
    first, last = seen[0][1], seen[-1][1]
    assert last[0] <= first[0]
    assert last[1] <= first[1]
    assert last[2] <= first[2] + 16 * MIB
    assert facts[-1].bytes <= facts[0].bytes
