"""What a neuron is told to do with models: load, unload, pin, and its defaults at start.

What was begun is carried through although whoever asked for it has left: a model that is
half gone would keep its room for ever. An engine that broke is sent away here, too.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cortex.catalogue import ModelSpec, unknown
from cortex.config.models import spec_from_plain
from cortex.dispatch import Dispatch
from cortex.errors import Busy, CortexError, NotHereNow, NotResident, Stopping
from cortex.ledger import Want
from cortex.metrics import Metrics
from cortex.neuron.jobs import Job, Jobs
from cortex.neuron.residents import Residents
from cortex.neuron.terms import Terms
from cortex.neuron.view import Activation, View
from cortex.places import Resident
from cortex.wire import keeping
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


@dataclass(slots=True)
class _Standing:
    """A task status that remembers whether it was told."""

    task_status: trio.TaskStatus[None]
    told: bool = False

    def started(self, value: None = None) -> None:
        self.told = True
        self.task_status.started(value)


class Orders:
    """Obeys the management routes and the list of default models. `run` must be running."""

    def __init__(
        self,
        residents: Residents,
        dispatch: Dispatch,
        view: View,
        metrics: Metrics,
        *,
        jobs: Jobs,
        terms: Terms,
    ) -> None:
        self._residents, self._dispatch, self._view = residents, dispatch, view
        self._metrics, self.jobs, self._terms = metrics, jobs, terms
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
        want = await self._wanted(order)
        ledger = self._dispatch.ledger
        joined, before = want.model in ledger.loads, self._names()
        resident = await self._dispatch.bring(want)
        if not self._is_there(resident):
            raise NotHereNow(f"Model '{want.model}' came in and was sent away again at once; load it again")
        evicted = [] if joined or want.model in before else sorted(before - self._names())
        return wire.LoadAnswer(resident=self._view.resident(resident), evicted=evicted, joined=joined)

    async def load_soon(self, order: wire.LoadRequest) -> keeping.LoadJob:
        """The job of the load, which goes on by itself. What can be refused at once is raised."""
        want = await self._wanted(order)
        job = self.jobs.open(want.model)
        while job.unwanted:
            await job.over.wait()
            job = self.jobs.open(want.model)
        if job.ordered is None:
            job.ordered = trio.CancelScope()
            await self._held.start(self._carry_out, job, want)
        return self.jobs.told(job)

    async def call_off(self, job_id: str) -> keeping.LoadJob:
        """The job is over, and nothing of the load is left if it had not ended before. Busy while
        others wait for the model."""
        job = self.jobs.find(job_id)
        if job.ended is None:
            self._refuse_when_wanted(job)
            if job.ordered is not None:
                # First: an order that still stands in line would have the model loaded anew.
                job.ordered.cancel()
                await job.left.wait()
                self._refuse_when_wanted(job)
            job.unwanted = True
            if job.load is not None:
                self._dispatch.call_off(job.load)
            await job.over.wait()
        return self.jobs.told(job)

    def _refuse_when_wanted(self, job: Job) -> None:
        if others := self.jobs.others(job):
            raise Busy(
                f"{others} others wait for '{job.model}': its load goes on; repeat when they have left",
                facts={"waiting": others},
            )

    async def pin(self, name: str, *, pinned: bool) -> keeping.PinAnswer:
        """The model stays from here on, or may leave again; kept over a restart. UnknownModel when
        there is none to pin, Busy when the catalogue has the say."""
        residents, ledger = self._residents, self._dispatch.ledger
        model = residents.meant(name)
        holders = ledger.holders(model)
        if pinned and not holders and model not in residents.found.known():
            raise unknown(name, residents.found.known())
        if not pinned and residents.pinned_by_catalogue(model):
            raise Busy(f"Model '{model}' is pinned by models.toml; take this neuron out of its pinned_on")
        ledger.pin(model, pinned=pinned)
        log.info("model.%s model=%s resident=%s", "pinned" if pinned else "unpinned", model, bool(holders))
        await residents.pins.put(model, pinned=pinned)
        return keeping.PinAnswer(id=model, pinned=pinned, resident=bool(holders))

    def keep(self, order: keeping.KeepRequest) -> keeping.KeepAnswer:
        """The resident goes by what a gateway's catalogue says of it, unless our own has it.
        NotResident when it is not loaded here."""
        residents, ledger, said = self._residents, self._dispatch.ledger, order.keep
        if (living := residents.living(order.id)) is None:
            raise NotResident(f"Model '{order.id}' is not loaded here; see `cortex status`", param="id")
        spec = living.spec
        if residents.found.spec(order.id) is None:
            # The catalogue pins to neurons. Here the places are devices: all of them, or none.
            pins = tuple(place.name for place in ledger) if said.pinned else ()
            spec = replace(
                spec, pinned_on=pins, residency_priority=said.priority, idle_unload_s=said.idle_unload_s
            )
            residents.renew(living, spec)
        pinned = bool(spec.pinned_on) or spec.id in residents.pins
        ledger.keep(spec.id, pinned=pinned, priority=spec.priority, idle_unload_s=spec.idle_unload_s)
        log.info("model.kept model=%s pinned=%s priority=%d", spec.id, pinned, spec.priority)
        keep = keeping.Keep(pinned=pinned, priority=spec.priority, idle_unload_s=spec.idle_unload_s)
        return keeping.KeepAnswer(id=spec.id, keep=keep)

    async def unload(self, order: wire.UnloadRequest) -> None:
        """The model is gone. Without `force`, Busy while requests sit there. Cancelled, it
        goes all the same."""
        model = self._residents.meant(order.id)
        holders = self._dispatch.ledger.holders(model)
        if not holders:
            raise NotResident(f"Model '{order.id}' is not resident here; see `cortex status`", param="id")
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

    async def _wanted(self, order: wire.LoadRequest) -> Want:
        """What the dispatcher is asked for an order to load."""
        self._refuse_when_stopping()
        if self._terms.hear(order.eviction):
            terms = self._terms
            self._dispatch.ledger.judge_by(terms.rules, terms.max_overtake_s)
            log.info(
                "eviction.terms rules=%s overtake_s=%g defrag=%d",
                terms.rules,
                terms.max_overtake_s,
                terms.defrag_after_cycles,
            )
        sent = spec_from_plain(order.spec)
        # By its id alone: what comes in under another id is not what was asked for.
        spec = self._residents.found.spec(sent.id) or sent
        if order.force:
            self._residents.crashes.lift(spec.id)
        want = await self._residents.want(spec)
        return replace(
            want,
            evict=order.evict == "allow",
            prefer=tuple(order.victims),
            key=order.key,
            share=order.share,
        )

    async def _carry_out(
        self, job: Job, want: Want, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Stand in line for the model, as long as the job is wanted."""
        scope, standing = job.ordered, _Standing(task_status)
        assert scope is not None  # noqa: S101 - whoever starts this has made it
        # Stands when the scope or `run` is cancelled.
        error: CortexError | None = Stopping(f"The load of '{job.model}' was given up")
        try:
            with scope:
                await self._dispatch.bring(want, task_status=standing)
                error = None
        except CortexError as refusal:
            error = refusal
            if not standing.told:
                raise
        finally:
            job.ordered = None
            job.left.set()
            if job.load is None:
                self.jobs.end(job, error)

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
            # Its process may have died meanwhile; what came in since then is another resident.
            if self._is_there(resident):
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
            if resident.phase == "loaded" and self._is_there(resident):
                ledger.leaving(place, model, force=True)
                self._metrics.evicted("broken")
                await self._send_away(place, resident, _Leaving())

    def _refuse_when_stopping(self) -> None:
        if self._view.activation.state == "stopping":
            raise Stopping("This neuron is shutting down and loads nothing more")

    def _is_there(self, resident: Resident) -> bool:
        return any(held is resident for _, held in self._dispatch.ledger.holders(resident.model))

    def _names(self) -> set[str]:
        return {resident.model for place in self._dispatch.ledger for resident in place}
