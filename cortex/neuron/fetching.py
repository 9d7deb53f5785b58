"""Models of a hub on their way into its cache, as the first part of their load.

Nobody makes room for a model that is not here yet: what it needs is known when it is.
"""

from collections.abc import Callable

from cortex.catalogue import ModelSpec
from cortex.hub import Format, Hub, Phase, Source
from cortex.neuron.progress import Progress, Underway


def formats(spec: ModelSpec) -> tuple[Format, ...]:
    """What the engine of `spec` can load."""
    return ("safetensors",) if spec.harness == "exllamav2" else ("gguf",)


class Fetching:
    """Tells `underway` how far each download is."""

    def __init__(self, hub: Hub, underway: Underway) -> None:
        self._hub, self._underway = hub, underway

    async def bring(self, spec: ModelSpec, planned: Callable[[int], None]) -> None:
        """The model is in the cache. `planned` is told the bytes of its weights before any of them
        is asked for, and may raise. Cancelled, what came is kept for the next time."""
        source = Source.of(spec)
        assert source is not None  # noqa: S101 - other models are never awaited

        def tell(phase: Phase, done: int, total: int) -> None:
            self._underway.tell(spec.id, Progress(phase, done, total))

        with self._underway.coming(spec.id):
            await self._hub.fetch(source, formats(spec), tell, planned)
