"""A thundering herd: hundreds of requests at once for a model that is nowhere yet.

One load; who does not fit into the line is told at once where he stood, everybody else is served once,
keys by turns and each key's own in their order.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event

import msgspec
import pytest
import trio

from cortex.config.limits import Limits
from tests.calls import settings
from tests.fake_neuron import Open, open_gateway
from tests.roles import running_neuron, specs
from tests.storms.storm import STEADY, TIMES, WAYS, Call, GatewayConfig, Storm, Tally, keyed, quiet, storm

pytestmark = pytest.mark.slow
HERD, LINE = 500 * TIMES, 420 * TIMES
KEYS = {"ann": 1.0, "bob": 1.0, "cid": 2.0, "": 1.0}
SEATS = 4


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30 * TIMES):
        yield


def herd() -> Iterator[tuple[str, str, bool]]:
    """Each request's id, key, and whether it is a stream. Nobody without a key comes before the line
    is as full as it gets: he would give way to everybody."""
    names = ["ann", "bob", "cid"]
    for number in range(HERD):
        key = names[number % 3] if number < LINE else ""
        yield f"{number:05d}-{key}", key, number % 2 == 0


async def arrive(storm: Storm, gateway: Open, nursery: trio.Nursery) -> dict[str, Call]:
    """All of them stand before the gateway, in the order of their numbers."""
    calls: dict[str, Call] = {}
    for id, key, stream in herd():
        before = gateway.ledger._arrivals

        ask = partial(storm.ask, gateway, id, key=key, stream=stream)
        calls[id] = await nursery.start(ask)
        while gateway.ledger._arrivals == before:
            await trio.lowlevel.checkpoint()
    return calls


def fair(order: list[str]) -> None:
    """As long as all keys wait, each has had its share of the turns, and its own came in order. So many
    as are seated together may change places among themselves."""
    served: dict[str, list[int]] = defaultdict(list)
    left = defaultdict(int)
    for id in order:
        left[id[6:]] += 1
    for id in order:
        number, key = int(id[:5]), id[6:]
        served[key].append(number)
        left[key] -= 1
        turns = {name: len(served[name]) / share for name, share in KEYS.items() if name}
        if all(left[name] for name in turns):
            assert max(turns.values()) - min(turns.values()) <= 1 + SEATS, turns
    for numbers in served.values():
        assert all(abs(sorted(numbers).index(number) - at) <= 2 * SEATS for at, number in enumerate(numbers))


async def test_a_herd_before_a_cold_model_is_served_once_by_one_load_in_turns(tmp_path: Path) -> None:
    """Rows 60, 61: over the bound FULL with the position; of the others nobody is lost, also when a
    tenth of them, the one who caused the load first of all, leaves while it waits."""
    tally, loaded = Tally(), Event()
    catalogue = specs(tmp_path, "a")
    script = tally.script(slow_load=loaded, turn_s=0.0005)
    config = keyed(GatewayConfig(limits=Limits(queue=LINE)), **{name: KEYS[name] for name in KEYS if name})
    leavers: list[str] = []
    with storm(tally) as herded:
        async with (
            running_neuron(tmp_path, catalogue, script, config=settings(slots=SEATS, queue=0)) as neuron,
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            try:
                async with trio.open_nursery() as nursery:
                    calls = await arrive(herded, gateway, nursery)
                    # The line is full, and who came after it has his answer.
                    await gateway.knows(lambda ledger: ledger.waiting == LINE)
                    while len(herded.asked) < HERD - LINE:  # noqa: ASYNC110
                        await trio.sleep(0.002)
                    assert herded.ends() == {"refused": HERD - LINE}
                    for place, id in enumerate(list(calls)[: LINE // 2 : 5]):
                        leavers.append(id)
                        await calls[id].leave(WAYS[place % len(WAYS)])
                    await gateway.knows(lambda ledger: ledger.waiting == LINE - len(leavers))
                    streams = [id for id, _, stream in herd() if stream and id in calls][: LINE // 2]
                    for id in streams:
                        if id not in leavers:
                            while b": keep-alive" not in calls[id].caller.answer.body:  # noqa: ASYNC110
                                await trio.sleep(0.005)
                    loaded.set()
                assert tally.loads == ["a"]
                await quiet(gateway, neurons=[neuron])
            finally:
                loaded.set()
        refused = {id for id, key, _ in herd() if not key}
        assert herded.ends(refused) == {"refused": len(refused)}
        for id in refused:
            error = msgspec.json.decode(herded.answers[id].body)["error"]
            assert (herded.answers[id].status, error["code"]) == (503, "overloaded")
            assert error["queue_position"] > 0 and int(herded.answers[id].headers["retry-after"]) >= 1
        stayed = {id for id, key, _ in herd() if key and id not in leavers}
        assert herded.ends(stayed) == {"complete": len(stayed)}
        order = [run.id for run in sorted(tally.runs, key=lambda run: run.began)]
        assert sorted(order) == sorted(stayed)
        fair(order)
        assert await herded.findings() == []


async def test_a_key_that_fills_the_line_gives_way_to_those_who_come_late(tmp_path: Path) -> None:
    """Row 60: over the bound it is who has most waiting for his share that is told FULL, at once and once."""
    tally, loaded = Tally(), Event()
    catalogue = specs(tmp_path, "a")
    room = 60 * TIMES
    config = keyed(GatewayConfig(limits=Limits(queue=room)), ann=1.0, bob=1.0)
    with storm(tally) as herded:
        async with (
            running_neuron(tmp_path, catalogue, tally.script(slow_load=loaded)) as neuron,
            open_gateway(neuron, catalogue=catalogue, config=config, poll=STEADY) as gateway,  # type: ignore[arg-type]
        ):
            try:
                async with trio.open_nursery() as nursery:
                    for key in ("ann", "bob"):
                        for number in range(room):
                            id = f"{key}-{number}"
                            herded.soon(nursery, gateway, id, key=key, stream=number % 2 == 0)
                        await gateway.knows(lambda ledger: ledger.waiting == room)
                    while len(herded.asked) < room:  # noqa: ASYNC110
                        await trio.sleep(0.002)
                    loaded.set()
                await quiet(gateway, neurons=[neuron])
            finally:
                loaded.set()
        for key in ("ann", "bob"):
            ends = herded.ends(f"{key}-{number}" for number in range(room))
            assert ends == {"complete": room // 2, "refused": room // 2}
        assert tally.loads == ["a"] and herded.twice() == []
        assert await herded.findings() == []
