"""Answers of a few fields, of gateways and neurons alike.

What is longer has a file of its own: `fleet`, `neuron`, `keeping`, `plan`.
"""

from typing import Literal

import msgspec


class Version(msgspec.Struct, kw_only=True, frozen=True):
    """GET /version of a gateway."""

    version: str
    role: Literal["gateway"] = "gateway"


class NeuronVersion(msgspec.Struct, kw_only=True, frozen=True):
    """GET /version of a neuron: `engines` are the versions of its engines, null where there is none."""

    version: str
    role: Literal["neuron"] = "neuron"
    name: str
    python: str
    engines: dict[str, str | None]


class Reporting(msgspec.Struct, kw_only=True, frozen=True):
    """How many neurons report, and how many there are."""

    healthy: int
    total: int


class GatewayHealth(msgspec.Struct, kw_only=True, frozen=True):
    """GET /health of a gateway. `unservable` are models that nobody could serve at present."""

    status: Literal["ok", "degraded", "impaired"]
    neurons: Reporting
    unservable: list[str]
    warnings: list[str]


class FleetUnloaded(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of POST /fleet/models/unload: the model is nowhere any more."""

    model: str
    unloaded: Literal[True] = True


class Unloaded(msgspec.Struct, kw_only=True, frozen=True):
    """The answer of POST /models/unload."""

    id: str
    unloaded: Literal[True] = True


class Endpoint(msgspec.Struct, kw_only=True, frozen=True):
    """Where the dialects of a model are."""

    url: str


class Capabilities(msgspec.Struct, kw_only=True, frozen=True):
    """What a model can do beside text."""

    capabilities: list[str]
