"""The models that live on this host: how they come in, speak and leave.

It is the loader behind the neuron's dispatcher: places are devices. It owns what is true
of a loaded model beyond the ledger (its voice, its facts) and the memory of what files
promised. Weights themselves belong to the device's thread.
"""

import logging
import math
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cortex.ask import Ask
from cortex.catalogue import ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.errors import BadAsk, CortexError, NotHereNow, TooSlow, Unfit
from cortex.harness.base import EngineFacts, Harness, LoadOrder, Preflight
from cortex.harness.worker import DeviceWorker
from cortex.ledger import Ledger, Load, Want
from cortex.neuron import prompts
from cortex.neuron.generation import Generation
from cortex.neuron.pins import Pins
from cortex.neuron.progress import Progress, Underway
from cortex.neuron.prompts import Templates, Voice
from cortex.neuron.sources import Found, locate
from cortex.places import Resident
from cortex.text.template import ChatTemplate
from cortex.weights import stamp

log = logging.getLogger(__name__)

# Reserved per sequence unless the catalogue says otherwise: enough for a chat with some
# files in it, and a fraction of what models of today are trained for, which no small host holds.
CONTEXT_TOKENS = 8192

# A header has some MiB; a disk that takes longer for them hangs.
HEADER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Promise:
    """What a look at a model's file told: the order that would load it, and its header."""

    order: LoadOrder
    header: Preflight
    templates: Templates


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
        """What it can do, as far as its file tells."""
        reads = self.voice.templates.reads
        told = (("chat", "messages"), ("tools", "tools"), ("reasoning", "enable_thinking"))
        return ("completion", *(name for name, variable in told if variable in reads))


@dataclass(frozen=True, slots=True)
class Engines:
    """The harnesses by name; why those that cannot run here cannot, and whose version is known."""

    harnesses: Mapping[str, Harness]
    why_not: Mapping[str, str | None]
    versions: Mapping[str, str | None]

    @classmethod
    async def probed(cls, harnesses: Mapping[str, Harness]) -> "Engines":
        """Asked once, in a thread: an answer may import a hundred megabytes."""
        why_not = {name: await trio.to_thread.run_sync(each.unavailable) for name, each in harnesses.items()}
        # No part of the seam: an engine without weights has none.
        versions = {name: getattr(each, "version", None) for name, each in harnesses.items()}
        return cls(harnesses, why_not, versions)

    def of(self, spec: ModelSpec) -> Harness:
        """The one that loads `spec`. Raises Unfit when there is none, or it cannot run here."""
        name = spec.harness or "llamacpp"
        harness = self.harnesses.get(name)
        if harness is None:
            raise Unfit(
                f"Model '{spec.id}' wants harness '{name}', and this neuron has {', '.join(self.harnesses)}"
            )
        if (why := self.why_not[name]) is not None:
            raise Unfit(f"Harness '{name}' cannot run on this host: {why}")
        return harness


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
    ) -> None:
        self._config, self.found, self.engines = config, found, engines
        self._workers, self._ledger, self.pins = workers, ledger, pins
        self._living: dict[str, Living] = {}
        self._cycles: dict[str, int] = {}
        # What is told of loads before a device's thread has them: queued, download, verify.
        self.underway = Underway()
        # The last promise of each model, with what it was made for.
        self._promises: dict[str, tuple[tuple[object, ...], Promise]] = {}
        # A thread a model: a file that hangs costs the others nothing. Each is kept by those
        # who use it, and is gone with the last one.
        self._threads: weakref.WeakValueDictionary[str, trio.CapacityLimiter] = weakref.WeakValueDictionary()
        self._broken, self.faults = trio.open_memory_channel[tuple[str, str]](math.inf)
        for place, worker in workers.items():
            worker.on_death = partial(self._died, place)

    def living(self, model: str) -> Living | None:
        """What is true of `model` while it is loaded."""
        return self._living.get(model)

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

    def heartbeat_age_s(self, place: str) -> float:
        """Since when the thread of a device has shown no sign of life."""
        return self._workers[place].heartbeat_age_s

    def meant(self, name: str) -> str:
        """The id that a client means by `name`. A model that a gateway brought may have the id
        that is an alias in our own catalogue: then the name is the id's."""
        here = name in self._living or name in self._ledger.loads
        return name if here else self.found.resolve(name)

    async def spec(self, model: str) -> ModelSpec | None:
        """The spec of `model`. One that a gateway brought need not be in our own catalogue."""
        if (living := self._living.get(model)) is not None:
            return living.spec
        load = self._ledger.loads.get(model)
        return load.want.spec if load is not None else await self.found.find(model)

    async def want(self, spec: ModelSpec, ask: Ask | None = None) -> Want:
        """What the dispatcher must be asked for the seats of `ask`, with the bytes that the file's
        header promises. Raises Unfit when the header says that no engine should see the file. What
        is loaded is served although its file has changed or gone."""
        living = self._living.get(spec.id)
        promise = await self._look(spec) if living is None else living.promise
        seats = 0
        if ask is not None:
            # Known before the load, which would be for nothing.
            seats = ask.n
            if seats > promise.order.slots:
                raise BadAsk(f"'n' is {seats}, and the model has {promise.order.slots} slots", param="n")
            prompts.foresee(ask, promise.templates)
        # The catalogue pins to neurons. Here the places are devices: all of them, or none.
        pinned = living.spec.pinned_on if living is not None else self._pinned_on(spec)
        here = replace(spec, pinned_on=pinned, residency_priority=spec.priority)
        return Want(spec.id, here, promise.header.bytes, weight=seats, pinned=self._pinned(here))

    async def load(self, load: Load) -> Resident:
        """Send the victims away, then bring the model in on its device's thread. Cancelled or
        failed, nothing of the model is left; victims that went stay gone."""
        spec, place = load.want.spec, load.place.name
        assert spec is not None  # noqa: S101 - the ledger places specs only
        # Looked at first: a file that is refused costs nobody its room.
        promise = await self._look(spec)
        for victim in load.victims:
            await self.unload(place, victim)
        return await self._bring_in(spec, promise, place)

    def cycles(self, place: str) -> int:
        """How many models were unloaded there since its allocators' memory was given back."""
        return self._cycles.get(place, 0)

    async def release(self, place: str) -> None:
        """What the allocators of a place keep for later loads is given back."""
        self._cycles[place] = 0
        await self._workers[place].release()

    async def put_down(self, model: str) -> None:
        """Its memory is free; to all who ask it is still here, since it comes again (`take_up`)."""
        await self._living[model].worker.unload(model)

    async def take_up(self, place: str, model: str) -> Resident:
        """What was put down is in again, from the same file. Raises as `load`; then it is gone."""
        living = self._living.pop(model)
        return await self._bring_in(living.spec, living.promise, place)

    async def _bring_in(self, spec: ModelSpec, promise: Promise, place: str) -> Resident:
        worker, harness = self._workers[place], self.engines.of(spec)
        isolated = self._isolated(harness, promise.header)
        facts = await worker.load(harness, replace(promise.order, device=place), isolated=isolated)
        voice = Voice(promise.templates, promise.header, spec.sampling.over(promise.header.defaults))
        self._living[spec.id] = Living(spec, harness.name, promise, facts, voice, worker)
        return Resident(
            spec.id,
            "loaded",
            {place: facts.bytes},
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
    async def generate(self, ask: Ask, request_id: str) -> AsyncIterator[Generation]:
        """The generation of `ask` by its resident. Leaving early ends its jobs, and the slots
        are free when the block is left."""
        living = self._living.get(ask.model)
        if living is None:
            raise NotHereNow(f"Model '{ask.model}' was unloaded before this request had its turn")
        errand = await trio.to_thread.run_sync(
            prompts.prepare, ask, living.voice, request_id, abandon_on_cancel=True
        )
        try:
            async with living.worker.generate(ask.model, errand.jobs) as mailbox:
                yield Generation(mailbox, errand.projections)
        finally:
            self._note_fault(living)

    def _isolated(self, harness: Harness, header: Preflight) -> bool:
        """Whether the model gets a process of its own: as configured, else by its size."""
        if harness.apart is None:
            return False
        told, above = self._config.llamacpp.isolation, harness.apart.above_bytes
        return told == "process" or (told is None and above is not None and header.weights_bytes > above)

    def _died(self, place: str, model: str, why: str) -> None:
        """The ledger knows that a model's process is gone; the next request has it loaded again."""
        self._living.pop(model, None)
        self._ledger.died(place, model)
        log.warning("model.died model=%s place=%s cause=%s", model, place, why)

    def _note_fault(self, living: Living) -> None:
        """The ledger knows when the engine broke, whatever the request came to."""
        model = living.spec.id
        why = living.worker.fault(model)
        if why is None or self._living.get(model) is not living:
            return
        for place, resident in self._ledger.holders(model):
            if resident.fault is None:
                self._ledger.fault(place.name, model, why)
                self._broken.send_nowait((place.name, model))

    async def _look(self, spec: ModelSpec) -> Promise:
        """What the file of `spec` promises; read again only when it has changed. TooSlow when the
        disk does not answer."""
        thread = self._threads.setdefault(spec.id, trio.CapacityLimiter(1))
        with trio.move_on_after(HEADER_S):
            return await trio.to_thread.run_sync(self._inspect, spec, abandon_on_cancel=True, limiter=thread)
        raise TooSlow(
            f"Model '{spec.id}': its file could not be looked at within {HEADER_S:g} s; "
            "see whether the disk of model_roots answers"
        )

    def _inspect(self, spec: ModelSpec) -> Promise:
        path = locate(spec, self._config.model_roots)
        order, harness = self._order(spec, path), self.engines.of(spec)
        try:
            stat = path.stat()
        except OSError as error:
            raise Unfit(
                f"Model '{spec.id}': {path}: {error.strerror}; check its source in models.toml"
            ) from error
        files = (stat.st_mtime_ns, stat.st_size, *stamp(path))
        key = (spec.id, path, spec.context, order.slots, order.cache, *files)
        known = self._promises.get(spec.id)
        if known is None or known[0] != key:
            header = harness.preflight(order)
            if header.trained_context < order.context and spec.context is None:
                order = replace(order, context=header.trained_context)
                header = harness.preflight(order)
            if header.trained_context < order.context:
                raise Unfit(
                    f"Model '{spec.id}': context = {order.context} is more than the "
                    f"{header.trained_context} tokens it was trained for; set a smaller one in models.toml"
                )
            order = replace(order, context=header.context)
            known = key, Promise(order, header, _templates(spec.id, header))
            self._promises[spec.id] = known
        return known[1]

    def _order(self, spec: ModelSpec, path: Path) -> LoadOrder:
        engine = self._config.llamacpp
        options: dict[str, str | int | bool] = {"batch": engine.batch, "mmap": engine.mmap}
        if engine.threads is not None:
            options["threads"] = engine.threads
        return LoadOrder(
            model=spec.id,
            path=path,
            device="cpu",
            context=spec.context or CONTEXT_TOKENS,
            slots=spec.slots or self._config.admission.slots,
            cache=spec.cache or "fp16",
            options=options,
        )

    def _pinned(self, spec: ModelSpec) -> bool:
        """Whether it stays: by order, or since the catalogue pins it here."""
        return bool(spec.pinned_on) or spec.id in self.pins

    def _pinned_on(self, spec: ModelSpec) -> tuple[str, ...]:
        return tuple(self._workers) if self._config.name in spec.pinned_on else ()


def _templates(model: str, header: Preflight) -> Templates:
    sources = (header.template, header.tool_template)
    try:
        plain, tool_use = (
            None if source is None else ChatTemplate(source, bos=header.bos, eos=header.eos)
            for source in sources
        )
    except CortexError as error:
        raise Unfit(f"Model '{model}': its chat template is refused: {error.message}") from error
    return Templates(plain, tool_use)
