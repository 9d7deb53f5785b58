"""The choice between places: steps 2 and 4 of the list, and what no place could ever hold.

`rank` looks only at those who hold the model; `placements` looks at places that may take it, and is
asked only when nobody holds it. Both sort by a merit with named parts, so that the part in which
two places differ can be told.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from cortex.catalogue import ModelSpec
from cortex.places import Newcomer, Place, Resident, Room
from cortex.router.affinity import distance
from cortex.units import size

# Who leaves a place for a newcomer; with True, who would once the seated have stood up.
Victims: TypeAlias = Callable[[Place, Newcomer, bool], tuple[str, ...] | None]
Ranked: TypeAlias = tuple[Place, Resident]
# How a request came to its replica, in one word for its log line. "cold" ones waited for a load,
# and with "next-free" all better ones had no seat left.
Route: TypeAlias = Literal["cold", "only-replica", "least-busy", "affinity", "by-name", "next-free"]
# Of a place that was never seen: more than any model has.
UNKNOWN_BYTES: Final = 2**62
# Why a place could never hold a model.
Bar: TypeAlias = Literal["pinned_elsewhere", "no_device", "too_few_devices", "too_small"]


@dataclass(frozen=True, slots=True)
class Placement:
    """A way to bring a model in: the rooms it takes, who leaves, and what that costs.

    `cost` is what those who leave are worth (see `worth`). `must_wait` says that some of them are
    seated or young at present.
    """

    place: Place
    newcomer: Newcomer
    victims: tuple[str, ...]
    cost: float
    must_wait: bool


def _anybody(resident: Resident) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Question:
    """Where a cold model could go at the time `now`. Those of `prefer` leave before others do. Whom
    `leaves` says no of leaves at this moment for nobody: that spares a look at places."""

    spec: ModelSpec
    need_bytes: int
    victims: Victims
    now: float
    prefer: tuple[str, ...] = ()
    leaves: Callable[[Resident], bool] = _anybody


class Calm(NamedTuple):
    """What speaks for a replica; the least wins."""

    busy: int
    distance: int
    name: str


class Merit(NamedTuple):
    """What speaks for a placement; the least wins."""

    must_wait: bool
    evicts: bool
    cost: float
    leaving: int
    minus_free: int
    name: str


def rank(holders: Iterable[Ranked], affinity: str = "") -> list[Ranked]:
    """Servable replicas, best first: least busy; among equals the one that `affinity`
    points to, so that a conversation finds its prefix again; then by name."""
    servable = [(place, resident) for place, resident in holders if place.ready and resident.servable]
    return sorted(servable, key=lambda pair: calm(pair, affinity))


def calm(pair: Ranked, affinity: str) -> Calm:
    """What `rank` sorts by."""
    place, resident = pair
    return Calm(resident.busy, distance(affinity, place.name), place.name)


def route(ranked: Sequence[Ranked], taken: int, affinity: str) -> Route:
    """What decided for the replica at index `taken`; of those that are `ranked` two are enough."""
    if len(ranked) == 1:
        return "only-replica"
    if taken:
        return "next-free"
    if ranked[0][1].busy < ranked[1][1].busy:
        return "least-busy"
    return "affinity" if affinity else "by-name"


def never(spec: ModelSpec, need_bytes: int, place: Place) -> str | None:
    """Why `place` could not hold `spec` even if it were empty; None when it could."""
    found = barred(spec, need_bytes, place)
    return None if found is None else found[1]


def barred(spec: ModelSpec, need_bytes: int, place: Place) -> tuple[Bar, str] | None:
    """As `never`, with the kind of reason."""
    if spec.pinned_on and place.name not in spec.pinned_on:
        return "pinned_elsewhere", f"the catalogue pins it on {', '.join(spec.pinned_on)}"
    if not place.ready and not place.rooms:
        return None  # never seen: nobody can rule it out
    most = most_bytes(spec, place)
    if most is not None and need_bytes <= most:
        return None
    able = [room for room in place.rooms.values() if spec.runs_on(room.name)]
    if not able:
        return "no_device", f"it has no device for harness {spec.harness_name}"
    wanted = "a device" if spec.min_devices == 1 else f"{spec.min_devices} devices, each"
    text = f"it needs {wanted} with {size(_share(spec, need_bytes))} of memory"
    return ("too_few_devices" if len(able) < spec.min_devices else "too_small"), text


def most_bytes(spec: ModelSpec, place: Place) -> int | None:
    """How large `spec` could be at most to be held by `place`, were that empty and its bytes all that
    is left open: there are `shares` up to that, and none beyond. None when it could not be there at all."""
    if not place.ready and not place.rooms:
        return UNKNOWN_BYTES
    found: list[int] = []
    for group, rooms in _groups(spec, place).items():
        totals = sorted((room.total_bytes for room in rooms), reverse=True)
        fit = [total for total in totals if total >= spec.min_device_memory]
        if len(fit) >= spec.min_devices:
            found.append(spec.min_devices * fit[spec.min_devices - 1])
            if group is not None and fit[spec.min_devices - 1]:
                found.append(sum(fit))
    return max(found, default=None)


def placements(question: Question, places: Iterable[Place]) -> list[Placement]:
    """Every ready place that could take the model, best first.

    Room that is free at once, then the cheapest eviction, then what is possible once
    seats are given back; within each the most free bytes, then the name.
    """
    return sorted((way for place in places for way in ways(question, place)), key=merit)


def ways(question: Question, place: Place) -> list[Placement]:
    """How the model could come in at one place, by its rooms."""
    spec, need = question.spec, question.need_bytes
    if not place.ready or never(spec, need, place) is not None:
        return []
    found = (
        _way(question, place, Newcomer(share, spec.priority, question.prefer))
        for share in shares(spec, need, place)
    )
    return [way for way in found if way is not None]


def merit(way: Placement) -> Merit:
    """What `placements` sorts by."""
    free = sum(way.place.free(room) for room in way.newcomer.need)
    return Merit(way.must_wait, bool(way.victims), way.cost, len(way.victims), -free, way.place.name)


def worth(resident: Resident, now: float) -> float:
    """What it costs to send `resident` away: the longer nobody has used it, the longer its return is
    likely to be off. What is on its way in is as good as used at this moment, or worth nothing where
    nobody wants it."""
    if resident.phase == "loading":
        return 0.0 if resident.unwanted else weight(resident)
    return weight(resident) / max(now - resident.last_used, 1.0)


def weight(resident: Resident) -> float:
    """Bytes x load seconds: what bringing it back takes."""
    return resident.bytes * max(resident.load_s, 1.0)


def _way(question: Question, place: Place, newcomer: Newcomer) -> Placement | None:
    for must_wait in (False, True):
        chosen = question.victims(place, newcomer, must_wait)
        if chosen is not None:
            cost = sum(worth(place.residents[model], question.now) for model in chosen)
            return Placement(place, newcomer, chosen, cost, must_wait)
    return None


def shares(spec: ModelSpec, need_bytes: int, place: Place) -> Iterator[dict[str, int]]:
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
