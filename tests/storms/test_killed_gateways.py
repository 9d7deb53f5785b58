"""A gateway that is killed under load, beside another one before the same neuron.

The neuron finds out by its connections: it computes for nobody who is gone, and the other gateway's
requests notice nothing. A gateway that begins anew has all it needs to know from the neurons.
"""

import time
from pathlib import Path

import pytest
import trio

from cortex.harness.scripted import Gate
from tests.calls import figures, settings, until
from tests.fake_neuron import open_gateway
from tests.roles import running_neuron, specs
from tests.storms.gateway_process import GatewayProcess
from tests.storms.storm import FREE_S, STEADY, TIMES, Tally, quiet, storm

pytestmark = pytest.mark.slow
CROWD = 12 * TIMES
LONG = 40
# The promise: what was known is known again so soon after a start.
REBUILT_S = 5.0


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30 * TIMES):
        yield


async def began(gateway: GatewayProcess) -> float:
    """Seconds until it serves."""
    since = trio.current_time()
    await gateway.start()
    await gateway.serves("a")
    return trio.current_time() - since


async def test_a_gateway_that_is_killed_costs_its_own_clients_alone(tmp_path: Path) -> None:
    """Row 67, and section 4.2: its clients are cut within the second, seats and line at the neuron are
    free within another, nothing runs on or twice, and the next process serves within five seconds."""
    tally, gate = Tally(), Gate()
    catalogue = specs(tmp_path, "a")
    # Half of the requests are computed, the others wait in the neuron's line.
    config = settings(slots=CROWD, queue=CROWD)
    with storm(tally) as killed:
        async with (
            running_neuron(
                tmp_path, catalogue, tally.script(hold=gate, turn_s=0.001), config=config
            ) as neuron,
            open_gateway(neuron, catalogue=catalogue, poll=STEADY) as other,  # type: ignore[arg-type]
        ):
            doomed = GatewayProcess(tmp_path, [neuron], ["a"])
            try:
                answer = await neuron.http.post("/models/load", json={"spec": {"id": "a"}})
                assert answer.status_code == 200, answer.text
                start_s = await began(doomed)
                async with trio.open_nursery() as nursery:
                    for number in range(CROWD):
                        stream = number % 3 > 0
                        killed.soon(nursery, doomed, f"cut-{number}", stream=stream, tokens=LONG)
                        killed.soon(nursery, other, f"other-{number}", stream=stream, tokens=LONG)

                    async def seated() -> bool:
                        # Who has a seat is with the engine a moment later: a turn before that is not his.
                        return await figures(neuron) == {"a": (CROWD, CROWD)} and len(tally.runs) == CROWD

                    await until(seated, 10)
                    gate.let(5)
                    while min(run.said for run in tally.runs) < 5:  # noqa: ASYNC110
                        await trio.sleep(0.002)
                    doomed.kill()
                    killed.kills.append(time.monotonic())

                    async def freed() -> bool:
                        [(seats, line)] = (await figures(neuron)).values()
                        return seats + line == CROWD

                    await until(freed, FREE_S)
                    gate.open()
                    # A start takes what it takes on this machine, with nothing to do beside it.
                    assert await began(doomed) < start_s + REBUILT_S
                    for number in range(5):
                        await killed.ask(doomed, f"again-{number}", stream=number % 2 == 0)
                await doomed.leave()
                await quiet(other, neurons=[neuron])
            finally:
                gate.open()
                doomed.kill()
        killed.elsewhere += doomed.lines()
        assert killed.ends(f"cut-{number}" for number in range(CROWD)) == {"cut": CROWD}
        assert killed.ends(f"other-{number}" for number in range(CROWD)) == {"complete": CROWD}
        assert killed.ends(f"again-{number}" for number in range(5)) == {"complete": 5}
        assert killed.twice() == []
        assert await killed.findings() == []
