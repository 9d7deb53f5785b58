"""What is asked of the ledger, and what it answers: plain words, no rules."""

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

from cortex import evictor
from cortex.catalogue import ModelSpec
from cortex.errors import CortexError
from cortex.places import Place, Resident
from cortex.router import Placement, Route


@dataclass(frozen=True, slots=True)
class Policy:
    """How a ledger judges.

    `queue` bounds all who wait, or with `queue_per_model` those who wait for one model.
    `delegates` is true in a gateway: its places make room by themselves, so a load may be
    sent although somebody must stand up first.
    """

    rules: evictor.Rules
    queue: int
    max_overtake_s: float
    delegates: bool = False
    queue_per_model: bool = False


@dataclass(frozen=True, slots=True)
class Want:
    """What an arrival needs. `weight` seats (0: the model resident, no seat). `pinned` says that
    the model is not to be sent away again.

    `may_load` and `evict` say what may be done for it; `avoid` names places that
    refused it already, and `prefer` whom it would rather see evicted. `key` is the name of the API
    key it is for, "" without one, and `share` how many turns that has for each of a key with 1. It
    waits `patience_s` at most, and no longer than anybody may.
    """

    model: str
    spec: ModelSpec | None = None
    need_bytes: int = 0
    weight: int = 1
    affinity: str = ""
    may_load: bool = True
    evict: bool = True
    pinned: bool = False
    prefer: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()
    key: str = ""
    share: float = 1.0
    patience_s: float = inf


@dataclass(slots=True, eq=False)
class Ticket:
    """One arrival; the lower `number` came first. Place, resident, time and `route`, which is what
    brought it there, are set when it sits; `waited` when it did not at once."""

    want: Want
    arrived: float
    number: int
    place: Place | None = None
    resident: Resident | None = None
    seated: float = 0.0
    route: Route | None = None
    waited: bool = False


@dataclass(frozen=True, slots=True)
class Serve:
    """The ticket sits at `resident`; `route` says what decided for it among others."""

    place: Place
    resident: Resident
    route: Route = "only-replica"


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Somebody must bring `want.model` in at `place`, after sending `victims` away. To a place
    that makes room by itself they are proposals.

    `leaving` are those of them that were told to go. One that is gone may have come in again
    before the load ends: then it is another resident, and none of its victims. `calls_off` are loads
    that nobody waits for: whoever brings this model in ends them first.
    """

    want: Want
    place: Place
    victims: tuple[str, ...]
    resident: Resident
    leaving: tuple[Resident, ...] = ()
    calls_off: tuple["Load", ...] = ()

    @property
    def sends_away(self) -> tuple[str, ...]:
        """The victims that are there whole."""
        off = [load.want.model for load in self.calls_off]
        return tuple(model for model in self.victims if model not in off)

    @property
    def unwanted(self) -> bool:
        """Whether nobody waits for it, nor uses what it was to bring: a report may have brought it in."""
        return self.resident.unwanted and self.place.residents.get(self.want.model) is self.resident

    @property
    def staying(self) -> tuple[Resident, ...]:
        """Who was told to go, and is there yet."""
        return tuple(one for one in self.leaving if self.place.residents.get(one.model) is one)


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `until` is when to look again although nobody said anything, None for never;
    `plan` is what will be done once its victims have stood up and come of age."""

    reason: Literal["slots", "load", "room"]
    until: float | None = None
    plan: Placement | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    error: CortexError


# What becomes of one who waited, and of one who arrives.
Settled: TypeAlias = Serve | Load | Refuse
Decision: TypeAlias = Settled | Wait
# The same before anything is done about it: a placement is a load that has not begun.
Verdict: TypeAlias = Serve | Placement | Refuse | Wait
