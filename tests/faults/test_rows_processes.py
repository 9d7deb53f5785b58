"""Rows of the fault matrix that speak of processes: neurons that are killed, frozen, thawed, restarted.

The neurons are processes of their own, the gateway is in this one; at the end of each run its three
ledgers are joined, and nothing may be lost, doubled, or left at work.
"""

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cortex.config.gateway import Poll
from tests.calls import CHAT, calling, hello
from tests.fake_neuron import IMPATIENT, QUICK
from tests.fake_process import NeuronProcess, two_neurons
from tests.faults.runs import HASTY, PATIENT, Run, error_of, running, where

pytestmark = pytest.mark.slow
# Only a look that a request causes comes within a test.
SELDOM = Poll(interval_s=60.0, timeout_s=1.0)


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@asynccontextmanager
async def two(
    folder: Path, *, poll: Poll = QUICK, config=PATIENT, **options: object
) -> AsyncIterator[tuple[Run, NeuronProcess, NeuronProcess]]:
    """Two neurons that have the model: the one that is asked first, and the other."""
    async with two_neurons(folder, "a", **options) as neurons:
        async with running(*neurons, poll=poll, config=config) as run:
            first, other = await run.first()
            yield run, first, other
            assert await run.findings() == []


# -- killed


async def test_a_neuron_that_is_killed_with_half_a_request_costs_nobody_anything(tmp_path: Path) -> None:
    """Row 1: the request is tried at the other one, and the client sees nothing of it."""
    async with two(tmp_path, poll=SELDOM) as (run, first, other):
        await first.switch({"do": "kill", "at": "head"})
        # More than all buffers between them hold, so that the gateway knows that it did not arrive.
        answer = await run.ask("big", padding="x" * 16 * 2**20)
        await first.gone()
        assert where(answer) == other.name and answer.data[-1] == "[DONE]"
        assert run.ran_at("big") == [other.name]
        assert len(run.books.said("request.again")) == 1


async def test_a_neuron_that_was_killed_while_idle_is_passed_over(tmp_path: Path) -> None:
    """Rows 1, 8: neither its dead connections nor its closed port lose a request."""
    async with two(tmp_path, poll=SELDOM) as (run, first, other):
        await first.end()
        for number in range(4):
            answer = await run.ask(f"r{number}", stream=bool(number % 2))
            assert answer.status == 200 and where(answer) == other.name


async def test_a_neuron_that_is_killed_with_a_request_on_its_device_is_a_502(tmp_path: Path) -> None:
    """Row 2: at once, not after a timer; and it is not sent to the other one to kill that as well."""
    async with two(tmp_path, poll=SELDOM) as (run, first, other):
        await first.switch({"do": "kill"})
        answer = await run.ask("deadly", stream=True)
        await first.gone()
        assert (answer.status, error_of(answer)["code"]) == (502, "upstream_failed")
        assert where(answer) == first.name and run.ran_at("deadly") == []
        assert where(await run.ask("next")) == other.name
        [done] = [line for line in run.books.said("request.done") if "request=deadly" in line]
        assert "outcome=engine" in done and "completion=0" in done


async def test_streams_of_a_neuron_that_is_killed_keep_every_token_that_came(tmp_path: Path) -> None:
    """Row 3: the tokens so far, then the error event; the streams of others notice nothing."""
    async with two(tmp_path, poll=SELDOM, slots=8, pace=100) as (run, first, other):
        await first.switch({"do": "kill", "at": "tokens", "after": 4})
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(run.ask, f"r{number}")
        await first.gone()
        ends = {asked.id: asked.end for asked in run.asked if asked.id.startswith("r")}
        # On a busy machine one may not have begun there, and another one not have come there.
        assert "error_event" in ends.values() and "cut" not in ends.values()
        for id, end in ends.items():
            assert (other.name in run.ran_at(id)) is (end == "complete")
        assert max(len(run.tokens(id)) for id, end in ends.items() if end == "error_event") == 4


async def test_a_whole_answer_of_a_neuron_that_is_killed_is_a_502(tmp_path: Path) -> None:
    """Row 2: of an answer in one piece nothing was forwarded, and it ran all the same."""
    async with two(tmp_path, poll=SELDOM, pace=50) as (run, first, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run.ask("long", stream=False, max_tokens=500))
            while not any(each.id == "long" and each.tokens > 1 for each in first.ran()):  # noqa: ASYNC110
                await trio.sleep(0.002)
            await first.end()
        assert run.asked[-1].end == "refused" and run.ran_at("long") == [first.name]


# -- frozen and thawed


async def test_a_frozen_neuron_is_away_and_its_work_is_done_elsewhere(tmp_path: Path) -> None:
    """Row 4: after three looks that hang; who waited for a seat there has one elsewhere."""
    async with two(tmp_path, poll=IMPATIENT, config=HASTY, slots=1, queue=0, pace=100) as (run, first, other):
        first.freeze()
        await first.frozen()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(run.ask, f"r{number}")
        ends = [asked.end for asked in run.asked if asked.id.startswith("r")]
        # Whoever was sent there before anybody could know is told so; it is never repeated.
        assert ends.count("refused") <= 1 and ends.count("complete") >= 4
        assert "0.3 s" in str((await run.state(first.name, "away"))["why"])
        assert where(await run.ask("later")) == other.name
        first.thaw()
        await run.state(first.name, "ok", "probation")


@pytest.mark.parametrize("after", [None, 3], ids=["before a token", "in mid-stream"])
async def test_a_neuron_that_freezes_with_a_request_is_given_up(tmp_path: Path, after: int | None) -> None:
    """Row 5: by the timers; it finds out that nobody listens when it wakes."""
    async with two(tmp_path, config=HASTY) as (run, first, _):
        if after is None:
            await first.switch({"do": "freeze"})
        else:
            await first.switch({"do": "freeze", "at": "tokens", "after": after})
        answer = await run.ask("stuck")
        first.thaw()
        assert error_of(answer)["code"] == "upstream_timeout"
        assert answer.status == (504 if after is None else 200)
        assert run.tokens("stuck") == tuple(range(after or 0))
        assert "[DONE]" not in answer.data
        while any(each.id == "stuck" and each.end is None for each in first.ran()):  # noqa: ASYNC110
            await trio.sleep(0.005)
        assert run.ran_at("stuck") in ([], [first.name])


async def test_a_thawed_neuron_serves_again_and_says_nothing_twice(tmp_path: Path) -> None:
    """Row 6: what it still had to say of an answer that was given up reaches nobody."""
    async with two(tmp_path, poll=IMPATIENT, config=HASTY) as (run, first, other):
        await first.switch({"do": "freeze", "at": "tokens", "after": 2})
        assert error_of(await run.ask("old"))["code"] == "upstream_timeout"
        first.thaw()
        await first.let_go("old")
        first.freeze()
        await run.state(first.name, "away")
        assert where(await run.ask("meanwhile")) == other.name
        first.thaw()
        await run.state(first.name, "ok", "probation")
        await other.end()
        for number in range(3):
            answer = await run.ask(f"new-{number}")
            assert where(answer) == first.name
            assert all(f'"chatcmpl-new-{number}"' in data for data in answer.data[:-1])
        assert run.ran_at("old") == [first.name]


# -- drained and restarted


async def test_a_neuron_that_is_told_to_stop_finishes_and_loses_nobody(tmp_path: Path) -> None:
    """Row 18: what runs there ends well, everybody else goes to the other one."""
    async with two(tmp_path, poll=SELDOM, pace=50) as (run, first, other):
        async with calling(run) as caller:
            sent = time.monotonic()
            await caller.ask(CHAT, hello(stream=True, max_tokens=25), x_request_id="long", x_session_id="one")
            await caller.until(b'"1 "')
            first.process.send_signal(signal.SIGTERM)
            await first.stopping()
            answers = [await run.ask(f"r{number}") for number in range(4)]
            assert {where(answer) for answer in answers} == {other.name}
            assert len((await run.heard(caller, "long", sent)).data) == 28
        assert await first.gone() == 0


async def test_a_restarted_neuron_is_asked_for_nothing_that_it_had_before(tmp_path: Path) -> None:
    """Row 24: the model is loaded again, where somebody else's would have been believed to be."""
    async with NeuronProcess(tmp_path, "n1", model="a=1MiB") as neuron:
        async with running(neuron, catalogue=["a"]) as run:
            assert (await run.ask("before")).data[-1] == "[DONE]"
            await neuron.end()
            await neuron.start()
            await run.gateway.knows(lambda ledger: ledger.place("n1").ready and not ledger.holders("a"))
            assert (await run.ask("after")).data[-1] == "[DONE]"
            assert len(run.books.said("load.done")) == 2
            assert len({each.boot for each in neuron.ran()}) == 2
            assert await run.findings() == []


async def test_who_waits_for_a_neuron_that_dies_while_loading_is_served_elsewhere(tmp_path: Path) -> None:
    """Row 24: the load of the old process is nobody's any more; all of its waiters fail over."""
    options = {"model": "a=1MiB", "load": "50ms"}
    async with two_neurons(tmp_path, **options) as neurons, running(*neurons, catalogue=["a"]) as run:
        for neuron in neurons:
            await neuron.switch({"on": "load", "do": "kill", "seconds": 0.1})
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(run.ask, f"r{number}")
            started = await run.heard_of("load.started")
            died = next(each for each in neurons if f"place={each.name}" in started)
            survivor = next(each for each in neurons if each is not died)
            await survivor.switch()
            await died.gone()
        assert {asked.end for asked in run.asked} == {"complete"}
        assert {each.neuron for each in run.ran()} == {survivor.name}
        assert await run.findings() == []


# -- two of a name, and old reports


async def test_a_second_neuron_with_the_boot_id_of_another_is_refused(tmp_path: Path) -> None:
    """Row 25: one of the two serves, and both boot ids are in the log."""
    async with two_neurons(tmp_path, "a", boot_id="the-same") as neurons, running(*neurons) as run:
        rows = (await run.gateway.http.get("/fleet")).json()["neurons"]
        assert sorted(row["state"] for row in rows) == ["away", "ok"]
        [serves] = [row["name"] for row in rows if row["state"] == "ok"]
        [refused] = [row for row in rows if row["state"] == "away"]
        assert "the-same" in refused["why"] and serves in refused["why"]
        assert {where(await run.ask(f"r{number}")) for number in range(3)} == {serves}
        assert await run.findings() == []


async def test_a_report_that_is_told_again_is_not_believed(tmp_path: Path) -> None:
    """Row 26: it does not undo what is known since; a neuron with nothing else to say is away."""
    async with NeuronProcess(tmp_path, "n1", "a") as neuron, running(neuron) as run:
        await neuron.switch({"on": "report", "do": "stale", "times": 0})
        row = await run.state("n1", "away")
        assert "older" in str(row["why"]) and run.books.said("report.stale")
        await neuron.switch()
        await run.state("n1", "ok", "probation")
        assert (await run.ask("after")).status == 200


async def test_a_fleet_that_is_killed_whole_is_told_at_once(tmp_path: Path) -> None:
    """Row 27: a client knows when to come again; the gateway lives, and takes no part in balancing."""
    async with two(tmp_path, poll=SELDOM) as (run, first, other):
        await first.end()
        await other.end()
        for number in range(3):
            answer = await run.ask(f"r{number}", stream=bool(number % 2))
            assert (answer.status, error_of(answer)["code"]) == (503, "no_capacity")
            assert int(answer.headers["retry-after"]) >= 1 and "x-should-retry" not in answer.headers
        # The first one had a seat before anybody could know.
        assert 'cortex_rejections_total{reason="no_capacity"} 2.0' in await run.gateway.page()
        for path, status in (("/readyz", 503), ("/livez", 200)):
            assert (await run.gateway.http.get(path)).status_code == status
