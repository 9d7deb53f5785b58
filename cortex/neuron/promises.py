"""What models of files promise before they are loaded: looked at in threads, remembered.

A file that hangs costs its own model the deadline of a look, and the others nothing. A model
of a hub that the cache has not whole promises nothing yet.
"""

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from cortex.catalogue import ModelSpec, paged
from cortex.config.neuron import NeuronConfig
from cortex.errors import CortexError, TooSlow, Unfit
from cortex.harness.base import Harness, LoadOrder, Preflight
from cortex.hub import Hub, Source, formats_of
from cortex.neuron.prompts import Templates, Voice
from cortex.neuron.sources import adapters, locate
from cortex.neuron.vectors import EMBEDS
from cortex.text.template import ChatTemplate
from cortex.weights import digest, stamp

# Reserved per sequence unless the catalogue says otherwise: enough for a chat with some
# files in it, and a fraction of what models of today are trained for, which no small host holds.
CONTEXT_TOKENS = 8192

# Of models that are asked for; templates of that many take some hundred MiB.
MOST_KEPT: Final = 1024

# A header has some MiB; a disk that takes longer for them hangs.
HEADER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Promise:
    """What a look at a model's file told: the order that would load it, and its header."""

    order: LoadOrder
    header: Preflight
    templates: Templates

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, as far as its file tells."""
        if self.header.embeds:
            return (EMBEDS,)
        told = (("chat", "messages"), ("tools", "tools"), ("reasoning", "enable_thinking"))
        return ("completion", *(name for name, variable in told if variable in self.templates.reads))

    def voice(self, spec: ModelSpec) -> Voice:
        """How the model is spoken to, once it is loaded as `spec` says."""
        return Voice(self.templates, self.header, spec.sampling.over(self.header.defaults))


class Promises:
    """`engine_of` says which harness loads a spec, `draft_of` which model speaks ahead of it."""

    def __init__(
        self,
        config: NeuronConfig,
        engine_of: Callable[[ModelSpec], Harness],
        hub: Hub,
        draft_of: Callable[[ModelSpec], ModelSpec | None],
    ) -> None:
        self._config, self._engine_of, self._hub, self._draft_of = config, engine_of, hub, draft_of
        # The last promise of each model, with what it was made for.
        self._promises: dict[str, tuple[tuple[object, ...], Promise]] = {}
        # A thread a model, each kept by those who use it, and gone with the last one.
        self._threads: weakref.WeakValueDictionary[str, trio.CapacityLimiter] = weakref.WeakValueDictionary()

    def parts(self, spec: ModelSpec) -> tuple[ModelSpec, ...]:
        """What is loaded with `spec`: itself, and its draft. Raises Unfit for a draft that is none."""
        draft = self._draft_of(spec)
        return (spec,) if draft is None else (spec, draft)

    async def of(self, spec: ModelSpec) -> Promise | None:
        """What the files of `spec` promise; read again only when they have changed. None when some are
        yet to be downloaded. TooSlow when the disk does not answer."""
        parts = self.parts(spec)
        thread = self._threads.setdefault(spec.id, trio.CapacityLimiter(1))
        with trio.move_on_after(HEADER_S):
            return await trio.to_thread.run_sync(self._inspect, parts, abandon_on_cancel=True, limiter=thread)
        raise TooSlow(
            f"Model '{spec.id}': its file could not be looked at within {HEADER_S:g} s; "
            "see whether the disk of model_roots answers"
        )

    def slots(self, spec: ModelSpec) -> int:
        """How many sequences it will be loaded for."""
        return spec.slots or self._config.admission.slots

    def _inspect(self, parts: tuple[ModelSpec, ...]) -> Promise | None:
        spec = parts[0]
        harness = self._engine_of(spec)
        paths = [path for part in parts if (path := self._path(part)) is not None]
        if len(paths) < len(parts):
            return None
        order = self._order(spec, *paths)
        files = (order.path, *paths[1:], *order.lora)
        key = (spec.context, order, *(_state(spec.id, path) for path in files))
        known = self._promises.get(spec.id)
        if known is None or known[0] != key:
            order, header = _promised(spec, order, harness)
            order = replace(order, digest="+".join(map(digest, files)))
            known = key, Promise(order, header, _templates(spec.id, header))
            self._keep(spec.id, known)
        return known[1]

    def _keep(self, model: str, known: tuple[tuple[object, ...], Promise]) -> None:
        """In the place of what is kept for longest, where there is too much: that is read again. A
        gateway may have a model under any name."""
        self._promises.pop(model, None)
        self._promises[model] = known
        for former in list(self._promises)[:-MOST_KEPT]:
            self._promises.pop(former, None)  # another thread may have been quicker

    def _order(self, spec: ModelSpec, path: Path, draft: Path | None = None) -> LoadOrder:
        if draft == path:
            raise Unfit(
                f"Model '{spec.id}': its draft is the model itself; name a smaller one in models.toml"
            )
        kept = None if spec.cache_tokens is None else paged(spec.cache_tokens)
        return LoadOrder(
            model=spec.id,
            path=path,
            device="cpu",
            context=spec.context or min(CONTEXT_TOKENS, kept or CONTEXT_TOKENS),
            slots=self.slots(spec),
            cache=spec.cache or self._usual_cache(spec),
            options=self._options(spec),
            draft=draft,
            lora=adapters(spec, self._config.model_roots),
            kv_tokens=kept,
        )

    def _usual_cache(self, spec: ModelSpec) -> str:
        return self._config.exllamav2.cache if spec.harness_name == "exllamav2" else "fp16"

    def _options(self, spec: ModelSpec) -> dict[str, str | int | bool]:
        """What neuron.toml says of the harness that loads `spec`, and the entry beyond an order's own."""
        beside = {"speculation": spec.speculation, "pooling": spec.pooling}
        said: dict[str, str | int | bool] = {key: each for key, each in beside.items() if each is not None}
        if spec.harness_name == "exllamav2":
            cuda = self._config.exllamav2
            return {**said, "chunk": cuda.chunk, "attention": cuda.attention}
        cpu = self._config.llamacpp
        said = {**said, "batch": cpu.batch, "mmap": cpu.mmap}
        return said if cpu.threads is None else {**said, "threads": cpu.threads}

    def _path(self, spec: ModelSpec) -> Path | None:
        source = Source.of(spec)
        if source is None:
            return locate(spec, self._config.model_roots)
        local = self._hub.cached(source, formats_of(spec))
        return None if local is None else local.path


def _promised(spec: ModelSpec, order: LoadOrder, harness: Harness) -> tuple[LoadOrder, Preflight]:
    """The order with the context that the model will have, and the header that goes with it."""
    header = harness.preflight(order)
    if header.trained_context < order.context and spec.context is None:
        order = replace(order, context=header.trained_context)
        header = harness.preflight(order)
    if header.trained_context < order.context:
        raise Unfit(
            f"Model '{spec.id}': context = {order.context} is more than the "
            f"{header.trained_context} tokens it was trained for; set a smaller one in models.toml"
        )
    return replace(order, context=header.context), header


def _state(model: str, path: Path) -> tuple[object, ...]:
    """Changes when what lies at `path` does. Raises Unfit when that cannot be told."""
    try:
        return *_times(path), *stamp(path)
    except OSError as error:
        raise Unfit(f"Model '{model}': {path}: {error.strerror}; check its source in models.toml") from error


def _times(path: Path) -> Iterator[tuple[str, int, int]]:
    status = path.stat()
    yield path.name, status.st_mtime_ns, status.st_size
    if path.is_dir():
        with os.scandir(path) as found:
            for entry in sorted(filter(os.DirEntry.is_file, found), key=lambda entry: entry.name):
                inner = entry.stat()
                yield entry.name, inner.st_mtime_ns, inner.st_size


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
