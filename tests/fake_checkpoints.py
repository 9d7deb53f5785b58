"""Whole folders as exllamav2 takes them: every tensor that a family needs, in any of its forms.

The weights are ones and twos, which nobody multiplies by; what counts are names, types and shapes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cortex.errors import Unfit
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.exllamav2.guards import preflight
from tests.fake_safetensors import folder, shard

Tensors = dict[str, tuple[str, tuple[int, ...]]]

BASE: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 320,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": [2, 3],
    "hidden_act": "silu",
}
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"sliding_window": None},
    "MixtralForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True
    },
    "Phi3ForCausalLM": {},
    "GraniteForCausalLM": {"residual_multiplier": 0.5, "attention_multiplier": 0.1},
}  # fmt: skip
EXL2 = {"quantization_config": {"quant_method": "exl2", "bits": 4.0}}
GPTQ = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32}}
SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>")


def config_of(name: str = "LlamaForCausalLM", **changed: object) -> dict[str, object]:
    return {**BASE, "architectures": [name], **FAMILIES[name], **changed}


def matrix(name: str, into: int, out: int, form: str = "plain", bias: bool = False) -> Tensors:
    """One matrix as it is stored."""
    groups = into // 32
    forms: dict[str, Tensors] = {
        "plain": {f"{name}.weight": ("F16", (out, into))},
        "exl2": {
            f"{name}.q_weight": ("I32", (into // 8, out)),
            f"{name}.q_invperm": ("I16", (into,)),
            f"{name}.q_scale": ("I32", (groups, out // 8)),
            f"{name}.q_scale_max": ("F16", (groups,)),
            f"{name}.q_groups": ("I16", (2 * groups,)),
        },
        "gptq": {
            f"{name}.qweight": ("I32", (into // 8, out)),
            f"{name}.qzeros": ("I32", (groups, out // 8)),
            f"{name}.scales": ("F16", (groups, out)),
            f"{name}.g_idx": ("I32", (into,)),
        },
    }
    return {**forms[form], **({f"{name}.bias": ("F16", (out,))} if bias else {})}


def tensors_of(config: Mapping[str, object], form: str = "plain") -> Tensors:
    """All tensors of the model that `config` describes."""
    hidden, vocabulary = int(str(config["hidden_size"])), int(str(config["vocab_size"]))
    made: Tensors = {
        "model.embed_tokens.weight": ("F16", (vocabulary, hidden)),
        "model.norm.weight": ("F16", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        made |= matrix("lm_head", hidden, vocabulary, "exl2" if form == "exl2" else "plain")
    for layer in range(int(str(config["num_hidden_layers"]))):
        for part in _layer(config, f"model.layers.{layer}", form):
            made |= part
    return made


def _layer(config: Mapping[str, object], at: str, form: str) -> Iterator[Tensors]:
    name = str(config["architectures"][0])  # type: ignore[index]
    hidden, length = int(str(config["hidden_size"])), int(str(config["head_dim"]))
    wide, narrow = (
        int(str(config[heads])) * length for heads in ("num_attention_heads", "num_key_value_heads")
    )
    both = bool(config.get("attention_bias", False))
    for norm in ("input_layernorm", "post_attention_layernorm"):
        yield {f"{at}.{norm}.weight": ("F16", (hidden,))}
    if name.startswith("Qwen3"):
        yield {f"{at}.self_attn.{each}_norm.weight": ("F16", (length,)) for each in "qk"}
    if name.startswith("Phi3") and form == "plain":
        yield matrix(f"{at}.self_attn.qkv_proj", hidden, wide + 2 * narrow)
    else:
        for each, out in (("q", wide), ("k", narrow), ("v", narrow)):
            yield matrix(f"{at}.self_attn.{each}_proj", hidden, out, form, both or name.startswith("Qwen2"))
    yield matrix(f"{at}.self_attn.o_proj", wide, hidden, form, both)
    yield from _mlp(config, name, at, form)


def _mlp(config: Mapping[str, object], name: str, at: str, form: str) -> Iterator[Tensors]:
    hidden, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))
    if name.startswith("Phi3") and form == "plain":
        yield matrix(f"{at}.mlp.gate_up_proj", hidden, 2 * inner)
        yield matrix(f"{at}.mlp.down_proj", inner, hidden)
        return
    within, names, experts = f"{at}.mlp", ("gate_proj", "up_proj", "down_proj"), [""]
    if name.startswith("Mixtral"):
        within, names = f"{at}.block_sparse_moe", ("w1", "w3", "w2")
    if name.startswith("Qwen3Moe"):
        inner = int(str(config["moe_intermediate_size"]))
    if "Moe" in name or name.startswith("Mixtral"):
        yield matrix(f"{within}.gate", hidden, 4)
        experts = [f".experts.{expert}" for expert in range(4)]
    for expert in experts:
        yield matrix(f"{within}{expert}.{names[0]}", hidden, inner, form)
        yield matrix(f"{within}{expert}.{names[1]}", hidden, inner, form)
        yield matrix(f"{within}{expert}.{names[2]}", inner, hidden, form)


def tokenizer(words: int = 300, special: tuple[str, ...] = SPECIAL) -> str:
    """A tokenizer.json of so many tokens, the special ones first."""
    letters = [chr(0x61 + each % 26) * (1 + each // 26) for each in range(words - len(special))]
    added = [
        {
            "id": at,
            "content": word,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for at, word in enumerate(special)
    ]
    vocabulary = {word: at for at, word in enumerate([*special, *letters])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": False, "fuse_unk": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": model,
        }
    )


def checkpoint(
    path: Path,
    config: Mapping[str, object] | None = None,
    tensors: Tensors | None = None,
    form: str = "plain",
) -> Path:
    """A whole folder of a model, ready to be damaged."""
    told = config_of() if config is None else config
    folder(path, told, model=shard(tensors_of(told, form) if tensors is None else tensors))
    (path / "tokenizer.json").write_text(tokenizer())
    return path


ADAPTER: Mapping[str, object] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"}


def adapter(path: Path, tensors: Tensors | None = None, **changed: object) -> Path:
    """A LoRA of the Llama that `config_of` describes."""
    path.mkdir(exist_ok=True)
    at = "base_model.model.model.layers.1.self_attn.q_proj"
    usual: Tensors = {f"{at}.lora_A.weight": ("F32", (8, 64)), f"{at}.lora_B.weight": ("F32", (128, 8))}
    (path / "adapter_config.json").write_text(json.dumps({**ADAPTER, **changed}))
    (path / "adapter_model.safetensors").write_bytes(shard(usual if tensors is None else tensors))
    return path


def order_of(path: Path, **changed: Any) -> LoadOrder:
    return replace(LoadOrder("m", path, "cuda:0", 1000, 2), **changed)


def promised(path: Path, **changed: Any) -> Preflight:
    return preflight(order_of(path, **changed))


def refused(path: Path, **changed: Any) -> str:
    with pytest.raises(Unfit) as caught:
        preflight(order_of(path, **changed))
    return caught.value.message
