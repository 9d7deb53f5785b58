"""An upstream's engine keeps the same page on a thread of ours and in a child, through a worker.

The upstream is a neuron on loopback, in trio's own loop: what is left of a request shows there.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cortex.ask import Ask, Message, Sampling
from cortex.config.upstream import UpstreamConfig
from cortex.errors import EngineFailed, LoadFailed
from cortex.events import EngineEvent, Failed, Stopped, Text, Tokens
from cortex.harness.base import Apart, Job, LoadOrder
from cortex.harness.scripted import Script
from cortex.harness.upstream import UpstreamHarness
from cortex.harness.worker import DeviceWorker
from tests.calls import load_of
from tests.roles import Running, eventually, running_neuron, specs

SCRIPTS = {"echo": Script(), "endless": Script(endless=True), "broken": Script(endless=True, fail_after=3)}


@dataclass
class Bench:
    """A worker, and the neuron that is the upstream."""

    worker: DeviceWorker
    upstream: Running
    isolated: bool

    async def load(self, name: str) -> None:
        harness = UpstreamHarness(UpstreamConfig())
        harness.apart = Apart("tests.fake_children:upstream")
        options = {"url": f"{self.upstream.url}/v1", "name": name}
        order = LoadOrder(name, Path(), "upstream", 0, 2, options=options)
        await self.worker.load(harness, order, isolated=self.isolated)

    async def say(self, model: str, job: Job) -> list[EngineEvent]:
        heard: list[EngineEvent] = []
        async with self.worker.generate(model, (job,)) as mailbox:
            while True:
                try:
                    heard += [event for _, event in await mailbox.take()]
                except trio.EndOfChannel:
                    return heard


@pytest.fixture(params=["thread", "process"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], object]:
    @asynccontextmanager
    async def open_bench() -> AsyncIterator[Bench]:
        worker = DeviceWorker("upstream-0")
        with trio.fail_after(30):
            async with running_neuron(tmp_path, specs(tmp_path, *SCRIPTS), SCRIPTS) as upstream:
                async with trio.open_nursery() as nursery:
                    await nursery.start(worker.run)
                    yield Bench(worker, upstream, request.param == "process")
                    nursery.cancel_scope.cancel()

    return open_bench


def chat(model: str) -> Job:
    ask = Ask(model, messages=(Message("user", "one two"),), max_tokens=8)
    return Job(0, "", Sampling(), max_tokens=8, chat=ask)


async def test_a_text_and_a_chat_are_answered_whole(opened) -> None:
    async with opened() as bench:
        await bench.load("echo")
        said = await bench.say("echo", Job(0, "one two", Sampling(), max_tokens=8))
        text = b"".join(event.data for event in said if isinstance(event, Tokens))
        assert (text, isinstance(said[-1], Stopped)) == (b"one two", True)
        said = await bench.say("echo", chat("echo"))
        assert "one two" in "".join(event.text for event in said if isinstance(event, Text))
        end = said[-1]
        assert isinstance(end, Stopped) and end.usage.completion > 0 and not end.usage.estimated


async def test_a_job_that_is_left_is_over_at_the_upstream_too(opened) -> None:
    async with opened() as bench:
        await bench.load("endless")
        async with bench.worker.generate("endless", (Job(0, "go", Sampling()),)) as mailbox:
            await mailbox.take()

        async def over() -> bool:
            return (await load_of(bench.upstream, "endless"))["in_flight"] == 0

        await eventually(over)
        # The slot is free again.
        async with bench.worker.generate("endless", (Job(0, "go", Sampling()),) * 2) as mailbox:
            assert await mailbox.take()
        await eventually(over)
        assert await over()


async def test_a_model_that_the_upstream_has_not_is_not_loaded(opened) -> None:
    async with opened() as bench:
        with pytest.raises(LoadFailed, match=r"serves no model 'ecko'.* it has echo"):
            await bench.load("ecko")
        await bench.load("echo")
        await bench.worker.unload("echo")
        await bench.load("echo")


async def test_a_failure_there_is_the_jobs_failure_here(opened) -> None:
    """Row 3: what came before it was heard."""
    async with opened() as bench:
        await bench.load("broken")
        said = await bench.say("broken", Job(0, "go", Sampling()))
        assert any(isinstance(event, Tokens) for event in said)
        end = said[-1]
        assert isinstance(end, Failed) and isinstance(end.error, EngineFailed)
