"""Clients that alternate between two models of which only one fits: A-B-A-B.

A model that was loaded for somebody stays a while, whoever else wants its room; nobody waits longer than
he may be overtaken; and those who want neither of the two notice nothing.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.config.gateway import ColdLoad, GatewayConfig
from tests.calls import settings
from tests.fake_neuron import open_gateway
from tests.roles import MIB, running_neuron, specs
from tests.storms.storm import STEADY, TIMES, Tally, quiet, storm

pytestmark = pytest.mark.slow
CLIENTS = 8 * TIMES
LASTS_S, YOUNG_S, OVERTAKE_S = 2.0, 0.25, 0.3
# Of a load and of a turn at the seats, on a machine that has other things to do.
SLACK_S = 1.0


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


async def test_models_that_are_wanted_in_turn_stay_a_while_and_nobody_waits_for_long(tmp_path: Path) -> None:
    """Rows 64, 71."""
    tally = Tally()
    catalogue = specs(tmp_path, "a", "b", footprint=60 * MIB)
    catalogue.specs["c"] = replace(specs(tmp_path, "c").specs["c"], footprint=30 * MIB)
    scripts = {"a": tally.script("a", mib=60), "b": tally.script("b", mib=60), "c": tally.script("c", mib=30)}
    config = GatewayConfig(cold_load=ColdLoad(max_overtake_s=OVERTAKE_S, min_residency_s=YOUNG_S))
    with storm(tally) as thrash:
        async with (
            running_neuron(
                tmp_path, catalogue, scripts, memory=100 * MIB, config=settings(young_s=YOUNG_S)
            ) as neuron,
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            await thrash.ask(gateway, "c-first", "c")
            began = trio.current_time()

            async def alternate(client: int) -> None:
                turn = client
                while trio.current_time() < began + LASTS_S:
                    await thrash.ask(gateway, f"{client}-{turn}", "ab"[turn % 2], stream=turn % 3 > 0)
                    turn += 1

            async def stay() -> None:
                turn = 0
                while trio.current_time() < began + LASTS_S:
                    await thrash.ask(gateway, f"c-{turn}", "c", stream=turn % 2 == 0)
                    turn += 1

            async with trio.open_nursery() as nursery:
                for client in range(CLIENTS):
                    nursery.start_soon(alternate, client)
                nursery.start_soon(stay)
            lasted = trio.current_time() - began
            await quiet(gateway, neurons=[neuron])
        assert set(thrash.ends()) == {"complete"}
        assert min(tally.lives("a", "b")) >= YOUNG_S
        assert 4 <= len(tally.lives("a", "b")) <= lasted / YOUNG_S + 1
        assert tally.loads.count("c") == 1
        waits = {asked.id: (asked.ended or 0) - asked.sent for asked in thrash.asked}
        assert max(waits.values()) < OVERTAKE_S + 2 * YOUNG_S + SLACK_S
        swaps = len(tally.lives("a", "b"))
        assert sum(id.startswith("c-") for id in waits) > swaps, "it waited for none of the loads"
        assert thrash.twice() == [] and await thrash.findings() == []
