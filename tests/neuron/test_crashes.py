"""Who took processes down is remembered, and kept out (row 74). Real files, a clock of our own.

`test_process_ends` does the same with processes that die.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cortex.errors import Unfit
from cortex.harness.journal import Blamed, Journal
from cortex.harness.losses import Crash
from cortex.neuron.crashes import FILE, WITHIN_S, Crashes
from cortex.neuron.state import State


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def remembering(folder: Path | None) -> AsyncIterator[Crashes]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            state = State(folder)
            await nursery.start(state.run)
            crashes = await Crashes.remembered(state, "boot")
            crashes._clock = Clock()
            await nursery.start(crashes.run)
            yield crashes
            nursery.cancel_scope.cancel()


async def let_in(crashes: Crashes, model: str = "a", digest: str = "d1") -> bool:
    try:
        await crashes.admit(model, digest)
    except Unfit as error:
        assert "in quarantine" in error.message
        return False
    return True


async def kept(crashes: Crashes, folder: Path) -> None:
    while not (crashes._on_disk and (folder / FILE).exists()):  # noqa: ASYNC110 - a disk rings no bell
        await trio.sleep(0.005)


def abort(model: str = "a", **more: object) -> Crash:
    return Crash(model, "turn", "its process was killed by SIGABRT", ("r-1",), **more)


async def test_the_second_death_within_ten_minutes_keeps_a_model_out(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        assert await let_in(crashes)
        crashes.died("cpu", abort())
        assert await let_in(crashes)
        crashes._clock.now += WITHIN_S
        crashes.died("cpu", abort())
        assert not await let_in(crashes)
        assert await let_in(crashes, "b", "d2")
        (held,) = crashes.quarantined()
        assert (held.model, len(held.crashes)) == ("a", 2)
        last = crashes.last
        assert last is not None
        assert (last.models, last.request_ids, last.phase) == (["a"], ["r-1"], "turn")


async def test_deaths_that_lie_further_apart_are_borne(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        for _ in range(5):
            assert await let_in(crashes)
            crashes.died("cpu", abort())
            crashes._clock.now += WITHIN_S + 1


async def test_who_was_killed_by_somebody_else_is_not_blamed(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        for _ in range(5):
            assert await let_in(crashes)
            crashes.died("cpu", abort(shot=True))
        assert crashes.last is not None


async def test_another_file_of_the_same_name_begins_with_a_clean_record(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        await let_in(crashes)
        crashes.died("cpu", abort())
        crashes.died("cpu", abort())
        assert not await let_in(crashes)
        assert await let_in(crashes, digest="d2")
        assert crashes.quarantined() == []
        crashes.died("cpu", abort())
        assert await let_in(crashes, digest="d2")


async def test_an_operator_lifts_it_by_order_or_by_deleting_the_file(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        for _ in range(2):
            await let_in(crashes)
            crashes.died("cpu", abort())
        assert not await let_in(crashes)
        crashes.lift("a")
        assert await let_in(crashes)
        crashes.died("cpu", abort())
        assert await let_in(crashes)  # the old deaths do not count any more
        crashes.died("cpu", abort())
        assert not await let_in(crashes)
        await kept(crashes, tmp_path)
        (tmp_path / FILE).unlink()
        assert await let_in(crashes)


async def test_a_quarantine_outlasts_the_process(tmp_path: Path) -> None:
    async with remembering(tmp_path) as crashes:
        for _ in range(2):
            await let_in(crashes)
            crashes.died("cpu", abort())
        await kept(crashes, tmp_path)
    async with remembering(tmp_path) as crashes:
        assert not await let_in(crashes)
        assert crashes.died_before == ()


async def test_without_a_folder_it_holds_while_the_process_lives() -> None:
    async with remembering(None) as crashes:
        assert await crashes.open("cpu") is None
        for _ in range(2):
            await let_in(crashes)
            crashes.died("cpu", abort())
        with pytest.raises(Unfit, match=r'"force": true$'):
            await crashes.admit("a", "d1")


async def test_journals_are_read_once_and_those_of_devices_that_are_gone_too(tmp_path: Path) -> None:
    blamed = [Blamed("a", "d1", ("r-1",)), Blamed("b", "d2")]
    for device in ("cpu", "cuda-0"):
        Journal(tmp_path / f"{device}.crash", device, "old").write("turn", blamed)
    async with remembering(tmp_path) as crashes:
        assert [each.device for each in crashes.died_before] == ["cpu", "cuda-0"]
        assert crashes.quarantined() == []  # a process dies once
        assert (tmp_path / "cpu.crash").exists() is False
        journal = await crashes.open("cuda:0+cuda:1")
        assert journal is not None
        journal.write("turn", blamed)
        crashes.leave()
    async with remembering(tmp_path) as crashes:
        assert crashes.died_before == ()
