"""Clients that hang up in every phase and in every way, at random, while others do their work.

Afterwards nothing of them is left, here or at the neuron: no seat, no ticket, no job, no connection and no
task. Those who stayed have their answers whole.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import msgspec
import pytest
import trio

from cortex.harness.scripted import Gate
from tests.calls import CHAT, calling, hello, settings, until
from tests.fake_neuron import Open, open_gateway
from tests.fake_web import ask
from tests.roles import Running, running_neuron, specs
from tests.storms.storm import FREE_S, STEADY, TIMES, WAYS, Storm, Tally, idle_links_closed, quiet, storm

pytestmark = pytest.mark.slow
LEAVERS, GOOD = 200 * TIMES, 50 * TIMES
LONG = 60
# In which the server knows nothing of a request yet; and with the whole request sent.
UNSENT, SENT = ("head", "before the body", "body"), ("waiting", "load", "hand-over", "prefill", "decode")


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30 * TIMES):
        yield


@dataclass
class Site:
    """`loaded` ends the load; `gate` lets the engine take turns."""

    storm: Storm
    gateway: Open
    neuron: Running
    tally: Tally
    loaded: Event
    gate: Gate

    async def leave_early(self, number: int, phase: str, how: str, chance: random.Random) -> None:
        """Row 28: a part of a request, and nobody behind it."""
        body = msgspec.json.encode(hello(stream=bool(number % 2)))
        whole = ask(CHAT, body)
        head = len(whole) - len(body)
        parts = {
            "head": chance.randrange(1, head - 1),
            "before the body": head,
            "body": chance.randrange(head + 1, len(whole) - 1),
        }
        async with calling(self.gateway) as caller:  # type: ignore[arg-type]
            await caller.stream.send_all(whole[: parts[phase]])
            await trio.sleep(chance.random() * 0.05)
            await caller.leave(how)

    async def leave(self, number: int, phase: str, how: str, chance: random.Random) -> None:
        """Rows 29 to 31: the request is whole, and its client leaves at that point of it, or a moment
        later, as chance will have it."""
        id, stream = f"gone-{number}", phase == "decode" or bool(number % 2)
        async with self.storm.asking(self.gateway, id, stream=stream, tokens=LONG) as call:
            match phase:
                case "load":
                    await self.gateway.knows(lambda ledger: "loads=1" in repr(ledger) or self.tally.loads)
                case "hand-over":
                    await self.gateway.knows(lambda _: self.tally.loads)
                case "prefill":
                    await self.computed(id, 0)
                case "decode":
                    await call.until(b'"content":"0')
            await trio.sleep(chance.random() * 0.02)
            await call.leave(how)
            if how in ("half", "ahead"):
                await call.answer()  # the gateway hangs up in its turn

    async def computed(self, id: str, tokens: int) -> None:
        """The engine has taken the job in, and said so many tokens."""
        while not any(run.id == id and run.said >= tokens for run in self.tally.runs):
            told = [line for line in self.storm.books.said("request.done") if line.endswith(f" request={id}")]
            assert not told, told
            await trio.sleep(0.002)


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    tally, loaded, gate = Tally(), Event(), Gate()
    catalogue = specs(folder, "a")
    script = tally.script(turn_s=0.001, slow_load=loaded, hold=gate)
    with storm(tally) as gale:
        async with (
            running_neuron(folder, catalogue, script, config=settings(slots=16, queue=16)) as neuron,
            open_gateway(neuron, catalogue=catalogue, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            try:
                yield Site(gale, gateway, neuron, tally, loaded, gate)
            finally:
                loaded.set()
                gate.open()


@pytest.mark.parametrize("seed", [1, 2])
async def test_clients_that_leave_in_every_phase_leave_nothing_and_cost_the_others_nothing(
    tmp_path: Path, seed: int
) -> None:
    """Rows 28 to 31, and 61: the load that the first of them caused is for the others."""
    chance = random.Random(seed)
    async with site(tmp_path) as at:
        assert (await at.gateway.http.get("/health")).status_code == 200
        assert (await at.neuron.http.get("/health")).status_code == 200
        tasks = trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as nursery:
            for number in range(LEAVERS):
                phase, how = chance.choice(UNSENT + SENT), chance.choice(WAYS)
                go = at.leave_early if phase in UNSENT else at.leave
                nursery.start_soon(go, number, phase, how, chance)
                if number % (LEAVERS // GOOD) == 0:
                    id, stream = f"good-{number}", number % 8 > 0
                    at.storm.soon(nursery, at.gateway, id, stream=stream, tokens=LONG)
            await at.gateway.knows(lambda ledger: "loads=1" in repr(ledger))
            at.loaded.set()
            # The seats are full: some of them leave before a turn is taken.
            await at.gateway.knows(lambda _: len(at.tally.runs) >= 16)
            at.gate.open()
        await quiet(at.gateway, neurons=[at.neuron])
        idle_links_closed(at.gateway)

        async def gone() -> bool:
            return trio.lowlevel.current_statistics().tasks_living <= tasks

        await until(gone, FREE_S)
        ends = at.storm.ends()
        assert ends["complete"] == GOOD and set(ends) == {"complete", "left"}
        assert at.tally.loads == ["a"] and at.storm.twice() == []
        assert await at.storm.findings() == []
