"""models.toml as values: which models there are, and under which names.

A `ModelSpec` is one entry. A `Catalogue` is frozen and finds specs by id or alias;
aliases are flat (one look-up, never a chain). It knows nothing of what is loaded.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from cortex.ask import Sampling
from cortex.errors import BadAsk, UnknownModel

# Two names this alike may be a slip of the same one: "smal" and "small" have 0.73.
LIKE: Final = 0.35
# What each harness computes on. A device is called by its kind, or by its kind and a number.
KINDS: Final[Mapping[str, str]] = {"llamacpp": "cpu", "exllamav2": "cuda", "upstream": "upstream"}
# How a source says where the weights are; an id may be the name of a repo of a hub.
HUB: Final = "hf:"
PATH: Final = "path:"
UPSTREAM: Final = "upstream:"
# Tokens of a page of a KV cache: both engines round what they hold up to whole ones.
PAGE: Final = 256
_REPO: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
MODEL_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z")


def valid_id(text: str) -> bool:
    """Whether `text` may name a model: the catalogue's alphabet, no `..` segment."""
    return bool(MODEL_ID.match(text)) and ".." not in text.split("/")


@dataclass(frozen=True, slots=True)
class Cost:
    """USD per million tokens."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry of the catalogue; sizes in bytes, spans in seconds, None = not said."""

    id: str
    source: str | None = None
    harness: str | None = None
    quant: str | None = None
    revision: str | None = None
    context: int | None = None
    cache: str | None = None
    footprint: int | None = None
    min_devices: int = 1
    min_device_memory: int = 0
    pinned_on: tuple[str, ...] = ()
    residency_priority: int | None = None
    idle_unload_s: float = 0.0
    slots: int | None = None
    draft: str | None = None
    speculation: str | None = None
    lora: tuple[str, ...] = ()
    cache_tokens: int | None = None
    pooling: str | None = None
    aliases: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    cost: Cost | None = None
    sampling: Sampling = Sampling()

    @property
    def priority(self) -> int:
        """The residency class: 100, or 1000 for a pinned model, unless said otherwise."""
        if self.residency_priority is not None:
            return self.residency_priority
        return 1000 if self.pinned_on else 100

    @property
    def harness_name(self) -> str | None:
        """The harness that loads it: as said, else by the format that its source tells of. None
        when nothing does."""
        return self.harness or _harness_for(self.source, self.id, self.quant)

    @property
    def able(self) -> tuple[str, ...]:
        """What its entry says that it can do, save to see where no engine of its harness does. What is
        pooled makes vectors."""
        blind = self.kind not in (None, "upstream")
        told = self.capabilities or (("embeddings",) if self.pooling else ())
        return tuple(name for name in told if name != "vision" or not blind)

    @property
    def origin(self) -> str | None:
        """Where its weights are, as a source; None when nothing says that."""
        source = self.source or (f"{HUB}{self.id}" if _REPO.fullmatch(self.id) else None)
        if source is None:
            return None
        revision = f"@{self.revision}" if self.revision else ""
        return source + revision + (f":{self.quant}" if self.quant else "")

    @property
    def may_draft(self) -> bool:
        """Whether it could guess ahead for another: a folder of safetensors, as far as its entry tells."""
        return self.harness_name in ("exllamav2", None)

    @property
    def kind(self) -> str | None:
        """What its harness computes on; None when nobody knows."""
        name = self.harness_name
        return None if name is None else KINDS.get(name)

    def runs_on(self, device: str) -> bool:
        """Whether its harness computes on a device of that name; one that nobody knows may."""
        return computes(self.kind, device)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Specs by id, aliases to ids, and what requests by an alias sample with that do not say.
    Alias clashes are found by `config.models`."""

    specs: Mapping[str, ModelSpec] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    alias_sampling: Mapping[str, Sampling] = field(default_factory=dict)
    _names: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names: dict[str, tuple[str, ...]] = {}
        for alias in sorted(self.aliases):
            model = self.aliases[alias]
            names[model] = (*names.get(model, ()), alias)
        object.__setattr__(self, "_names", names)

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self.specs.values())

    def resolve(self, name: str) -> str:
        """The id that `name` stands for; `name` itself when it is no alias."""
        return name if name in self.specs else self.aliases.get(name, name)

    def sampling(self, name: str) -> Sampling | None:
        """What `name` stands for besides a model; None when it is no more than a name."""
        return self.alias_sampling.get(name) if name in self.aliases else None

    def find(self, name: str) -> ModelSpec | None:
        """The spec of an id or alias."""
        return self.specs.get(self.resolve(name))

    def for_others(self, spec: ModelSpec) -> ModelSpec:
        """`spec` as a host understands it that does not have this catalogue: its draft is named by
        where that is from."""
        draft = None if spec.draft is None else self.find(spec.draft)
        return spec if draft is None or draft.origin is None else replace(spec, draft=draft.origin)

    def names(self, spec: ModelSpec) -> tuple[str, ...]:
        """Every alias of `spec`, sorted."""
        return self.aliases_of(spec.id)

    def aliases_of(self, model: str) -> tuple[str, ...]:
        """Every alias that stands for that id, sorted."""
        return self._names.get(model, ())


def paged(tokens: int) -> int:
    """So many tokens in whole pages."""
    return -(-tokens // PAGE) * PAGE


def computes(kind: str | None, device: str) -> bool:
    """Whether a device of that name may be of that kind."""
    known = device.partition(":")[0]
    return kind is None or kind == known or known not in KINDS.values()


def _harness_for(source: str | None, model: str, quant: str | None) -> str | None:
    """GGUF is llama.cpp's, and every other format exllamav2's. Of a hub's repo its name tells, and a
    quant or a file that is picked is one of GGUF."""
    text = source if source is not None else HUB + model.removeprefix(HUB)
    if text.startswith(UPSTREAM):
        return "upstream"
    if text.startswith(PATH):
        return "llamacpp" if text.lower().endswith(".gguf") else "exllamav2"
    repo, _, picked = text.removeprefix(HUB).partition(":")
    repo = repo.partition("@")[0]
    if not text.startswith(HUB) or not _REPO.fullmatch(repo):
        return None
    return "llamacpp" if quant or picked or "gguf" in repo.lower() else "exllamav2"


def unknown(name: str, known: Iterable[str]) -> UnknownModel | BadAsk:
    """The error for a model name that nothing answers to, with near names."""
    if not valid_id(name):
        return BadAsk("'model' must be a model id: letters, digits and ._:/- only", param="model")
    like = near(name, known)
    listed = " `cortex models list` and GET /v1/models tell what there is."
    hint = f" Did you mean {' or '.join(like)}?" if like else listed
    return UnknownModel(f"The model '{name}' does not exist here.{hint}", param="model")


def near(name: str, known: Iterable[str]) -> list[str]:
    """At most three of `known` that share the most letter triples with `name` (Dice's coefficient).

    Sets of triples, not an alignment: a catalogue of thousands is looked through within
    milliseconds, however long the name that somebody made up.
    """
    wanted = _triples(name)
    scored = ((_likeness(wanted, _triples(other)), other) for other in known)
    best = heapq.nsmallest(3, ((-score, other) for score, other in scored if score >= LIKE))
    return [other for _, other in best]


def _triples(text: str) -> frozenset[str]:
    padded = f"  {text.lower()} "
    return frozenset(padded[at : at + 3] for at in range(len(padded) - 2))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other))
