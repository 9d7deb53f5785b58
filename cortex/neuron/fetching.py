"""Models of a hub on their way into its cache, as the first part of their load.

Nobody makes room for a model that is not here yet: what it needs is known when it is.
"""

from collections.abc import Callable, Sequence

import trio

from cortex.catalogue import ModelSpec
from cortex.hub import Format, Hub, Phase, Source, formats_of
from cortex.neuron.progress import Progress, Underway


class Fetching:
    """Tells `underway` how far each download is."""

    def __init__(self, hub: Hub, underway: Underway) -> None:
        self._hub, self._underway = hub, underway

    async def bring(
        self, spec: ModelSpec, parts: Sequence[ModelSpec], planned: Callable[[int], None]
    ) -> None:
        """The model is in the cache, all `parts` of it. The draft comes before the model, which is
        larger: what is wrong with it is known early. `planned` is told the bytes of the weights so far
        before any of a part is asked for, and may raise. Cancelled, what came is kept for the next
        time."""

        def tell(phase: Phase, done: int, total: int) -> None:
            self._underway.tell(spec.id, Progress(phase, done, total))

        before = 0

        def plan(weights_bytes: int) -> None:
            nonlocal before
            before += weights_bytes
            planned(before)

        with self._underway.coming(spec.id):
            for part in reversed(parts):
                source, wanted = Source.of(part), formats_of(part)
                if source is not None and not await self._has(source, wanted):
                    await self._hub.fetch(source, wanted, tell, plan)

    async def _has(self, source: Source, wanted: tuple[Format, ...]) -> bool:
        return await trio.to_thread.run_sync(self._hub.cached, source, wanted) is not None
