"""Why a request found no room, in few words for each neuron: for the error that its client gets.

The ledger's own reasons, without what only an operator may know: no other model is named, nor how
much of it is where. `cortex plan` tells all of it.
"""

from typing import Final

from cortex.errors import CortexError, NoRoom, Recovering
from cortex.ledger import Ledger, Want

# A fleet beyond this is not looked through for a refusal, of which there may be a flood.
MOST: Final = 64
# So many neurons are told by name for each reason.
_NAMED: Final = 4
_WORDS: Final = {
    "serves": "can serve it",
    "full": "has no seat free",
    "loading": "loads it",
    "leaving": "unloads it",
    "recovering": "has it and cannot serve",
    "fits": "has room",
    "evicts": "can make room",
    "waits": "is full, and all that may leave is busy or has just come",
    "promised": "has its room promised to others",
    "no_room": "is full of what may not leave for it",
    "refused": "failed or refused it a moment ago",
    "device_lost": "has lost its devices",
    "unhealthy": "is away",
    "unknown": "does not know it",
    "pinned_elsewhere": "may not hold it, by pinned_on",
    "no_device": "has no device for it",
    "too_few_devices": "has too few devices",
    "too_small": "is too small",
}


def explained(ledger: Ledger, want: Want, error: CortexError) -> CortexError:
    """`error` with how things stand at each neuron, where it says that there is no room, or nobody who
    has some. One that says more than that stays as it is."""
    if type(error) not in (NoRoom, Recovering) or sum(1 for _ in ledger) > MOST:
        return error
    at: dict[str, list[str]] = {}
    for reason in ledger.plan(want).reasons:
        at.setdefault(_WORDS.get(reason.standing, reason.standing), []).append(reason.place.name)
    if not at:
        return error
    told = "; ".join(f"{_some(names)}: {word}" for word, names in at.items())
    made = type(error)(
        f"{error.message} ({told})",
        param=error.param,
        retry_after_s=error.retry_after_s,
        facts=error.facts,
    )
    made.not_started = error.not_started
    return made


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
