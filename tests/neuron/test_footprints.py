"""What a model took here is what the next load of it makes room for. Fault row 68."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import trio

from cortex.config.neuron import NeuronConfig
from cortex.errors import DoesNotFit
from cortex.harness.base import LoadOrder, Memory
from cortex.harness.scripted import Script
from cortex.neuron import footprints as module
from cortex.neuron.footprints import FILE, Footprints
from cortex.neuron.state import State
from tests.calls import until
from tests.roles import running_neuron, specs

MIB = 2**20

ORDER = LoadOrder("m", Path("/m.gguf"), "cpu", 2048, 4, options={"batch": 256, "threads": 3}, digest="d1")


@asynccontextmanager
async def kept(folder: Path) -> AsyncIterator[tuple[State, Footprints]]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            state = State(folder)
            await nursery.start(state.run)
            known = await Footprints.remembered(state)
            await nursery.start(known.run)
            yield state, known
            nursery.cancel_scope.cancel()


async def test_the_first_load_goes_by_the_catalogue_and_the_next_by_what_it_took(tmp_path: Path) -> None:
    async with kept(tmp_path) as (_, known):
        assert known.need(ORDER, 1000, None) == 1000
        assert known.need(ORDER, 1000, 700) == 700
        known.measured(ORDER, Memory(600, 300, 250), 1000)
        assert known.need(ORDER, 1000, 700) == 1150

        async def written() -> bool:
            return (tmp_path / FILE).exists()

        await until(written, 10)
    async with kept(tmp_path) as (state, again):
        assert again.need(ORDER, 1000, 700) == 1150
        assert not state.warnings


async def test_a_damaged_file_of_profiles_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"x": {"model": 7}}')
    async with kept(tmp_path) as (state, known):
        assert known.need(ORDER, 1000, None) == 1000
        assert "was damaged" in state.warnings[0]


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "d2"},
        {"context": 4096},
        {"slots": 5},
        {"cache": "q8"},
        {"options": {"batch": 512, "threads": 3}},
        {"draft": Path("/draft")},
        {"lora": (Path("/adapter"),)},
        {"kv_tokens": 4096},
    ],
)
def test_another_file_and_another_way_to_load_it_is_another_profile(other: dict[str, object]) -> None:
    known = Footprints()
    known.measured(ORDER, Memory(600, 300, 250), 1000)
    assert known.need(replace(ORDER, **other), 1000, None) == 1000


def test_threads_and_the_name_of_a_model_take_no_memory() -> None:
    known = Footprints()
    known.measured(ORDER, Memory(600), 1000)
    other = replace(ORDER, model="alias", options={"batch": 256, "threads": 9})
    assert known.need(other, 1000, None) == 600


def test_a_load_that_ran_out_of_memory_asks_for_more_next_time_but_not_for_ever() -> None:
    known = Footprints()
    asked = [1000]
    for _ in range(20):
        known.outgrown(ORDER, asked[-1], 1000)
        asked.append(known.need(ORDER, 1000, None))
    assert asked[1] == 1150
    assert asked == sorted(asked)
    assert asked[-1] == 2000
    known.measured(ORDER, Memory(600, 300, 50), 1000)
    assert known.need(ORDER, 1000, None) == 950


def test_what_a_neighbour_took_is_not_held_against_a_model() -> None:
    known = Footprints()
    known.measured(ORDER, Memory(600, 300, 10**9), 1000)
    assert known.need(ORDER, 1000, None) == 2000


def test_the_oldest_profiles_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    times = count()
    known = Footprints(clock=lambda: float(next(times)))
    for number in range(3):
        known.measured(replace(ORDER, digest=f"d{number}"), Memory(600), 1000)
    known.measured(replace(ORDER, digest="d0"), Memory(601), 1000)
    known.measured(replace(ORDER, digest="d3"), Memory(600), 1000)
    needs = [known.need(replace(ORDER, digest=f"d{number}"), 1000, None) for number in range(4)]
    assert needs == [601, 1000, 600, 600]


async def test_a_neuron_goes_by_what_a_model_took_also_after_a_restart(tmp_path: Path) -> None:
    """The catalogue's guess kept it out of a smaller room; what it really takes does not."""
    state, order = tmp_path / "state", {"spec": {"id": "a"}}
    config = NeuronConfig(state_dir=state)
    catalogue = specs(tmp_path, "a", footprint=500 * MIB)
    small = Script(bytes=100 * MIB)
    with trio.fail_after(30):
        async with running_neuron(tmp_path, catalogue, small, memory=400 * MIB, config=config) as role:
            assert (await role.http.post("/models/load", json=order)).status_code == 507
        async with running_neuron(tmp_path, catalogue, small, memory=600 * MIB, config=config) as role:
            told = (await role.http.post("/models/load", json=order)).json()["resident"]
            assert told["bytes"] == {"cpu": 100 * MIB}

            async def written() -> bool:
                return (state / FILE).exists()

            await until(written, 10)
        async with running_neuron(tmp_path, catalogue, small, memory=400 * MIB, config=config) as role:
            assert (await role.http.post("/models/load", json=order)).status_code == 200


async def test_a_load_that_runs_out_of_memory_is_a_507_with_figures_and_asks_for_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(bytes=100 * MIB, load_error=DoesNotFit("the device has no more"))
    with trio.fail_after(30):
        async with running_neuron(tmp_path, specs(tmp_path, "a"), script, memory=400 * MIB) as role:
            answer = await role.http.post("/models/load", json={"spec": {"id": "a"}})
            assert answer.status_code == 507
            error = answer.json()["error"]
            assert error["code"] == "does_not_fit"
            assert error["needed_by_device"] == {"cpu": 100 * MIB}
            assert error["free_by_device"] == {"cpu": 400 * MIB}
            assert "cpu had 400MiB free" in error["message"]
    assert "footprint.raised model=a from=100MiB to=115MiB" in caplog.text
