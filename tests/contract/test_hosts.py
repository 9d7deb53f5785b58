"""What a device worker promises, held on a thread of ours and in a child alike, for every engine.

Engines are reached as a neuron reaches them: by a worker, in trio.
"""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from cortex.ask import Sampling, Shape
from cortex.demo import GGUF, HF
from cortex.errors import (
    BadAsk,
    EngineFailed,
    NotHereNow,
    NotResident,
    PromptTooLong,
    Unfit,
    Unsupported,
)
from cortex.events import EngineEvent, Failed, Prefilled, Started, Stopped, Tokens
from cortex.harness.base import Harness, Job, LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.harness.scripted import Script, ScriptedHarness
from cortex.harness.worker import DeviceWorker, Mailbox
from tests.exllamav2 import place

GREEDY = Sampling(
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    min_p=0.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    repetition_penalty=1.0,
)
FRANCE = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
CONTEXT, SLOTS = 512, 2
ENDLESS = {"scripted": 10**8, "llamacpp": 2048, "exllamav2": 2048}
HANG_S = {"exllamav2": 90}  # a child of it imports torch


@dataclass
class Bench:
    """A worker, and how the model under test comes in."""

    worker: DeviceWorker
    harness: Harness
    path: Path
    isolated: bool
    kind: str

    def order(self, model: str = "m", **options: str | int | bool) -> LoadOrder:
        # A machine that stands still for a moment must not find an endless answer at its end.
        context = ENDLESS[self.kind] if options.get("endless") else CONTEXT
        match self.kind:  # the options are for scripts
            case "llamacpp":
                options = {"threads": 1}
            case "exllamav2":
                options = {"chunk": 256}
        device = "cuda:0" if self.kind == "exllamav2" else "cpu"
        return LoadOrder(model, self.path, device, context, SLOTS, options=options)

    async def load(self, model: str = "m", **options: str | int | bool):
        return await self.worker.load(self.harness, self.order(model, **options), isolated=self.isolated)

    async def say(self, *jobs: Job, model: str = "m") -> list[tuple[int, EngineEvent]]:
        async with self.worker.generate(model, jobs or (Job(0, FRANCE, GREEDY),)) as mailbox:
            return await everything(mailbox)

    async def endless(self) -> Job:
        """A job that runs to the end of its context: on any engine, every token is the same."""
        (token,) = await self.worker.tokenise("m", "a")
        return Job(0, FRANCE, replace(GREEDY, logit_bias={token: 100.0}))


async def everything(mailbox: Mailbox) -> list[tuple[int, EngineEvent]]:
    heard: list[tuple[int, EngineEvent]] = []
    while True:
        try:
            heard += await mailbox.take()
        except trio.EndOfChannel:
            return heard


def text(heard: Sequence[tuple[int, EngineEvent]], index: int = 0) -> bytes:
    return b"".join(event.data for at, event in heard if at == index and isinstance(event, Tokens))


def _scores(heard: Sequence[tuple[int, EngineEvent]]) -> list[object]:
    return [each for _, event in heard if isinstance(event, Tokens) for each in event.logprobs]


def ends(heard: Sequence[tuple[int, EngineEvent]]) -> list[EngineEvent]:
    return [event for _, event in heard if isinstance(event, Stopped | Failed)]


def children() -> set[int]:
    """Processes of ours, also those that nobody has reaped."""
    return {
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    }


@pytest.fixture(params=["scripted", "llamacpp", pytest.param("exllamav2", marks=pytest.mark.gpu)])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def harness_of(kind: str) -> Harness:
    if kind != "exllamav2":
        return ScriptedHarness() if kind == "scripted" else LlamaCppHarness()
    if (reason := place.why_not()) is not None:
        pytest.skip(reason)
    return place.harness()


@pytest.fixture(params=["thread", "process"])
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(kind: str, host: str):
    harness = harness_of(kind)
    if (why_not := harness.unavailable()) is not None:
        pytest.skip(str(why_not))

    @asynccontextmanager
    async def open_bench() -> AsyncIterator[Bench]:
        worker = DeviceWorker("cpu-dev-0")
        with trio.fail_after(HANG_S.get(kind, 30)):
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                path = HF if kind == "exllamav2" else GGUF
                yield Bench(worker, harness, path, host == "process", kind)
                nursery.cancel_scope.cancel()

    before = children()
    yield open_bench
    assert children() == before, "a process is left, or a zombie"


async def test_a_model_is_loaded_as_promised_and_is_heard(opened) -> None:
    async with opened() as bench:
        facts = await bench.load()
        promised = bench.harness.preflight(bench.order())
        assert (facts.context, facts.slots) == (promised.context, SLOTS)
        # What exllamav2 promises beside weights and cache is a card's, and is measured there.
        measured = bench.kind == "exllamav2"
        assert facts.bytes >= (promised.weights_bytes + promised.cache_bytes if measured else promised.bytes)
        kinds = [type(event) for _, event in await bench.say()]
        assert kinds[:2] == [Started, Prefilled]
        assert kinds[-1] is Stopped
        assert set(kinds[2:-1]) == {Tokens}


async def test_the_worker_says_where_a_model_runs(opened, host: str) -> None:
    async with opened() as bench:
        await bench.load()
        at = bench.worker.host("m")
        assert at.isolation == host
        assert (at.pid == os.getpid()) == (host == "thread")
        assert (at.pid in children()) == (host == "process")


async def test_counts_and_text_are_whole(opened) -> None:
    async with opened() as bench:
        await bench.load()
        heard = await bench.say()
        (stopped,) = ends(heard)
        assert sum(event.count for _, event in heard if isinstance(event, Tokens)) == stopped.usage.completion
        ids = await bench.worker.tokenise("m", FRANCE)
        assert stopped.usage.prompt == len(ids)
        assert text(await bench.say(Job(0, ids, GREEDY))) == text(heard) != b""
        assert await bench.worker.detokenise("m", ids) == FRANCE
        assert (await bench.worker.measure("m")).bytes > 0


async def test_both_hosts_say_the_same(opened) -> None:
    async with opened() as bench:
        await bench.load()
        await bench.worker.load(bench.harness, bench.order("other"), isolated=not bench.isolated)
        sampling = replace(GREEDY, temperature=2.0, seed=7)
        for job in (Job(0, FRANCE, GREEDY, logprobs=2), Job(0, FRANCE, sampling, max_tokens=20)):
            one, other = [await bench.say(job, model=model) for model in ("m", "other")]
            assert text(one) == text(other) != b""
            assert [each.reason for each in ends(one)] == [each.reason for each in ends(other)]
            assert _scores(one) == _scores(other)


async def test_choices_keep_their_order_and_wait_for_a_slot(opened) -> None:
    async with opened() as bench:
        await bench.load()
        heard = await bench.say(*[Job(0, FRANCE, GREEDY)] * 5)
        assert len({text(heard, index) for index in range(5)}) == 1
        assert [type(end) for end in ends(heard)] == [Stopped] * 5


async def test_leaving_gives_the_slot_back(opened) -> None:
    async with opened() as bench:
        await bench.load(endless=True)
        endless = await bench.endless()
        for _ in range(10):
            async with bench.worker.generate("m", [endless] * SLOTS) as mailbox:
                await mailbox.take()
        assert bench.worker._residents["m"].live == {}
        short = replace(endless, max_tokens=3)
        assert [end.reason for end in ends(await bench.say(short))] == ["length"]


@pytest.mark.parametrize(
    ("job", "kind_of_error"),
    [
        (Job(0, FRANCE * 200, GREEDY), PromptTooLong),
        (Job(0, "", GREEDY), BadAsk),
        (Job(0, (), GREEDY), BadAsk),
    ],
)
async def test_a_refusal_is_the_same_error(opened, job: Job, kind_of_error) -> None:
    async with opened() as bench:
        await bench.load()
        (failed,) = ends(await bench.say(job))
        assert isinstance(failed, Failed)
        assert type(failed.error) is kind_of_error
        if kind_of_error is PromptTooLong:
            prompt_tokens = len(await bench.worker.tokenise("m", FRANCE * 200))
            assert failed.error.facts == {"prompt_tokens": prompt_tokens, "context_length": CONTEXT}
        assert isinstance(ends(await bench.say())[0], Stopped)


async def test_half_a_surrogate_pair_costs_its_request_alone(opened, kind: str) -> None:
    async with opened() as bench:
        await bench.load()
        (end,) = ends(await bench.say(Job(0, "a \ud83d b", GREEDY)))
        assert isinstance(end, Stopped if kind == "scripted" else Failed)
        assert isinstance(ends(await bench.say())[0], Stopped)
        if kind != "scripted":
            with pytest.raises(BadAsk, match="surrogate"):
                await bench.worker.tokenise("m", "\ud83d")


async def test_a_schema_without_end_costs_its_request_alone(opened, host: str) -> None:
    """No host carries it to the engine's end; a child is told before it is sent."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(2000):
        schema = {"type": "object", "properties": {"a": schema}}
    async with opened() as bench:
        await bench.load(reply="{}")
        (end,) = ends(await bench.say(Job(0, FRANCE, GREEDY, shape=Shape("json_schema", schema))))
        if host == "process":
            assert isinstance(end, Failed)
            assert isinstance(end.error, Unsupported)
            assert isinstance(ends(await bench.say())[0], Stopped)


async def test_a_large_prompt_and_its_ids_arrive_whole(opened, kind: str) -> None:
    async with opened() as bench:
        await bench.load()
        long = "word and word " * 20_000
        ids = await bench.worker.tokenise("m", long)
        assert await bench.worker.detokenise("m", ids) == long
        (failed,) = ends(await bench.say(Job(0, ids, GREEDY)))
        assert isinstance(failed.error, PromptTooLong)
        assert failed.error.facts["prompt_tokens"] == len(ids) > 50_000


async def test_a_torn_file_is_refused_and_leaves_residents_alone(opened, kind: str, tmp_path: Path) -> None:
    """Row 73: nothing of the refused load remains, and who is here goes on."""
    torn = tmp_path / "torn.gguf"
    if kind == "exllamav2":
        torn = Path(shutil.copytree(HF, tmp_path / "torn")) / "model.safetensors"
    torn.write_bytes((torn if torn.exists() else GGUF).read_bytes()[:100_000])
    async with opened() as bench:
        await bench.load("here")
        path = torn.parent if kind == "exllamav2" else torn
        bad, harness = replace(bench.order("torn"), path=path), bench.harness
        if kind == "scripted":
            script = Script(load_error=Unfit("it is torn"))
            harness = ScriptedHarness(script, factory="tests.fake_children:refuses_to_load")
        before = children()
        for _ in range(2):
            with pytest.raises(Unfit):
                await bench.worker.load(harness, bad, isolated=bench.isolated)
            assert children() == before
        assert "torn" not in bench.worker._residents
        assert isinstance(ends(await bench.say(model="here"))[0], Stopped)
        await bench.worker.load(bench.harness, bench.order("torn"), isolated=bench.isolated)
        assert isinstance(ends(await bench.say(model="torn"))[0], Stopped)


async def test_unload_fails_what_is_seated_and_the_model_comes_back(opened) -> None:
    async with opened() as bench:
        await bench.load(endless=True)
        pid, endless = bench.worker.host("m").pid, await bench.endless()
        async with bench.worker.generate("m", [endless] * (SLOTS + 1)) as mailbox:
            await mailbox.take()
            await bench.worker.unload("m")
            kinds = [type(end.error) for end in ends(await everything(mailbox)) if isinstance(end, Failed)]
        assert kinds == [EngineFailed] * SLOTS + [NotHereNow]
        assert not bench.isolated or pid not in children()
        with pytest.raises(NotHereNow):
            await bench.say()
        for ask in (bench.worker.unload("m"), bench.worker.tokenise("m", "x"), bench.worker.measure("m")):
            with pytest.raises(NotResident):
                await ask
        await bench.load()
        assert isinstance(ends(await bench.say())[0], Stopped)


async def test_an_unload_that_is_cancelled_goes_on_and_its_successor_waits(opened) -> None:
    async with opened() as bench:
        for _ in range(3):
            await bench.load()
            with trio.CancelScope() as scope:
                scope.cancel()
                await bench.worker.unload("m")
        await bench.load()
        assert isinstance(ends(await bench.say())[0], Stopped)


async def test_a_load_that_is_cancelled_leaves_nothing(opened) -> None:
    """At every moment of its course it is here whole, or gone."""
    async with opened() as bench:
        before = children()
        for patience in (0, 1, 3, 10, 30, 100):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(bench.load)
                    for _ in range(patience):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            if scope.cancelled_caught and "m" not in bench.worker._residents:
                assert children() == before
            else:
                await bench.worker.unload("m")
            assert (bench.worker.loading, bench.worker._residents, bench.worker._replies) == ({}, {}, {})


async def test_models_live_side_by_side(opened) -> None:
    async with opened() as bench:
        await bench.load("one")
        await bench.load("other")
        heard: dict[str, bytes] = {}

        async def ask(model: str) -> None:
            heard[model] = text(await bench.say(model=model))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            nursery.start_soon(ask, "other")
        assert heard["one"] == heard["other"] != b""
        await bench.worker.unload("one")
        assert text(await bench.say(model="other")) == heard["other"]


async def test_what_is_live_when_the_worker_stops_is_told(opened) -> None:
    heard: list[tuple[int, EngineEvent]] = []
    async with trio.open_nursery() as outside:
        async with opened() as bench:
            await bench.load(endless=True)
            endless = await bench.endless()

            async def listen(*, task_status: trio.TaskStatus[None]) -> None:
                with trio.fail_after(30):
                    async with bench.worker.generate("m", [endless]) as mailbox:
                        await mailbox.take()
                        task_status.started()
                        heard.extend(await everything(mailbox))

            await outside.start(listen)
    assert len(ends(heard)) == 1
    assert bench.worker.heartbeat_age_s == 0.0


async def test_nobody_is_said_to_hang_who_has_nothing_to_do(opened) -> None:
    async with opened() as bench:
        await bench.load()
        await bench.say()
        while bench.worker.heartbeat_age_s:  # noqa: ASYNC110 - the thread rings no bell here
            await trio.sleep(0.01)
        # Idle from here on: however long nobody asks, no age grows.
        ages = []
        for _ in range(3):
            ages.append(bench.worker.heartbeat_age_s)
            await trio.sleep(0.01)
        assert ages == [0.0, 0.0, 0.0]
