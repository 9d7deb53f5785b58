"""Models that do not fit together take turns on a real engine: no thrash, no starving, nothing lost."""

from dataclasses import replace
from itertools import count

import pytest
import trio

from cortex import demo, metrics
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.gateway import ColdLoad
from cortex.config.neuron import Devices, NeuronConfig
from cortex.neuron import service
from tests.calls import CHAT, fault_of, residents, settings, text_of
from tests.demo_questions import QUESTIONS
from tests.roles import MIB, Running, demo_neuron

# One takes some 18 MiB with this context, of which most is the KV cache.
ONE = 19 * MIB
YOUNG_S, OVERTAKE_S = 0.15, 0.5
ROUNDS = 5
QUESTION = QUESTIONS[0]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "WAITS", ColdLoad(max_overtake_s=OVERTAKE_S))
    monkeypatch.setattr(metrics, "FRESH_S", 0.0)  # the page tells of this moment


def catalogue(*models: str) -> Catalogue:
    """The demo model under several names."""
    return Catalogue(
        {model: ModelSpec(model, source=f"path:{demo.GGUF}", context=512, slots=4) for model in models}
    )


def room_for(models: float) -> NeuronConfig:
    devices = Devices(memory_limit=int(models * ONE), memory_headroom=0)
    return replace(settings(young_s=YOUNG_S), devices=devices)


async def ask(role: Running, model: str) -> None:
    body = {"model": model, "messages": QUESTION.messages, "temperature": 0, "max_tokens": 40}
    assert text_of(await role.http.post(CHAT, json=body)) == QUESTION.answer


async def four_clients(role: Running) -> tuple[float, float]:
    """Each asks A-B-A-B by turns, two of them B-A-B-A; answers how long all took, and the longest
    wait of one."""
    began, longest = trio.current_time(), [0.0]

    async def client(first: int) -> None:
        for turn in range(ROUNDS):
            asked = trio.current_time()
            await ask(role, "ab"[(first + turn) % 2])
            longest.append(trio.current_time() - asked)

    async with trio.open_nursery() as nursery:
        for first in range(4):
            nursery.start_soon(client, first)
    return trio.current_time() - began, max(longest)


async def loads_of(role: Running, model: str) -> float:
    page = (await role.http.get(role.metrics_url)).text
    line = f'cortex_load_seconds_count{{model="{model}"}}'
    return next((float(each.split()[-1]) for each in page.splitlines() if each.startswith(line)), 0.0)


async def swaps_keep_their_distance(role: Running, took_s: float, longest_s: float) -> None:
    loads = await loads_of(role, "a") + await loads_of(role, "b")
    # Who is in stays its time; so many fit one after another into what all took, and the first
    # and the last one need not have stayed.
    assert ROUNDS <= loads <= took_s / YOUNG_S + 2
    # Who waits for the other model waits for no more than a few turns.
    assert longest_s <= 4 * (YOUNG_S + OVERTAKE_S) + 2.0


async def test_two_models_larger_together_than_the_limit_take_turns() -> None:
    """Rows 64 and 66, A-B-A-B from four clients."""
    async with demo_neuron(room_for(1.5), catalogue("a", "b")) as role:
        took_s, longest_s = await four_clients(role)
        assert len(await residents(role)) == 1
        await swaps_keep_their_distance(role, took_s, longest_s)


async def test_a_pinned_model_beside_them_is_served_all_the_while() -> None:
    async with demo_neuron(room_for(2.5), catalogue("a", "b", "p")) as role:
        await role.http.post("/models/pin", json={"id": "p"})
        await ask(role, "p")
        async with trio.open_nursery() as nursery:
            asked = count()

            async def keep_asking() -> None:
                while True:
                    await ask(role, "p")
                    next(asked)

            nursery.start_soon(keep_asking)
            took_s, longest_s = await four_clients(role)
            nursery.cancel_scope.cancel()
        assert next(asked) >= ROUNDS
        await swaps_keep_their_distance(role, took_s, longest_s)
        assert await loads_of(role, "p") == 1


async def test_a_pinned_model_that_fills_the_device_is_not_sent_away_and_the_others_hear_of_it() -> None:
    async with demo_neuron(room_for(1.5), catalogue("a", "b")) as role:
        await role.http.post("/models/pin", json={"id": "a"})
        await ask(role, "a")
        for _ in range(ROUNDS):
            answer = await role.http.post(CHAT, json={"model": "b", "messages": QUESTION.messages})
            assert (answer.status_code, fault_of(answer)["blocked_by"]) == (409, ["a"])
            await ask(role, "a")
        assert set(await residents(role)) == {"a"}
