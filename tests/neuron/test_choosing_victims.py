"""Who leaves for whom on a real neuron: by class, by age, by true bytes, and nobody who is spoken to."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue
from cortex.config.neuron import NeuronEviction
from cortex.harness.scripted import Gate, Script
from tests.calls import CHAT, calling, fault_of, hello, residents, settings, text_of
from tests.roles import MIB, Running, running_neuron, specs


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(30):
        yield


def neuron(folder: Path, sizes: Mapping[str, int], strategy: str = "lru", **classes: int):
    """A device of 100 MiB, models of so many, and the classes of some of them."""
    known = specs(folder, *sizes)
    ranked = {
        model: replace(spec, residency_priority=classes.get(model)) for model, spec in known.specs.items()
    }
    scripts = {model: Script(reply="hi", bytes=size * MIB) for model, size in sizes.items()}
    config = replace(settings(), eviction=NeuronEviction(strategy=strategy, min_residency_s=0.0))
    return running_neuron(folder, Catalogue(ranked), scripts, memory=100 * MIB, config=config)


async def speak(role: Running, *models: str) -> None:
    for model in models:
        assert text_of(await role.http.post(CHAT, json=hello(model))) == "hi"


async def here(role: Running) -> set[str]:
    return set(await residents(role))


async def test_the_lowest_class_leaves_first_although_it_is_the_warmest(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("low", "mid", "high", "new"), 30)
    async with neuron(tmp_path, sizes, "priority", low=10, high=200) as role:
        await speak(role, "high", "mid", "low")
        rows = await residents(role)
        assert {model: row["priority"] for model, row in rows.items()} == {"low": 10, "mid": 100, "high": 200}
        await speak(role, "new")
        assert await here(role) == {"high", "mid", "new"}
        await speak(role, "mid")
        answer = await role.http.post(CHAT, json=hello("low"))
        assert (answer.status_code, fault_of(answer)["blocked_by"]) == (409, ["high", "mid", "new"])
        assert await here(role) == {"high", "mid", "new"}


async def test_equals_displace_each_other_the_coldest_first(tmp_path: Path) -> None:
    sizes = dict.fromkeys(("a", "b", "c", "top"), 30)
    async with neuron(tmp_path, sizes, "priority", top=200) as role:
        await speak(role, "top", "a", "b")
        await speak(role, "c")
        assert await here(role) == {"top", "b", "c"}
        await speak(role, "a")
        assert await here(role) == {"top", "c", "a"}


async def test_as_few_leave_as_it_takes_by_true_bytes(tmp_path: Path) -> None:
    """The two coldest would not do, and the one that does is enough."""
    async with neuron(tmp_path, {"s1": 15, "s2": 15, "big": 60, "new": 65}) as role:
        await speak(role, "s1", "s2", "big")
        await speak(role, "new")
        assert await here(role) == {"s1", "s2", "new"}


async def test_who_is_spoken_to_stays_and_another_leaves(tmp_path: Path) -> None:
    gate = Gate(2)
    known = specs(tmp_path, "busy", "idle", "new")
    scripts = {model: Script(reply="hi", bytes=40 * MIB) for model in known.specs}
    scripts["busy"] = Script(endless=True, hold=gate, bytes=40 * MIB)
    async with (
        running_neuron(tmp_path, known, scripts, memory=100 * MIB, config=settings()) as role,
        calling(role) as caller,
    ):
        await caller.ask(CHAT, hello("busy", stream=True, max_tokens=4))
        await caller.until(b" 1")
        await speak(role, "idle")
        await speak(role, "new")  # busy is the coldest
        assert await here(role) == {"busy", "new"}
        gate.open()
        assert (await caller.all()).data[-1] == "[DONE]"
