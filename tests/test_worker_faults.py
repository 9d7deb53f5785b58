"""What an engine raises costs its jobs, itself or its device, and nobody else (rows 68, 69, 76).

Real threads, scripted engine.
"""

import threading
from pathlib import Path

import pytest
import trio

from cortex.errors import (
    BadAsk,
    DeviceLost,
    DoesNotFit,
    EngineFailed,
    LoadFailed,
    OutOfMemory,
    Recovering,
)
from cortex.events import Failed, Stopped
from cortex.harness.journal import Journal, read
from cortex.harness.scripted import Script, ScriptedHarness, scripted_order
from tests.test_worker import ends, everything, job, say, text, until, working

STICKY = RuntimeError("CUDA error: device-side assert triggered")
NEVER = threading.Event()


def raise_(error: Exception) -> None:
    raise error


def raising(error: Exception, at: int = 1):
    """Done in the turn of that number."""

    def deed(turn: object) -> None:
        if turn == at or not isinstance(turn, int):
            raise error

    return deed


async def test_memory_that_runs_out_in_a_turn_costs_the_jobs_alone() -> None:
    """Row 69: those jobs hear it, the engine and its device go on."""
    async with working() as worker:
        told: list[str] = []
        worker.on_fault = told.append
        script = Script(on_turn=raising(MemoryError("no room"), at=2), endless=True)
        harness = ScriptedHarness(scripts={"big": script})
        await worker.load(harness, scripted_order("big", slots=2))
        heard = await say(worker, "big", job(max_tokens=3), job(max_tokens=3), job(max_tokens=3))
        first, second, third = (
            [event for at, event in heard if at == index and isinstance(event, Stopped | Failed)]
            for index in range(3)
        )
        assert [type(event.error) for event in (*first, *second)] == [OutOfMemory, OutOfMemory]
        assert "shorter prompt" in first[0].error.message
        assert [event.reason for event in third] == ["length"]  # it had waited for a slot
        assert (worker.fault("big"), worker.poisoned, told) == (None, None, ["memory"])


async def test_memory_that_runs_out_costs_an_engine_that_cannot_go_on() -> None:
    async with working() as worker:
        script = Script(on_turn=raising(MemoryError()), resets=False)
        await worker.load(ScriptedHarness(scripts={"bad": script}), scripted_order("bad"))
        await worker.load(ScriptedHarness(), scripted_order("good"))
        assert [type(event.error) for event in ends(await say(worker, "bad"))] == [EngineFailed]
        assert "MemoryError" in (worker.fault("bad") or "")
        assert worker.poisoned is None
        assert text(await say(worker, "good")) == b"say it back"


async def test_memory_that_runs_out_in_a_load_is_a_model_that_does_not_fit() -> None:
    """Row 68: the device is usable at once."""
    async with working() as worker:
        told: list[str] = []
        worker.on_fault = told.append
        for error in (MemoryError(), RuntimeError("CUDA out of memory"), OutOfMemory("no")):
            with pytest.raises(DoesNotFit, match="smaller context"):
                await worker.load(
                    ScriptedHarness(Script(on_load=lambda e=error: raise_(e))), scripted_order()
                )
        assert told == ["memory"] * 3
        await worker.load(ScriptedHarness(), scripted_order())
        assert text(await say(worker, "scripted")) == b"say it back"


@pytest.mark.parametrize("error", [ValueError("n is odd"), BadAsk("no such voice", param="voice")])
async def test_a_job_that_the_engine_does_not_take_fails_alone(error: Exception) -> None:
    async with working() as worker:
        refused = job("odd one")
        script = Script(on_submit=lambda taken: taken.prompt == "odd one" and raise_(error))
        await worker.load(ScriptedHarness(script), scripted_order())
        heard = await say(worker, "scripted", refused, job("even"))
        assert text(heard, 1) == b"even"
        (failure,) = [event.error for event in ends(heard) if isinstance(event, Failed)]
        assert failure is error if isinstance(error, BadAsk) else "n is odd" in failure.message
        assert worker.fault("scripted") is None


async def test_an_argument_that_breaks_a_turn_costs_its_jobs() -> None:
    async with working() as worker:
        script = Script(on_turn=raising(RuntimeError("shape mismatch")))
        await worker.load(ScriptedHarness(script), scripted_order())
        (failed,) = ends(await say(worker, "scripted"))
        assert isinstance(failed, Failed)
        assert "shape mismatch" in failed.error.message
        assert text(await say(worker, "scripted")) == b"say it back"


@pytest.mark.parametrize("where", ["turn", "submit"])
async def test_a_sticky_error_poisons_the_device_and_tells_everybody(where: str) -> None:
    """Row 76: live jobs fail, waiting ones may go elsewhere, nothing comes in any more."""
    async with working() as worker:
        deed = raising(STICKY)
        script = Script(on_turn=deed, endless=True) if where == "turn" else Script(on_submit=deed)
        harness = ScriptedHarness(scripts={"bad": script, "idle": Script()})
        await worker.load(harness, scripted_order("bad", slots=1))
        await worker.load(harness, scripted_order("idle"))
        errors = [event.error for event in ends(await say(worker, "bad", job(), job()))]
        assert [type(error) for error in errors] == [DeviceLost, Recovering]
        assert [error.not_started for error in errors] == [False, True]
        assert "device-side assert" in errors[0].message
        await worker.lost.wait()
        assert "device-side assert" in (worker.poisoned or "")
        with pytest.raises(Recovering, match="poisoned"):
            await say(worker, "idle")
        with pytest.raises(DeviceLost, match="poisoned"):
            await worker.load(harness, scripted_order("new"))
        # To free anything would touch the device.
        assert not any(engine.unloaded for engine in harness.engines.values())
    assert not any(engine.unloaded for engine in harness.engines.values())


async def test_a_sticky_error_in_a_load_poisons_the_device_too() -> None:
    """And whoever is served meanwhile hears of it."""
    async with working() as worker:
        harness = ScriptedHarness(
            scripts={"here": Script(endless=True), "bad": Script(on_load=lambda: raise_(STICKY))}
        )
        await worker.load(harness, scripted_order("here", context=10**9))
        async with worker.generate("here", (job(),)) as mailbox:
            await mailbox.take()
            with pytest.raises(DeviceLost, match="device-side assert"):
                await worker.load(harness, scripted_order("bad"))
            (failed,) = ends(await everything(mailbox))
        assert isinstance(failed.error, DeviceLost)
        assert worker.poisoned


async def test_a_device_lost_in_a_turn_ends_the_load_that_is_under_way() -> None:
    async with working() as worker:
        harness = ScriptedHarness(
            scripts={"bad": Script(on_turn=raising(STICKY, 3), endless=True), "slow": Script(slow_load=NEVER)}
        )
        await worker.load(harness, scripted_order("bad"))
        with pytest.RaisesGroup(DeviceLost):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.load, harness, scripted_order("slow"))
                await until(lambda: worker.loading.get("slow", (0, 0))[0] > 0)
                await say(worker, "bad")


async def test_what_nobody_knows_is_borne_twice() -> None:
    """The third in ten minutes: whatever it is, it is the device's."""
    async with working() as worker:
        for number in range(1, 4):
            await worker.load(ScriptedHarness(Script(crash_after=0)), scripted_order(f"m{number}"))
            await say(worker, f"m{number}")
            assert (worker.poisoned is not None) == (number == 3)
        assert "unknown, and more than 2 in 10 minutes" in (worker.poisoned or "")


async def test_a_file_that_fails_to_load_again_and_again_costs_no_device() -> None:
    async with working() as worker:
        for _ in range(5):
            with pytest.raises(LoadFailed):
                await worker.load(
                    ScriptedHarness(Script(on_load=lambda: raise_(RuntimeError("?")))), scripted_order()
                )
        assert worker.poisoned is None


async def test_the_journal_says_who_is_served_and_nothing_afterwards(tmp_path: Path) -> None:
    """Row 74: what a crash in this moment would leave behind."""
    path = tmp_path / "j"
    seen: list[tuple[str, list[tuple[str, str, tuple[str, ...]]]]] = []

    def look(*_: object) -> None:
        entry = read(path)
        assert entry is not None
        seen.append((entry.phase, [(each.model, each.digest, each.requests) for each in entry.blamed]))

    async with working(journal=Journal(path, "cpu", "boot")) as worker:
        order = scripted_order()
        object.__setattr__(order, "digest", "d1")
        await worker.load(ScriptedHarness(Script(on_load=look, on_turn=look)), order)
        await say(worker, "scripted", job("a", request_id="r-1"), job("a", request_id="r-1"))
        await until(lambda: worker.doing.phase == "idle")
        look()
        assert seen == [
            ("load", [("scripted", "d1", ())]),
            ("turn", [("scripted", "d1", ("r-1",))]),
            ("turn", [("scripted", "d1", ("r-1",))]),
            ("idle", []),
        ]
    assert (read(path) or pytest.fail()).crashed is False


async def test_the_journal_of_a_lost_device_keeps_who_lost_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with working(journal=Journal(path, "cpu", "boot")) as worker:
        await worker.load(ScriptedHarness(Script(on_turn=raising(STICKY))), scripted_order())
        await say(worker, "scripted", job("a", request_id="r-1"))
    entry = read(path)
    assert entry is not None
    assert (entry.phase, entry.crashed) == ("lost", True)
    assert [each.requests for each in entry.blamed] == [("r-1",)]
