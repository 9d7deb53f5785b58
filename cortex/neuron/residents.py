"""The models that live on this host: how they come in, speak and leave.

It is the loader behind the neuron's dispatcher: places are devices. It owns what is true
of a loaded model beyond the ledger (its voice, its facts) and the memory of what files
promised. Weights themselves belong to the device's thread.
"""

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

import trio

from cortex import router
from cortex.ask import Ask
from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.dispatch import Revised
from cortex.errors import BadAsk, CortexError, DoesNotFit, NotHereNow, NotResident
from cortex.harness.base import EngineFacts
from cortex.harness.worker import DeviceWorker
from cortex.hub import Hub
from cortex.ledger import Ledger, Load, Want, refusals
from cortex.neuron import passing, prompts, upstreams, vectors
from cortex.neuron.budget import budgeted
from cortex.neuron.crashes import Crashes
from cortex.neuron.engines import Engines
from cortex.neuron.fetching import Fetching
from cortex.neuron.footprints import Footprints
from cortex.neuron.generation import Errand, Generation
from cortex.neuron.infilling import infill_of
from cortex.neuron.pins import Pins
from cortex.neuron.progress import Progress, Underway
from cortex.neuron.promises import Promise, Promises
from cortex.neuron.prompts import Templates, Voice
from cortex.neuron.shares import aimed, short, split
from cortex.neuron.sources import Found
from cortex.neuron.state import State
from cortex.neuron.upstreams import Upstreams
from cortex.neuron.vectors import Vectors
from cortex.places import Resident

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Living:
    """A loaded model."""

    spec: ModelSpec
    harness: str
    promise: Promise
    facts: EngineFacts
    voice: Voice
    worker: DeviceWorker

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do, as far as its file tells. Of an upstream's model the catalogue says, else
        the upstream, which may tell that it sees or makes vectors."""
        if not self.facts.chats:
            return self.promise.capabilities
        facts = (("vision", self.facts.sees), ("embeddings", self.facts.embeds))
        told = (*(("completion", "chat") if self.facts.writes else ()), *(name for name, so in facts if so))
        return self.spec.capabilities or told


class Residents:
    """Implements `dispatch.Loader`. `faults` tells of each place and model whose engine broke."""

    def __init__(
        self,
        config: NeuronConfig,
        found: Found,
        workers: Mapping[str, DeviceWorker],
        engines: Engines,
        ledger: Ledger,
        *,
        pins: Pins,
        hub: Hub | None = None,
        elsewhere: Upstreams | None = None,
    ) -> None:
        self._config, self.found, self.engines = config, found, engines
        self._workers, self._ledger, self.pins = workers, ledger, pins
        self._upstreams = elsewhere or Upstreams(config.upstream, Catalogue())
        self._upstreams.on_look = self._looked_at
        self._living: dict[str, Living] = {}
        self._cycles: dict[str, int] = {}
        # What is told of loads before a device's thread has them: queued, download, verify.
        self.underway = Underway()
        hub = hub or Hub(config.hub)
        self._promises = Promises(config, engines.of, hub, found.draft_of)
        self._fetching = Fetching(hub, self.underway)
        # Empty, unless those are put in their place that were kept over a restart.
        self.footprints = Footprints()
        self.crashes = Crashes(State(None))
        self._broken, self.faults = trio.open_memory_channel[tuple[str, str]](math.inf)
        for place, worker in workers.items():
            worker.on_death = partial(self._died, place)

    def living(self, model: str) -> Living | None:
        """What is true of `model` while it is loaded."""
        return self._living.get(model)

    async def capabilities(self, model: str) -> tuple[str, ...] | None:
        """What `model` can do, as far as its file tells; of what is not on this disk the catalogue
        says. None when nobody knows the model. Unfit when its file cannot be used."""
        if (living := self._living.get(model)) is not None:
            return living.capabilities
        if (spec := await self.spec(model)) is None:
            return None
        promise = None if self._passes(spec) else await self._look(spec)
        return spec.able if promise is None else promise.capabilities

    def here(self, model: str) -> Living:
        """As `living`, for whoever was let in. NotHereNow when the model was quicker to leave."""
        if (living := self._living.get(model)) is None:
            raise NotHereNow(f"Model '{model}' was unloaded before this request had its turn")
        return living

    def progress(self, model: str) -> Progress | None:
        """How far `model` has come on its way in; None when it is not being loaded."""
        for worker in self._workers.values():
            if (bytes_read := worker.loading.get(model)) is not None:
                return Progress("load", *bytes_read)
        coming = Progress("queued") if model in self._ledger.loads else None
        return self.underway.of(model) or coming

    def pinned_by_catalogue(self, model: str) -> bool:
        """Whether its entry pins it here: ours, or the one that a gateway sent."""
        living, spec = self._living.get(model), self.found.spec(model)
        return bool(living.spec.pinned_on if living is not None else spec and self._pinned_on(spec))

    def renew(self, living: Living, spec: ModelSpec) -> None:
        """What is loaded goes by another spec, that differs in nothing that was loaded."""
        self._living[spec.id] = replace(living, spec=spec)

    def heartbeat_age_s(self, place: str) -> float:
        """Since when the thread of a device has shown no sign of life."""
        return self._workers[place].heartbeat_age_s

    def meant(self, name: str) -> str:
        """The id that a client means by `name`. A model that a gateway brought may have the id
        that is an alias in our own catalogue: then the name is the id's."""
        here = name in self._living or name in self._ledger.loads
        return name if here else self.found.resolve(name)

    def named(self, ask: Ask) -> Ask:
        """`ask` by the id that its name means, sampling as the alias does where it says nothing."""
        model = self.meant(ask.model)
        alike = None if model == ask.model else self.found.catalogue.sampling(ask.model)
        return replace(ask, model=model, sampling=ask.sampling if alike is None else ask.sampling.over(alike))

    async def spec(self, model: str) -> ModelSpec | None:
        """The spec of `model`. One that a gateway brought need not be in our own catalogue."""
        if (living := self._living.get(model)) is not None:
            return living.spec
        load = self._ledger.loads.get(model)
        return load.want.spec if load is not None else await self.found.find(model)

    async def on_disk(self, spec: ModelSpec) -> Promise | None:
        """What a load of `spec` would find in its files; None when some are not here. Raises Unfit."""
        promise = await self._look(spec)
        if promise is not None:
            await self.crashes.admit(spec.id, promise.order.digest)
        return promise

    async def want(self, spec: ModelSpec, ask: Ask | None = None) -> Want:
        """What the dispatcher must be asked for the seats of `ask`, with the bytes that the file's
        header promises. Raises Unfit when the header says that no engine should see the file. What
        is loaded is served although its file has changed or gone."""
        living = self._living.get(spec.id)
        promise = await self.on_disk(spec) if living is None else living.promise
        if ask is not None:
            # Known before the load, which would be for nothing.
            self._foresee(spec, ask, promise)
        # The catalogue pins to neurons. Here the places are devices: all of them, or none.
        pinned = living.spec.pinned_on if living is not None else self._pinned_on(spec)
        harness = self.engines.name_of(spec)
        here = replace(spec, pinned_on=pinned, residency_priority=spec.priority, harness=harness)
        return Want(
            spec.id,
            here,
            # What is to be downloaded first needs no room before it is here.
            0 if promise is None else self._need(spec, promise),
            weight=0 if ask is None else min(ask.choices, self._slots(spec, promise)),
            pinned=self._pinned(here),
            avoid=self._unfit(spec),
        )

    async def load(self, load: Load) -> Resident:
        """Send the victims away, then bring the model in on its device's thread. Cancelled or
        failed, nothing of the model is left; victims that went stay gone."""
        spec, place = load.want.spec, load.place.name
        assert spec is not None  # noqa: S101 - the ledger places specs only
        # Looked at first: a file that is refused costs nobody its room.
        promise = await self._look(spec)
        if promise is None:
            self.engines.of(spec)
            planned = partial(self._ensure_possible, load.want)
            await self._fetching.bring(spec, self._promises.parts(spec), planned)
            raise Revised((await self.want(spec)).need_bytes)
        # One whose process dies meanwhile may be back before its turn to leave: then it stays.
        while staying := load.staying:
            log.info("evict.begun model=%s place=%s by=%s", staying[0].model, place, spec.id)
            await self.unload(place, staying[0].model)
        return await self._bring_in(spec, promise, place)

    def _need(self, spec: ModelSpec, promise: Promise) -> int:
        """Bytes to make room for."""
        return self.footprints.need(promise.order, promise.header.bytes, spec.footprint)

    def _slots(self, spec: ModelSpec, promise: Promise | None) -> int:
        return self._promises.slots(spec) if promise is None else promise.order.slots

    def _foresee(self, spec: ModelSpec, ask: Ask, promise: Promise | None) -> None:
        """Raises what the model would refuse `ask` with, as far as that is known."""
        slots = self._slots(spec, promise)
        if ask.n > slots:
            raise BadAsk(f"'n' is {ask.n}, and the model has {slots} slots", param="n")
        if self._passes(spec):
            living = self._living.get(spec.id)
            passing.check(ask, spec.capabilities if living is None else living.capabilities)
            return
        prompts.check(ask)
        if promise is not None:
            vectors.check(ask, promise.capabilities)
            prompts.foresee(ask, promise.templates)

    def _ensure_possible(self, want: Want, weights_bytes: int) -> None:
        """Raises DoesNotFit for a model that no device here could hold: nobody downloads it."""
        spec = want.spec
        assert spec is not None  # noqa: S101 - the ledger places specs only
        need = spec.footprint or weights_bytes
        places = [place for place in self._ledger if place.name not in want.avoid]
        if all(router.never(spec, need, place) for place in places):
            raise refusals.no_room(replace(want, need_bytes=need), places)

    def cycles(self, place: str) -> int:
        """How many models were unloaded there, since it was last counted anew."""
        return self._cycles.get(place, 0)

    def count_anew(self, place: str) -> None:
        """Its cycles begin at none."""
        self._cycles[place] = 0

    async def release(self, place: str) -> None:
        """What the allocators of a place keep for later loads is given back."""
        await self._workers[place].release()

    async def put_down(self, model: str) -> None:
        """Its memory is free; to all who ask it is still here, since it comes again (`take_up`)."""
        living = self._living.get(model)
        with suppress(NotResident):  # its process died, or it broke and was sent away
            if living is not None:
                await living.worker.unload(model)

    async def take_up(self, place: str, model: str) -> Resident:
        """What was put down is in again, from the same file. Raises as `load`; then it is gone."""
        living = self._living.pop(model, None)
        if living is None:
            raise NotHereNow(f"Model '{model}' broke while its device was tidied up")
        return await self._bring_in(living.spec, living.promise, place)

    async def _bring_in(self, spec: ModelSpec, promise: Promise, place: str) -> Resident:
        worker, harness, at = self._workers[place], self.engines.of(spec), self._ledger.place(place)
        assert at is not None  # noqa: S101 - every worker's place is open
        order, promised = aimed(promise.order, at, spec.id), promise.header.bytes
        try:
            facts = await worker.load(harness, order, isolated=self._isolated(spec, promise))
        except DoesNotFit as error:
            self.footprints.outgrown(promise.order, sum(order.shares.values()), promised)
            raise short(error, order, at) from error
        # No await until the model is registered: who is cancelled here would lose it.
        if facts.bytes:
            self.footprints.measured(promise.order, facts.memory, promised)
        self._living[spec.id] = Living(spec, harness.name, promise, facts, promise.voice(spec), worker)
        return Resident(
            spec.id,
            "loaded",
            split(facts.bytes, order.shares),
            priority=spec.priority,
            pinned=self._pinned(spec),
            slots=facts.slots,
            idle_unload_s=spec.idle_unload_s,
        )

    async def unload(self, place: str, model: str) -> None:
        """The model is gone from `place`; whoever still sits there gets an error. Cancelled, it
        goes all the same."""
        living = self._living.pop(model, None)
        try:
            if living is not None:
                await living.worker.unload(model)
        finally:
            self._cycles[place] = self.cycles(place) + 1
            self._ledger.gone(place, model)
        log.info("unload.done model=%s place=%s", model, place)

    @asynccontextmanager
    async def generate(self, ask: Ask, request_id: str) -> AsyncIterator[Generation | Vectors]:
        """The generation of `ask` by its resident. Leaving early ends its jobs, and the slots
        are free when the block is left."""
        living = self.here(ask.model)
        passing.check(ask, living.capabilities)
        if ask.embed is not None:
            errand = Errand((), ())
        elif living.facts.chats:
            errand = passing.prepare(ask, living.voice.defaults, request_id)
        else:
            infill = await infill_of(ask, partial(living.worker.tokenise, ask.model))
            errand = await trio.to_thread.run_sync(
                prompts.prepare, ask, living.voice, request_id, infill, abandon_on_cancel=True
            )
        try:
            if ask.embed is not None:
                yield Vectors(living.worker, living.facts, ask, request_id)
                return
            jobs = await budgeted(
                errand.jobs, living.facts, living.voice.bos, partial(living.worker.tokenise, ask.model)
            )
            async with living.worker.generate(ask.model, jobs) as mailbox:
                yield Generation(mailbox, errand.readers, ask.n)
        except CortexError as error:
            if error.blame == "engine":
                self._upstreams.suspect(living.spec)
            raise
        finally:
            self._note_fault(living)

    def forget(self, place: str) -> None:
        """What lived at a place is not here any more: its device is lost."""
        lost = self._workers[place]
        self._living = {model: living for model, living in self._living.items() if living.worker is not lost}

    def _isolated(self, spec: ModelSpec, promise: Promise) -> bool:
        """Whether the model gets a process of its own: as configured for its harness, else by its size."""
        apart = self.engines.of(spec).apart
        if apart is None:
            return False
        cuda = self.engines.name_of(spec) == "exllamav2"
        told = self._config.exllamav2.isolation if cuda else self._config.llamacpp.isolation
        large = apart.above_bytes is not None and promise.header.weights_bytes > apart.above_bytes
        return told == "process" or (told is None and large)

    def _died(self, place: str, model: str, why: str) -> None:
        """The ledger knows that a model's process is gone; the next request has it loaded again."""
        self._living.pop(model, None)
        self._ledger.died(place, model)
        log.warning("model.died model=%s place=%s cause=%s", model, place, why)

    def _note_fault(self, living: Living) -> None:
        """The ledger knows when the engine broke, whatever the request came to."""
        model = living.spec.id
        why = living.worker.fault(model)
        here = self._living.get(model)
        if why is not None and here is not None and here.facts is living.facts:
            self._break(model, why)

    def _break(self, model: str, why: str) -> None:
        for place, resident in self._ledger.holders(model):
            if resident.fault is None:
                self._ledger.fault(place.name, model, why)
                self._broken.send_nowait((place.name, model))

    def _looked_at(self, url: str) -> None:
        """What an upstream's residents are worth after a look at it."""
        for verdict in self._upstreams.judge(url, [living.spec for living in self._living.values()]):
            for place, resident in self._ledger.holders(verdict.model):
                if resident.fault in (None, verdict.before):
                    self._ledger.fault(place.name, verdict.model, verdict.away)
            if verdict.gone is not None:
                self._break(verdict.model, verdict.gone)

    async def _look(self, spec: ModelSpec) -> Promise | None:
        """What the file of `spec` promises; None when it is yet to be downloaded. Of an upstream's
        model nothing lies here, and nobody is asked."""
        if self._passes(spec):
            order = self._upstreams.order(spec)
            return Promise(order, self.engines.of(spec).preflight(order), Templates())
        return await self._promises.of(spec)

    def _passes(self, spec: ModelSpec) -> bool:
        """Whether requests for it go on to an upstream."""
        return spec.harness == upstreams.PLACE or upstreams.address_of(spec) is not None

    def _unfit(self, spec: ModelSpec) -> frozenset[str]:
        """Places that are none for it: upstreams' models are at one of their own."""
        return frozenset(each for each in self._workers if (each == upstreams.PLACE) != self._passes(spec))

    def _pinned(self, spec: ModelSpec) -> bool:
        """Whether it stays: by order, or since the catalogue pins it here."""
        return bool(spec.pinned_on) or spec.id in self.pins

    def _pinned_on(self, spec: ModelSpec) -> tuple[str, ...]:
        return tuple(self._workers) if self._config.name in spec.pinned_on else ()
