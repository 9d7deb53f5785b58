"""A GGUF with the vocabulary of another one, and a model of next to nothing.

llama.cpp, as it is bound here, loads no vocabulary alone. What it tokenises with is in the file's
metadata, so these are taken over to the byte, together with the model's name, by which it knows some
families; the tensors are one layer of 32 numbers, all zero. Blocking and bounded, like every reader here.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex.weights.bounded import Bytes
from cortex.weights.gguf import opened, preamble, read_value

TOKENS: Final = "tokenizer.ggml.tokens"
# Beside the vocabulary's own: phi-3's special tokens take the blanks behind them along.
_NAME: Final = "general.name"
# Never used, and long: a template may be broken, and would fail the load.
_LEFT_OUT: Final = ("tokenizer.chat_template", "tokenizer.huggingface")
# Of these, all for embeddings, llama.cpp knows by the architecture that a special token takes blanks along.
_BY_ARCHITECTURE: Final = frozenset({"jina-bert-v3", "nomic-bert-moe"})
_WIDTH: Final = 32
_ALIGNMENT: Final = 32
_F32: Final = 0
_Q4_0: Final = 2  # of all that the engine can look tokens up in the smallest: 18 bytes a token
_Q4_0_BYTES: Final = 18
_UINT32, _FLOAT32, _STRING = 4, 6, 8
_ARRAY: Final = 9


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is taken over: the pairs as they stand, how many there are, and how many tokens."""

    pairs: bytes
    count: int
    tokens: int


def write_vocabulary(source: Path, target: Path) -> None:
    """`target` is a GGUF that llama.cpp loads in no time and tokenises with as with `source`. Raises
    Unfit where that cannot be."""
    with opened(source) as data:
        kept = _kept(data)
    pairs = list(_pairs())
    infos, size = _tensors(kept.tokens)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), kept.count + len(pairs))
    head += kept.pairs + b"".join(pairs) + b"".join(infos)
    with target.open("wb") as file:
        file.write(head)
        # Zeros that take no room on the disk.
        file.truncate(_aligned(len(head)) + size)


def _kept(data: Bytes) -> _Kept:
    found, tokens = list[bytes](), 0
    _, pairs = preamble(data)
    for index in range(pairs):
        start = data.at
        key = data.text(f"key {index + 1} of {pairs}", most=65535)
        at = data.at
        said = read_value(data, key)
        if key == "general.architecture" and said in _BY_ARCHITECTURE:
            raise data.fault(
                f"its tokens depend on its architecture, {said}", "load the model, then ask again"
            )
        if key == TOKENS:
            tokens = _length(data.since(at))
        if (key.startswith("tokenizer.") and not key.startswith(_LEFT_OUT)) or key == _NAME:
            found.append(data.since(start))
    if not tokens:
        raise data.fault("holds no vocabulary", "choose a file that has one")
    return _Kept(b"".join(found), len(found), tokens)


def _length(said: bytes) -> int:
    """How many entries an array has; 0 for what is none of texts."""
    kind, inner, count = struct.unpack_from("<IIQ", said.ljust(16, b"\0"))
    return count if (kind, inner) == (_ARRAY, _STRING) else 0


def _pairs() -> Iterator[bytes]:
    """What makes the smallest model of an architecture that every release knows."""
    yield _text("general.architecture") + struct.pack("<I", _STRING) + _text("llama")
    for key, number in (
        ("context_length", 2**18),
        ("embedding_length", _WIDTH),
        ("block_count", 1),
        ("feed_forward_length", _WIDTH),
        ("attention.head_count", 1),
        ("rope.dimension_count", _WIDTH),
    ):
        yield _text(f"llama.{key}") + struct.pack("<II", _UINT32, number)
    yield _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _FLOAT32, 1e-5)


def _tensors(tokens: int) -> tuple[list[bytes], int]:
    """Names, shapes and places of all tensors, and the bytes that they take together."""
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    squares = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up")
    shapes: list[tuple[str, tuple[int, ...]]] = [
        *((name, (_WIDTH,)) for name in norms),
        *((f"blk.0.{name}", (_WIDTH, _WIDTH)) for name in squares),
    ]
    infos = [_tensor("token_embd", (_WIDTH, tokens), _Q4_0, 0)]
    at = _aligned(_Q4_0_BYTES * tokens)
    for name, shape in shapes:
        infos.append(_tensor(name, shape, _F32, at))
        at = _aligned(at + 4 * math.prod(shape))
    return infos, at


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    shaped = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _text(f"{name}.weight") + shaped + struct.pack("<IQ", kind, offset)


def _text(said: str) -> bytes:
    data = said.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(at: int) -> int:
    return -(-at // _ALIGNMENT) * _ALIGNMENT
