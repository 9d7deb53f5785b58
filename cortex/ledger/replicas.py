"""Who serves a model, in the router's order, without a look at all of them.

One model's replicas that serve, filed by how busy they are. Whoever changes a resident or its place
says so by `touch`; it is filed anew when somebody asks next. The order is that of `router.rank`.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from cortex import router
from cortex.places import Place, Resident

# How busy, and the points on the ring of affinity.
_Filed: TypeAlias = tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class _Level:
    """Who is equally busy: by name, and by points on the ring of affinity."""

    names: list[str] = field(default_factory=list)
    # Made when somebody asks, and kept up from there on: most are gone before anybody does.
    rows: list[tuple[int, str]] | None = None

    def add(self, name: str, points: Iterable[int]) -> None:
        insort(self.names, name)
        if self.rows is not None:
            for point in points:
                insort(self.rows, (point, name))

    def remove(self, name: str, points: Iterable[int]) -> None:
        del self.names[bisect_left(self.names, name)]
        if self.rows is not None:
            for point in points:
                del self.rows[bisect_left(self.rows, (point, name))]

    def nearest(self, affinity: str, filed: Mapping[str, "_Filed"]) -> Iterator[str]:
        """All of them, best first; `filed` has their points."""
        if not affinity or len(self.names) == 1:
            return iter(self.names)
        if self.rows is None:
            self.rows = sorted((point, name) for name in self.names for point in filed[name][1])
        return router.nearest(self.rows, affinity)


@dataclass(slots=True)
class Replicas:
    """Those of `model`, at the ledger's places."""

    model: str
    _places: Mapping[str, Place]
    _touched: set[str]
    _filed: dict[str, "_Filed"] = field(default_factory=dict)
    _levels: dict[int, _Level] = field(default_factory=dict)
    # Those at places that need not prove themselves.
    _proven: set[str] = field(default_factory=set)

    def touch(self, name: str) -> None:
        """Something has changed at that place."""
        self._touched.add(name)

    def ranked(self, affinity: str, avoid: Collection[str] = ()) -> Iterator[router.Ranked]:
        """Who serves, best first, but at places to `avoid`. Nothing may change while it is gone through."""
        self._freshen()
        for busy in sorted(self._levels):
            for name in self._levels[busy].nearest(affinity, self._filed):
                if name not in avoid:
                    place = self._places[name]
                    yield place, place.residents[self.model]

    def first(self, affinity: str | None) -> tuple[Place, Resident, router.Route] | None:
        """Whom `ranked` would tell first, and what decides for him. None where nobody serves, or where
        affinity decides and is None, since nobody has looked for it yet."""
        if (only := self.only()) is not None:
            return *only, "only-replica"
        self._freshen()
        if not self._levels:
            return None
        level = self._levels[min(self._levels)]
        if (tied := len(level.names) > 1) and affinity is None:
            return None
        route: router.Route = "by-name"
        if not tied:
            route = "only-replica" if len(self._filed) == 1 else "least-busy"
        elif affinity:
            route = "affinity"
        place = self._places[next(level.nearest(affinity or "", self._filed))]
        return place, place.residents[self.model], route

    def only(self) -> router.Ranked | None:
        """Who serves, where that is one alone and there is no need to file anybody anew; None says
        nothing."""
        if len(self._filed) != 1:
            return None
        (name,) = self._filed
        if self._touched and (len(self._touched) > 1 or name not in self._touched):
            return None
        place = self._places.get(name)
        if place is None or not place.ready:
            return None
        resident = place.residents.get(self.model)
        return (place, resident) if resident is not None and resident.servable else None

    def proven(self, avoid: Collection[str] = ()) -> bool:
        """Whether somebody serves who need not prove himself, but at places to `avoid`."""
        self._freshen()
        return any(name not in avoid for name in self._proven)

    def widest(self, enough: int, avoid: Collection[str] = ()) -> int | None:
        """The most slots that one who serves has; None when somebody has `enough`."""
        most = 0
        for name in self._filed:
            if name not in avoid:
                slots = self._places[name].residents[self.model].slots
                if slots is None or slots >= enough:
                    return None
                most = max(most, slots)
        return most

    def _freshen(self) -> None:
        for name in self._touched:
            place = self._places.get(name)
            resident = None if place is None else place.residents.get(self.model)
            if place is None or resident is None or not place.ready or not resident.servable:
                self._file(name, None)
                self._proven.discard(name)
            else:
                self._file(name, resident.busy)
                (self._proven.add if place.most is None else self._proven.discard)(name)
        self._touched.clear()

    def _file(self, name: str, busy: int | None) -> None:
        filed = self._filed.get(name)
        if filed is not None and filed[0] == busy:
            return
        points = router.points(name) if filed is None else filed[1]
        if filed is not None:
            del self._filed[name]
            level = self._levels[filed[0]]
            level.remove(name, points)
            if not level.names:
                del self._levels[filed[0]]
        if busy is not None:
            self._filed[name] = busy, points
            self._levels.setdefault(busy, _Level()).add(name, points)
