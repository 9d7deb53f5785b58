"""Where there is room: places in an order in which a cold model finds the best one after a few looks.

Two lists of the ready places for each kind of device: by free bytes, and by what could be had if all
left who may ever leave. They bound what a place can offer, so that the search weighs places only until
no other can be better: its answers are those of `router.placements` over the whole fleet, which it never
looks through unless somebody has to leave and nobody is cheap. Whoever changes a place says so by
`touch`; that residents are used need not be told, since bounds only get too low by it.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, merge
from itertools import count
from math import inf
from typing import Final, TypeAlias

from cortex import router
from cortex.catalogue import KINDS, ModelSpec, computes
from cortex.places import Place

# None: a model of which nobody knows what it computes on.
Kind: TypeAlias = str | None
_EACH: Final[tuple[Kind, ...]] = (*sorted(set(KINDS.values())), None)
Shape: TypeAlias = tuple[tuple[str, int, str | None], ...]
# Answers about models that fit nowhere; enough for those that are asked for again and again.
_REMEMBERED: Final = 256


@dataclass(slots=True)
class _Outlook:
    """What is known of one place: by kind, of rooms that compute it, the free bytes of the freest one
    (`single`) and of all (`free`, where there are several), and what could be had in time (`reach`).

    A group of rooms holds together what is larger than each of them; `narrowest` is the largest room
    of the group where that is smallest. Of those who may ever leave nobody weighs less than `lightest`,
    loads within less than `quickest` seconds, or was used before `oldest`.
    """

    place: Place
    ready: bool
    shape: Shape
    single: dict[Kind, int] = field(default_factory=dict)
    free: dict[Kind, int] = field(default_factory=dict)
    reach: dict[Kind, int] = field(default_factory=dict)
    narrowest: float = inf
    most: int = 0
    largest: int | None = None
    lightest: float = inf
    quickest: float = inf
    oldest: float = inf

    @classmethod
    def of(cls, place: Place) -> "_Outlook":
        shape = tuple((room.name, room.total_bytes, room.group) for room in place.rooms.values())
        made = cls(place, place.ready, shape)
        free = {name: max(place.free(name), 0) for name in place.rooms}
        reach = {name: max(_reach(place, name), 0) for name in place.rooms}
        for kind in _EACH:
            able = [name for name in place.rooms if computes(kind, name)]
            if able:
                made.single[kind] = max(free[name] for name in able)
                made.reach[kind] = sum(reach[name] for name in able)
            if len(able) > 1:
                made.free[kind] = sum(free[name] for name in able)
        made.most = sum(free.values())
        made.narrowest = min(_widths(place), default=inf)
        made.largest = max(free.values(), default=None)
        made.weigh()
        return made

    def weigh(self) -> None:
        """The bounds of what it costs to send somebody away are those of this moment."""
        self.lightest = self.quickest = self.oldest = inf
        for one in self.place:
            if not one.pinned:
                # Of one on its way in nobody says when it becomes unwanted, and is worth nothing.
                there = one.phase != "loading"
                self.lightest = min(self.lightest, router.weight(one) if there else 0.0)
                self.quickest = min(self.quickest, max(one.load_s, 1.0) if there else 0.0)
                self.oldest = min(self.oldest, one.last_used)

    def cheapest(self, need: int, now: float) -> float:
        """No eviction here that makes room for so much costs less: who leaves has all the bytes that
        are missing, and is somebody."""
        return max(self.lightest, (need - self.most) * self.quickest) / max(now - self.oldest, 1.0)

    def in_time(self, cost: float) -> router.Merit:
        """What no way can beat that has to wait here."""
        if any(one.phase == "leaving" for one in self.place):
            return router.Merit(True, False, 0.0, 0, -self.most, "")
        return router.Merit(True, True, cost, 0, 0, "")


# Of one that takes nobody.
_NONE: Final = _Outlook(Place("", {}), False, ())


def _widths(place: Place) -> list[int]:
    """The largest room of each group of several, for each kind: models larger than that are spread."""
    widths = []
    for kind in _EACH:
        groups: dict[str | None, list[int]] = {}
        for room in place.rooms.values():
            if computes(kind, room.name):
                groups.setdefault(room.group, []).append(room.total_bytes)
        widths += [max(totals) for totals in groups.values() if len(totals) > 1]
    return widths


def _reach(place: Place, room: str) -> int:
    """Bytes that could be had in time. Who is told to go counts as gone, pinned or not."""
    fixed = sum(one.room_bytes.get(room, 0) for one in place if one.pinned and one.phase != "leaving")
    return place.rooms[room].total_bytes - place.rooms[room].other_bytes - fixed


@dataclass(slots=True)
class Sorted:
    """Places by a number of bytes, the most first."""

    _rows: list[tuple[int, str]] = field(default_factory=list)

    def put(self, name: str, before: int | None, after: int | None) -> None:
        """`name` has so many, after so many before; None where it has no row."""
        if before == after:
            return
        if before is not None:
            del self._rows[bisect_left(self._rows, (-before, name))]
        if after is not None:
            insort(self._rows, (-after, name))

    def at_least(self, need: int) -> Iterator[tuple[int, str]]:
        """Who has `need`, with minus what each has."""
        for minus, name in self._rows:
            if -minus < need:
                return
            yield minus, name

    @property
    def most(self) -> int:
        return -self._rows[0][0] if self._rows else 0


@dataclass(slots=True)
class Rooms:
    """All places of a ledger, by name, as far as room goes."""

    _places: dict[str, Place]
    _known: dict[str, _Outlook] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)
    _by_single: dict[Kind, Sorted] = field(default_factory=lambda: {kind: Sorted() for kind in _EACH})
    _by_free: dict[Kind, Sorted] = field(default_factory=lambda: {kind: Sorted() for kind in _EACH})
    _by_reach: dict[Kind, Sorted] = field(default_factory=lambda: {kind: Sorted() for kind in _EACH})
    _by_largest: Sorted = field(default_factory=Sorted)
    _away: set[str] = field(default_factory=set)
    _layout: int = 0
    _refused: dict[tuple[str, int], tuple[ModelSpec, "Verdict"]] = field(default_factory=dict)

    def touch(self, *names: str) -> None:
        """Something has changed there."""
        self._touched.update(names)

    @property
    def largest(self) -> int:
        """The most free bytes of one device of a place that is ready."""
        self._freshen()
        return self._by_largest.most

    @property
    def layout(self) -> int:
        """Another number whenever a place has other devices, comes, goes, or takes models again."""
        self._freshen()
        return self._layout

    def away(self) -> list[Place]:
        """Places that are not ready."""
        self._freshen()
        return [self._places[name] for name in sorted(self._away)]

    def ways(self, question: router.Question, out: Callable[[Place], bool]) -> Iterator[router.Placement]:
        """As `router.placements` over all places but those that are `out`, one after another."""
        self._freshen()
        kind, need = question.spec.kind, question.need_bytes
        search, seen = _Search(question), set[str]()
        # What is free at once; the one with the most is the best.
        single = self._by_single[kind].at_least(need) if question.spec.min_devices == 1 else ()
        for minus_free, name in merge(single, self._spread(question.spec, need)):
            if name not in seen:
                seen.add(name)
                yield from search.better(router.Merit(False, False, 0.0, 0, minus_free, name))
                if not out(self._places[name]):
                    search.look(self._places[name])
        yield from self._once_left(search, seen, out)

    def _once_left(
        self, search: "_Search", seen: set[str], out: Callable[[Place], bool]
    ) -> Iterator[router.Placement]:
        """Ways that cost something: somebody leaves, at once or in time. Weighed are only places where that
        might be cheaper than all that was found."""
        question, known = search.question, self._known
        need, now = question.need_bytes, question.now
        at_once = [
            (known[name].cheapest(need, now), name)
            for _, name in self._by_reach[question.spec.kind].at_least(need)
            if name not in seen
        ]
        in_time: list[tuple[router.Merit, str]] = []
        heapify(at_once)
        while at_once:
            cost, name = heappop(at_once)
            yield from search.better(router.Merit(False, True, cost, 0, 0, ""))
            if any(map(question.leaves, known[name].place)):
                self._weigh(name, search, out)
            else:
                in_time.append((known[name].in_time(cost), name))
        heapify(in_time)
        while in_time:
            merit, name = heappop(in_time)
            yield from search.better(merit)
            self._weigh(name, search, out)
        yield from search.better(None)

    def _weigh(self, name: str, search: "_Search", out: Callable[[Place], bool]) -> None:
        if not out(self._places[name]):
            search.look(self._places[name])
            self._known[name].weigh()

    def _spread(self, spec: ModelSpec, need: int) -> Iterator[tuple[int, str]]:
        """Places where several rooms together have `need` free, and might hold the model together."""
        for minus_free, name in self._by_free[spec.kind].at_least(need):
            if spec.min_devices > 1 or self._known[name].narrowest < max(need, spec.min_device_memory):
                yield minus_free, name

    def verdict(self, spec: ModelSpec, need_bytes: int) -> "Verdict":
        """Who could hold the model at all. Looked up in all places, and remembered until one of them
        has other devices, or comes or goes."""
        self._freshen()
        key = (spec.id, need_bytes)
        known = self._refused.pop(key, None)
        # An equal one is as good: some are made anew for every request.
        if known is None or (known[0] is not spec and known[0] != spec):
            known = spec, _verdict(spec, need_bytes, self._places.values())
        self._refused[key] = known
        if len(self._refused) > _REMEMBERED:
            del self._refused[next(iter(self._refused))]
        return known[1]

    def _freshen(self) -> None:
        for name in self._touched:
            self._renew(name)
        self._touched.clear()

    def renew(self, name: str) -> None:
        """As `touch`, and looked at already: for whoever changes places more often than models are
        placed."""
        self._renew(name)
        self._touched.discard(name)

    def _renew(self, name: str) -> None:
        place = self._places.get(name)
        before = self._known.pop(name, None)
        after = None if place is None else _Outlook.of(place)
        if after is not None:
            self._known[name] = after
        if _shape(before) != _shape(after):
            self._layout += 1
            self._refused.clear()
        (self._away.add if after is not None and not after.ready else self._away.discard)(name)
        was = before if before is not None and before.ready else _NONE
        now = after if after is not None and after.ready else _NONE
        for kind in _EACH:
            self._by_single[kind].put(name, was.single.get(kind), now.single.get(kind))
            self._by_free[kind].put(name, was.free.get(kind), now.free.get(kind))
            self._by_reach[kind].put(name, was.reach.get(kind), now.reach.get(kind))
        self._by_largest.put(name, was.largest, now.largest)


def _shape(outlook: _Outlook | None) -> tuple[bool, Shape] | None:
    return None if outlook is None else (outlook.ready, outlook.shape)


@dataclass(slots=True)
class _Search:
    """Ways that were found, the best first."""

    question: router.Question
    _found: list[tuple[router.Merit, int, router.Placement]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    def look(self, place: Place) -> None:
        """Its ways are known."""
        for way in router.ways(self.question, place):
            heappush(self._found, (router.merit(way), next(self._order), way))

    def better(self, bound: router.Merit | None) -> Iterator[router.Placement]:
        """Those that nothing of at least that merit can beat; all of them when nothing is to come."""
        while self._found and (bound is None or self._found[0][0] <= bound):
            yield heappop(self._found)[2]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether somebody who is up could ever hold a model, and `why` nobody could, away or not; ""
    when somebody could."""

    up: bool
    why: str


def _verdict(spec: ModelSpec, need_bytes: int, places: Iterable[Place]) -> Verdict:
    up, named = False, dict[str, list[str]]()
    able = False
    for place in places:
        why = router.never(spec, need_bytes, place)
        if why is None:
            able, up = True, up or place.ready
        else:
            named.setdefault(why, []).append(place.name)
    return Verdict(up, "" if able or not named else "; ".join(_reason(each) for each in named.items()))


def _reason(named: tuple[str, list[str]]) -> str:
    """Who has the same reason: by name, as long as they are few."""
    why, names = named
    few = ", ".join(sorted(names)[:3])
    return f"{few}: {why}" if len(names) <= 3 else f"{few} and {len(names) - 3} others: {why}"
