"""Which replica serves a request, and where a cold model goes.

Pure: the same question gives the same answer, and asking changes nothing. `rank`
looks only at those who hold the model; `placements` looks at the whole fleet, and is
asked only when nobody does.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cortex.catalogue import ModelSpec
from cortex.places import Newcomer, Place, Resident, Room
from cortex.units import size

# Who leaves a place for a newcomer; with True, who would once the seated have stood up.
Victims: TypeAlias = Callable[[Place, Newcomer, bool], tuple[str, ...] | None]


@dataclass(frozen=True, slots=True)
class Placement:
    """A way to bring a model in: the rooms it takes, who leaves, and what that costs.

    `cost` is bytes x measured load seconds of those who leave: what bringing them back
    would take. `must_wait` says that some of them are seated or young at present.
    """

    place: Place
    newcomer: Newcomer
    victims: tuple[str, ...]
    cost: float
    must_wait: bool


def rank(holders: Iterable[tuple[Place, Resident]], affinity: str = "") -> list[tuple[Place, Resident]]:
    """Servable replicas, best first: least busy; among equals the one that `affinity`
    points to, so that a conversation finds its prefix again; then by name."""
    return sorted(
        ((place, resident) for place, resident in holders if place.ready and resident.servable),
        key=lambda pair: (pair[1].busy, _distance(affinity, pair[0].name), pair[0].name),
    )


def never(spec: ModelSpec, need_bytes: int, place: Place) -> str | None:
    """Why `place` could not hold `spec` even if it were empty; None when it could."""
    if spec.pinned_on and place.name not in spec.pinned_on:
        return f"the catalogue pins it on {', '.join(spec.pinned_on)}"
    if not place.ready and not place.rooms:
        return None  # never seen: nobody can rule it out
    if any(True for _ in _shares(spec, need_bytes, place)):
        return None
    if not any(spec.runs_on(room) for room in place.rooms):
        return f"it has no device for harness {spec.harness_name}"
    wanted = "a device" if spec.min_devices == 1 else f"{spec.min_devices} devices, each"
    return f"it needs {wanted} with {size(_share(spec, need_bytes))} of memory"


def placements(
    spec: ModelSpec,
    need_bytes: int,
    places: Iterable[Place],
    victims: Victims,
    prefer: Sequence[str] = (),
) -> list[Placement]:
    """Every ready place that could take `spec`, best first.

    Room that is free at once, then the cheapest eviction, then what is possible once
    seats are given back; within each the most free bytes, then the name.
    """
    found: list[Placement] = []
    for place in places:
        if place.ready and never(spec, need_bytes, place) is None:
            for need in _shares(spec, need_bytes, place):
                found.extend(_ways(place, Newcomer(need, spec.priority, tuple(prefer)), victims))
    return sorted(
        found,
        key=lambda p: (p.must_wait, bool(p.victims), p.cost, len(p.victims), -_free(p), p.place.name),
    )


def _ways(place: Place, newcomer: Newcomer, victims: Victims) -> Iterator[Placement]:
    for must_wait in (False, True):
        chosen = victims(place, newcomer, must_wait)
        if chosen is not None:
            leaving = [place.residents[model] for model in chosen]
            cost = sum(resident.bytes * max(resident.load_s, 1.0) for resident in leaving)
            yield Placement(place, newcomer, chosen, cost, must_wait)
            return


def _shares(spec: ModelSpec, need_bytes: int, place: Place) -> Iterator[dict[str, int]]:
    """Every way to lay the bytes out over the rooms of `place`, were it empty: in as few of one
    group as it takes. Several rooms share evenly where that fits, else by their size."""
    share = _share(spec, need_bytes)
    for group, rooms in _groups(spec, place).items():
        large = [room for room in rooms if room.total_bytes >= share]
        if spec.min_devices == 1 and large:
            yield from ({room.name: need_bytes} for room in large)
        elif len(large) >= spec.min_devices:
            chosen = sorted(large, key=lambda room: -place.free(room.name))[: spec.min_devices]
            yield {room.name: -(-need_bytes // spec.min_devices) for room in chosen}
        elif group is not None and (spread := _spread(spec, need_bytes, rooms)) is not None:
            yield spread


def _groups(spec: ModelSpec, place: Place) -> dict[str | None, list[Room]]:
    groups: dict[str | None, list[Room]] = {}
    for room in place.rooms.values():
        if spec.runs_on(room.name):
            groups.setdefault(room.group, []).append(room)
    return groups


def _spread(spec: ModelSpec, need_bytes: int, rooms: list[Room]) -> dict[str, int] | None:
    """By size over the fewest rooms that hold it, the largest first."""
    fit = [room for room in rooms if room.total_bytes >= max(spec.min_device_memory, 1)]
    largest = sorted(fit, key=lambda room: (-room.total_bytes, room.name))
    for count in range(spec.min_devices, len(largest) + 1):
        total = sum(room.total_bytes for room in largest[:count])
        if total >= need_bytes:
            return {room.name: -(-need_bytes * room.total_bytes // total) for room in largest[:count]}
    return None


def _share(spec: ModelSpec, need_bytes: int) -> int:
    return max(spec.min_device_memory, -(-need_bytes // spec.min_devices))


def _free(placement: Placement) -> int:
    return sum(placement.place.free(room) for room in placement.newcomer.need)


def _distance(affinity: str, name: str) -> int:
    # Rendezvous hashing: every gateway points a key at the same neuron, and when one
    # neuron goes only its own keys move.
    if not affinity:
        return 0
    digest = hashlib.blake2b(f"{affinity}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)
