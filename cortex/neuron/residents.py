"""The models that live on this host: how they come in, speak and leave.

It is the loader behind the neuron's dispatcher: places are devices. It owns what is true
of a loaded model beyond the ledger (its voice, its facts) and the memory of what file
headers promised. Weights themselves belong to the device's thread.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from cortex.ask import Ask
from cortex.catalogue import ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.errors import CortexError, EngineFailed, Unfit
from cortex.events import Event, Failed
from cortex.harness.base import EngineFacts, Harness, LoadOrder, Preflight
from cortex.harness.worker import DeviceWorker, Mailbox
from cortex.ledger import Ledger, Load, Want
from cortex.neuron import prompts
from cortex.neuron.prompts import Voice
from cortex.neuron.sources import Found, locate
from cortex.places import Resident
from cortex.text.projection import Projection
from cortex.text.template import ChatTemplate

log = logging.getLogger(__name__)

# Reserved per sequence unless the catalogue says otherwise: enough for a chat with some
# files in it, and a fraction of what models of today are trained for, which no small host holds.
CONTEXT_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Living:
    """A loaded model."""

    spec: ModelSpec
    harness: str
    order: LoadOrder
    facts: EngineFacts
    voice: Voice
    worker: DeviceWorker

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do, as far as its file tells."""
        template = self.voice.template
        reads = frozenset() if template is None else template.variables
        told = (("chat", "messages"), ("tools", "tools"), ("reasoning", "enable_thinking"))
        return ("completion", *(name for name, variable in told if variable in reads))


class Residents:
    """Implements `dispatch.Loader`."""

    def __init__(
        self,
        config: NeuronConfig,
        found: Found,
        workers: Mapping[str, DeviceWorker],
        harnesses: Mapping[str, Harness],
        ledger: Ledger,
    ) -> None:
        self._config, self.found = config, found
        self._workers, self.harnesses, self._ledger = workers, harnesses, ledger
        self._living: dict[str, Living] = {}
        self._headers: dict[tuple[Path, int, int, str, int, int], Preflight] = {}

    def living(self, model: str) -> Living | None:
        """What is true of `model` while it is loaded."""
        return self._living.get(model)

    def heartbeat_age_s(self, place: str) -> float:
        """Since when the thread of a device has shown no sign of life."""
        return self._workers[place].heartbeat_age_s

    async def want(self, spec: ModelSpec) -> Want:
        """What the dispatcher must be asked for, with the bytes that the file's header
        promises. Raises Unfit when the header says that no engine should see the file."""
        _, promised = await self._look(spec)
        # The catalogue pins to neurons; here the places are devices.
        here = replace(spec, pinned_on=(), residency_priority=spec.priority)
        return Want(spec.id, here, promised.bytes)

    async def load(self, load: Load) -> Resident:
        """Send the victims away, then bring the model in on its device's thread. Cancelled or
        failed, nothing of the model is left; victims that went stay gone."""
        spec = load.want.spec
        assert spec is not None  # noqa: S101 - the ledger places specs only
        for victim in load.victims:
            await self._let_go(load.place.name, victim)
        order, promised = await self._look(spec)
        worker = self._workers[load.place.name]
        harness = self._harness(spec)
        facts = await worker.load(harness, replace(order, device=load.place.name))
        template = await trio.to_thread.run_sync(_template, spec.id, promised)
        voice = Voice(template, promised, spec.sampling.over(promised.defaults))
        self._living[spec.id] = Living(spec, harness.name, order, facts, voice, worker)
        return Resident(
            spec.id,
            "loaded",
            {load.place.name: facts.bytes},
            priority=spec.priority,
            pinned=self._pinned(spec.id),
            slots=facts.slots,
        )

    async def unload(self, place: str, model: str) -> None:
        """The model is gone from `place`; whoever still sits there gets an error."""
        await self._let_go(place, model)

    async def sweep(self, each_s: float) -> None:
        """Every model is unloaded, each within `each_s`; for the end of the process."""
        for place in list(self._ledger):
            for model in list(place.residents):
                with trio.move_on_after(each_s) as deadline:
                    await self._let_go(place.name, model)
                if deadline.cancelled_caught:
                    log.error("unload.failed model=%s place=%s after_s=%.0f", model, place.name, each_s)

    @asynccontextmanager
    async def generate(self, ask: Ask, request_id: str) -> AsyncIterator["Generation"]:
        """The generation of `ask` by its resident. Leaving early ends its jobs, and the slots
        are free when the block is left."""
        living = self._living[ask.model]
        prompt = await trio.to_thread.run_sync(prompts.render, ask, living.voice)
        jobs = prompts.jobs(ask, prompt, living.voice, request_id)
        async with living.worker.generate(ask.model, jobs) as mailbox:
            yield Generation(mailbox, prompts.projections(ask, prompt), prompt)
        fault = living.worker.fault(ask.model)
        if fault is not None:
            for place, _ in self._ledger.holders(ask.model):
                self._ledger.fault(place.name, ask.model, fault)

    async def _let_go(self, place: str, model: str) -> None:
        living = self._living.pop(model, None)
        if living is not None:
            await living.worker.unload(model)
        self._ledger.gone(place, model)
        log.info("unload.done model=%s place=%s", model, place)

    async def _look(self, spec: ModelSpec) -> tuple[LoadOrder, Preflight]:
        """The order for `spec` and what its header promises; remembered until the file changes."""
        path = locate(spec, self._config.model_roots)
        order = self._order(spec, path)
        try:
            stat = await trio.Path(path).stat()
        except OSError as error:
            raise Unfit(f"Model '{spec.id}': {path}: {error.strerror}") from error
        key = (path, order.context, order.slots, order.cache, stat.st_mtime_ns, stat.st_size)
        promised = self._headers.get(key)
        if promised is None:
            promised = await trio.to_thread.run_sync(self._harness(spec).preflight, order)
            if promised.trained_context < order.context and spec.context is None:
                order = replace(order, context=promised.trained_context)
                promised = await trio.to_thread.run_sync(self._harness(spec).preflight, order)
            if promised.trained_context < order.context:
                raise Unfit(
                    f"Model '{spec.id}': context = {order.context} is more than the "
                    f"{promised.trained_context} tokens it was trained for"
                )
            self._headers[key] = promised
        return replace(order, context=promised.context), promised

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

    def _harness(self, spec: ModelSpec) -> Harness:
        name = spec.harness or "llamacpp"
        harness = self.harnesses.get(name)
        if harness is None:
            raise Unfit(
                f"Model '{spec.id}' wants harness '{name}', and this neuron has {', '.join(self.harnesses)}"
            )
        why_not = harness.unavailable()
        if why_not is not None:
            raise Unfit(f"Harness '{name}' cannot run on this host: {why_not}")
        return harness

    def _pinned(self, model: str) -> bool:
        spec = self.found.spec(model)
        return spec is not None and self._config.name in spec.pinned_on


class Generation:
    """The events of one request, from all its choices. Raises what failed."""

    def __init__(
        self, mailbox: Mailbox, projections: Sequence[Projection], prompt: str | tuple[int, ...]
    ) -> None:
        self._mailbox, self._projections, self.prompt = mailbox, projections, prompt

    @property
    def finished(self) -> bool:
        """Whether every choice has stopped."""
        return all(projection.finished for projection in self._projections)

    async def take(self) -> list[Event]:
        """What was said since the last call, at least one event. A failed choice fails the request."""
        said: list[Event] = []
        while not said and not self.finished:
            try:
                batch = await self._mailbox.take()
            except trio.EndOfChannel:
                raise EngineFailed("The engine ended without saying how") from None
            for index, heard in batch:
                said.extend(self._projections[index].feed(heard))
        for event in said:
            if isinstance(event, Failed):
                raise event.error
        return said


def _template(model: str, promised: Preflight) -> ChatTemplate | None:
    if promised.template is None:
        return None
    try:
        return ChatTemplate(promised.template, bos=promised.bos, eos=promised.eos)
    except CortexError as error:
        raise Unfit(f"Model '{model}': its chat template is refused: {error.message}") from error
