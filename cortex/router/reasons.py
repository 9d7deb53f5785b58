"""Why a request goes where it goes, in words for every place.

No second opinion: what serves, what fits and who would leave is what `choice` and the evictor say, and
what only the ledger knows comes in by `Judges`. Here are the words, and an order for reading: who serves,
who else has the model, where it could come in, and who is out of the question.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from cortex.catalogue import ModelSpec
from cortex.places import Newcomer, Place, Resident
from cortex.router.choice import (
    Bar,
    Placement,
    Question,
    Ranked,
    Victims,
    barred,
    calm,
    merit,
    placements,
    rank,
    shares,
)
from cortex.units import size

Standing: TypeAlias = (
    Literal[
        "serves",
        "full",
        "loading",
        "recovering",
        "leaving",
        "fits",
        "evicts",
        "waits",
        "promised",
        "no_room",
        "refused",
        "device_lost",
        "unhealthy",
        "unknown",
    ]
    | Bar
)
# A model is not brought in beside one of these.
_HERE: Final = ("serves", "full", "loading", "recovering")
_AVOIDED: Final = "it failed or refused requests a moment ago"
_WAYS: Final = ("fits", "evicts", "waits")


@dataclass(frozen=True, slots=True)
class Judges:
    """What the ledger knows and places do not show: who would leave for a newcomer and why others
    stay, why a replica takes nobody at present ("" when it does), why a place is not asked to load, and
    whether the room of a placement was promised to somebody else. Nobody goes to those to `avoid`, and
    without `evict` nobody may leave."""

    victims: Victims
    stays: Callable[[Resident, Newcomer], str | None]
    kept_out: Callable[[Place, Resident], str]
    refused: Callable[[Place], str | None]
    promised: Callable[[Placement], bool]
    now: float
    avoid: frozenset[str] = frozenset()
    evict: bool = True


@dataclass(frozen=True, slots=True)
class Reason:
    """How things stand at one place. `way` is how the model would come in there, and `stays` says
    who does not make room for it, and why."""

    place: Place
    standing: Standing
    why: str
    way: Placement | None = None
    stays: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: where `model` would go. Without a `spec` it is loaded nowhere."""

    model: str
    spec: ModelSpec | None = None
    need_bytes: int = 0
    prefer: tuple[str, ...] = ()
    affinity: str = ""


def explain(case: Case, places: Iterable[Place], judges: Judges) -> list[Reason]:
    """One reason for every place. Of those with the same standing the better place is first, and
    each says what another one has over it."""
    # 1. The alias was resolved by who asks.
    places = list(places)
    holders = [(place, place.residents[case.model]) for place in places if case.model in place.residents]
    # 2. Loaded and servable replicas, in their rank.
    ranked = rank(holders, case.affinity)
    found = [_replica(pair, judges) for pair in ranked]
    serving = next(
        (pair for pair, reason in zip(ranked, found, strict=True) if reason.standing == "serves"), None
    )
    if serving is not None:
        found = [_behind_replica(reason, serving, case) for reason in found]
    # 3. Replicas that cannot serve.
    able = {place.name for place, _ in ranked}
    found += [_unservable(place, resident) for place, resident in holders if place.name not in able]
    # 4. Where it could come in; 5. who is not well; 6. who could never hold it.
    cold = [_cold(case, place, judges) for place in places if case.model not in place.residents]
    here = next((reason for reason in found if reason.standing in _HERE and reason.place.ready), None)
    return [*found, *_ordered(cold, here)]


def _replica(pair: Ranked, judges: Judges) -> Reason:
    place, resident = pair
    if place.name in judges.avoid:
        return Reason(place, "refused", _AVOIDED)
    if why := judges.kept_out(place, resident):
        return Reason(place, "full", why)
    return Reason(place, "serves", f"loaded here, {resident.busy} in flight")


def _behind_replica(reason: Reason, best: Ranked, case: Case) -> Reason:
    if reason.place is best[0] or reason.standing != "serves":
        return reason
    mine = calm((reason.place, reason.place.residents[case.model]), case.affinity)
    theirs = calm(best, case.affinity)
    if mine.busy != theirs.busy:
        why = f"{theirs.name} is less busy, with {theirs.busy}"
    elif mine.distance != theirs.distance:
        why = f"as busy as {theirs.name}, where the conversation belongs"
    else:
        why = f"as busy as {theirs.name}: a request goes where its conversation was"
    return replace(reason, why=f"{reason.why}; {why}")


def _unservable(place: Place, resident: Resident) -> Reason:
    if not place.ready:
        return Reason(place, "unhealthy", place.why_not)
    match resident.phase:
        case "loading":
            return Reason(place, "loading", "it is on its way in here")
        case "leaving":
            return Reason(place, "leaving", "it is on its way out here")
    return Reason(place, "recovering", f"it is here and cannot serve: {resident.fault or 'it says so'}")


def _cold(case: Case, place: Place, judges: Judges) -> Reason:
    if case.spec is None:
        return Reason(place, "unknown", "no catalogue says how to load it")
    # 6. It could never be here.
    if (bar := barred(case.spec, case.need_bytes, place)) is not None:
        return Reason(place, bar[0], bar[1] + _figures(case.spec, place, bar[0]))
    # 5. It could, but the place is not well.
    if not place.ready:
        return Reason(place, "unhealthy", place.why_not)
    if (lost := _lost(case.spec, place)) is not None:
        return Reason(place, "device_lost", lost)
    if why := _AVOIDED if place.name in judges.avoid else judges.refused(place):
        return Reason(place, "refused", why)
    # 4. It could come in.
    question = Question(case.spec, case.need_bytes, judges.victims, judges.now, case.prefer)
    ways = [way for way in placements(question, [place]) if judges.evict or not way.victims]
    free = [way for way in ways if not judges.promised(way)]
    if free:
        return _way(free[0], judges)
    if ways:
        return Reason(place, "promised", "its room is promised to requests that wait for longer")
    return _no_room(case, case.spec, place, judges)


def _way(way: Placement, judges: Judges) -> Reason:
    place = way.place
    room = ", ".join(f"{size(max(place.free(name), 0))} free on {name}" for name in way.newcomer.need)
    if not way.victims and not way.must_wait:
        return Reason(place, "fits", room, way)
    leaving = [place.residents[model] for model in way.victims]
    names = ", ".join(f"{one.model} ({size(one.bytes)})" for one in leaving)
    if not way.must_wait:
        return Reason(place, "evicts", f"{names} would leave; {room}", way)
    # Each of those who leave in time is asked why it does not leave at once.
    still = _stays(leaving, way.newcomer, judges)
    held = "; ".join(f"{model} {why}" for model, why in still)
    who = f"{names} would leave in time ({held})" if names else "who leaves already makes room in time"
    return Reason(place, "waits", f"{who}; {room}", way, still)


def _no_room(case: Case, spec: ModelSpec, place: Place, judges: Judges) -> Reason:
    newcomers = [Newcomer(need, spec.priority, case.prefer) for need in shares(spec, case.need_bytes, place)]
    named = {pair for newcomer in newcomers for pair in _stays(place, newcomer, judges)}
    still = tuple(sorted(named))
    room = ", ".join(
        f"{name} has {size(max(place.free(name), 0))} free"
        for name in sorted({room for newcomer in newcomers for room in newcomer.need})
    )
    held = "; ".join(f"{model} {why}" for model, why in still)
    forbidden = "" if judges.evict else "nobody may be evicted for it"
    text = "; ".join(filter(None, (f"needs {size(case.need_bytes)}, {room}", held, forbidden)))
    return Reason(place, "no_room", text, stays=still)


def _stays(residents: Iterable[Resident], newcomer: Newcomer, judges: Judges) -> tuple[tuple[str, str], ...]:
    answers = ((one.model, judges.stays(one, newcomer)) for one in residents)
    return tuple((model, why) for model, why in answers if why is not None)


def _lost(spec: ModelSpec, place: Place) -> str | None:
    """What became of the devices, when none that could compute the model is left."""
    able = [room for room in place.rooms.values() if spec.runs_on(room.name)]
    if not able or not all(room.why_not for room in able):
        return None
    return ", ".join(f"{room.name} is {room.why_not}" for room in able)


def _figures(spec: ModelSpec, place: Place, bar: Bar) -> str:
    if bar not in ("too_few_devices", "too_small"):
        return ""
    able = (room for room in place.rooms.values() if spec.runs_on(room.name))
    told = (
        f"{room.name} has {size(room.total_bytes)}, {size(max(place.free(room.name), 0))} free"
        for room in able
    )
    return "; " + ", ".join(told)


# -- among those where it could come in


def _ordered(cold: Sequence[Reason], here: Reason | None) -> Iterator[Reason]:
    ways = sorted((each for each in cold if each.way is not None), key=_merit)
    for reason in ways:
        if here is not None:
            yield replace(reason, why=f"{reason.why}; not needed, {here.place.name} has it")
        elif reason is ways[0]:
            yield reason
        else:
            yield replace(reason, why=f"{reason.why}; {_advantage(ways[0], reason)}")
    yield from sorted((each for each in cold if each.way is None), key=lambda each: each.place.name)


def _merit(reason: Reason) -> tuple[object, ...]:
    assert reason.way is not None and reason.standing in _WAYS  # noqa: S101 - who calls has looked
    return (reason.place.most == 0, *merit(reason.way))


def _advantage(best: Reason, reason: Reason) -> str:
    """What the best place has over another one: the first part of their merits that differs."""
    assert best.way is not None and reason.way is not None  # noqa: S101 - ways have been picked
    name, first, mine = best.place.name, merit(best.way), merit(reason.way)
    if reason.place.most == 0 != best.place.most:
        return f"{name} did not spoil the last requests"
    if first.must_wait != mine.must_wait:
        return f"{name} need not wait"
    if first.evicts != mine.evicts:
        return f"{name} has free room"
    if first.cost != mine.cost:
        costs = f"{first.cost:.3g} against {mine.cost:.3g} bytes x load seconds / idle seconds"
        return f"who leaves {name} is missed less: {costs}"
    if first.leaving != mine.leaving:
        return f"fewer leave {name}"
    if first.minus_free != mine.minus_free:
        return f"{name} has more free"
    return f"as good as {name}, which has the first name"
