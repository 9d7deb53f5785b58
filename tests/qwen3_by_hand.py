"""What the demo model's weights make of an input, by what a Qwen3 is, in NumPy.

Read from the checkpoint beside the GGUF, so that it shares nothing with any engine.
"""

import json
import struct
from functools import cache
from typing import Any, Literal

import numpy as np

from cortex.demo import GGUF

FOLDER = GGUF.parent / "hf"


@cache
def _settings() -> dict[str, Any]:
    said: dict[str, Any] = json.loads((FOLDER / "config.json").read_text())
    return said


@cache
def _weights() -> dict[str, Any]:
    data = (FOLDER / "model.safetensors").read_bytes()
    begin = 8 + struct.unpack_from("<Q", data)[0]
    tables = json.loads(data[8:begin])
    tables.pop("__metadata__", None)
    assert {each["dtype"] for each in tables.values()} <= {"F16"}
    return {
        name: np.frombuffer(
            data,
            "<f2",
            (each["data_offsets"][1] - each["data_offsets"][0]) // 2,
            begin + each["data_offsets"][0],
        )
        .reshape(each["shape"])
        .astype(float)
        for name, each in tables.items()
    }


def vector(ids: tuple[int, ...], pooling: Literal["mean", "last"]) -> list[float]:
    """The vector of length one."""
    weights = _weights()
    states = weights["model.embed_tokens.weight"][list(ids)]
    for layer in range(_settings()["num_hidden_layers"]):
        own = {
            name.removeprefix(f"model.layers.{layer}."): table
            for name, table in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        states = states + _attended(_normed(states, own["input_layernorm.weight"]), own)
        inner = _normed(states, own["post_attention_layernorm.weight"])
        gate = inner @ own["mlp.gate_proj.weight"].T
        up = inner @ own["mlp.up_proj.weight"].T
        states = states + (gate / (1 + np.exp(-gate)) * up) @ own["mlp.down_proj.weight"].T
    states = _normed(states, weights["model.norm.weight"])
    pooled = states[-1] if pooling == "last" else states.mean(0)
    found: list[float] = (pooled / np.linalg.norm(pooled)).tolist()
    return found


def _attended(states: Any, own: dict[str, Any]) -> Any:
    known = _settings()
    size, heads = known["head_dim"], known["num_attention_heads"]
    shared = heads // known["num_key_value_heads"]
    length = len(states)
    queries, keys, values = (
        (states @ own[f"self_attn.{name}_proj.weight"].T).reshape(length, -1, size) for name in "qkv"
    )
    queries = _turned(_normed(queries, own["self_attn.q_norm.weight"]))
    keys = _turned(_normed(keys, own["self_attn.k_norm.weight"])).repeat(shared, 1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(size)
    scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares = shares / shares.sum(-1, keepdims=True)
    seen = np.einsum("hqk,khd->qhd", shares, values.repeat(shared, 1))
    return seen.reshape(length, -1) @ own["self_attn.o_proj.weight"].T


def _turned(states: Any) -> Any:
    """Each state by its place."""
    size = states.shape[-1]
    speeds = _settings()["rope_theta"] ** (-np.arange(0, size, 2) / size)
    angles = np.tile(np.outer(np.arange(len(states)), speeds), 2)[:, None]
    first, second = states[..., : size // 2], states[..., size // 2 :]
    return states * np.cos(angles) + np.concatenate([-second, first], -1) * np.sin(angles)


def _normed(states: Any, scale: Any) -> Any:
    mean = (states**2).mean(-1, keepdims=True)
    return states / np.sqrt(mean + _settings()["rms_norm_eps"]) * scale
