"""Reads neuron.toml into the configuration of a neuron.

Every key has a default, written in a field here, so that `NeuronConfig()` is a whole
configuration. The folders that may hold weights must exist; what is in them is the
neuron's own look-out. The token comes from its file and shows in no repr.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Literal, TypeAlias

from cortex.catalogue import ModelSpec
from cortex.config.hub import HubConfig, check_hub, hub_of
from cortex.config.limits import Limits
from cortex.config.listeners import check_listeners
from cortex.config.models import check_rows, rows_as_written, spec_of
from cortex.config.network import PRIVATE, Address, Network
from cortex.config.overrides import override
from cortex.config.reading import Document, Findings, Values, fill, open_document, take
from cortex.config.tables import GATEWAY_FILE, NEURON_FILE
from cortex.config.tokens import read_token
from cortex.config.upstream import UpstreamConfig, check_upstream, upstream_of

__all__ = [
    "Address",
    "Admission",
    "Devices",
    "ExLlamaV2",
    "LlamaCpp",
    "NeuronConfig",
    "NeuronEviction",
    "read_neuron",
]

Isolation: TypeAlias = Literal["thread", "process"]


@dataclass(frozen=True, slots=True)
class Devices:
    """Empty `use` means every device of the host. `memory_limit` caps each device, in bytes. The
    devices of a group are one place, where a model may take several of them.

    A device that says nothing for a stall's time hangs: in a turn, in the first one after a load,
    in a load. `poison_drain_s` is how long the others may finish once one is lost.
    """

    use: tuple[str, ...] = ()
    memory_limit: int | None = None
    memory_headroom: int = 2**30
    groups: tuple[tuple[str, ...], ...] = ()
    turn_stall_s: float = 30.0
    warmup_stall_s: float = 60.0
    load_stall_s: float = 120.0
    poison_drain_s: float = 60.0


@dataclass(frozen=True, slots=True)
class NeuronEviction:
    """What is None was not said: gateways send theirs along."""

    strategy: Literal["lru", "priority"] | None = None
    min_residency_s: float | None = None
    defrag_after_cycles: int | None = None


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """`threads` None lets the neuron count the cores. `batch` is tokens of prompt a turn. `isolation`
    None leaves it to the size of the model."""

    threads: int | None = None
    batch: int = 256
    mmap: bool = True
    isolation: Isolation | None = None


@dataclass(frozen=True, slots=True)
class ExLlamaV2:
    """`cache` is the type of the KV cache for models whose entry names none, `chunk` tokens of prompt
    read at once, `attention` how attention is computed; "auto" takes the best that is here."""

    isolation: Isolation = "thread"
    cache: Literal["fp16", "q8", "q6", "q4"] = "fp16"
    chunk: int = 1024
    attention: Literal["auto", "flash-attn", "paged", "triton", "unpaged"] = "auto"


@dataclass(frozen=True, slots=True)
class Admission:
    """Per resident: requests at once, how many wait for them, and how long."""

    slots: int = 4
    queue: int = 64
    max_wait_s: float = 60.0


@dataclass(frozen=True, slots=True)
class NeuronConfig:
    """neuron.toml. `name` None leaves it to the host's name. `limits` are not in the file."""

    name: str | None = None
    listen: Address = Address("127.0.0.1", 13131)
    metrics_listen: Address = Address("127.0.0.1", 13132)
    models_config: FilePath | None = None
    token: str | None = field(default=None, repr=False)
    trusted_networks: tuple[Network, ...] = PRIVATE
    allowed_hosts: tuple[str, ...] = ()
    model_roots: tuple[FilePath, ...] = ()
    state_dir: FilePath | None = None
    log_format: Literal["text", "json"] | None = None
    devices: Devices = Devices()
    eviction: NeuronEviction = NeuronEviction()
    llamacpp: LlamaCpp = LlamaCpp()
    exllamav2: ExLlamaV2 = ExLlamaV2()
    upstream: UpstreamConfig = UpstreamConfig()
    hub: HubConfig = HubConfig()
    admission: Admission = Admission()
    default_models: tuple[ModelSpec, ...] = ()
    limits: Limits = Limits()


def read_neuron(path: FilePath | None, env: Mapping[str, str]) -> tuple[NeuronConfig, list[str]]:
    """The configuration and its warnings; ConfigError lists every fault of the file."""
    values, document = gather(path, env)
    warnings = document.found.settle()
    return finish(values), warnings


def gather(path: FilePath | None, env: Mapping[str, str]) -> tuple[Values, Document]:
    """The good values of the file, and its findings, which are yet to be settled."""
    document = open_document(path)
    override(document, NEURON_FILE, GATEWAY_FILE, env)
    rows_as_written(document.plain.get("default_models"), ("default_models",), document.found)
    values = take(NEURON_FILE, document.plain, (), document.found)
    check_rows(values.get("default_models", []), ("default_models",), document.found)
    _check_groups(values.get("devices", {}), document.found)
    values["neuron"] = _host(values.get("neuron", {}), document)
    values["hub"] = check_hub(values.get("hub", {}), document, env)
    if "upstream" in values.get("harness", {}):
        values["harness"]["upstream"] = check_upstream(values["harness"]["upstream"], document, env)
    usual = NeuronConfig()
    addresses = usual.listen, usual.metrics_listen
    check_listeners(values["neuron"], ("neuron",), addresses, document.found)
    return values, document


def finish(values: Values) -> NeuronConfig:
    """The configuration of values without a fault."""
    said = values["neuron"] | {
        "devices": fill(Devices, values.get("devices", {})),
        "eviction": fill(NeuronEviction, values.get("eviction", {})),
        "llamacpp": fill(LlamaCpp, values.get("harness", {}).get("llamacpp", {})),
        "exllamav2": fill(ExLlamaV2, values.get("harness", {}).get("exllamav2", {})),
        "upstream": upstream_of(values.get("harness", {}).get("upstream", {})),
        "hub": hub_of(values.get("hub", {})),
        "admission": fill(Admission, values.get("admission", {})),
        "default_models": tuple(spec_of(row) for row in values.get("default_models", [])),
    }
    return fill(NeuronConfig, said)


def _check_groups(said: Values, found: Findings) -> None:
    """A device is in one group, and is one that is used."""
    seen: dict[str, int] = {}
    for i, group in enumerate(said.get("groups", ())):
        for device in group:
            at = ("devices", "groups", i)
            if device in seen:
                found.fault(at, f"names {device}, which groups[{seen[device]}] has; a device is in one place")
            elif said.get("use") and device not in said["use"]:
                found.fault(at, f"names {device}, which devices.use does not; add it there")
            seen.setdefault(device, i)


def _host(said: Values, document: Document) -> Values:
    """Paths made whole, the token read, and the folders of weights looked for."""
    for key in ("models_config", "state_dir", "token_file"):
        if key in said:
            said[key] = document.folder / said[key]
    if "token_file" in said:
        said["token"] = read_token(said["token_file"], ("neuron", "token_file"), document.found)
    said["model_roots"] = tuple(document.folder / root for root in said.get("model_roots", ()))
    for i, root in enumerate(said["model_roots"]):
        if not root.is_dir():
            document.found.fault(("neuron", "model_roots", i), f"{root} is not a folder; make it first")
    return said
