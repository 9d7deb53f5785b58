"""What a gateway makes of neurons that break over a load."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from cortex.catalogue import ModelSpec
from cortex.errors import CortexError, LoadFailed, UpstreamFailed
from cortex.gateway.loading import SUSPICION_S, RemoteLoader
from cortex.ledger import Load, Want
from cortex.places import Place, Resident


class Breaking:
    """A fleet of neurons that all break off each order, and a watch that takes no note."""

    async def load(self, order: object) -> None:
        raise UpstreamFailed("it broke off")

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(name=name, remote=self)

    def suspect(self, name: str, error: CortexError) -> None: ...
    def look_soon(self, name: str) -> None: ...
    def load_began(self, *_: object) -> None: ...
    def load_done(self, *_: object) -> None: ...
    def load_failed(self, *_: object) -> None: ...


class Orders:
    """Loads of the model "a", one after the other."""

    def __init__(self) -> None:
        fleet: Any = Breaking()
        self.loader = RemoteLoader(lambda: fleet, lambda: None, fleet)

    async def at(self, name: str) -> CortexError:
        """What the load at that neuron comes to."""
        load = Load(Want("a", ModelSpec("a")), Place(name, {}), (), Resident("a", "loading", {}))
        with pytest.raises(CortexError) as caught:
            await self.loader.load(load)
        return caught.value


@pytest.mark.parametrize(
    ("names", "told"),
    [(("n1", "n2"), "Two neurons (n1, n2) broke over"), (("n1", "n1"), "Neuron 'n1' broke twice over")],
)
async def test_who_broke_over_a_model_is_told_as_it_was(names: tuple[str, str], told: str) -> None:
    """Row 24: the first break is the neuron's, and another one is tried; the second is the model's."""
    orders = Orders()
    first, second = [await orders.at(name) for name in names]
    assert isinstance(first, UpstreamFailed) and first.not_started
    assert isinstance(second, LoadFailed) and not second.not_started
    assert second.message.startswith(told) and second.message.endswith("it broke off")


async def test_breaks_that_are_long_apart_are_chance(autojump_clock: trio.testing.MockClock) -> None:
    orders = Orders()
    for _ in range(3):
        assert isinstance(await orders.at("n1"), UpstreamFailed)
        await trio.sleep(SUSPICION_S + 1)
