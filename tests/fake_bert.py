"""A tiny model that makes vectors, with weights of chance, and what its vectors must be.

The file is a GGUF of BERT's architecture, so that a real engine loads it. The vectors are computed
here from the same weights by what BERT is, in plain Python, and share nothing with any engine.
"""

import math
import random
import struct
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Literal

from tests.fake_gguf import Pairs, Raw, Tensor, gguf

WIDTH, HEADS, INNER, LAYERS, CONTEXT = 32, 4, 64, 2, 128
CLS, SEP = 2, 3
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hello", "▁world", "▁a", "▁cat", "▁sat", "▁the", "s", "▁on"),
    *("▁mat", "▁,", "▁."),
)

Row = list[float]
Rows = list[Row]


def numbers(*values: int) -> Raw:
    """An array of signed numbers, as some keys must be."""
    return Raw(9, struct.pack(f"<IQ{len(values)}i", 5, len(values), *values))


PAIRS: Pairs = {
    "general.architecture": "bert",
    "general.name": "tiny-bert",
    "general.file_type": 0,
    "bert.context_length": CONTEXT,
    "bert.block_count": LAYERS,
    "bert.embedding_length": WIDTH,
    "bert.feed_forward_length": INNER,
    "bert.attention.head_count": HEADS,
    "bert.attention.layer_norm_epsilon": 1e-12,
    "bert.attention.causal": False,
    "bert.pooling_type": 1,
    "tokenizer.ggml.model": "bert",
    "tokenizer.ggml.token_type_count": 2,
    "tokenizer.ggml.tokens": list(WORDS),
    "tokenizer.ggml.scores": [0.0] * len(WORDS),
    "tokenizer.ggml.token_type": numbers(3, 2, 3, 3, *[1] * (len(WORDS) - 4)),
    "tokenizer.ggml.unknown_token_id": 1,
    "tokenizer.ggml.bos_token_id": CLS,
    "tokenizer.ggml.cls_token_id": CLS,
    "tokenizer.ggml.seperator_token_id": SEP,  # as the format spells it
    "tokenizer.ggml.padding_token_id": 0,
}


@dataclass(frozen=True)
class Weights:
    """Tables by name: a matrix has a row for each output, a vector is one row."""

    tables: dict[str, Rows]

    def row(self, name: str) -> Row:
        return self.tables[name][0]

    def file(self, pairs: Pairs = PAIRS) -> bytes:
        """The GGUF."""
        data = b""
        for rows in self.tables.values():
            flat = tuple(chain.from_iterable(rows))
            packed = struct.pack(f"<{len(flat)}f", *flat)
            data += packed + b"\0" * (-len(packed) % 32)
        tensors = [
            Tensor(
                name,
                (len(rows[0]),) if name.endswith("bias") or "norm" in name else (len(rows[0]), len(rows)),
            )
            for name, rows in self.tables.items()
        ]
        return gguf(pairs, tensors, tail=data)


@cache
def weights(seed: int = 1) -> Weights:
    chance = random.Random(seed)
    tables: dict[str, Rows] = {}

    def add(name: str, height: int, width: int, around: float = 0.0, spread: float = 0.3) -> None:
        tables[name] = [[chance.gauss(around, spread) for _ in range(width)] for _ in range(height)]

    def norm(name: str) -> None:
        add(f"{name}.weight", 1, WIDTH, 1.0, 0.1)
        add(f"{name}.bias", 1, WIDTH)

    def linear(name: str, height: int, width: int) -> None:
        add(f"{name}.weight", height, width)
        add(f"{name}.bias", 1, height)

    add("token_embd.weight", len(WORDS), WIDTH)
    add("position_embd.weight", CONTEXT, WIDTH)
    add("token_types.weight", 2, WIDTH)
    norm("token_embd_norm")
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{layer}.{name}", WIDTH, WIDTH)
        norm(f"blk.{layer}.attn_output_norm")
        linear(f"blk.{layer}.ffn_up", INNER, WIDTH)
        linear(f"blk.{layer}.ffn_down", WIDTH, INNER)
        norm(f"blk.{layer}.layer_output_norm")
    return Weights(tables)


def put(folder: Path, name: str = "tiny-bert.gguf", pairs: Pairs = PAIRS) -> Path:
    """The file in `folder`."""
    path = folder / name
    path.write_bytes(weights().file(pairs))
    return path


def vector(ids: tuple[int, ...], pooling: Literal["mean", "cls", "last"] = "mean") -> Row:
    """What the model makes of these tokens."""
    known = weights()
    places, kind = known.tables["position_embd.weight"], known.row("token_types.weight")
    tokens = known.tables["token_embd.weight"]
    states = [_sum(tokens[token], places[at], kind) for at, token in enumerate(ids)]
    states = [_normed(known, "token_embd_norm", state) for state in states]
    for layer in range(LAYERS):
        states = _layer(known, f"blk.{layer}", states)
    match pooling:
        case "mean":
            pooled = [sum(column) / len(states) for column in zip(*states, strict=True)]
        case "cls":
            pooled = states[0]
        case "last":
            pooled = states[-1]
    length = math.sqrt(sum(number**2 for number in pooled))
    return [number / length for number in pooled]


def _layer(known: Weights, name: str, states: Rows) -> Rows:
    queries, keys, values = (
        [_linear(known, f"{name}.{part}", state) for state in states]
        for part in ("attn_q", "attn_k", "attn_v")
    )
    seen = [_seen(query, keys, values) for query in queries]
    seen = [_linear(known, f"{name}.attn_output", each) for each in seen]
    states = [
        _normed(known, f"{name}.attn_output_norm", _sum(*pair)) for pair in zip(states, seen, strict=True)
    ]
    inner = [[_gelu(number) for number in _linear(known, f"{name}.ffn_up", state)] for state in states]
    out = [_linear(known, f"{name}.ffn_down", each) for each in inner]
    return [
        _normed(known, f"{name}.layer_output_norm", _sum(*pair)) for pair in zip(states, out, strict=True)
    ]


def _seen(query: Row, keys: Rows, values: Rows) -> Row:
    """What one token takes from all, head by head."""
    size, seen = WIDTH // HEADS, []
    for at in range(0, WIDTH, size):
        part = slice(at, at + size)
        scores = [_dot(query[part], key[part]) / math.sqrt(size) for key in keys]
        shares = [math.exp(score - max(scores)) for score in scores]
        total = sum(shares)
        seen += [
            _dot(shares, column) / total for column in zip(*(value[part] for value in values), strict=True)
        ]
    return seen


def _linear(known: Weights, name: str, state: Row) -> Row:
    rows, bias = known.tables[f"{name}.weight"], known.row(f"{name}.bias")
    return [_dot(row, state) + more for row, more in zip(rows, bias, strict=True)]


def _normed(known: Weights, name: str, state: Row) -> Row:
    mean = sum(state) / len(state)
    spread = math.sqrt(sum((number - mean) ** 2 for number in state) / len(state) + 1e-12)
    scale, bias = known.row(f"{name}.weight"), known.row(f"{name}.bias")
    return [(number - mean) / spread * by + more for number, by, more in zip(state, scale, bias, strict=True)]


def _gelu(number: float) -> float:
    return number * (1 + math.erf(number / math.sqrt(2))) / 2


def _sum(*rows: Row) -> Row:
    return [sum(column) for column in zip(*rows, strict=True)]


def _dot(one: tuple[float, ...] | Row, other: tuple[float, ...] | Row) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
