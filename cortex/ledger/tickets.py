"""What is asked of the ledger, and what it answers: plain words, no rules."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from cortex import evictor
from cortex.catalogue import ModelSpec
from cortex.errors import CortexError
from cortex.places import Place, Resident


@dataclass(frozen=True, slots=True)
class Policy:
    """How a ledger judges. `delegates` is true in a gateway: its places make room by
    themselves, so a load may be sent although somebody must stand up first."""

    rules: evictor.Rules = evictor.Rules()
    queue: int = 1024
    max_overtake_s: float = 30.0
    delegates: bool = False


@dataclass(frozen=True, slots=True)
class Want:
    """What an arrival needs. `weight` seats (0: the model resident, no seat).

    `may_load` and `evict` say what may be done for it; `avoid` names places that
    refused it already.
    """

    model: str
    spec: ModelSpec | None = None
    need_bytes: int = 0
    weight: int = 1
    affinity: str = ""
    may_load: bool = True
    evict: bool = True
    prefer: tuple[str, ...] = ()
    avoid: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Ticket:
    """One arrival. `place` and `resident` are set while it sits."""

    want: Want
    arrived: float
    place: Place | None = None
    resident: Resident | None = None
    epoch: int = 0
    blocked_since: float | None = None


@dataclass(frozen=True, slots=True)
class Serve:
    """The ticket sits at `resident`."""

    place: Place
    resident: Resident


@dataclass(frozen=True, slots=True)
class Load:
    """Somebody must bring `want.model` in at `place`, after sending `victims` away."""

    want: Want
    place: Place
    victims: tuple[str, ...]
    resident: Resident


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. `until` is when to look again although nobody said anything, None for never."""

    reason: Literal["slots", "load", "room"]
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    error: CortexError


Decision: TypeAlias = Serve | Load | Wait | Refuse
