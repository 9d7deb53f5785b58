"""What models took when they were loaded here: better than any estimate, and kept over a restart.

A profile belongs to a file and to how it was loaded: its digest, context, slots, cache and the
other options. The first load goes by the catalogue's `footprint`, else by the header's estimate;
every later one by the figure that the engine measured. A load that ran out of memory raises the
figure, so that the next one is not placed where this one failed; a load that succeeds sets it right
again. A file that changed has no profile. The oldest profiles go when there are too many.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from cortex.harness.base import LoadOrder, Memory
from cortex.neuron.state import State
from cortex.units import size

log = logging.getLogger(__name__)

FILE: Final = "profiles.json"
MOST: Final = 512  # more models than a host tries in years
RAISED: Final = 1.15
# What a process grows by is not all one model's. A figure beyond so many times the estimate is a
# neighbour's, and would keep the model out for good.
BELIEVED: Final = 2.0


class Profile(msgspec.Struct, kw_only=True):
    """Bytes as measured, `raised` to what a load that ran out of memory asks for. `used` is in
    Unix seconds."""

    model: str
    weights: int = 0
    cache: int = 0
    overhead: int = 0
    raised: int = 0
    used: float = 0.0

    @property
    def measured(self) -> int:
        return self.weights + self.cache + self.overhead

    @property
    def bytes(self) -> int:
        return max(self.measured, self.raised)


class Footprints:
    """The profiles of this host, which `run` keeps on disk. `clock` gives Unix seconds."""

    def __init__(
        self,
        state: State | None = None,
        profiles: dict[str, Profile] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._profiles, self._clock = state, profiles or {}, clock
        self._changed = trio.Event()

    @classmethod
    async def remembered(cls, state: State) -> "Footprints":
        """As they were when the neuron stopped."""
        return cls(state, await state.recall(FILE, dict[str, Profile]))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what changes until cancelled: loads do not wait for the disk."""
        task_status.started()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self._state is not None:
                await self._state.keep(FILE, self._profiles)

    def need(self, order: LoadOrder, promised: int, said: int | None) -> int:
        """Bytes to make room for: those learned, else those `said` in the catalogue, else those
        that the header `promised`."""
        known = self._profiles.get(_key(order))
        return known.bytes if known is not None else said or promised

    def measured(self, order: LoadOrder, memory: Memory, promised: int) -> None:
        """The model was loaded, and this is what it took."""
        most = max(0, int(promised * BELIEVED) - memory.weights_bytes - memory.cache_bytes)
        if memory.overhead_bytes > most:
            log.info("footprint.doubted model=%s measured=%s", order.model, size(memory.bytes))
        self._keep(
            order,
            Profile(
                model=order.model,
                weights=memory.weights_bytes,
                cache=memory.cache_bytes,
                overhead=min(memory.overhead_bytes, most),
            ),
        )

    def outgrown(self, order: LoadOrder, tried: int, promised: int) -> None:
        """The load ran out of memory where `tried` bytes had been made free for it."""
        known = self._profiles.get(_key(order)) or Profile(model=order.model)
        raised = min(int(tried * RAISED), int(max(promised, known.measured) * BELIEVED))
        if raised <= known.raised:
            return
        log.warning("footprint.raised model=%s from=%s to=%s", order.model, size(tried), size(raised))
        self._keep(order, msgspec.structs.replace(known, raised=raised))

    def _keep(self, order: LoadOrder, profile: Profile) -> None:
        profile.used = self._clock()
        self._profiles[_key(order)] = profile
        by_age = sorted(self._profiles, key=lambda key: self._profiles[key].used)
        for key in by_age[: max(0, len(by_age) - MOST)]:
            del self._profiles[key]
        self._changed.set()


def _key(order: LoadOrder) -> str:
    """Threads compute, and take nothing."""
    options = ",".join(
        f"{name}={value}" for name, value in sorted(order.options.items()) if name != "threads"
    )
    parts = [order.digest or order.path, f"{order.context}x{order.slots}", order.cache, options]
    parts += [f"draft={order.draft}"] if order.draft is not None else []
    parts += [f"lora={path}" for path in order.lora]
    parts += [f"kv={order.kv_tokens}"] if order.kv_tokens is not None else []
    return "/".join(map(str, parts))
