"""Whether exllamav2 can run here, whether a folder is for it, and bringing a model in.

A load is: guards, library, attention, weights, caches, the longest prompt and the widest step on
trial, and only then what it took is measured. One that fails or is given up leaves nothing.
"""

import traceback
from collections.abc import Callable
from importlib import metadata

from cortex.errors import LoadFailed
from cortex.harness.base import Apart, EngineFacts, LoadOrder, Memory, Preflight, Progress, Unavailable
from cortex.harness.exllamav2 import attention, guards, probe
from cortex.harness.exllamav2.engine import ExLlamaV2Engine, close
from cortex.harness.exllamav2.loaded import Loaded, devices_of
from cortex.harness.exllamav2.probe import Cards
from cortex.harness.exllamav2.runtime import Runtime
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.harness.exllamav2.words import ExLlamaV2Vocabulary


class ExLlamaV2Harness:
    """Folders of safetensors on CUDA. `cards` tells what the driver offers; a child, whose parent
    has asked, needs none. `alone` says that one model is all that this process will ever load."""

    def __init__(
        self,
        cards: Callable[[], Cards] | None = None,
        runtime: Runtime | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self.name = "exllamav2"
        self.apart: Apart | None = Apart("cortex.harness.exllamav2:in_child")
        self._cards, self._runtime, self._alone = cards, runtime or Runtime(), alone

    @property
    def version(self) -> str | None:
        """The library's version; None when it is not installed."""
        try:
            return metadata.version("exllamav2")
        except metadata.PackageNotFoundError:
            return None

    def unavailable(self) -> Unavailable | None:
        return None if self._cards is None else probe.why_not(self._cards())

    @property
    def vocabulary(self) -> ExLlamaV2Vocabulary:
        return ExLlamaV2Vocabulary()

    def release(self) -> None:
        self._runtime.give_back()

    def preflight(self, order: LoadOrder) -> Preflight:
        return guards.preflight(order)

    def load(self, order: LoadOrder, progress: Progress, ring: Callable[[], None]) -> ExLlamaV2Engine:
        promised, vocabulary = guards.preflight(order), Vocabulary.read(order.path)
        runtime, indexes = self._runtime, devices_of(order)
        _tell(order, progress, 0, promised.weights_bytes)
        library = runtime.library()
        first = int(order.device.partition(":")[2])
        # The one that drives comes last, and is this thread's from then on.
        for index in (*(each for each in indexes if each != first), first):
            runtime.hold(index)
        chosen = attention.install(
            library, str(order.options.get("attention", "auto")), runtime.capability(first)
        )
        runtime.give_back()
        before = runtime.held_bytes(indexes)
        loaded, generator = Loaded(library, order, promised, chosen, vocabulary), None
        try:
            loaded.build(lambda done, total: _tell(order, progress, done, total))
            generator = loaded.generator()
            loaded.warm(generator)
            runtime.finish(indexes)
            _tell(order, progress, promised.weights_bytes, promised.weights_bytes)

            def measure() -> Memory:
                return _memory(promised, runtime.held_bytes(indexes) - before)

            memory = measure()
            facts = EngineFacts(
                memory, promised.context, loaded.slots, kv_tokens=_shared(order, promised, loaded)
            )
            return ExLlamaV2Engine(
                loaded,
                generator,
                facts,
                ring=ring,
                measure=measure if self._alone else lambda: memory,
                freed=runtime.give_back,
            )
        except BaseException as error:
            # The error must not keep the device's memory alive through its frames.
            close(generator)
            generator = None
            loaded.close()
            traceback.clear_frames(error.__traceback__)
            runtime.give_back()
            raise


def in_child() -> ExLlamaV2Harness:
    """The one of a process that loads one model."""
    return ExLlamaV2Harness(alone=True)


def _tell(order: LoadOrder, progress: Progress, done: int, total: int) -> None:
    if progress(done, total):
        raise LoadFailed(f"{order.model}: the load was given up")


def _memory(promised: Preflight, grown: int) -> Memory:
    """What the devices gave, and not a byte that only the header told: weights and cache are part of it."""
    cache = min(promised.cache_bytes, max(0, grown))
    weights = min(promised.weights_bytes, max(0, grown) - cache)
    return Memory(weights, cache, max(0, grown) - weights - cache)


def _shared(order: LoadOrder, promised: Preflight, loaded: Loaded) -> int | None:
    """Tokens that the jobs share, where that is less than a whole context for each of them."""
    whole = loaded.slots * promised.context
    return order.kv_tokens if order.kv_tokens is not None and order.kv_tokens < whole else None
