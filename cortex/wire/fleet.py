"""What a gateway tells about its fleet: the answer of GET /fleet.

`cortex status` and `cortex models` read it, the gateway writes it. Every field has
a default, so that builds of different age understand each other. Sizes are bytes,
times seconds; None means that nobody measured it. Figures of a neuron are those of
its last report, `report_age_s` old.
"""

from typing import Literal, TypeAlias

import msgspec

from cortex.wire.neuron import DeviceHealth

FleetStatus: TypeAlias = Literal["ok", "degraded", "impaired"]
# `ejected` and `probation`: it failed or was away, and others are preferred; `unfit`: it answers, and has
# nothing to serve with.
NeuronState: TypeAlias = Literal["ok", "away", "new", "stopping", "unfit", "ejected", "probation"]
ModelState: TypeAlias = Literal["loaded", "loading", "unloaded", "recovering", "unservable"]


class GatewayReport(msgspec.Struct, kw_only=True, frozen=True):
    """The gateway that answers. `boot_id` changes with every start of the process. `models_file` is
    the path, on its host, of the catalogue in force, and `models_sha256` what it held when read:
    `withheld` from a key without the scope admin."""

    version: str = ""
    boot_id: str = ""
    uptime_s: float = 0.0
    models_file: str = ""
    models_sha256: str = ""
    withheld: bool = False


class FleetModel(msgspec.Struct, kw_only=True, frozen=True):
    """One resident of one neuron. `bytes` are per device name, `tok_s` is decoding speed of a request,
    and `tok_s_prefill` how fast prompts are read."""

    id: str
    state: str = "loaded"
    devices: list[str] = []
    bytes: dict[str, int] = {}
    in_flight: int = 0
    queue: int = 0
    slots: int | None = None
    tok_s: float | None = None
    tok_s_prefill: float | None = None
    pinned: bool = False
    idle_s: float = 0.0


class FleetNeuron(msgspec.Struct, kw_only=True, frozen=True):
    """One neuron as the gateway sees it. `why` says what is amiss, such as what an away one last failed with;
    `report_age_s` is None as long as it never reported."""

    name: str
    endpoint: str = ""
    state: NeuronState = "new"
    why: str = ""
    report_age_s: float | None = None
    devices: list[DeviceHealth] = []
    models: list[FleetModel] = []
    warnings: list[str] = []


class Location(msgspec.Struct, kw_only=True, frozen=True):
    """Where one model lives: the `locations` of /v1/models have the same form."""

    neuron: str
    devices: list[str] = []
    state: str = "loaded"
    bytes: int = 0


class CatalogueModel(msgspec.Struct, kw_only=True, frozen=True):
    """One model of the merged catalogue. `why` says what an unservable one lacks; `waiting` requests
    have no seat yet."""

    id: str
    state: ModelState = "unloaded"
    locations: list[Location] = []
    feasible_on: list[str] = []
    aliases: list[str] = []
    why: str = ""
    waiting: int = 0


class FleetLoad(msgspec.Struct, kw_only=True, frozen=True):
    """A load under way. `waiting` requests wait for it. `phase` is queued, download, verify or load, and
    the bytes are those of the phase, 0 while unknown; `eta_s` is how long it should take yet."""

    model: str
    neuron: str
    running_s: float = 0.0
    waiting: int = 0
    phase: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    eta_s: float | None = None


class ModelOrder(msgspec.Struct, frozen=True):
    """POST /fleet/models/{load,unload}. `force` cuts what is seated."""

    model: str
    force: bool = False


class PinOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /fleet/models/{pin,unpin}. Without a `neuron`, wherever the model is."""

    model: str
    neuron: str | None = None


class PinReport(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of POST /fleet/models/pin and unpin: the `neurons` that obeyed, at which of them the
    model is awaited, and why others did not obey."""

    model: str
    pinned: bool = False
    neurons: list[str] = []
    awaited: list[str] = []
    failed: dict[str, str] = {}


class FleetReport(msgspec.Struct, kw_only=True, frozen=True):
    """GET /fleet. `waiting` counts requests that hold no seat yet."""

    status: FleetStatus = "ok"
    gateway: GatewayReport = GatewayReport()
    neurons: list[FleetNeuron] = []
    models: list[CatalogueModel] = []
    waiting: int = 0
    loads: list[FleetLoad] = []
    warnings: list[str] = []
