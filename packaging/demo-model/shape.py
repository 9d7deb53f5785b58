"""The shape of the model: sizes, the tensors they imply, and random numbers to fill them.

Qwen3's shape, small. It keeps the limits of both engines: every projection is a multiple
of 32 wide (Q8_0 blocks, exllamav2's kernels) and `head_dim` is 64 (exllamav2's q/k norm).
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Weights: TypeAlias = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3 model with tied embeddings; the defaults are the demo model's."""

    vocab: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 64
    inner: int = 384
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    context: int = 2048

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor, in the order in which files list them."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for number in range(self.layers):
            shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in self._layer().items()}
        return shapes

    def _layer(self) -> dict[str, tuple[int, ...]]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "self_attn.q_norm": (self.head_dim,),
            "self_attn.k_norm": (self.head_dim,),
            "mlp.gate_proj": (self.inner, self.hidden),
            "mlp.up_proj": (self.inner, self.hidden),
            "mlp.down_proj": (self.hidden, self.inner),
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
        }


def random_weights(shape: Shape, seed: int = 0) -> Weights:
    """Numbers to start a training from: norms are one, the rest is normal and small."""
    numbers = np.random.default_rng(seed)

    def tensor(name: str, size: tuple[int, ...]) -> NDArray[np.float32]:
        if len(size) == 1:
            return np.ones(size, np.float32)
        spread = 0.04 if "embed" in name else 0.6 / math.sqrt(size[1])
        return numbers.normal(0, spread, size).astype(np.float32)

    return {name: tensor(name, size) for name, size in shape.tensors().items()}
