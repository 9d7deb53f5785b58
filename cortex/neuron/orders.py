"""What a neuron is told to do with models: load, unload, and its defaults at start."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import trio

from cortex.catalogue import ModelSpec
from cortex.config.models import spec_from_plain
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, NotResident, Stopping
from cortex.neuron.residents import Residents
from cortex.neuron.view import Activation, View
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

# What is seated gets this long to finish before a forced unload cuts it.
FORCED_DRAIN_S = 5.0


class Orders:
    """Obeys the management routes and the list of default models."""

    def __init__(self, residents: Residents, dispatch: Dispatch, view: View) -> None:
        self._residents, self._dispatch, self._view = residents, dispatch, view

    async def load(self, order: wire.LoadRequest) -> wire.LoadAnswer:
        """The model is resident. The neuron's own catalogue wins over the spec that was sent.
        Cancelled, the load goes on for whoever asks next."""
        if self._view.activation.state == "stopping":
            raise Stopping("This neuron is shutting down and loads nothing more")
        sent = spec_from_plain(order.spec)
        spec = self._residents.found.spec(sent.id) or sent
        joined = bool(self._dispatch.ledger.holders(spec.id))
        want = replace(
            await self._residents.want(spec),
            weight=0,
            evict=order.evict == "allow",
            prefer=tuple(order.victims),
        )
        before = self._names()
        resident = await self._dispatch.bring(want)
        place = next(place for place, held in self._dispatch.ledger.holders(spec.id) if held is resident)
        evicted = [] if joined else sorted(before - self._names())
        return wire.LoadAnswer(resident=self._view.resident(place, resident), evicted=evicted, joined=joined)

    async def unload(self, order: wire.UnloadRequest) -> None:
        """The model is gone. Without `force`, Busy while requests sit there."""
        ledger = self._dispatch.ledger
        holders = ledger.holders(order.id)
        if not holders:
            raise NotResident(
                f"Model '{order.id}' is not resident on this neuron; see GET /models", param="id"
            )
        for place, _ in holders:
            resident = ledger.leaving(place.name, order.id, force=order.force)
            with trio.move_on_after(FORCED_DRAIN_S):
                await self._dispatch.emptied(resident)
            await self._residents.unload(place.name, order.id)
        self._dispatch.wake()

    async def activate(self, specs: Iterable[ModelSpec], activation: Activation) -> None:
        """The default models have come in, one after another; a failure does not stop the next."""
        activation.pending = [spec.id for spec in specs]
        for spec in specs:
            activation.pending.remove(spec.id)
            activation.in_progress = spec.id
            try:
                want = await self._residents.want(self._residents.found.spec(spec.id) or spec)
                await self._dispatch.bring(replace(want, weight=0))
            except CortexError as error:
                log.error("activation.failed model=%s error=%s", spec.id, error.message)
                activation.failed[spec.id] = error.message
            else:
                activation.completed.append(spec.id)
        activation.in_progress = None
        if activation.state == "activating":
            activation.state = "ready"

    def _names(self) -> set[str]:
        return {resident.model for place in self._dispatch.ledger for resident in place}
