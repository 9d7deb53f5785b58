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
from cortex.places import Newcomer, Place, Resident
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
    share = _share(spec, need_bytes)
    large = sum(room.total_bytes >= share for room in place.rooms.values())
    if large < spec.min_devices:
        wanted = "a device" if spec.min_devices == 1 else f"{spec.min_devices} devices, each"
        return f"it needs {wanted} with {size(share)} of memory"
    return None


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
            for rooms in _rooms(spec, need_bytes, place):
                newcomer = Newcomer(
                    dict.fromkeys(rooms, -(-need_bytes // len(rooms))), spec.priority, tuple(prefer)
                )
                found.extend(_ways(place, newcomer, victims))
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


def _rooms(spec: ModelSpec, need_bytes: int, place: Place) -> Iterator[tuple[str, ...]]:
    share = _share(spec, need_bytes)
    large = [room for room in place.rooms if place.rooms[room].total_bytes >= share]
    if spec.min_devices == 1:
        yield from ((room,) for room in large)
    else:
        yield tuple(sorted(large, key=lambda room: -place.free(room))[: spec.min_devices])


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
