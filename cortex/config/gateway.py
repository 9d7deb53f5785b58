"""Reads cortex.toml into the configuration of a gateway.

Every default of the gateway stands in a field here. Secrets come from the files that
the config names and show in no repr. Which models exist is the catalogue's knowledge
(`config.models`); the aliases of this file are merged into it there, and `config.whole`
reads both files as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Literal

from cortex.ask import Sampling
from cortex.catalogue import Catalogue
from cortex.config.division import check_division
from cortex.config.keys import Key, check_keys
from cortex.config.limits import Limits
from cortex.config.listeners import check_listeners
from cortex.config.models import alias_faults, alias_sampling, check_alias_sampling
from cortex.config.network import PRIVATE, Address, Network
from cortex.config.overrides import override
from cortex.config.reading import Document, Values, distinct, fill, open_document, take
from cortex.config.tables import GATEWAY_FILE, NEURON_FILE
from cortex.config.tokens import read_token

__all__ = [
    "Address",
    "ColdLoad",
    "Discovery",
    "Eviction",
    "GatewayConfig",
    "NeuronRef",
    "Poll",
    "read_gateway",
]


@dataclass(frozen=True, slots=True)
class Eviction:
    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: int = 0


@dataclass(frozen=True, slots=True)
class ColdLoad:
    """`max_wait_s` bounds one request's wait for a load; the load itself goes on."""

    max_wait_s: float = 300.0
    max_overtake_s: float = 30.0
    min_residency_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Poll:
    """A neuron is away after so many `failures` in a row."""

    interval_s: float = 2.0
    timeout_s: float = 2.0
    failures: int = 3


@dataclass(frozen=True, slots=True)
class NeuronRef:
    """A neuron of the fleet; `endpoint` is `http://host:port` and nothing more. `dialects` stand
    against what it says that it speaks, where there are any."""

    name: str
    endpoint: str
    token: str | None = field(default=None, repr=False)
    dialects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Discovery:
    """Neurons that DNS names: the SRV records of `dns`, asked of the `nameservers`, else of the
    system's."""

    dns: str | None = None  # None: nobody is looked for
    interval_s: float = 30.0
    token: str | None = field(default=None, repr=False)
    nameservers: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """cortex.toml. Without keys only `trusted_networks` are served."""

    listen: Address = Address("127.0.0.1", 31313)
    metrics_listen: Address = Address("127.0.0.1", 31314)
    models_config: FilePath | None = None
    trusted_networks: tuple[Network, ...] = PRIVATE
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    anonymous: bool = False
    workers: int = 1
    log_format: Literal["text", "json"] | None = None
    eviction: Eviction = Eviction()
    cold_load: ColdLoad = ColdLoad()
    limits: Limits = Limits()
    poll: Poll = Poll()
    neurons: tuple[NeuronRef, ...] = ()
    discovery: Discovery = Discovery()
    keys: tuple[Key, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    alias_sampling: Mapping[str, Sampling] = field(default_factory=dict)


def read_gateway(path: FilePath | None, env: Mapping[str, str]) -> tuple[GatewayConfig, list[str]]:
    """The configuration and its warnings; ConfigError lists every fault of the file."""
    values, document = gather(path, env)
    for alias, why in alias_faults(Catalogue(), values.get("aliases", {})).items():
        document.found.fault(("aliases", alias), why)
    check_alias_sampling(values, values.get("aliases", {}), document.found)
    warnings = document.found.settle()
    return finish(values, document), warnings


def gather(path: FilePath | None, env: Mapping[str, str]) -> tuple[Values, Document]:
    """The good values of the file, aliases aside, and its findings, which are yet to be settled."""
    document = open_document(path)
    override(document, GATEWAY_FILE, NEURON_FILE, env)
    values = take(GATEWAY_FILE, document.plain, (), document.found)
    _old_place(values, document)
    usual = GatewayConfig()
    addresses = usual.listen, usual.metrics_listen
    check_listeners(values.get("gateway", {}), ("gateway",), addresses, document.found)
    _check_neurons(values, document)
    check_keys(values.get("keys", []), document.found)
    check_division(values, document.found)
    return values, document


def _old_place(values: Values, document: Document) -> None:
    """The predecessor has `models_config` before all tables."""
    if "models_config" not in values:
        return
    table: Values = values.setdefault("gateway", {})
    if "models_config" in table:
        document.found.fault(("models_config",), "says the same as gateway.models_config; keep only that")
    table["models_config"] = values["models_config"]


def _check_neurons(values: Values, document: Document) -> None:
    """Names and endpoints are unique, and tokens are read into their tables."""
    rows, discovery = values.get("neurons", []), values.get("discovery", {})
    distinct(rows, "name", ("neurons",), document.found)
    distinct(rows, "endpoint", ("neurons",), document.found)
    for at, table in (*((("neurons", i), row) for i, row in enumerate(rows)), (("discovery",), discovery)):
        if "token_file" in table:
            file = document.folder / table["token_file"]
            table["token"] = read_token(file, (*at, "token_file"), document.found)
    if not document.plain.get("neurons") and "discovery" not in document.plain:
        document.found.warn((), "names no [[neurons]] and no [discovery], so that nothing can be served")


def finish(values: Values, document: Document) -> GatewayConfig:
    """The configuration of values without a fault."""
    said: Values = values.get("gateway", {})
    if "models_config" in said:
        said["models_config"] = document.folder / said["models_config"]
    for name, shape in (
        ("eviction", Eviction),
        ("cold_load", ColdLoad),
        ("limits", Limits),
        ("poll", Poll),
        ("discovery", Discovery),
    ):
        said[name] = fill(shape, values.get(name, {}))
    said["neurons"] = tuple(fill(NeuronRef, row) for row in values.get("neurons", []))
    said["keys"] = tuple(fill(Key, row) for row in values.get("keys", []))
    said["aliases"] = values.get("aliases", {})
    said["alias_sampling"] = alias_sampling(values)
    return fill(GatewayConfig, said)
