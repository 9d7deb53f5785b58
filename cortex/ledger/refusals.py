"""What those are told who get no seat: which error, and what it says.

Pure: looks at places, changes nothing. A gateway speaks of neurons and knows no blockers;
a neuron names the residents that stay and the bytes that are missing.
"""

import math
from collections.abc import Collection

from cortex import router
from cortex.errors import (
    Busy,
    CortexError,
    DoesNotFit,
    Fact,
    Loading,
    NeverFits,
    NoRoom,
    NotHereNow,
    Overloaded,
    Recovering,
)
from cortex.ledger.outlook import Outlook
from cortex.ledger.rests import Rest, again
from cortex.ledger.rooms import Verdict
from cortex.ledger.tickets import Want
from cortex.places import Place
from cortex.units import counted, size


def shunned(rest: Rest, now: float, *, delegates: bool) -> CortexError:
    """Why a place that could take the model is not asked at the moment: its own words."""
    if delegates and isinstance(rest.error, Busy | DoesNotFit | NotHereNow):
        # Said to a gateway about its order. To a client it means that there is no room, and
        # nothing that a client may read as an answer to its own request.
        return NoRoom(rest.error.message, retry_after_s=rest.until - now, facts=rest.error.facts)
    return again(rest.error, rest.until - now)


def no_room(want: Want, places: Collection[Place]) -> CortexError:
    """Why a neuron has no device for it: never, not at present, or because of who lives there."""
    spec = want.spec
    why = {place.name: router.never(spec, want.need_bytes, place) if spec else None for place in places}
    rooms = [room for place in places for room in place.rooms.values()]
    free = {room.name: max(place.free(room.name), 0) for place in places for room in place.rooms.values()}
    facts: dict[str, Fact] = {
        "needed_bytes": want.need_bytes,
        "free_bytes": max(free.values(), default=0),
        "free_by_device": free,
        "total_by_device": {room.name: room.total_bytes for room in rooms},
    }
    if why and all(why.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(why.items()))
        return DoesNotFit(
            f"No device could ever hold '{want.model}', which needs {size(want.need_bytes)} "
            f"({reasons}; {_figures(places)}); give it a smaller context, or a smaller quant",
            facts=facts,
        )
    if not any(place.ready and why[place.name] is None for place in places):
        return _nobody_up(want)
    blockers = sorted(resident.model for place in places for resident in place)
    return Busy(
        f"No room for '{want.model}': it needs {size(want.need_bytes)}, {_figures(places)}, "
        f"and {', '.join(blockers)} may not be evicted for it",
        facts={"blocked_by": blockers, **facts},
    )


def nowhere(want: Want, verdict: Verdict, free_bytes: int) -> CortexError:
    """Why a gateway knows no neuron for it, by the router's list."""
    facts: dict[str, Fact] = {"needed_bytes": want.need_bytes, "free_bytes": free_bytes}
    # 6. Nobody could ever hold it.
    if verdict.why:
        return NeverFits(f"No place could ever hold '{want.model}' ({verdict.why})", facts=facts)
    # 5. Somebody could, who is not well.
    if not verdict.up:
        return _nobody_up(want)
    return NoRoom(f"No neuron has room for '{want.model}' at the moment", facts=facts)


def _nobody_up(want: Want) -> Recovering:
    return Recovering(f"No neuron that could hold '{want.model}' is up at the moment")


def _figures(places: Collection[Place]) -> str:
    """What each device has."""
    rooms = ((place, room) for place in places for room in place.rooms.values())
    return ", ".join(
        f"{room.name} has {size(max(place.free(room.name), 0))} of {size(room.total_bytes)} free"
        for place, room in rooms
    )


def full(waiting: int, again_s: float | None) -> Overloaded:
    """There is no place left in the line."""
    return Overloaded(
        f"{_in_line(waiting)} already; try again in a moment",
        retry_after_s=again_s,
        facts={"queue_position": waiting + 1},
    )


def pushed_out(waiting: int, again_s: float | None) -> Overloaded:
    """The last place in line went to one of another key."""
    return Overloaded(
        f"{_in_line(waiting)}, and the last place in line went to one of another key, which has fewer "
        "for its share; try again in a moment",
        retry_after_s=again_s,
        facts={"queue_position": waiting},
    )


def _in_line(waiting: int) -> str:
    return f"{counted(waiting, 'request')} {'waits' if waiting == 1 else 'wait'}"


def seatless(model: str, position: int, again_s: float | None) -> Overloaded:
    """Patience ended before a seat became free."""
    return Overloaded(
        f"No seat at '{model}' became free in time; try again in a moment",
        retry_after_s=again_s,
        facts={"queue_position": position},
    )


def roomless(model: str) -> NoRoom:
    """Patience ended before anybody left to make room."""
    return NoRoom(f"No room for '{model}' became free in time; try again in a moment")


def still_loading(model: str, running_s: float, usual_s: float | None, seen: Outlook) -> Loading:
    """Patience ended before the load did. How far it is tells when to come back, else what it
    usually takes; one that is late by that is as little known as one that nobody has seen."""
    left = seen.left_s
    if left is None and usual_s is not None and usual_s > running_s:
        left = usual_s - running_s
    facts: dict[str, Fact] = {"loading_for_s": round(running_s, 1)}
    if left is not None:
        facts["eta_s"] = round(left, 1)
    if seen.total_bytes:
        facts.update(done_bytes=seen.done_bytes, total_bytes=seen.total_bytes)
    soon = "" if left is None else f", which should take {math.ceil(left)} s more"
    return Loading(
        f"Model '{model}' is still loading, after {running_s:.0f} s; the load goes on{soon}",
        retry_after_s=None if left is None else max(1.0, left),
        facts=facts,
    )
