"""What a neuron is told to do with models: load, unload, and its defaults at start.

What was begun is carried through although whoever asked for it has left: a model that is
half gone would keep its room for ever. An engine that broke is sent away here, too.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cortex.catalogue import ModelSpec
from cortex.config.models import spec_from_plain
from cortex.dispatch import Dispatch
from cortex.errors import CortexError, NotHereNow, NotResident, Stopping
from cortex.metrics import Metrics
from cortex.neuron.residents import Residents
from cortex.neuron.view import Activation, View
from cortex.places import Resident
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

# What is seated gets this long to finish before a forced unload cuts it.
FORCED_DRAIN_S: Final = 5.0
# An engine that broke is shown as broken for so long: as long as its clients are told to wait.
# It also bounds how often a request that breaks engines can have the model loaded again.
BROKEN_S: Final = 5.0


@dataclass(slots=True)
class _Leaving:
    """An unload under way."""

    gone: trio.Event = field(default_factory=trio.Event)
    error: CortexError | None = None


class Orders:
    """Obeys the management routes and the list of default models. `run` must be running."""

    def __init__(self, residents: Residents, dispatch: Dispatch, view: View, metrics: Metrics) -> None:
        self._residents, self._dispatch, self._view = residents, dispatch, view
        self._metrics = metrics
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the unloads, and send broken engines away. Cancelled, all of them are given up."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            async for place, model in self._residents.faults:
                self._nursery.start_soon(self._mend, place, model)

    async def load(self, order: wire.LoadRequest) -> wire.LoadAnswer:
        """The model is resident. The neuron's own catalogue wins over the spec that was sent.
        Cancelled, the load goes on for whoever asks next."""
        self._refuse_when_stopping()
        sent = spec_from_plain(order.spec)
        # By its id alone: what comes in under another id is not what was asked for.
        spec = self._residents.found.spec(sent.id) or sent
        ledger = self._dispatch.ledger
        joined, before = spec.id in ledger.loads, self._names()
        wanted = await self._residents.want(spec)
        want = replace(wanted, evict=order.evict == "allow", prefer=tuple(order.victims))
        resident = await self._dispatch.bring(want)
        if not any(held is resident for _, held in ledger.holders(spec.id)):
            raise NotHereNow(f"Model '{spec.id}' came in and was sent away again at once; load it again")
        evicted = [] if joined or spec.id in before else sorted(before - self._names())
        return wire.LoadAnswer(resident=self._view.resident(resident), evicted=evicted, joined=joined)

    async def unload(self, order: wire.UnloadRequest) -> None:
        """The model is gone. Without `force`, Busy while requests sit there. Cancelled, it
        goes all the same."""
        model = self._residents.meant(order.id)
        holders = self._dispatch.ledger.holders(model)
        if not holders:
            raise NotResident(
                f"Model '{order.id}' is not resident on this neuron; see GET /models", param="id"
            )
        for place, _ in holders:
            resident = self._dispatch.ledger.leaving(place.name, model, force=order.force)
            leaving = _Leaving()
            self._held.start_soon(self._send_away, place.name, resident, leaving)
            self._metrics.evicted("asked")
            await leaving.gone.wait()
            if leaving.error is not None:
                raise leaving.error

    async def activate(self, specs: Iterable[ModelSpec], activation: Activation) -> None:
        """The default models have come in, one after another; a failure does not stop the next."""
        activation.pending = [spec.id for spec in specs]
        for spec in specs:
            if activation.state == "stopping":
                return
            activation.pending.remove(spec.id)
            activation.in_progress = spec.id
            try:
                found = self._residents.found
                want = await self._residents.want(found.spec(found.resolve(spec.id)) or spec)
                await self._dispatch.bring(want)
            except CortexError as error:
                log.error("activation.failed model=%s error=%s", spec.id, error.message)
                activation.failed[spec.id] = error.message
            except Exception as bug:
                # Whatever it is, it must not cost the models that are still to come.
                log.exception("activation.crashed model=%s", spec.id)
                activation.failed[spec.id] = f"failed unexpectedly, the log has more: {bug}"
            else:
                activation.completed.append(spec.id)
        activation.in_progress = None
        if activation.state == "activating":
            activation.state = "ready"

    @property
    def _held(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("Orders.run is not running")
        return self._nursery

    async def _send_away(self, place: str, resident: Resident, leaving: _Leaving) -> None:
        """`resident`, which takes nobody new already, is emptied and unloaded."""
        try:
            with trio.move_on_after(FORCED_DRAIN_S):
                await self._dispatch.emptied(resident)
            await self._residents.unload(place, resident.model)
        except CortexError as error:
            log.error("unload.failed model=%s place=%s error=%s", resident.model, place, error.message)
            leaving.error = error
        finally:
            leaving.gone.set()
            self._dispatch.wake()

    async def _mend(self, place: str, model: str) -> None:
        """The broken engine's memory is free, so that the next request has the model loaded again."""
        ledger = self._dispatch.ledger
        for resident in [resident for at, resident in ledger.holders(model) if at.name == place]:
            log.error("model.broken model=%s place=%s cause=%s", model, place, resident.fault)
            await trio.sleep(BROKEN_S)
            # An operator may have been quicker.
            if resident.phase == "loaded" and any(held is resident for _, held in ledger.holders(model)):
                ledger.leaving(place, model, force=True)
                await self._send_away(place, resident, _Leaving())

    def _refuse_when_stopping(self) -> None:
        if self._view.activation.state == "stopping":
            raise Stopping("This neuron is shutting down and loads nothing more")

    def _names(self) -> set[str]:
        return {resident.model for place in self._dispatch.ledger for resident in place}
