"""GGUF files made to order: whole ones, and ones with a chosen fault."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Pairs = Mapping[str, object]


@dataclass(frozen=True)
class Raw:
    """A value with its GGUF type number, for what Python's types do not say."""

    kind: int
    data: bytes


@dataclass(frozen=True)
class Tensor:
    """`kind` 0 is F32. `offset` None puts it behind the one before."""

    name: str
    shape: tuple[int, ...] = (32, 4)
    kind: int = 0
    offset: int | None = None
    bytes: int | None = None


PAIRS: Pairs = {
    "general.architecture": "qwen3",
    "general.name": "made-to-order",
    "general.file_type": 0,
    "qwen3.context_length": 2048,
    "qwen3.block_count": 3,
    "qwen3.embedding_length": 128,
    "qwen3.feed_forward_length": 384,
    "qwen3.attention.head_count": 4,
    "qwen3.attention.head_count_kv": 2,
    "qwen3.attention.key_length": 64,
    "qwen3.attention.value_length": 32,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "<end>", "λ"],
    "tokenizer.ggml.scores": [0.5] * 4,
    "tokenizer.ggml.bos_token_id": 3,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ messages }}",
}
TENSORS = (Tensor("token_embd.weight"), Tensor("output_norm.weight", (128,)))


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: object) -> bytes:
    match item:
        case Raw(kind, data):
            return struct.pack("<I", kind) + data
        case bool():
            return struct.pack("<I?", 7, item)
        case int():
            return struct.pack("<II", 4, item)
        case float():
            return struct.pack("<If", 6, item)
        case str():
            return struct.pack("<I", 8) + text(item)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(text, item))
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(item)}f", 9, 6, len(item), *item)
        case [*numbers]:
            return struct.pack(f"<IIQ{len(numbers)}I", 9, 4, len(numbers), *numbers)
    raise TypeError(item)


def gguf(
    pairs: Pairs = PAIRS,
    tensors: Sequence[Tensor] = TENSORS,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    tail: bytes | None = None,
) -> bytes:
    """The file. `counts` lies about how many tensors and pairs there are; `tail` replaces the data."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(pairs))))
    for key, item in pairs.items():
        head += text(key) + value(item)
    at = 0
    for tensor in tensors:
        length = math.prod(tensor.shape) * 4 if tensor.bytes is None else tensor.bytes
        offset = at if tensor.offset is None else tensor.offset
        head += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, offset)
        at = -(-(at + length) // 32) * 32
    head += b"\0" * (-len(head) % 32)
    return head + (b"\1" * at if tail is None else tail)


def without(key: str, pairs: Pairs = PAIRS) -> dict[str, object]:
    return {name: item for name, item in pairs.items() if name != key}


def split(data: bytes, parts: int) -> list[bytes]:
    """A whole GGUF as llama.cpp's own tool splits it: all pairs in the first part, and the tensors,
    in their order, over all of them."""
    count, pairs = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(pairs):
        at = _after_value(data, _after_text(data, at))
    keys, infos = data[24:at], []
    for _ in range(count):
        name_end = _after_text(data, at)
        dimensions = struct.unpack_from("<I", data, name_end)[0]
        end = name_end + 4 + 8 * dimensions + 4
        infos.append((data[at:end], struct.unpack_from("<Q", data, end)[0]))
        at = end + 8
    body = data[-(-at // 32) * 32 :]
    ends = [*(offset for _, offset in infos[1:]), len(body)]
    tensors = [(info, body[offset:end]) for (info, offset), end in zip(infos, ends, strict=True)]
    share = -(-count // parts)
    return [
        _part(keys if number == 0 else b"", pairs if number == 0 else 0, number, parts, count, own)
        for number, own in enumerate(tensors[n : n + share] for n in range(0, count, share))
    ]


def _part(
    keys: bytes, pairs: int, number: int, parts: int, count: int, tensors: list[tuple[bytes, bytes]]
) -> bytes:
    keys += text("split.no") + struct.pack("<IH", 2, number)
    keys += text("split.count") + struct.pack("<IH", 2, parts)
    keys += text("split.tensors.count") + struct.pack("<Ii", 5, count)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), pairs + 3) + keys
    body = b""
    for info, data in tensors:
        head += info + struct.pack("<Q", len(body))
        body += data + b"\0" * (-len(data) % 32)
    return head + b"\0" * (-len(head) % 32) + body


def _after_text(data: bytes, at: int) -> int:
    return at + 8 + struct.unpack_from("<Q", data, at)[0]


def _after_value(data: bytes, at: int, kind: int | None = None) -> int:
    if kind is None:
        kind, at = struct.unpack_from("<I", data, at)[0], at + 4
    if kind == 8:
        return _after_text(data, at)
    if kind != 9:
        return at + {0: 1, 1: 1, 2: 2, 3: 2, 7: 1, 10: 8, 11: 8, 12: 8}.get(kind, 4)
    inner, length = struct.unpack_from("<IQ", data, at)
    at += 12
    for _ in range(length):
        at = _after_value(data, at, inner)
    return at
