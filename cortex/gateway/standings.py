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
# For one neuron as for several.
_WORDS: Final = {
    "serves": "able to serve it",
    "full": "no seat free",
    "loading": "loading it",
    "leaving": "unloading it",
    "recovering": "has it, unable to serve",
    "fits": "room for it",
    "evicts": "able to make room",
    "waits": "full of what is busy or has just come",
    "promised": "room promised to others",
    "no_room": "full of what may not leave for it",
    "refused": "refused or failed it a moment ago",
    "device_lost": "devices lost",
    "unhealthy": "away",
    "unknown": "model not known there",
    "pinned_elsewhere": "not among pinned_on",
    "no_device": "no device for it",
    "too_few_devices": "too few devices",
    "too_small": "too small",
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
