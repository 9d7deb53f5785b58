"""Models with the shapes of real ones and random weights, written as fast as a disk takes them.

    python -m tests.gpu.shapes FOLDER 0.6B 8B

What they say is made-up words without sense, and no answer ends by itself: a run makes as many
tokens as are asked for. Their tokenizer is the demo model's with such words after its own.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from cortex.demo import HF
from tests.exllamav2 import place

STD: Final = 0.02
SHARD_BYTES: Final = 4 * 2**30
COPIED: Final = ("tokenizer_config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Shape:
    """As config.json tells it. `tied`: the head is the embedding."""

    name: str
    architecture: str
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    context: int = 32768

    @property
    def normed(self) -> bool:
        return self.architecture.startswith("Qwen3")

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """All of a checkpoint, in the order of the layers."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocab, self.hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.input_layernorm.weight", (self.hidden,)
            for name, size in (("q", wide), ("k", narrow), ("v", narrow)):
                yield f"{at}.self_attn.{name}_proj.weight", (size, self.hidden)
            yield f"{at}.self_attn.o_proj.weight", (self.hidden, wide)
            if self.normed:
                yield f"{at}.self_attn.q_norm.weight", (self.head_dim,)
                yield f"{at}.self_attn.k_norm.weight", (self.head_dim,)
            yield f"{at}.post_attention_layernorm.weight", (self.hidden,)
            for name in ("gate", "up"):
                yield f"{at}.mlp.{name}_proj.weight", (self.inner, self.hidden)
            yield f"{at}.mlp.down_proj.weight", (self.hidden, self.inner)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocab, self.hidden)


SHAPES: Final[Mapping[str, Shape]] = {
    shape.name: shape
    for shape in (
        Shape("tiny", "Qwen3ForCausalLM", 128, 256, 2, 4, 2, 64, 2048, True),
        Shape("0.6B", "Qwen3ForCausalLM", 1024, 3072, 28, 16, 8, 128, 151936, True),
        Shape("8B", "LlamaForCausalLM", 4096, 14336, 32, 32, 8, 128, 128256, False),
    )
}


def write(folder: Path, shape: Shape, device: str = "cpu") -> float:
    """The model is in `folder`, unless it was. Seconds that it took."""
    began = time.monotonic()
    if (folder / "config.json").exists():
        return 0.0
    folder.mkdir(parents=True, exist_ok=True)
    silent = _write_tokenizer(folder, shape.vocab)
    for name in COPIED:
        (folder / name).write_bytes((HF / name).read_bytes())
    shards = list(_shards(shape))
    places = {}
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / file, tensors, silent, device)
        places |= dict.fromkeys(tensors, file)
    total = sum(2 * prod(size) for tensors in shards for size in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    # Last: a folder with it is whole.
    (folder / "config.json").write_text(json.dumps(_config(shape)))
    return time.monotonic() - began


def _shards(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    tensors: dict[str, tuple[int, ...]] = {}
    held = 0
    for name, size in shape.tensors():
        if tensors and held + 2 * prod(size) > SHARD_BYTES:
            yield tensors
            tensors, held = {}, 0
        tensors[name], held = size, held + 2 * prod(size)
    yield tensors


def _write_shard(path: Path, tensors: Mapping[str, tuple[int, ...]], silent: list[int], device: str) -> None:
    header, at = {}, 0
    for name, size in tensors.items():
        header[name] = {"dtype": "F16", "shape": size, "data_offsets": [at, at + 2 * prod(size)]}
        at += 2 * prod(size)
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name, size in tensors.items():
            _weights(name, size, silent, device).numpy().tofile(file)


def _weights(name: str, size: tuple[int, ...], silent: list[int], device: str) -> Any:
    import torch

    if len(size) == 1:
        return torch.ones(size, dtype=torch.half)
    torch.manual_seed(len(name))
    weights = torch.empty(size, dtype=torch.half, device=device).normal_(std=STD)
    if name in ("lm_head.weight", "model.embed_tokens.weight"):
        # A row of zeros scores 0, and some of many thousands score more.
        weights[silent] = 0
    return weights.cpu()


def _write_tokenizer(folder: Path, vocab: int) -> list[int]:
    """The tokens that an answer never has: marks, and bytes that are no letter alone."""
    described = json.loads((HF / "tokenizer.json").read_text(encoding="utf-8"))
    words, marks = described["model"]["vocab"], described["added_tokens"]
    taken = 1 + max([*words.values(), *(mark["id"] for mark in marks)])
    silent = [number for piece, number in words.items() if len(piece) == 1 and not piece.isascii()]
    silent += [mark["id"] for mark in marks]
    # No merge leads to such a word: a prompt never holds one, an answer mostly does.
    words |= {f"Ġword{number}": number for number in range(taken, vocab)}
    # Marks that are no words get ids after all words, whatever the file says.
    words |= {mark["content"]: mark["id"] for mark in marks}
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    return silent


def _config(shape: Shape) -> dict[str, object]:
    demo = json.loads((HF / "config.json").read_text(encoding="utf-8"))
    return {
        "architectures": [shape.architecture],
        "model_type": "qwen3" if shape.normed else "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": shape.tied,
        "attention_bias": False,
        "torch_dtype": "float16",
        "bos_token_id": demo["bos_token_id"],
        "eos_token_id": demo["eos_token_id"],
    }


def main() -> None:
    folder, *names = sys.argv[1:]
    for name in names:
        took = write(Path(folder) / name, SHAPES[name], "cpu" if place.rehearsing() else "cuda")
        print(f"{name}: made in {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
