"""Which architectures are served, and why the others are not.

The library loads an unknown name as Llama and answers nonsense. So a name is served only when what
the library computes for it has been held against transformers; every other one is refused, with
the reason where there is a particular one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cortex.errors import Unfit
from cortex.weights import Facts, Settings

ELSEWHERE: Final = "choose another model, or serve it as an upstream"


@dataclass(frozen=True, slots=True)
class Family:
    """What sets an architecture apart. `fused`: plain weights may have q, k and v, and both halves of
    the gated layer, in one tensor. `window`: whether config.json's sliding_window holds always,
    or only where use_sliding_window says so; `window_default` where it says nothing. `partial`: a part
    of each head may be left unturned by its positions."""

    theta: float = 10_000.0
    qkv_bias: bool = False
    head_norm: bool = False
    fused: bool = False
    experts: Literal["", "block_sparse_moe", "mlp"] = ""
    window: Literal["never", "always", "said"] = "never"
    window_default: int = 0
    scaled: bool = False
    partial: bool = False


SERVED: Final[Mapping[str, Family]] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(window="always", window_default=4096),
    "MixtralForCausalLM": Family(theta=1e6, experts="block_sparse_moe", window="always"),
    "Qwen2ForCausalLM": Family(qkv_bias=True, window="said", window_default=4096),
    "Qwen3ForCausalLM": Family(head_norm=True, window="said", window_default=4096),
    "Qwen3MoeForCausalLM": Family(head_norm=True, experts="mlp", window="said", window_default=4096),
    "Phi3ForCausalLM": Family(fused=True, window="always", partial=True),
    "GraniteForCausalLM": Family(scaled=True),
}

_SOFTCAP = "limits its scores by a soft cap, which paged attention here has not"
_WINDOWS = "looks through a sliding window in some of its layers, which paged attention here does not"
_VISION = "also sees, and exllamav2's loading of such models is not held against a reference"
_POSITIONS = "learns its positions, and is not held against a reference"
_HALF = "overflows half precision, which is all that exllamav2 computes in"
REASONS: Final[Mapping[str, str]] = {
    "Gemma2ForCausalLM": _SOFTCAP,
    "GemmaForCausalLM": _HALF,
    "Gemma3ForConditionalGeneration": _WINDOWS,
    "Cohere2ForCausalLM": _WINDOWS,
    "Starcoder2ForCausalLM": _WINDOWS,
    "LlavaForConditionalGeneration": _VISION,
    "Mistral3ForConditionalGeneration": _VISION,
    "Qwen2VLForConditionalGeneration": _VISION,
    "Qwen2_5_VLForConditionalGeneration": _VISION,
    "GPT2LMHeadModel": _POSITIONS,
    "GPTBigCodeForCausalLM": _POSITIONS,
}
# The library knows them; nobody has compared what it computes.
UNCOMPARED: Final = frozenset(
    {
        "CohereForCausalLM",
        "DbrxForCausalLM",
        "GemmoeForCausalLM",
        "Glm4ForCausalLM",
        "IndexForCausalLM",
        "InternLM2ForCausalLM",
        "MiniCPMForCausalLM",
        "OrionForCausalLM",
        "YiForCausalLM",
    }
)
# Keys that the library obeys for every architecture, though only some have them.
_SOFTCAPS: Final = ("attn_logit_softcapping", "final_logit_softcapping")
_SCALES: Final = (
    "attention_multiplier", "query_pre_attn_scalar", "embedding_multiplier", "residual_multiplier",
    "logits_scaling", "logit_scale", "scale_emb", "scale_depth", "norm_head",
)  # fmt: skip


def family_of(path: Path, settings: Settings) -> Family:
    """The family of the model in the folder `path`. Raises Unfit when it is not served."""
    config, told = path / "config.json", settings.told
    names = told.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise Unfit(f"{config}: architectures is {names!r} where one name is needed; {ELSEWHERE}")
    name = names[0]
    family = SERVED.get(name)
    if family is None:
        raise Unfit(f"{config}: {name} {_reason(name)}; {ELSEWHERE}. Served are {', '.join(SERVED)}")
    if told.get("vision_config") is not None:
        raise Unfit(f"{config}: this {name} {_VISION}; {ELSEWHERE}")
    if any(told.get(key) is not None for key in _SOFTCAPS):
        raise Unfit(f"{config}: this {name} {_SOFTCAP}; {ELSEWHERE}")
    _check_scales(config, name, family, told)
    _check_forms(config, name, family, told)
    return family


def _reason(name: str) -> str:
    if name in REASONS:
        return REASONS[name]
    if name in UNCOMPARED:
        return "is known to exllamav2, and what it computes is not held against a reference"
    return "is unknown to exllamav2 0.3.2, which would load it as Llama"


def _check_scales(config: Path, name: str, family: Family, told: Mapping[str, Any]) -> None:
    for key in () if family.scaled else _SCALES:
        if told.get(key) not in (None, 1, 0, False):
            raise Unfit(f"{config}: {key} is {told[key]!r}, which {name} has not; {ELSEWHERE}")


def _check_forms(config: Path, name: str, family: Family, told: Mapping[str, Any]) -> None:
    """Choices within an architecture of which the library knows one."""
    facts = Facts(config, told)
    act = facts.text("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise Unfit(f"{config}: hidden_act is {act!r}, and exllamav2 computes silu; {ELSEWHERE}")
    if told.get("use_qk_norm") not in (None, family.head_norm):
        raise Unfit(f"{config}: use_qk_norm is {told['use_qk_norm']!r}, which {name} has not; {ELSEWHERE}")
    if family.experts == "mlp":
        if not facts.flag("norm_topk_prob"):
            raise Unfit(f"{config}: norm_topk_prob is false, and exllamav2 always does so; {ELSEWHERE}")
        if told.get("mlp_only_layers") or facts.number("decoder_sparse_step", 1) != 1:
            raise Unfit(
                f"{config}: some layers have no experts, and exllamav2 wants them in all; {ELSEWHERE}"
            )


def window_of(family: Family, config: Path, told: Mapping[str, Any]) -> int | None:
    """How many tokens the model looks back at, where that is not all: the library ignores it, so
    that no longer context can be served."""
    facts = Facts(config, told)
    if family.window == "never" or (family.window == "said" and not facts.flag("use_sliding_window")):
        return None
    default = 0 if "sliding_window" in told else family.window_default
    return facts.number("sliding_window", default, least=0) or None
