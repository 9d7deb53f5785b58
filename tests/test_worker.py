"""A device's thread serves many jobs, loses none, and outlives what goes wrong in an engine.

Real thread, scripted engine; one test runs the same through llama.cpp.
"""

import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cortex.ask import Sampling
from cortex.demo import GGUF
from cortex.errors import (
    BadAsk,
    CortexError,
    DoesNotFit,
    EngineFailed,
    LoadFailed,
    NotHereNow,
    NotResident,
    Recovering,
    Stopping,
)
from cortex.events import EngineEvent, Failed, Stopped, Tokens
from cortex.harness import worker as worker_module
from cortex.harness.base import EngineFacts, Job, LoadOrder, Memory
from cortex.harness.journal import Journal
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.orders import Done, Heard, Load, Stop, Submit, Tokenise, Word
from cortex.harness.scripted import Gate, Script, ScriptedHarness, numbered, scripted_order
from cortex.harness.turns import ORDERS_A_PASS, DeviceLoop
from cortex.harness.worker import DeviceWorker, Mailbox

NEUTRAL = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)


def job(prompt: str = "say it back", **more: object) -> Job:
    return Job(0, prompt, NEUTRAL, **more)


async def everything(mailbox: Mailbox) -> list[tuple[int, EngineEvent]]:
    heard: list[tuple[int, EngineEvent]] = []
    while True:
        try:
            batch = await mailbox.take()
        except trio.EndOfChannel:
            return heard
        assert batch
        heard += batch


def text(heard: Sequence[tuple[int, EngineEvent]], index: int = 0) -> bytes:
    return b"".join(event.data for at, event in heard if at == index and isinstance(event, Tokens))


def ends(heard: Sequence[tuple[int, EngineEvent]]) -> list[EngineEvent]:
    return [event for _, event in heard if isinstance(event, Stopped | Failed)]


@asynccontextmanager
async def working(name: str = "cpu-dev-0", journal: Journal | None = None) -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(name, journal)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield worker
            nursery.cancel_scope.cancel()


async def until(fact: Callable[[], bool]) -> None:
    """Waits for a fact of the thread's that rings no bell here."""
    while not fact():  # noqa: ASYNC110
        await trio.sleep(0.001)


async def say(worker: DeviceWorker, model: str, *jobs: Job) -> list[tuple[int, EngineEvent]]:
    async with worker.generate(model, jobs or (job(),)) as mailbox:
        return await everything(mailbox)


async def test_a_job_is_heard_from_start_to_end() -> None:
    async with working() as worker:
        harness = ScriptedHarness(Script(tokens_per_turn=2))
        facts = await worker.load(harness, scripted_order())
        assert facts == EngineFacts(Memory(2**20), 8192, 4)
        heard = await say(worker, "scripted")
        assert text(heard) == b"say it back"
        assert [event.reason for event in ends(heard)] == ["stop"]


async def test_the_thread_is_called_as_the_device_and_ends_with_it() -> None:
    async with working("cpu-dev-7") as worker:
        names: list[str] = []
        script = Script(reply=lambda _: names.append(threading.current_thread().name) or "x")
        await worker.load(ScriptedHarness(script), scripted_order())
        await say(worker, "scripted")
        assert names == ["cpu-dev-7"]
    assert worker.heartbeat_age_s == 0.0


async def test_choices_of_one_request_keep_their_index_and_their_order() -> None:
    async with working() as worker:
        await worker.load(ScriptedHarness(), scripted_order(slots=2))
        jobs = [job(f"answer number {n}") for n in range(7)]
        heard = await say(worker, "scripted", *jobs)
        assert [text(heard, n) for n in range(7)] == [f"answer number {n}".encode() for n in range(7)]
        assert len(ends(heard)) == 7


async def test_an_engine_never_gets_more_jobs_than_slots() -> None:
    """The engine raises on one more; the surplus waits, and its turn comes."""
    async with working() as worker:
        harness = ScriptedHarness()
        await worker.load(harness, scripted_order(slots=3))
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(say, worker, "scripted")
        engine = harness.engines["scripted"]
        assert (len(engine.jobs), engine.most_live) == (40, 3)
        assert worker.fault("scripted") is None


async def test_no_jobs_at_all_is_the_end_at_once() -> None:
    async with working() as worker:
        await worker.load(ScriptedHarness(), scripted_order())
        async with worker.generate("scripted", ()) as mailbox:
            assert await everything(mailbox) == []


async def test_take_waits_for_words_and_loses_none_when_cancelled() -> None:
    async with working() as worker:
        gate = Gate()
        await worker.load(ScriptedHarness(Script(hold=gate)), scripted_order())
        async with worker.generate("scripted", (job("one two"),)) as mailbox:
            with trio.move_on_after(0.02) as patience:
                await mailbox.take()
            assert patience.cancelled_caught
            gate.let(1)
            assert text(await mailbox.take()) == b"one"
            gate.open()
            assert text(await everything(mailbox)) == b" two"


async def test_leaving_ends_the_job_and_gives_the_slot_back_first() -> None:
    async with working() as worker:
        await worker.load(ScriptedHarness(Script(endless=True)), scripted_order(slots=1, context=10**9))
        for _ in range(20):
            async with worker.generate("scripted", (job(),)) as mailbox:
                await mailbox.take()
        assert worker._residents["scripted"].live == {}


async def test_a_seat_is_not_given_back_before_the_slot_is_free() -> None:
    """The thread is held in a turn: leaving waits for it."""
    async with working() as worker:
        stall = threading.Event()
        harness = ScriptedHarness(Script(stall=stall))
        await worker.load(harness, scripted_order(slots=1))
        left = trio.Event()

        async def leave_early() -> None:
            with trio.CancelScope() as scope:
                async with worker.generate("scripted", (job(),)):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            left.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_early)
            await until(lambda: harness.engines["scripted"].turns == 1)
            await wait_all_tasks_blocked()
            assert not left.is_set()
            stall.set()
            await left.wait()
        assert harness.engines["scripted"]._live == {}


async def test_a_slot_that_is_never_let_go_is_not_given_to_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 77: the device thread hangs. The caller gets away, the slot stays taken."""
    monkeypatch.setattr(worker_module, "LET_GO_S", 0.05)
    async with working() as worker:
        stall = threading.Event()
        await worker.load(ScriptedHarness(Script(stall=stall)), scripted_order(slots=1))
        async with worker.generate("scripted", (job(),)):
            pass
        assert "job.stuck" in caplog.text
        async with worker.generate("scripted", (job("next"),)) as mailbox:
            with trio.move_on_after(0.05):
                await mailbox.take()
                pytest.fail("a job was begun in a slot that is not free")
            assert worker.heartbeat_age_s > 0.05
            stall.set()
            assert text(await everything(mailbox)) == b"next"


async def test_a_waiting_job_is_given_up_without_the_thread() -> None:
    async with working() as worker:
        stall = threading.Event()
        harness = ScriptedHarness(Script(stall=stall))
        await worker.load(harness, scripted_order(slots=1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, worker, "scripted")
            await until(lambda: harness.engines["scripted"].turns == 1)
            async with worker.generate("scripted", (job("never begun"), job("nor this"))):
                pass  # leaves although the thread hangs
            stall.set()
        assert [each.prompt for each in harness.engines["scripted"].jobs] == ["say it back"]


async def test_engines_of_one_device_take_turns() -> None:
    async with working() as worker:
        order: list[str] = []

        def speak(name: str) -> Script:
            def tokens(_: Job) -> AsyncIterator[bytes]:
                for token in numbered(50):
                    order.append(name)
                    yield token

            return Script(reply=tokens, hold=gate)

        gate = Gate()
        harness = ScriptedHarness(scripts={name: speak(name) for name in ("a", "b", "c")})
        for name in ("a", "b", "c"):
            await worker.load(harness, scripted_order(name))
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c"):
                nursery.start_soon(say, worker, name)
            await until(lambda: all(engine.jobs for engine in harness.engines.values()))
            gate.open()
        assert all(set(order[at : at + 3]) == {"a", "b", "c"} for at in range(0, 150, 3))


async def test_a_busy_engine_does_not_keep_another_from_its_end() -> None:
    async with working() as worker:
        harness = ScriptedHarness(scripts={"busy": Script(endless=True, tokens_per_turn=10)})
        await worker.load(harness, scripted_order("busy", context=10**9))
        await worker.load(harness, scripted_order("brief"))
        async with worker.generate("busy", (job(),)):
            for _ in range(20):
                assert text(await say(worker, "brief")) == b"say it back"


def test_a_flood_of_questions_keeps_nobody_from_his_turn() -> None:
    """Each question brings the next: without a bound the jobs would never move."""
    asked = 0
    harness = ScriptedHarness(Script(endless=True))

    def tell(word: Word) -> None:
        nonlocal asked
        if isinstance(word, Done) and isinstance(word.answer, EngineFacts):
            loop.inbox.put(Submit("scripted", job(max_tokens=20)))
            loop.inbox.put(Tokenise(1, "scripted", "x"))
        if isinstance(word, Done) and isinstance(word.answer, tuple):
            asked += 1
            loop.inbox.put(Tokenise(asked + 1, "scripted", "x") if asked < 10_000 else Stop())
        if isinstance(word, Heard) and isinstance(word.said[-1][1], Stopped):
            loop.inbox.put(Stop())

    loop = DeviceLoop(tell, {"scripted": harness})
    loop.inbox.put(Load(0, "scripted", scripted_order()))
    loop.run()
    assert harness.engines["scripted"].turns == 21
    assert asked <= 22 * ORDERS_A_PASS


async def test_a_load_that_reports_rarely_leaves_half_of_the_time_to_jobs() -> None:
    async with working() as worker:
        turns: list[int] = []

        def read_long() -> None:
            turns.append(harness.engines["here"].turns)
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                pass

        harness = ScriptedHarness(scripts={"here": Script(endless=True), "big": Script(on_load=read_long)})
        await worker.load(harness, scripted_order("here", context=10**9))
        async with worker.generate("here", (job(),)) as mailbox:
            await mailbox.take()
            await worker.load(harness, scripted_order("big"))
            assert harness.engines["here"].turns - turns[0] > 20


async def test_an_engine_that_raises_is_faulted_and_its_neighbour_goes_on() -> None:
    """Every job of it hears how it ended; what never began may be tried elsewhere."""
    async with working() as worker:
        harness = ScriptedHarness(scripts={"bad": Script(crash_after=2, endless=True)})
        await worker.load(harness, scripted_order("bad", slots=2))
        await worker.load(harness, scripted_order("good"))
        heard = await say(worker, "bad", *[job()] * 3)
        errors = [event.error for event in ends(heard) if isinstance(event, Failed)]
        assert [type(error) for error in errors] == [EngineFailed, EngineFailed, Recovering]
        assert "scripted crash in turn 3" in errors[0].message
        assert "scripted crash" in (worker.fault("bad") or "")
        with pytest.raises(Recovering, match="Unload it"):
            await say(worker, "bad")
        with pytest.raises(EngineFailed, match="failed or is gone"):
            await worker.tokenise("bad", "x")
        assert text(await say(worker, "good")) == b"say it back"
        assert worker.fault("good") is None
        await worker.unload("bad")
        assert harness.engines["bad"].unloaded
        await worker.load(ScriptedHarness(), scripted_order("bad"))
        assert worker.fault("bad") is None
        assert text(await say(worker, "bad")) == b"say it back"


async def test_a_job_that_fails_fails_alone() -> None:
    async with working() as worker:
        await worker.load(ScriptedHarness(Script(fail_after=2)), scripted_order())
        heard = await say(worker, "scripted", job("a b c d"), job("a b c d"))
        assert [type(event) for event in ends(heard)] == [Failed, Failed]
        assert worker.fault("scripted") is None
        refused = await say(worker, "scripted", job(""))
        assert isinstance(refused[0][1].error, BadAsk)


async def test_a_bug_of_the_thread_is_raised_in_the_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever waits is told, instead of hanging."""
    worker = DeviceWorker("cpu-dev-0")
    heard: list[tuple[int, EngineEvent]] = []

    async def listen() -> None:
        async with worker.generate("scripted", (job(),)) as mailbox:
            await trio.lowlevel.checkpoint()
            heard.extend(await everything(mailbox))

    gate = Gate()
    with trio.fail_after(30):
        async with trio.open_nursery() as listeners:
            with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
                async with trio.open_nursery() as nursery:
                    await nursery.start(worker.run)
                    await worker.load(ScriptedHarness(Script(hold=gate)), scripted_order())
                    listeners.start_soon(listen)
                    await wait_all_tasks_blocked()
                    monkeypatch.setattr(worker._thread.loop, "_take_turn", lambda: 1 / 0)
                    gate.open()
    assert isinstance(heard[-1][1], Failed)
    with pytest.raises(Stopping):
        await say(worker, "scripted")


async def test_a_bug_in_the_hand_over_is_raised_in_the_nursery(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception inside trio's own loop would be an internal error of trio."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with trio.fail_after(30), pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            worker = DeviceWorker("cpu-dev-0")
            await nursery.start(worker.run)
            await worker.load(ScriptedHarness(), scripted_order())
            monkeypatch.setattr(worker, "_spread", broken)
            async with worker.generate("scripted", (job(),)) as mailbox:
                await mailbox.take()


async def test_a_load_that_is_refused_says_why_and_leaves_nothing() -> None:
    async with working() as worker:
        for error in (LoadFailed("the file is torn"), DoesNotFit("too large", facts={"need": 2, "free": 1})):
            with pytest.raises(type(error)) as caught:
                await worker.load(ScriptedHarness(Script(load_error=error)), scripted_order())
            assert caught.value is error
            assert worker.loading == {}
            with pytest.raises(NotHereNow):
                await say(worker, "scripted")
        await worker.load(ScriptedHarness(), scripted_order())
        assert len(ends(await say(worker, "scripted"))) == 1


async def test_a_job_that_breaks_its_engine_is_logged_under_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The device thread serves all requests and has the id of none."""

    def broken(_: Job) -> str:
        raise ZeroDivisionError("a bug")

    async with working() as worker:
        await worker.load(ScriptedHarness(Script(reply=broken)), scripted_order())
        async with worker.generate("scripted", [job(request_id="r-7")]) as mailbox:
            assert [type(event) for event in ends(await everything(mailbox))] == [Failed]
    (record,) = [record for record in caplog.records if "engine.faulted" in record.getMessage()]
    assert record.request_id == "r-7"


async def test_what_a_harness_raises_by_a_bug_is_a_failed_load() -> None:
    class Broken(ScriptedHarness):
        def load(self, *_: object) -> None:
            raise KeyError("oops")

    async with working() as worker:
        with pytest.raises(LoadFailed, match="KeyError"):
            await worker.load(Broken(), scripted_order())
        await worker.load(ScriptedHarness(), scripted_order())


async def test_a_load_shows_its_progress_while_it_lasts() -> None:
    async with working() as worker:
        slow = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.load, ScriptedHarness(Script(slow_load=slow)), scripted_order())
            await until(lambda: worker.loading.get("scripted") == (2**19, 2**20))
            assert worker.heartbeat_age_s < 5
            slow.set()
        assert worker.loading == {}


async def test_models_that_are_here_go_on_while_another_loads() -> None:
    """Row 71: no head-of-line block."""
    async with working() as worker:
        slow = threading.Event()
        harness = ScriptedHarness(scripts={"slow": Script(slow_load=slow)})
        await worker.load(harness, scripted_order("here"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.load, harness, scripted_order("slow"))
            await until(lambda: worker.loading.get("slow", (0, 0))[0] > 0)
            for _ in range(5):
                assert text(await say(worker, "here")) == b"say it back"
            assert len(await worker.tokenise("here", "a b")) == 2
            assert "slow" in worker.loading
            slow.set()
        assert text(await say(worker, "slow")) == b"say it back"


async def test_a_cancelled_load_gives_up_and_is_waited_for() -> None:
    async with working() as worker:
        slow = threading.Event()
        harness = ScriptedHarness(Script(slow_load=slow))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.load, harness, scripted_order())
                await until(lambda: worker.loading.get("scripted", (0, 0))[0] > 0)
                scope.cancel()
        assert worker.loading == {}
        assert harness.engines == {}
        slow.set()
        await worker.load(harness, scripted_order())
        assert text(await say(worker, "scripted")) == b"say it back"


async def test_a_load_that_is_cancelled_in_the_moment_it_is_done_is_taken_back() -> None:
    """Cancelled at every point of its course, it is either here whole or gone."""
    async with working() as worker:
        for patience in range(40):
            harness = ScriptedHarness()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.load, harness, scripted_order())
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            if scope.cancelled_caught and "scripted" not in worker._residents:
                assert all(engine.unloaded for engine in harness.engines.values())
            else:
                await worker.unload("scripted")
            assert (worker.loading, worker._residents, worker._replies) == ({}, {}, {})


async def test_a_queued_load_that_is_given_up_never_begins() -> None:
    async with working() as worker:
        slow = threading.Event()
        harness = ScriptedHarness(scripts={"slow": Script(slow_load=slow)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.load, harness, scripted_order("slow"))
            await until(lambda: worker.loading.get("slow", (0, 0))[0] > 0)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(worker.load, harness, scripted_order("late"))
                    await until(lambda: len(worker._thread.loop._later) == 1)
                    scope.cancel()
            assert set(worker.loading) == {"slow"}
            slow.set()
        await worker.load(harness, scripted_order("other"))
        assert "late" not in harness.engines


async def test_unload_frees_and_fails_what_is_seated() -> None:
    async with working() as worker:
        harness = ScriptedHarness(Script(endless=True))
        await worker.load(harness, scripted_order(slots=1, context=10**9))
        async with worker.generate("scripted", (job(), job())) as mailbox:
            await mailbox.take()
            await worker.unload("scripted")
            errors = [event.error for event in ends(await everything(mailbox))]
        assert [type(error) for error in errors] == [EngineFailed, NotHereNow]
        assert harness.engines["scripted"].unloaded
        with pytest.raises(NotHereNow):
            await say(worker, "scripted")
        with pytest.raises(NotResident):
            await worker.unload("scripted")
        with pytest.raises(NotResident):
            await worker.tokenise("scripted", "x")


async def test_allocators_give_back_what_they_keep_once_a_load_in_hand_is_in() -> None:
    slow = threading.Event()

    class Careless(ScriptedHarness):
        def release(self) -> None:
            assert set(self.engines) == {"scripted"}
            super().release()
            raise RuntimeError("the thread outlives it")

    harness = Careless(Script(slow_load=slow))
    async with working() as worker:
        await worker.release()  # with no harness yet
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.load, harness, scripted_order())
            await until(lambda: worker.loading.get("scripted", (0, 0))[1] > 0)
            nursery.start_soon(worker.release)
            slow.set()
        await until(lambda: harness.releases == 1)
        assert text(await say(worker, "scripted")) == b"say it back"


async def test_an_unload_that_is_cancelled_goes_on_and_is_waited_for() -> None:
    """Whoever gave it up would promise memory to others that is not free yet."""
    async with working() as worker:
        stall = threading.Event()
        harness = ScriptedHarness(Script(stall=stall))
        await worker.load(harness, scripted_order())
        seen: list[bool] = []

        async def unload() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await worker.unload("scripted")
            seen.append(harness.engines["scripted"].unloaded)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, worker, "scripted")
            await until(lambda: harness.engines["scripted"].turns == 1)
            nursery.start_soon(unload)
            await trio.testing.wait_all_tasks_blocked()
            assert seen == []
            stall.set()
        assert seen == [True]
        await worker.load(harness, scripted_order())
        assert text(await say(worker, "scripted")) == b"say it back"


async def test_a_model_is_loaded_once() -> None:
    async with working() as worker:
        await worker.load(ScriptedHarness(), scripted_order())
        with pytest.raises(RuntimeError, match="loading or loaded"):
            await worker.load(ScriptedHarness(), scripted_order())


async def test_stopping_unloads_everything_and_tells_whoever_waits() -> None:
    harness = ScriptedHarness(Script(endless=True))
    heard: list[tuple[int, EngineEvent]] = []
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as life:
                worker = DeviceWorker("cpu-dev-0")
                await life.start(worker.run)
                for name in ("a", "b"):
                    await worker.load(harness, scripted_order(name, slots=1, context=10**9))

                async def listen() -> None:
                    async with worker.generate("a", (job(), job())) as mailbox:
                        heard.extend(await mailbox.take())
                        life.cancel_scope.cancel()
                        heard.extend(await everything(mailbox))

                nursery.start_soon(listen)
    assert all(engine.unloaded for engine in harness.engines.values())
    assert [type(event.error) for event in ends(heard)] == [EngineFailed, Stopping]
    with pytest.raises(Stopping):
        await worker.load(harness, scripted_order("c"))


async def test_a_thread_that_hangs_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 77. The thread is left behind; the role may then leave the process."""
    monkeypatch.setattr(worker_module, "STOP_S", 0.1)
    monkeypatch.setattr(worker_module, "LET_GO_S", 0.05)
    stall = threading.Event()
    async with working() as worker:
        harness = ScriptedHarness(Script(stall=stall))
        await worker.load(harness, scripted_order())
        async with worker.generate("scripted", (job(),)):
            await until(lambda: harness.engines["scripted"].turns == 1)
    assert "device.stuck" in caplog.text
    stall.set()
    await until(lambda: harness.engines["scripted"].unloaded)


async def test_a_million_tokens_do_not_starve_trio() -> None:
    """The loop stays awake: a ticker beside it is never late by more than a moment. What the whole
    suite has left is kept from the collector meanwhile, as a role does with its imports."""
    gc.collect()
    gc.freeze()
    async with working() as worker:
        count = 1_000_000
        script = Script(reply=lambda _: numbered(count), tokens_per_turn=20)
        await worker.load(ScriptedHarness(script), scripted_order(context=count + 10))
        late: list[float] = []

        async def tick() -> None:
            while True:
                began = time.monotonic()
                await trio.sleep(0.002)
                late.append(time.monotonic() - began - 0.002)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            total = 0
            async with worker.generate("scripted", (job(),)) as mailbox:
                while True:
                    try:
                        batch = await mailbox.take()
                    except trio.EndOfChannel:
                        break
                    total += sum(event.count for _, event in batch if isinstance(event, Tokens))
            nursery.cancel_scope.cancel()
        assert total == count
        gc.unfreeze()
        assert max(late) < 0.5, f"trio stood still for {max(late):.3f} s"


async def test_no_token_is_lost_doubled_or_out_of_order() -> None:
    async with working() as worker:
        await worker.load(
            ScriptedHarness(Script(reply=lambda _: numbered(500), tokens_per_turn=3)), scripted_order(slots=3)
        )
        heard = await say(worker, "scripted", *[job()] * 8)
        wanted = " ".join(map(str, range(500))).encode()
        assert [text(heard, index) for index in range(8)] == [wanted] * 8


async def test_the_heart_beats_only_where_there_is_something_to_do() -> None:
    """Row 77: idle is no hang; a turn that does not end is one."""
    async with working() as worker:
        stall = threading.Event()
        harness = ScriptedHarness(Script(stall=stall))
        await worker.load(harness, scripted_order())
        await until(lambda: worker._thread.loop.idle)
        assert worker.heartbeat_age_s == 0.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, worker, "scripted")
            await until(lambda: worker.heartbeat_age_s > 0.05)
            stall.set()
        await until(lambda: worker.heartbeat_age_s == 0.0)


async def test_rings_from_any_thread_wake_the_loop() -> None:
    async with working() as worker:
        gate = Gate()
        await worker.load(ScriptedHarness(Script(hold=gate)), scripted_order())
        async with worker.generate("scripted", (job("a b c"),)) as mailbox:
            for _ in range(3):
                await until(lambda: worker._thread.loop.pulse.doing.phase == "wait")
                await trio.to_thread.run_sync(gate.let, 1)
                assert text(await mailbox.take())
            gate.open()
            assert len(ends(await everything(mailbox))) == 1


@pytest.mark.parametrize("kind", ["scripted", "llamacpp"])
async def test_clients_that_leave_at_any_moment_leak_nothing(kind: str) -> None:
    """The same for a real engine: after each wave every slot serves again."""
    harness = (
        ScriptedHarness(Script(reply=lambda _: numbered(50))) if kind == "scripted" else LlamaCppHarness()
    )
    if (why_not := harness.unavailable()) is not None:
        pytest.skip(str(why_not))
    async with working() as worker:
        order = LoadOrder(kind, GGUF, "cpu", 512, 2)
        await worker.load(harness, order)
        question = job("<|im_start|>user\nTell me a story.<|im_end|>\n<|im_start|>assistant\n", max_tokens=60)

        async def leave_after(patience: int) -> None:
            async with worker.generate(kind, [question] * (1 + patience % 2)) as mailbox:
                for _ in range(patience):
                    try:
                        await mailbox.take()
                    except trio.EndOfChannel:
                        return

        before = threading.active_count()
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for patience in range(12):
                    nursery.start_soon(leave_after, patience)
            resident = worker._residents[kind]
            assert (resident.live, list(resident.waiting)) == ({}, [])
            heard = await say(worker, kind, *[question] * 3)
            assert len({text(heard, index) for index in range(3)}) == 1
            assert len(ends(heard)) == 3
        assert threading.active_count() <= before + order.slots
        await worker.unload(kind)


async def test_ids_are_the_workers_own() -> None:
    """Two requests with the same job id do not hear each other."""
    async with working() as worker:
        await worker.load(ScriptedHarness(), scripted_order())
        one, other = replace(job("first one"), id=5), replace(job("second one"), id=5)
        async with worker.generate("scripted", (one,)) as a, worker.generate("scripted", (other,)) as b:
            assert text(await everything(a)) == b"first one"
            assert text(await everything(b)) == b"second one"


async def test_an_error_is_one_that_can_be_named() -> None:
    worker = DeviceWorker("cpu-dev-0")
    for attempt in (
        worker.load(ScriptedHarness(), scripted_order()),
        say(worker, "scripted"),
        worker.unload("scripted"),
    ):
        with pytest.raises(CortexError):
            await attempt
