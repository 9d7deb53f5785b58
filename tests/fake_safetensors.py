"""Folders of safetensors made to order: whole ones, and ones with a chosen fault."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

CONFIG: Mapping[str, object] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
TENSORS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "model.embed_tokens.weight": ("F16", (1000, 64)),
    "model.layers.0.mlp.up_proj.weight": ("F16", (192, 64)),
    "model.norm.weight": ("F32", (64,)),
}
WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "I32": 4, "I16": 2, "U8": 1, "F8_E4M3": 1, "F64": 8}


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> tuple[dict[str, object], int]:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape) in tensors.items():
        end = at + math.prod(shape) * WIDTHS[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    return header, at


def shard(tensors: Mapping[str, tuple[str, tuple[int, ...]]] = TENSORS) -> bytes:
    header, length = header_of(tensors)
    return framed(header) + b"\1" * length


def framed(header: object) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data


def folder(path: Path, config: Mapping[str, object] = CONFIG, **files: bytes) -> Path:
    """A model's folder: `model` stands for model.safetensors, and so on."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    for name, data in (files or {"model": shard()}).items():
        (path / f"{name}.safetensors").write_bytes(data)
    return path
