"""Whom to send away when a model needs room.

A decision, not a deed: nothing is unloaded here and nothing is logged, because the
same question is asked again for every waiting request and every place. The ledger
acts on the answer. The choice is by true bytes in each room, and nobody is sent
away whose leaving is not needed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from cortex.places import Newcomer, Place, Resident


@dataclass(frozen=True, slots=True)
class Rules:
    """How to choose. "lru": coldest first. "priority": lowest class first, then coldest,
    and nobody of a higher class than the newcomer."""

    strategy: Literal["lru", "priority"] = "lru"
    min_residency_s: float = 30.0


def victims(
    place: Place, newcomer: Newcomer, patient: bool = False, *, now: float, rules: Rules
) -> tuple[str, ...] | None:
    """Models to send away so that `newcomer` fits, coldest first.

    Empty when there is room already; None when even sending away everybody who may go
    would not make enough. Pinned, seated, loading and young residents stay; `patient`
    asks as if the seated had stood up and the young were old: who would go in time.
    """
    short = {room: need - place.free(room) for room, need in newcomer.need.items()}
    chosen: list[Resident] = []
    for resident in sorted(place, key=lambda r: _order(r, newcomer, rules)):
        if _enough(short, chosen):
            break
        if _may_go(resident, newcomer, rules) and (patient or movable(resident, now, rules)):
            chosen.append(resident)
    if not _enough(short, chosen):
        return None
    # Coldest first may have taken small ones on the way to a large one that is enough alone.
    for resident in reversed(chosen[:-1]):
        rest = [other for other in chosen if other is not resident]
        if _enough(short, rest):
            chosen = rest
    return tuple(resident.model for resident in chosen)


def movable(resident: Resident, now: float, rules: Rules) -> bool:
    """Whether a resident could leave at this moment: nobody sits there, and it is not young."""
    return resident.idle and now - resident.loaded_at >= rules.min_residency_s


def _may_go(resident: Resident, newcomer: Newcomer, rules: Rules) -> bool:
    if resident.pinned or resident.phase not in ("loaded", "recovering"):
        return False
    return rules.strategy == "lru" or resident.priority <= newcomer.priority


def _order(resident: Resident, newcomer: Newcomer, rules: Rules) -> tuple[bool, int, float, str]:
    rank = resident.priority if rules.strategy == "priority" else 0
    return (resident.model not in newcomer.prefer, rank, resident.last_used, resident.model)


def _enough(short: Mapping[str, int], chosen: Collection[Resident]) -> bool:
    return all(
        sum(resident.room_bytes.get(room, 0) for resident in chosen) >= missing
        for room, missing in short.items()
        if missing > 0
    )
