"""What models of files promise before they are loaded: looked at in threads, remembered.

A file that hangs costs its own model the deadline of a look, and the others nothing. A model
of a hub that the cache has not whole promises nothing yet.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from cortex.catalogue import ModelSpec
from cortex.config.neuron import NeuronConfig
from cortex.errors import CortexError, TooSlow, Unfit
from cortex.harness.base import Harness, LoadOrder, Preflight
from cortex.hub import Hub, Source
from cortex.neuron.fetching import formats
from cortex.neuron.prompts import Templates
from cortex.neuron.sources import locate
from cortex.text.template import ChatTemplate
from cortex.weights import digest, stamp

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


class Promises:
    """`engine_of` says which harness loads a spec."""

    def __init__(self, config: NeuronConfig, engine_of: Callable[[ModelSpec], Harness], hub: Hub) -> None:
        self._config, self._engine_of, self._hub = config, engine_of, hub
        # The last promise of each model, with what it was made for.
        self._promises: dict[str, tuple[tuple[object, ...], Promise]] = {}
        # A thread a model, each kept by those who use it, and gone with the last one.
        self._threads: weakref.WeakValueDictionary[str, trio.CapacityLimiter] = weakref.WeakValueDictionary()

    async def of(self, spec: ModelSpec) -> Promise | None:
        """What the file of `spec` promises; read again only when it has changed. None when it is yet
        to be downloaded. TooSlow when the disk does not answer."""
        thread = self._threads.setdefault(spec.id, trio.CapacityLimiter(1))
        with trio.move_on_after(HEADER_S):
            return await trio.to_thread.run_sync(self._inspect, spec, abandon_on_cancel=True, limiter=thread)
        raise TooSlow(
            f"Model '{spec.id}': its file could not be looked at within {HEADER_S:g} s; "
            "see whether the disk of model_roots answers"
        )

    def slots(self, spec: ModelSpec) -> int:
        """How many sequences it will be loaded for."""
        return spec.slots or self._config.admission.slots

    def _inspect(self, spec: ModelSpec) -> Promise | None:
        harness, path = self._engine_of(spec), self._path(spec)
        if path is None:
            return None
        order = self._order(spec, path)
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
            order = replace(order, context=header.context, digest=digest(path))
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
            slots=self.slots(spec),
            cache=spec.cache or "fp16",
            options=options,
        )

    def _path(self, spec: ModelSpec) -> Path | None:
        source = Source.of(spec)
        if source is None:
            return locate(spec, self._config.model_roots)
        local = self._hub.cached(source, formats(spec))
        return None if local is None else local.path


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
