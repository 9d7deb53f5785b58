"""Whom to send away when a model needs room.

A decision, not a deed: nothing is unloaded here and nothing is logged, because the
same question is asked again for every waiting request and every place. The ledger
acts on the answer. The choice is by true bytes in each room: the coldest come into
question, no more of them than it takes, and of those as few as possible go.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cortex.places import Newcomer, Place, Resident


@dataclass(frozen=True, slots=True)
class Rules:
    """How to choose. "lru": coldest first. "priority": lowest class first, then coldest,
    and nobody of a higher class than the newcomer."""

    strategy: Literal["lru", "priority"]
    min_residency_s: float


def victims(
    place: Place, newcomer: Newcomer, patient: bool = False, *, now: float, rules: Rules
) -> tuple[str, ...] | None:
    """Models to send away so that `newcomer` fits, coldest first.

    Empty when there is room already; None when even sending away everybody who may go
    would not make enough. Pinned, seated, loading and young residents stay. What is loading and
    nobody waits for goes before all others. `patient` asks who would go in time: as if the seated
    had stood up, the loading and the young were old, and the leaving gone.
    """
    short = _short(place, newcomer, patient)
    chosen: list[Resident] = []
    for resident in sorted(place, key=lambda r: _order(r, newcomer, rules)):
        if _enough(short, chosen):
            break
        if _may_go(resident, newcomer, rules) and (patient or movable(resident, now, rules)):
            chosen.append(resident)
    if not _enough(short, chosen):
        return None
    return tuple(resident.model for resident in _fewest(short, chosen))


def would_do(place: Place, newcomer: Newcomer, models: Iterable[str], rules: Rules) -> bool:
    """Whether `newcomer` fits once `models` have left, all of which live there and may go in time."""
    leaving = [place.residents.get(model) for model in models]
    there = [resident for resident in leaving if resident is not None]
    may_go = all(_may_go(resident, newcomer, rules) for resident in there)
    return len(there) == len(leaving) and may_go and _enough(_short(place, newcomer, True), there)


def beside(place: Place, first: Newcomer, second: Newcomer, models: Iterable[str]) -> bool:
    """Whether both newcomers fit once `models` have left: the one does not cost the other its room."""
    rooms = {*first.need, *second.need}
    both = Newcomer({room: first.need.get(room, 0) + second.need.get(room, 0) for room in rooms})
    leaving = [place.residents[model] for model in models if model in place.residents]
    return _enough(_short(place, both, True), leaving)


def of_age_at(resident: Resident, rules: Rules) -> float:
    """From when on its age no longer keeps `resident` where it is."""
    return resident.loaded_at + rules.min_residency_s


def movable(resident: Resident, now: float, rules: Rules) -> bool:
    """Whether a resident could leave at this moment: it is all there, nobody sits there, and it
    is not young; or it is on its way in and nobody waits for it."""
    if resident.phase == "loading":
        return resident.unwanted
    return resident.idle and now >= of_age_at(resident, rules)


def stays(resident: Resident, newcomer: Newcomer, *, now: float, rules: Rules) -> str | None:
    """Why `resident` does not make room for `newcomer` at this moment; None when it would."""
    if _may_go(resident, newcomer, rules) and movable(resident, now, rules):
        return None
    if resident.pinned:
        return "is pinned"
    if resident.phase in ("loading", "leaving"):
        return f"is {resident.phase}"
    if not _may_go(resident, newcomer, rules):
        return f"has priority {resident.priority}, above {newcomer.priority}"
    if not resident.idle:
        return f"has {max(resident.seats, resident.busy)} in flight"
    return f"is young for {of_age_at(resident, rules) - now:.0f} s more"


def _may_go(resident: Resident, newcomer: Newcomer, rules: Rules) -> bool:
    if resident.pinned or resident.phase == "leaving":
        return False
    return rules.strategy == "lru" or resident.priority <= newcomer.priority


def _order(resident: Resident, newcomer: Newcomer, rules: Rules) -> tuple[bool, bool, int, float, str]:
    rank = resident.priority if rules.strategy == "priority" else 0
    stays = resident.model not in newcomer.prefer
    return (not resident.unwanted, stays, rank, resident.last_used, resident.model)


def _short(place: Place, newcomer: Newcomer, patient: bool) -> dict[str, int]:
    """Missing bytes, by the rooms where any are."""
    missing = {room: need - place.free(room) for room, need in newcomer.need.items()}
    for resident in place if patient else ():
        if resident.phase == "leaving":
            missing = {room: count - resident.room_bytes.get(room, 0) for room, count in missing.items()}
    return {room: count for room, count in missing.items() if count > 0}


def _enough(short: Mapping[str, int], chosen: Collection[Resident]) -> bool:
    return all(
        sum(resident.room_bytes.get(room, 0) for resident in chosen) >= missing
        for room, missing in short.items()
    )


def _fewest(short: Mapping[str, int], chosen: list[Resident]) -> list[Resident]:
    """`chosen` without those who need not go. The small ones are let off first, which leaves the
    fewest to go from one room; of equals the warmest is."""
    left = list(chosen)
    for resident in sorted(reversed(chosen), key=lambda r: sum(r.room_bytes.get(room, 0) for room in short)):
        rest = [other for other in left if other is not resident]
        if _enough(short, rest):
            left = rest
    return left
