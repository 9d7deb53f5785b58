"""A model over several devices is loaded and counted by its share of each."""

from pathlib import Path

import pytest

from cortex.errors import DoesNotFit
from cortex.harness.base import LoadOrder
from cortex.neuron.shares import aimed, short, split
from cortex.places import Place, Resident, Room

ORDER = LoadOrder("m", Path("/m"), "cpu", 2048, 4)


def group(**reserved: int) -> Place:
    rooms = {name: Room(name, 100, 10) for name in ("cuda:0", "cuda:1")}
    shares = {name.replace("_", ":"): count for name, count in reserved.items()}
    return Place("cuda:0+cuda:1", rooms, {"m": Resident("m", "loading", shares)})


def test_an_order_names_the_devices_that_the_ledger_reserved() -> None:
    order = aimed(ORDER, group(cuda_1=40, cuda_0=20), "m")
    assert (order.device, dict(order.shares)) == ("cuda:1", {"cuda:1": 40, "cuda:0": 20})


@pytest.mark.parametrize(
    ("total", "shares", "parts"),
    [
        (70, {"cpu": 60}, {"cpu": 70}),
        (90, {"a": 40, "b": 20}, {"a": 60, "b": 30}),
        (100, {"a": 1, "b": 1, "c": 1}, {"a": 34, "b": 33, "c": 33}),
        (5, {"upstream": 0}, {"upstream": 5}),
        (0, {"a": 1, "b": 1}, {"a": 0, "b": 0}),
    ],
)
def test_what_an_engine_took_is_laid_out_by_the_shares(
    total: int, shares: dict[str, int], parts: dict[str, int]
) -> None:
    assert split(total, shares) == parts
    assert sum(split(total, shares).values()) == total


def test_a_load_that_ran_out_of_memory_tells_needed_and_free_of_each_device() -> None:
    place = group(cuda_0=70, cuda_1=30)
    told = short(DoesNotFit("no more"), aimed(ORDER, place, "m"), place)
    assert told.facts == {
        "needed_bytes": 100,
        "needed_by_device": {"cuda:0": 70, "cuda:1": 30},
        "free_bytes": 90,
        "free_by_device": {"cuda:0": 90, "cuda:1": 90},
    }
    assert told.message == "no more (cuda:0 had 90B free, cuda:1 had 90B free)"
    # What the engine itself measured counts for more.
    measured = short(DoesNotFit("no", facts={"free_bytes": 7}), aimed(ORDER, place, "m"), place)
    assert measured.facts["free_bytes"] == 7
