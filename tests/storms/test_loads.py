"""Loads that hang, that fail, and that die with their neuron, each with a crowd waiting for it.

Everybody is told once, with the cause, or is served elsewhere; nothing runs twice; and who wants
something else notices nothing.
"""

import itertools
from dataclasses import replace
from pathlib import Path
from threading import Event

import msgspec
import pytest
import trio

from cortex.config.gateway import ColdLoad, GatewayConfig
from cortex.errors import LoadFailed
from tests.calls import Answered
from tests.fake_neuron import open_gateway
from tests.fake_process import two_neurons
from tests.roles import running_neuron, specs
from tests.storms.storm import STEADY, TIMES, Storm, Tally, quiet, storm

pytestmark = pytest.mark.slow
CROWD = 40 * TIMES


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30 * TIMES):
        yield


def error_of(answer: Answered) -> dict:
    """The error object of a refusal, or of the event that ended a stream."""
    return msgspec.json.decode(answer.data[-1] if answer.data else answer.body)["error"]


async def test_a_load_that_hangs_holds_up_only_those_who_wait_for_it(tmp_path: Path) -> None:
    """Rows 63, 71: they are told model_loading after the wait limit, and the load goes on."""
    tally, done = Tally(), Event()
    catalogue = specs(tmp_path, "warm", "cold")
    scripts = {"warm": tally.script("warm"), "cold": tally.script("cold", slow_load=done)}
    config = GatewayConfig(cold_load=ColdLoad(max_wait_s=0.5))
    with storm(tally) as hung:
        async with (
            running_neuron(tmp_path, catalogue, scripts) as neuron,
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            try:
                await hung.ask(gateway, "warm-first", "warm")
                async with trio.open_nursery() as nursery:
                    for number in range(CROWD):
                        hung.soon(nursery, gateway, f"cold-{number}", "cold", stream=number % 2 == 0)
                    await gateway.knows(lambda ledger: ledger.waiting == CROWD)
                    served = 0
                    while gateway.ledger.waiting:
                        await hung.ask(gateway, f"warm-{served}", "warm", stream=served % 2 == 0)
                        served += 1
                assert "loads=1" in repr(gateway.ledger) and served > 5
                done.set()
                await hung.ask(gateway, "cold-last", "cold")
                await quiet(gateway, neurons=[neuron])
            finally:
                done.set()
        waited = [f"cold-{number}" for number in range(CROWD)]
        assert hung.ends(waited) == {"refused": CROWD}
        for id in waited:
            answer = hung.answers[id]
            assert (answer.status, error_of(answer)["code"]) == (503, "model_loading")
            assert int(answer.headers["retry-after"]) >= 1
        assert set(hung.ends({asked.id for asked in hung.asked} - set(waited))) == {"complete"}
        assert tally.loads == ["warm", "cold"] and hung.twice() == []
        assert await hung.findings() == []


async def test_a_load_that_fails_is_told_to_each_who_waits_once_and_is_not_tried_at_once(
    tmp_path: Path,
) -> None:
    """Row 62: the same cause for all, and for those who come while it cools down."""
    tally, go = Tally(), Event()
    cause = LoadFailed("the weights end in the middle of a tensor")
    catalogue = specs(tmp_path, "a")
    script = replace(tally.script(slow_load=go), load_error=cause)
    with storm(tally) as failed:
        async with (
            running_neuron(tmp_path, catalogue, script) as neuron,
            open_gateway(neuron, catalogue=catalogue, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            try:
                async with trio.open_nursery() as nursery:
                    for number in range(CROWD):
                        failed.soon(nursery, gateway, f"r-{number}", stream=number % 2 == 0)
                    await gateway.knows(lambda ledger: ledger.waiting == CROWD)
                    go.set()
                for number in range(5):
                    await failed.ask(gateway, f"later-{number}", stream=number % 2 == 0)
                await quiet(gateway, neurons=[neuron])
            finally:
                go.set()
        assert failed.ends() == {"refused": CROWD + 5}
        for id, answer in failed.answers.items():
            assert answer.status == 502 and cause.message in error_of(answer)["message"]
            later = id.startswith("later")
            assert not later or 1 <= int(answer.headers["retry-after"]) <= 10
        assert tally.loads == ["a"] and failed.ran() == []
        assert await failed.findings() == []


async def beset(storm: Storm, gateway: object, nursery: trio.Nursery, count: int, **more: object) -> None:
    for number in range(count):
        storm.soon(nursery, gateway, f"r-{number}", stream=number % 2 == 0, **more)  # type: ignore[arg-type]


async def test_a_neuron_that_is_killed_while_it_loads_costs_nobody_his_answer(tmp_path: Path) -> None:
    """Rows 24, 61: the crowd is served by the other one, each once."""
    async with two_neurons(tmp_path, model="a=1MiB", load="50ms", slots=16, pace=200) as neurons:
        for each in neurons:
            await each.switch({"on": "load", "do": "kill", "seconds": 0.2})
        with storm(*neurons) as killed:
            async with open_gateway(*neurons, catalogue=["a"]) as gateway:  # type: ignore[arg-type]
                async with trio.open_nursery() as nursery:
                    await beset(killed, gateway, nursery, CROWD)
                    await gateway.knows(lambda ledger: ledger.waiting == CROWD)
                    [load] = gateway.ledger.loads.values()
                    died, other = sorted(neurons, key=lambda each: each.name != load.place.name)
                    await other.switch()
                    await died.gone()
                await quiet(gateway)
            assert killed.ends() == {"complete": CROWD}
            assert {run.neuron for run in killed.ran()} == {other.name}
            assert killed.twice() == [] and await killed.findings() == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_neurons_that_are_killed_in_a_storm_lose_nothing_and_nothing_runs_twice(
    tmp_path: Path, seed: int
) -> None:
    """Rows 1, 2, 3: what may have run has one error, and everything else one answer. Who is killed has
    streams, whole answers, and a line. He comes back, with a bad name, and then it is the other's turn:
    whoever has no choice goes to the first one all the same."""
    options = {"slots": 4, "queue": 8, "pace": 300, "tokens": 8}
    async with two_neurons(tmp_path, "a", **options) as neurons:
        with storm(*neurons) as killed:
            async with open_gateway(*neurons, catalogue=["a"]) as gateway:  # type: ignore[arg-type]
                over = trio.Event()

                async def insist(client: int) -> None:
                    for turn in itertools.count():
                        if over.is_set():
                            break
                        id = f"{client}-{turn}"
                        await killed.ask(gateway, id, stream=(client + turn) % 2 == 0, tokens=8)

                async def nemesis() -> None:
                    for victim in neurons if seed % 2 else reversed(neurons):
                        while killed.served_by(victim.name) < 8:  # noqa: ASYNC110
                            await trio.sleep(0.005)
                        await victim.end()
                        await victim.start()
                        place = gateway.ledger.place(victim.name)
                        await gateway.knows(lambda _, place=place: place.ready)
                    over.set()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(nemesis)
                    for client in range(CROWD // 2):
                        nursery.start_soon(insist, client)
                await quiet(gateway)
            ends = killed.ends()
            assert ends["complete"] > 0 and set(ends) <= {"complete", "refused", "error_event"}
            assert ends["complete"] < sum(ends.values()), "nobody noticed that a neuron was killed"
            for asked in killed.asked:
                if asked.end != "complete":
                    assert error_of(killed.answers[asked.id])["code"] == "upstream_failed"
            assert killed.twice() == [] and await killed.findings() == []
