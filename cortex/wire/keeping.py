"""What a neuron tells of its loads and pins, beyond the reports that gateways read.

As in `wire.neuron`, every field has a default, sizes are bytes and times seconds. What is not
known is null.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from cortex.errors import CortexError

State: TypeAlias = Literal["queued", "loading", "done", "failed", "cancelled"]


class Failure(msgspec.Struct, kw_only=True, frozen=True):
    """Why a load did not come to its good end: what POST /models/load would have answered."""

    code: str = ""
    status: int = 500
    message: str = ""

    @classmethod
    def of(cls, error: CortexError) -> "Failure":
        """The same in plain words."""
        return cls(code=error.code, status=error.status, message=error.message)


class LoadJob(msgspec.Struct, kw_only=True, frozen=True):
    """One load. While it is `loading`, `phase` is queued, download, verify or load, and
    `done_bytes` of `total_bytes` of that phase are done. `waiting` counts who waits for it."""

    id: str
    model: str
    state: State = "queued"
    device: str | None = None
    phase: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    running_s: float = 0.0
    eta_s: float | None = None
    waiting: int = 0
    error: Failure | None = None


class LoadJobs(msgspec.Struct, kw_only=True, frozen=True):
    """GET /models/jobs: those under way first, then the finished ones, the newest first."""

    jobs: list[LoadJob] = []


class PinRequest(msgspec.Struct, kw_only=True, frozen=True):
    """POST /models/pin and /models/unpin."""

    id: str


class PinAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """`resident` says whether it is here; a pin is kept for when it comes."""

    id: str = ""
    pinned: bool = False
    resident: bool = False


class Keep(msgspec.Struct, kw_only=True, frozen=True):
    """What a catalogue says of a resident that can change while it is loaded."""

    pinned: bool = False
    priority: int = 100
    idle_unload_s: Annotated[float, msgspec.Meta(ge=0, le=10**9)] = 0.0


class KeepRequest(msgspec.Struct, kw_only=True, frozen=True):
    """POST /models/keep: the gateway's catalogue says otherwise than when it had the model loaded."""

    id: str
    keep: Keep


class KeepAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """What holds from here on. It is not what was said where the neuron's own catalogue has the model."""

    id: str = ""
    keep: Keep = Keep()


class EvictionTerms(msgspec.Struct, kw_only=True, frozen=True):
    """How a gateway would have its neurons evict, where their own files say nothing. Null is not said."""

    strategy: Literal["lru", "priority"] | None = None
    min_residency_s: Annotated[float, msgspec.Meta(ge=0, le=10**9)] | None = None
    max_overtake_s: Annotated[float, msgspec.Meta(ge=0, le=10**9)] | None = None
    defrag_after_cycles: Annotated[int, msgspec.Meta(ge=0, le=10**6)] | None = None
