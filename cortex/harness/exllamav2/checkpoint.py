"""A folder with a model, judged: everything that the library has to be told of it, or `Unfit`.

The library reads config.json with defaults and slips of its own, and asserts what it does not like
minutes into a load. Here the file is read once, strictly; `configure` hands the result over.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex.errors import Unfit
from cortex.harness.exllamav2.families import ELSEWHERE, Family, family_of, window_of
from cortex.harness.exllamav2.layers import Sizes, check_tensors
from cortex.harness.exllamav2.quantised import check_method
from cortex.harness.exllamav2.rope import Rope, read_rope, stretched
from cortex.weights import Facts, ModelFolder, Settings, read_folder

MOST_EXPERTS: Final = 1024
# The widest row that the library's norm kernel takes.
MOST_HIDDEN: Final = 32768
MOST_HEAD: Final = 256


@dataclass(frozen=True, slots=True)
class Scales:
    """What some architectures multiply by; `attention` None stands for the usual root."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    attention: float | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that exllamav2 computes right. `context` is the longest that may be served;
    `second` says how GPTQ stored its zero points."""

    folder: ModelFolder
    family: Family
    sizes: Sizes
    scales: Scales
    norm_eps: float
    experts_per_token: int
    context: int
    second: bool

    @property
    def settings(self) -> Settings:
        return self.folder.settings

    def rope(self, context: int) -> Rope:
        """Its positions where `context` tokens are served."""
        return read_rope(self.folder.path, self.settings, context, self.family)


def read_checkpoint(path: Path) -> Checkpoint:
    """The model in a folder, whole and fit for the library. Raises Unfit. Reads headers only."""
    folder = read_folder(path)
    settings, config = folder.settings, path / "config.json"
    family = family_of(path, settings)
    second = check_method(folder)
    facts = Facts(config, settings.told)
    sizes = _sizes(facts, family, settings)
    _check_sizes(config, settings, family, sizes)
    check_tensors(folder, family, sizes)
    for name in ("bos_token_id", "eos_token_id"):
        facts.ids(name)
    window, longest = window_of(family, config, settings.told), stretched(path, settings)
    return Checkpoint(
        folder=folder,
        family=family,
        sizes=sizes,
        scales=_scales(facts) if family.scaled else Scales(),
        norm_eps=facts.real("rms_norm_eps", least=1e-12, most=1.0),
        experts_per_token=_experts_per_token(facts, sizes),
        context=min(longest, window or longest),
        second=second,
    )


def _sizes(facts: Facts, family: Family, settings: Settings) -> Sizes:
    both = facts.flag("attention_bias")
    inner, experts = settings.intermediate, 0
    if family.experts == "block_sparse_moe":
        experts = _experts(facts, 8)
    elif family.experts:
        experts = _experts(facts, 128)
        inner = facts.number("moe_intermediate_size", 768)
    return Sizes(
        inner=inner,
        experts=experts,
        qkv_bias=family.qkv_bias or both,
        o_bias=both and not family.qkv_bias,
        mlp_bias=facts.flag("mlp_bias"),
    )


def _experts(facts: Facts, usual: int) -> int:
    """transformers writes either name, from one release to the next."""
    return facts.number("num_local_experts", facts.number("num_experts", usual), most=MOST_EXPERTS)


def _experts_per_token(facts: Facts, sizes: Sizes) -> int:
    if not sizes.experts:
        return 0
    return facts.number("num_experts_per_tok", 2 if sizes.experts <= 8 else 8, most=sizes.experts)


def _scales(facts: Facts) -> Scales:
    return Scales(
        embedding=facts.real("embedding_multiplier", 1.0, least=1e-9),
        residual=facts.real("residual_multiplier", 1.0, least=1e-9),
        logits=1.0 / facts.real("logits_scaling", 1.0, least=1e-9),
        attention=facts.real("attention_multiplier", 1.0, least=1e-9),
    )


def _check_sizes(config: Path, settings: Settings, family: Family, sizes: Sizes) -> None:
    """Sizes beyond which a kernel reads where nothing is, or a padded row fits no longer."""
    length = settings.head_length
    wrong = [
        (
            settings.heads % settings.kv_heads,
            f"{settings.heads} heads share {settings.kv_heads} of the cache",
        ),
        (length % 8 or length > MOST_HEAD, f"head_dim is {length}, not a multiple of 8 up to {MOST_HEAD}"),
        (
            family.head_norm and length % 64,
            f"head_dim is {length}, and the norm of heads works on multiples of 64",
        ),
        (settings.hidden % 32 or settings.hidden > MOST_HIDDEN, f"hidden_size is {settings.hidden}"),
        (sizes.inner % 32, f"intermediate_size is {sizes.inner}"),
        (settings.heads * length % 32, f"all heads together have {settings.heads * length} elements"),
        (settings.kv_heads * length % 32, f"the keys' heads have {settings.kv_heads * length} elements"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            raise Unfit(
                f"{config}: {what}; exllamav2 works on multiples of 32 up to {MOST_HIDDEN}, and on heads "
                f"that are evenly shared: {ELSEWHERE}"
            )
