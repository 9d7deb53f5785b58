"""What is said across the line between a worker and its device thread.

Orders go to the thread, words come back; plain data both, so that the line can also be a
socket to another process: `codec` carries whatever stands here. A `ticket` numbers an
order that wants an answer: it gets exactly one `Done` or `Undone`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cortex.errors import CortexError
from cortex.harness.base import EngineFacts, Job, LoadOrder, Memory, Said
from cortex.harness.pulse import Doing
from cortex.harness.severity import Severity


@dataclass(frozen=True, slots=True)
class Load:
    """Bring a model in; `harness` is a name."""

    ticket: int
    harness: str
    order: LoadOrder


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody wants what the order with the ticket `load` brings, or has brought."""

    ticket: int
    load: int


@dataclass(frozen=True, slots=True)
class Unload:
    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Tokenise:
    ticket: int
    model: str
    text: str


@dataclass(frozen=True, slots=True)
class Detokenise:
    ticket: int
    model: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """Tell what memory the engine holds at present."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Release:
    """Give back what allocators keep for later loads."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Submit:
    model: str
    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    model: str
    jobs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Ring:
    """Look again: an engine has become restless."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Unload everything and end."""


Question: TypeAlias = Tokenise | Detokenise | Measure
Order: TypeAlias = Load | GiveUp | Unload | Release | Question | Submit | Cancel | Ring | Stop
Answer: TypeAlias = EngineFacts | Memory | tuple[int, ...] | str | None


@dataclass(frozen=True, slots=True)
class Done:
    """The order with this ticket was carried out."""

    ticket: int
    answer: Answer = None


@dataclass(frozen=True, slots=True)
class Undone:
    """The order with this ticket was not carried out, and nothing of it remains."""

    ticket: int
    error: CortexError


@dataclass(frozen=True, slots=True)
class Progress:
    model: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What the jobs of one engine said in one turn."""

    model: str
    said: Sequence[Said]


@dataclass(frozen=True, slots=True)
class Faulted:
    """The engine raised. `sticky`: the device is lost with all that is on it. Else a `broken`
    engine is driven no more until it is unloaded, and another goes on with the next job."""

    model: str
    why: str
    severity: Severity = "unknown"
    broken: bool = True


@dataclass(frozen=True, slots=True)
class Gone:
    """The engine is unloaded; nothing more is heard of its jobs."""

    model: str


@dataclass(frozen=True, slots=True)
class Beat:
    """From a child, now and then: what its device's thread is at. Both processes have the same
    monotonic clock."""

    doing: Doing


Word: TypeAlias = Done | Undone | Progress | Heard | Faulted | Gone | Beat
