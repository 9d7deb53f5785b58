"""A model of several devices has a share of its bytes on each.

The ledger reserved the shares; the engine is told them, and what it took in all is laid out over
the devices as they were, since no engine tells more.
"""

from collections.abc import Mapping
from dataclasses import replace

from cortex.errors import DoesNotFit, Fact
from cortex.harness.base import LoadOrder
from cortex.places import Place
from cortex.units import size


def aimed(order: LoadOrder, place: Place, model: str) -> LoadOrder:
    """`order` with the devices that the ledger has reserved at `place` for `model`."""
    reserved = place.residents[model].room_bytes
    return replace(order, device=next(iter(reserved)), shares=dict(reserved))


def split(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """`total` bytes over the devices, by their shares; the first has what does not divide."""
    whole = sum(shares.values())
    if len(shares) == 1 or not whole:
        return {device: total if at == 0 else 0 for at, device in enumerate(shares)}
    parts = {device: total * share // whole for device, share in shares.items()}
    parts[next(iter(parts))] += total - sum(parts.values())
    return parts


def short(error: DoesNotFit, order: LoadOrder, place: Place) -> DoesNotFit:
    """What an engine said that ran out of memory, with the figures of its devices."""
    free = {device: max(0, place.free(device) + share) for device, share in order.shares.items()}
    facts: dict[str, Fact] = {
        "needed_bytes": sum(order.shares.values()),
        "needed_by_device": dict(order.shares),
        "free_bytes": max(free.values(), default=0),
        "free_by_device": free,
    }
    told = ", ".join(f"{device} had {size(count)} free" for device, count in free.items())
    return DoesNotFit(f"{error.message} ({told})", facts={**facts, **error.facts})
