"""Two gateways before one neuron, each of which wants another model than the other, and only one fits.

Neither knows of the other: the neuron's word binds. It sends away nobody whom the other has seated and
nobody who is young, so that the two do not play ping-pong, and everybody has his answer.
"""

from pathlib import Path

import pytest
import trio

from cortex.config.gateway import ColdLoad, GatewayConfig
from tests.calls import settings
from tests.fake_neuron import Open, open_gateway
from tests.roles import MIB, running_neuron, specs
from tests.storms.storm import STEADY, TIMES, Tally, quiet, storm

pytestmark = pytest.mark.slow
CLIENTS = 8 * TIMES
LASTS_S, YOUNG_S, OVERTAKE_S = 2.0, 0.3, 0.3


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_two_gateways_that_want_the_same_room_take_turns_and_lose_nobody(tmp_path: Path) -> None:
    """Row 66: every request is answered whole, by one run. A stream that was seated as the other
    gateway's load came had to be waited for."""
    tally = Tally()
    catalogue = specs(tmp_path, "a", "b", footprint=60 * MIB)
    scripts = {model: tally.script(model, mib=60, turn_s=0.001) for model in "ab"}
    config = GatewayConfig(cold_load=ColdLoad(max_overtake_s=OVERTAKE_S, min_residency_s=YOUNG_S))
    with storm(tally) as both:
        async with (
            running_neuron(
                tmp_path, catalogue, scripts, memory=100 * MIB, config=settings(young_s=YOUNG_S)
            ) as neuron,
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as one,  # type: ignore[arg-type]
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as two,  # type: ignore[arg-type]
        ):
            began = trio.current_time()

            async def insist(gateway: Open, model: str, client: int) -> None:
                turn = 0
                while trio.current_time() < began + LASTS_S:
                    id = f"{model}-{client}-{turn}"
                    await both.ask(gateway, id, model, stream=turn % 2 == 0, tokens=10)
                    turn += 1

            async with trio.open_nursery() as nursery:
                for client in range(CLIENTS):
                    nursery.start_soon(insist, one, "a", client)
                    nursery.start_soon(insist, two, "b", client)
            lasted = trio.current_time() - began
            await quiet(one, two, neurons=[neuron])
        assert set(both.ends()) == {"complete"}, [
            (id, answer.status, answer.body)
            for id, answer in both.answers.items()
            if answer.status != 200 or b"error" in answer.body
        ][:5]
        assert min(tally.lives("a", "b")) >= YOUNG_S
        assert 2 <= len(tally.lives("a", "b")) <= lasted / YOUNG_S + 1
        assert both.twice() == [] and await both.findings() == []
