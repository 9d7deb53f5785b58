"""What a neuron tells: discovery, health, residents; and what it is told: loads.

Every field has a default, so that builds of different age understand each other.
Sizes are bytes, times seconds. The gateway and `cortex status` read these, the
neuron writes them.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from cortex.events import Usage
from cortex.wire.keeping import EvictionTerms

# No count or size of a true report is larger; arithmetic and gauges are safe with it.
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Device(msgspec.Struct, kw_only=True, frozen=True):
    """`device` is its name in neuron.toml (cuda:0), `name` what it is sold as."""

    index: int = 0
    device: str = ""
    name: str = ""
    kind: str = "cpu"
    memory_total: Count = 0
    compute_capability: str | None = None
    uuid: str | None = None


class HarnessReport(msgspec.Struct, kw_only=True, frozen=True):
    """`why_not` is for people, with the remedy; `code` is the reason for programs."""

    name: str
    available: bool = False
    version: str | None = None
    code: str | None = None
    why_not: str | None = None


class Crash(msgspec.Struct, kw_only=True, frozen=True):
    """The last death of a process or of a model's child. `at` is Unix time, `boot_id` whose process
    it was. One of `request_ids` may be the cause: none of them should be sent again."""

    at: float = 0.0
    device: str = ""
    phase: str = ""
    why: str = ""
    boot_id: str = ""
    models: list[str] = []
    request_ids: list[str] = []
    more_requests: Count = 0


class Quarantined(msgspec.Struct, kw_only=True, frozen=True):
    """A model that is not loaded since processes died with it, at these Unix times."""

    model: str
    crashes: list[float] = []
    remedy: str = ""


class Discovery(msgspec.Struct, kw_only=True, frozen=True):
    """GET /discovery. `boot_id` changes with every start of the process; `cuda_why_not` says why
    there is no CUDA device; `last_crash` may be of an earlier process."""

    name: str = ""
    hostname: str = ""
    os: str = ""
    kernel: str = ""
    driver: str | None = None
    cuda: str | None = None
    cuda_why_not: str | None = None
    devices: list[Device] = []
    harnesses: list[HarnessReport] = []
    dialects: list[str] = []
    boot_id: str = ""
    last_crash: Crash | None = None
    quarantined: list[Quarantined] = []


class DeviceHealth(msgspec.Struct, kw_only=True, frozen=True):
    """Memory as models may use it. `place` is shared by devices that hold models together.
    `late` says that it does not let itself be looked at, so that its figures are old; `absent`
    that it fell off its bus; `poisoned` that it serves nothing more in this process, and
    `poisoned_why` what an engine raised there."""

    name: str
    place: str | None = None
    memory_total: Count = 0
    memory_used: Count = 0
    memory_free: Count = 0
    utilization: float | None = None
    temperature: float | None = None
    heartbeat_age_s: float | None = None
    poisoned: bool = False
    poisoned_why: str | None = None
    late: bool = False
    absent: bool = False


class Activation(msgspec.Struct, kw_only=True, frozen=True):
    """The default models at start: `failed` maps a model to its cause."""

    state: Literal["activating", "ready", "stopping"] = "ready"
    pending: list[str] = []
    in_progress: str | None = None
    completed: list[str] = []
    failed: dict[str, str] = {}


class ModelLoad(msgspec.Struct, kw_only=True, frozen=True):
    """What one resident has to do at the moment. `kv_tokens_used` are prompts and answers of live
    jobs, of the `kv_tokens_total` that the KV cache holds."""

    id: str
    in_flight: Count = 0
    queue: Count = 0
    slots: Count = 0
    rejected: dict[str, Count] = {}
    tok_s_decode: float | None = None
    tok_s_prefill: float | None = None
    kv_tokens_used: Count = 0
    kv_tokens_total: Count = 0


class Tokens(msgspec.Struct, kw_only=True, frozen=True):
    """What requests used; `cached` are among the `prompt` tokens."""

    prompt: Count = 0
    cached: Count = 0
    completion: Count = 0


class KeyTokens(msgspec.Struct, kw_only=True, frozen=True):
    """Tokens by the name of the API key, of one `day` in UTC (2026-11-30). `book` is another word when
    the neuron has lost its book and began at nothing; one that lost the last lines only keeps it."""

    day: str = ""
    book: str = ""
    keys: dict[str, Tokens] = {}


class Health(msgspec.Struct, kw_only=True, frozen=True):
    """GET /health of a neuron: a pure cache read. `seq` grows with each report of a boot; 0 is that of
    an older build."""

    status: Literal["ok", "degraded", "impaired"] = "ok"
    name: str = ""
    boot_id: str = ""
    seq: Count = 0
    uptime_s: float = 0.0
    devices: list[DeviceHealth] = []
    activation: Activation = Activation()
    models: list[ModelLoad] = []
    warnings: list[str] = []
    key_tokens: KeyTokens = KeyTokens()
    quarantined: list[Quarantined] = []


class Servable(msgspec.Struct, kw_only=True, frozen=True):
    ok: bool = True
    reason: str | None = None


class ResidentReport(msgspec.Struct, kw_only=True, frozen=True):
    """One model of GET /models. `bytes` are per device name, and those of all of them are split
    into weights, KV cache and overhead once they are measured; `queue` is how many requests
    may wait beyond the `slots`. While it loads, `phase` is queued, download, verify or load, and
    `done_bytes` of `total_bytes` of that phase are done. Once it is loaded, `isolation` is thread or
    process, and `pid` is the process that computes."""

    id: str
    harness: str = ""
    state: str = "loaded"
    devices: list[str] = []
    bytes: dict[str, Count] = {}
    weights_bytes: Count | None = None
    cache_bytes: Count | None = None
    overhead_bytes: Count | None = None
    context_length: Count | None = None
    slots: Count | None = None
    queue: Count = 0
    capabilities: list[str] = []
    servable: Servable = Servable()
    idle_s: float = 0.0
    age_s: float = 0.0
    load_s: float = 0.0
    pinned: bool = False
    priority: int = 100
    idle_unload_s: float | None = None
    isolation: str = ""
    pid: int | None = None
    phase: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0


class Residents(msgspec.Struct, kw_only=True, frozen=True):
    """GET /models. `known` are the models that the neuron's own catalogue can load, `pinned` those
    that stay once they are here, by order. `seq` is counted together with that of /health."""

    boot_id: str = ""
    seq: Count = 0
    models: list[ResidentReport] = []
    known: list[str] = []
    pinned: list[str] = []


class LoadRequest(msgspec.Struct, kw_only=True, frozen=True):
    """POST /models/load. `spec` is a models.toml entry, read and checked by `config.models`;
    `victims` are proposals, and `eviction` stands in for what neuron.toml does not say. `force`
    loads a model although it is in quarantine, and forgets what it did. `key` is whose turn at room it
    is, "" for a caller without one, and `share` that key's share of the turns."""

    # Json in truth; msgspec cannot build a decoder for a type that names itself.
    spec: dict[str, Any]
    evict: Literal["allow", "never"] = "allow"
    victims: list[str] = []
    eviction: EvictionTerms = EvictionTerms()
    force: bool = False
    key: str = ""
    share: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class LoadAnswer(msgspec.Struct, kw_only=True, frozen=True):
    resident: ResidentReport
    evicted: list[str] = []
    joined: bool = False


class UnloadRequest(msgspec.Struct, kw_only=True, frozen=True):
    """POST /models/unload. `force` cuts what is seated after the drain."""

    id: str
    force: bool = False


class Tokenize(msgspec.Struct, kw_only=True, frozen=True):
    """POST /tokenize: a text, or a chat, which is read again as the body of a completion."""

    model: str
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False


class Tokenized(msgspec.Struct, kw_only=True, frozen=True):
    count: int
    max_model_len: int
    tokens: list[int]


class Detokenize(msgspec.Struct, kw_only=True, frozen=True):
    """POST /detokenize."""

    model: str
    tokens: list[int]


class Detokenized(msgspec.Struct, kw_only=True, frozen=True):
    prompt: str


# Headers between gateway and neuron; none of them reaches an engine or a client
# except the ones that spec names for clients.
ROUTE: Final = "x-cortex-route"
NOT_STARTED: Final = "x-cortex-not-started"
USAGE: Final = "x-cortex-usage"
NEURON: Final = "x-cortex-neuron"
MODEL: Final = "x-cortex-model"
REQUEST_ID: Final = "x-request-id"
KEY_NAME: Final = "x-cortex-key-name"
PROGRESS: Final = "x-cortex-progress"
# Its share of the turns, where that is not 1.
KEY_SHARE: Final = "x-cortex-key-share"
# Seconds that are left to a request of those that it may wait in all.
PATIENCE: Final = "x-cortex-patience"
# What the alias of a request samples with where its body says nothing: a JSON object.
SAMPLING: Final = "x-cortex-sampling"
# The catalogue's entry of a model whose tokens are counted: a JSON object.
SPEC: Final = "x-cortex-spec"

# No count of tokens is longer; int() of a longer text only burns time.
_DIGITS: Final = 15


def render_usage(usage: Usage) -> str:
    """The value of the `USAGE` trailer, which ends each inference stream of a neuron."""
    counts = f"prompt={usage.prompt},cached={usage.cached},completion={usage.completion}"
    return f"{counts},estimated=1" if usage.estimated else counts


def parse_usage(value: str) -> Usage | None:
    """What a `USAGE` trailer says; None when it is not one.

    Names that this build does not know are skipped: a newer neuron may say more.
    """
    counts: dict[str, int] = {}
    for field in value.split(","):
        name, _, digits = field.strip().partition("=")
        if name in counts or not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS):
            return None
        counts[name] = int(digits)
    if "prompt" not in counts or "completion" not in counts:
        return None
    return Usage(
        counts["prompt"],
        counts.get("cached", 0),
        counts["completion"],
        estimated=counts.get("estimated", 0) > 0,
    )
