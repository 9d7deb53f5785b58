"""What happens in a fleet, as GET /fleet/events tells it while it happens.

Each event is JSON with a `type`, which is also the name of the server-sent event, and `at`, the
Unix time. Sizes are bytes, times seconds; None means that nobody knows. The first event is a
`snapshot` with the answer of GET /fleet, unless a reader goes on where it stopped.
"""

from typing import Literal, TypeAlias

import msgspec

from cortex.wire.fleet import FleetReport


class _Happening(msgspec.Struct, kw_only=True, frozen=True, tag_field="type"):
    at: float = 0.0


class Snapshot(_Happening, frozen=True, tag="snapshot"):
    """The whole state; what follows has happened since."""

    fleet: FleetReport


class LoadStarted(_Happening, frozen=True, tag="load.started"):
    """`total_bytes` is what the model is expected to take."""

    model: str
    neuron: str
    total_bytes: int | None = None


class LoadProgress(_Happening, frozen=True, tag="load.progress"):
    """`phase` is queued, download, verify or load, and the bytes are those of the phase."""

    model: str
    neuron: str
    phase: str | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None
    running_s: float = 0.0
    eta_s: float | None = None
    waiting: int = 0


class LoadDone(_Happening, frozen=True, tag="load.done"):
    model: str
    neuron: str
    bytes: int = 0
    seconds: float | None = None


class LoadFailed(_Happening, frozen=True, tag="load.failed"):
    """`code` is the one that waiting requests were told, None where nobody waited here: the load was
    called off, or another one's."""

    model: str
    neuron: str
    code: str | None = None
    message: str = ""


class Evicted(_Happening, frozen=True, tag="evicted"):
    """`reason` is `room` for another model, `order` for an unload that was asked for here."""

    model: str
    neuron: str
    reason: Literal["room", "order"] | None = None


class NeuronNew(_Happening, frozen=True, tag="neuron.new"):
    """It has reported for the first time."""

    neuron: str


class NeuronLost(_Happening, frozen=True, tag="neuron.lost"):
    """It takes no requests any more, and what was loaded there counts as gone."""

    neuron: str
    why: str = ""


class NeuronBack(_Happening, frozen=True, tag="neuron.back"):
    neuron: str


class NeuronDismissed(_Happening, frozen=True, tag="neuron.dismissed"):
    """It does not belong to the fleet any more; what is under way there goes on."""

    neuron: str


class DeviceChanged(_Happening, frozen=True, tag="device"):
    """A device is lost until its neuron has started again, or serves again."""

    neuron: str
    device: str
    state: Literal["ok", "poisoned", "absent"] = "ok"
    why: str = ""


class Reloaded(_Happening, frozen=True, tag="reloaded"):
    """The files were read again; `changed` names keys and tables."""

    changed: list[str] = []


Happening: TypeAlias = (
    Snapshot
    | LoadStarted
    | LoadProgress
    | LoadDone
    | LoadFailed
    | Evicted
    | NeuronNew
    | NeuronLost
    | NeuronBack
    | NeuronDismissed
    | DeviceChanged
    | Reloaded
)
