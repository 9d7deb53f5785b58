"""Loads as the gateway does them: one HTTP call to the neuron that was chosen.

The neuron makes room by itself and its word binds; the victims sent along are what the
gateway would choose. A neuron that breaks over a load says nothing of the model, so that
those who wait are sent elsewhere; a model over which one breaks a second time, or another, is
refused.
Implements `dispatch.Loader`.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from math import inf
from typing import Final, Protocol

import trio

from cortex.config.models import spec_to_plain
from cortex.errors import CortexError, LoadFailed, TooSlow, UpstreamFailed
from cortex.gateway.belief import seats
from cortex.gateway.member import Neuron
from cortex.gateway.raising import Outranks, Raising
from cortex.ledger import Load, Want
from cortex.places import Resident
from cortex.wire import neuron as wire
from cortex.wire.keeping import EvictionTerms

# The largest model that one host holds, from a slow disk.
LONGEST_LOAD_S: Final = 1800.0
# Two that break over one model within this time, or one twice: more likely its fault than chance.
SUSPICION_S: Final = 300.0


class Neurons(Protocol):
    """Where to find a neuron by name."""

    def __getitem__(self, name: str) -> Neuron: ...
    def suspect(self, name: str, error: CortexError) -> None: ...
    def look_soon(self, name: str) -> None: ...


class Watch(Protocol):
    """Is told of each load, and how it ends."""

    def load_began(self, load: Load) -> None: ...
    def load_done(self, load: Load, resident: Resident, seconds: float, evicted: Iterable[str]) -> None: ...
    def load_failed(self, load: Load, error: CortexError) -> None: ...


def _keyed(want: Want, other: Want) -> bool:
    """Callers with a key come first."""
    return bool(want.key) and not other.key


class RemoteLoader:
    """`neurons` is asked at the time of a load, since fleet and dispatcher know each other. `terms`
    are for neurons whose own files say nothing, and hold for loads to come. `joined` is to be told of
    whoever waits for a load under way."""

    def __init__(
        self,
        neurons: Callable[[], Neurons],
        evicted: Callable[[], None],
        watch: Watch,
        terms: EvictionTerms = EvictionTerms(),
        outranks: Outranks = _keyed,
    ) -> None:
        self._neurons, self._evicted, self._watch, self.terms = neurons, evicted, watch, terms
        # By model: the neuron that broke over it last, and when.
        self._broke: dict[str, tuple[str, float]] = {}
        self._raising = Raising(outranks)
        self.joined = self._raising.joined
        # Where several processes load for one gateway: who has a load to himself, and who is told.
        self.alone: Callable[[Load], AbstractAsyncContextManager[None]] = lambda load: nullcontext()
        self.came_in: Callable[[str], None] = lambda neuron: None
        self.broke: Callable[[str, str], None] = lambda model, neuron: None

    async def load(self, load: Load) -> Resident:
        """The resident as its neuron measured it. Cancelled, the neuron may finish by itself: its
        reports tell."""
        async with self.alone(load):
            return await self._watched(load)

    def suspect(self, model: str, neuron: str) -> None:
        """The neuron broke over loading the model."""
        self._broke[model] = neuron, trio.current_time()

    async def _watched(self, load: Load) -> Resident:
        self._watch.load_began(load)
        began = trio.current_time()
        try:
            resident, evicted = await self._ordered(load)
        except CortexError as error:
            self._watch.load_failed(load, error)
            raise
        except Exception as bug:
            self._watch.load_failed(load, LoadFailed(f"The load failed unexpectedly: {bug}"))
            raise
        self._watch.load_done(load, resident, trio.current_time() - began, evicted)
        return resident

    async def _ordered(self, load: Load) -> tuple[Resident, list[str]]:
        """The neuron did it; and whom it sent away."""
        spec = load.want.spec
        assert spec is not None  # noqa: S101 - the ledger places specs only
        fleet = self._neurons()
        neuron = fleet[load.place.name]
        order = partial(
            wire.LoadRequest, spec=spec_to_plain(spec), victims=list(load.victims), eviction=self.terms
        )

        async def send(want: Want) -> wire.LoadAnswer:
            return await neuron.remote.load(order(key=want.key, share=want.share))

        try:
            with trio.fail_after(LONGEST_LOAD_S):
                answer = await self._raising.hold(load, send)
        except trio.TooSlowError as error:
            raise TooSlow(
                f"Loading '{spec.id}' on '{neuron.name}' took over {LONGEST_LOAD_S:.0f} s"
            ) from error
        except CortexError as error:
            fleet.suspect(neuron.name, error)
            if isinstance(error, UpstreamFailed) and not error.not_started:
                self._broken(spec.id, neuron.name, error)
            raise
        self._broke.pop(spec.id, None)
        fleet.look_soon(neuron.name)
        self.came_in(neuron.name)
        for _ in answer.evicted:
            self._evicted()
        report = answer.resident
        if report.id != spec.id:
            raise LoadFailed(
                f"Neuron '{neuron.name}' loaded '{report.id}' for '{spec.id}': its own models.toml knows the "
                "name as another model's; let both files agree"
            )
        resident = Resident(
            report.id,
            "loaded",
            dict(report.bytes),
            priority=report.priority,
            pinned=report.pinned,
            slots=seats(report),
        )
        return resident, answer.evicted

    def _broken(self, model: str, neuron: str, error: UpstreamFailed) -> None:
        """`error` is the place's and another one may be tried, unless `model` did the same before."""
        now = trio.current_time()
        before, at = self._broke.get(model, ("", -inf))
        self.suspect(model, neuron)
        self.broke(model, neuron)
        if now - at < SUSPICION_S:
            who = f"Neuron '{neuron}' broke twice"
            if before != neuron:
                who = f"Two neurons ({before}, {neuron}) broke"
            message = f"{who} over loading '{model}'; see the log there. The last time: {error.message}"
            raise LoadFailed(message) from error
        error.not_started = True
