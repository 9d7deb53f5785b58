"""An order of a load ranks at its neuron as the best of those who wait for it here.

It carries key and share of whoever caused the load. When somebody joins who is to have room sooner,
the order is sent once more, in his name: the neuron joins both, and goes by the better one. The first
order is the load; what becomes of the others is nobody's matter.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import trio

from cortex.errors import CortexError
from cortex.ledger import Load, Want

log = logging.getLogger(__name__)

T = TypeVar("T")
# Whether the first is to have room before the second.
Outranks: TypeAlias = Callable[[Want, Want], bool]


@dataclass(slots=True, eq=False)
class _Order:
    """One under way. `best` is in whose name it was sent last, and each key once at most."""

    nursery: trio.Nursery
    send: Callable[[Want], Awaitable[object]]
    best: Want
    keys: set[str] = field(default_factory=set)


class Raising:
    """Orders under way, by load."""

    def __init__(self, outranks: Outranks) -> None:
        self._outranks = outranks
        self._orders: dict[Load, _Order] = {}

    async def hold(self, load: Load, send: Callable[[Want], Awaitable[T]]) -> T:
        """What `send` answers for whoever caused the load, and raises. Until then it may be sent again."""
        async with trio.open_nursery() as nursery:
            self._orders[load] = _Order(nursery, send, load.want, {load.want.key})
            try:
                answer: T | Exception = await send(load.want)
            except Exception as error:  # noqa: BLE001 - raised below, out of the group
                answer = error
            finally:
                del self._orders[load]
            nursery.cancel_scope.cancel()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def joined(self, load: Load, want: Want) -> None:
        """Somebody waits for a load under way."""
        order = self._orders.get(load)
        if order is None or want.key in order.keys or not self._outranks(want, order.best):
            return
        order.best = want
        order.keys.add(want.key)
        order.nursery.start_soon(self._again, order, want)

    async def _again(self, order: _Order, want: Want) -> None:
        log.info("load.raised model=%s key=%s", want.model, want.key)
        try:
            await order.send(want)
        except CortexError as error:
            log.info("load.not_raised model=%s key=%s error=%s", want.model, want.key, error.message)
