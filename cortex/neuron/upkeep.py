"""Keeps the devices in order while nobody asks: idle models leave, worn devices are emptied and refilled.

The ledger knows when; here is the deed. A request that comes in the same moment wins, or waits for
the model to come back: it is never refused for it. Allocators leave holes behind after many loads.
After so many of them a device is emptied once it is quiet, its pools are given back, what is then
still held (the floor) is measured, and all who lived there come in again. A floor that rises from
one time to the next is a leak, which /health warns of.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import Final, TypeAlias

import trio

from cortex.dispatch import Dispatch
from cortex.errors import CortexError
from cortex.metrics import Metrics
from cortex.neuron.residents import Residents
from cortex.neuron.terms import Terms
from cortex.places import Place, Resident
from cortex.units import size

log = logging.getLogger(__name__)

# A program that asks in a loop pauses for milliseconds between two requests: it would always be
# the one to wait for the reload.
QUIET_S: Final = 1.0
# Libraries keep caches of their own, and figures flutter; a leak is beyond both after a few rounds.
FLOOR_SLACK_BYTES: Final = 64 * 2**20
DEFRAG: Final = "its memory is being tidied up"

# Bytes of some devices that this process holds, by a fresh look.
Measure: TypeAlias = Callable[[Iterable[str]], Awaitable[int]]


class Upkeep:
    """`run` must be running."""

    def __init__(
        self, residents: Residents, dispatch: Dispatch, metrics: Metrics, terms: Terms, measure: Measure
    ) -> None:
        self._residents, self._dispatch, self._metrics = residents, dispatch, metrics
        self._terms, self._measure = terms, measure
        self._floors: dict[str, int] = {}
        self._leaks: dict[str, str] = {}

    @property
    def warnings(self) -> list[str]:
        """What the operator should know, for /health."""
        return list(self._leaks.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See to it until cancelled."""
        ledger = self._dispatch.ledger
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                for place, resident in ledger.idle():
                    self._send_away(nursery, place, resident)
                for place in ledger:
                    if self._defrag_at(place) <= trio.current_time():
                        nursery.start_soon(self._defrag, place, ledger.clear(place.name, DEFRAG))
                due = min((self._defrag_at(place) for place in ledger), default=inf)
                with trio.move_on_at(min(due, ledger.idle_due)):
                    await self._dispatch.changed()

    # -- idle -------------------------------------------------------------------------------

    def _send_away(self, nursery: trio.Nursery, place: Place, resident: Resident) -> None:
        ledger, model = self._dispatch.ledger, resident.model
        idle_s = trio.current_time() - resident.last_used
        ledger.leaving(place.name, model)
        log.info("idle.unloading model=%s place=%s idle_s=%.0f", model, place.name, idle_s)
        self._metrics.evicted("idle")
        nursery.start_soon(self._unload, place.name, model)

    async def _unload(self, place: str, model: str) -> None:
        try:
            await self._residents.unload(place, model)
        except CortexError as error:
            log.error("unload.failed model=%s place=%s error=%s", model, place, error.message)

    # -- defrag -----------------------------------------------------------------------------

    def _defrag_at(self, place: Place) -> float:
        """When `place` is to be emptied, as things stand; infinity for not before they change."""
        limit = self._terms.defrag_after_cycles
        if not limit or self._residents.cycles(place.name) < limit:
            return inf
        quiet_since = self._dispatch.ledger.quiet_since(place.name)
        return inf if quiet_since is None else quiet_since + QUIET_S

    async def _defrag(self, place: Place, away: list[Resident]) -> None:
        """The place is empty for a moment, and then has those again that are `away`. Whoever comes
        meanwhile waits."""
        ledger, name, began = self._dispatch.ledger, place.name, trio.current_time()
        models = ",".join(resident.model for resident in away) or "-"
        log.info("defrag.started place=%s cycles=%d models=%s", name, self._residents.cycles(name), models)
        self._residents.count_anew(name)
        try:
            won, floor = await self._empty(place, away)
            self._judge(name, floor)
            for resident in tuple(away):
                if await self._refill(name, resident):
                    away.remove(resident)
        except Exception:
            # The device serves on; whoever is still away comes in again when asked for.
            log.exception("defrag.crashed place=%s", name)
            return
        finally:
            ledger.reopen(name, DEFRAG, absent=away)
        self._metrics.defragged(won)
        log.info(
            "defrag.done place=%s seconds=%.1f bytes_won=%d floor_bytes=%d",
            name,
            trio.current_time() - began,
            won,
            floor,
        )

    async def _empty(self, place: Place, away: list[Resident]) -> tuple[int, int]:
        """Bytes won, and the floor."""
        for resident in away:
            await self._residents.put_down(resident.model)
        held = await self._measure(place.rooms)
        await self._residents.release(place.name)
        floor = await self._measure(place.rooms)
        return max(0, held - floor), floor

    async def _refill(self, place: str, resident: Resident) -> bool:
        try:
            facts = await self._residents.take_up(place, resident.model)
        except CortexError as error:
            log.error("defrag.lost model=%s place=%s error=%s", resident.model, place, error.message)
            return False
        self._dispatch.ledger.returned(place, resident, facts)
        return True

    def _judge(self, place: str, floor: int) -> None:
        """The first floor is what the libraries themselves need; later ones come back to it."""
        first = self._floors.setdefault(place, floor)
        self._metrics.floor_rose(place, max(0, floor - first))
        if floor <= first + max(FLOOR_SLACK_BYTES, first // 20):
            self._leaks.pop(place, None)
            return
        self._leaks[place] = (
            f"device {place} holds {size(floor)} with no model loaded, {size(floor - first)} more than "
            "before: memory leaks; restart the neuron when it can be spared"
        )
        log.warning("defrag.leak place=%s floor_bytes=%d first_bytes=%d", place, floor, first)
