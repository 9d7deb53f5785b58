"""The tokens of models that are not loaded: children that have a vocabulary, and no weights.

No device, seat or slot is touched. A child answers for one model, as its file was when the child
began; it is kept a little while, since who counts tokens counts again. There are few of them: who
finds none free waits in line. One dies without harm, and is held against its model as any other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from cortex.errors import CortexError, EngineFailed, NotResident, Overloaded
from cortex.harness.base import LoadOrder, Tokenising
from cortex.harness.losses import Crash
from cortex.harness.watch import Limits
from cortex.harness.worker import DeviceWorker

# As its thread is called, which has nothing to do, and what crashes are noted under.
PLACE: Final = "vocabulary-0"
# The largest vocabularies of today, of 262144 tokens, take some 300 MiB each while they are here.
MOST: Final = 2
IDLE_S: Final = 60.0
LINE_S: Final = 30.0
LOOK_S: Final = 1.0  # at one that is asked something longer than it is kept
GONE_S: Final = 15.0  # after its own time to end, a child is killed


@dataclass(slots=True, eq=False)
class _Child:
    """One model's child. `arrived` is set when it can be asked, or `error` says why it never can."""

    order: LoadOrder
    used_at: float
    users: int = 0
    arrived: trio.Event = field(default_factory=trio.Event)
    error: CortexError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def leaving(self) -> bool:
        return self.scope.cancel_called


class Vocabularies:
    """`crashed` is told of every child that died. `run` must be running."""

    def __init__(self, limits: Limits, crashed: Callable[[Crash], None], *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._worker = DeviceWorker(PLACE, limits=limits)
        self._worker.on_crash, self._worker.on_death = crashed, self._died
        self._children: dict[str, _Child] = {}
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the children until cancelled; then none of them is left."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._worker.run)
            self._nursery = nursery
            task_status.started()

    async def tokenise(self, harness: Tokenising, order: LoadOrder, text: str) -> tuple[int, ...]:
        """Token ids of `text`, as the engine that `order` loads would have them."""
        async with self._held(harness, order) as model:
            return await self._worker.tokenise(model, text)

    async def detokenise(self, harness: Tokenising, order: LoadOrder, ids: Sequence[int]) -> str:
        """The text of `ids`, likewise."""
        async with self._held(harness, order) as model:
            return await self._worker.detokenise(model, ids)

    @asynccontextmanager
    async def _held(self, harness: Tokenising, order: LoadOrder) -> AsyncIterator[str]:
        """The name of the child to ask in the block. One that nobody waits for any more does not come."""
        # What else the model is loaded with has no say in its tokens.
        order = replace(order, digest=order.digest.partition("+")[0], draft=None, lora=())
        child = await self._child(harness, order)
        try:
            await child.arrived.wait()
            if child.error is not None:
                raise child.error
            yield order.model
        except NotResident as error:  # it died, unasked, since it arrived
            raise EngineFailed(f"{order.model}: what had its tokens is gone; ask again") from error
        except EngineFailed:
            child.scope.cancel()  # it may live on, and fail at whatever it is asked
            raise
        finally:
            child.users -= 1
            child.used_at = trio.current_time()
            if not child.users and not child.arrived.is_set():
                child.scope.cancel()
            self._stir()

    async def _child(self, harness: Tokenising, order: LoadOrder) -> _Child:
        """The model's child, with one more user; begun if there is none."""
        with trio.move_on_after(LINE_S):
            while (child := self._found(order) or self._begun(harness, order)) is None:
                await self._changed.wait()
            return child
        raise Overloaded(
            f"Tokens of {MOST} other models that are not loaded are being counted; load '{order.model}', "
            "or try again in a moment"
        )

    def _found(self, order: LoadOrder) -> _Child | None:
        child = self._children.get(order.model)
        if child is None or child.leaving or child.order != order:
            return None
        child.users += 1
        return child

    def _begun(self, harness: Tokenising, order: LoadOrder) -> _Child | None:
        """A new one, where there is room; else room is made, if somebody can leave."""
        former = self._children.get(order.model)
        idle = [child for child in self._children.values() if not child.users]
        if former is not None:
            # The file has changed since: nobody new is told of the old one.
            if former in idle:
                former.scope.cancel()
            return None
        if len(self._children) >= MOST:
            if idle and not any(child.leaving for child in idle):
                min(idle, key=lambda child: child.used_at).scope.cancel()
            return None
        assert self._nursery is not None  # noqa: S101 - whoever asks asks a neuron that runs
        child = self._children[order.model] = _Child(order, trio.current_time(), users=1)
        self._nursery.start_soon(self._live, child, harness)
        return child

    async def _live(self, child: _Child, harness: Tokenising) -> None:
        """From its load until nobody has asked it for a while, or it is sent away or died."""
        model = child.order.model
        try:
            with child.scope:
                await self._worker.load(harness.vocabulary, child.order, isolated=True)
                child.arrived.set()
                await self._kept(child)
        except CortexError as error:
            child.error = error
        finally:
            with trio.move_on_after(GONE_S, shield=True), suppress(CortexError):
                await self._worker.unload(model)
            del self._children[model]
            child.arrived.set()
            self._stir()

    async def _kept(self, child: _Child) -> None:
        """Nobody has asked the child for a while."""
        while True:
            left_s = child.used_at + self._idle_s - trio.current_time()
            if left_s <= 0 and not child.users:
                return
            await trio.sleep(max(left_s, LOOK_S))

    def _died(self, model: str, why: str) -> None:
        if (child := self._children.get(model)) is not None:
            child.scope.cancel()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
