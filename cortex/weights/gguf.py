"""Weight files are judged by their own header, before any native code sees them.

A bounded reader in pure Python: every count, length and offset is checked against the
file's size before it is used, and what is not needed (token lists, merges) is stepped
over, never built. It promises a header or `Unfit`, which names the file, the fault and
the remedy; no byte of a file makes it do anything else. It blocks: callers run it in a
thread. Whether an engine knows the architecture is for the engine to say.
"""

import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from cortex.errors import Unfit
from cortex.weights.bounded import Bytes
from cortex.weights.numbers import (
    AROUND_WORDPIECES,
    BPE_WITH_BOS,
    LOOKS,
    MIXTURES,
    MOST_LAYERS,
    POOLINGS,
    TENSOR_TYPES,
    WINDOW_PERIODS,
)

TENSOR_LIMIT: Final = 100_000  # the widest mixtures of experts have some thousands
KEPT_ARRAY: Final = 4096  # per-layer numbers are kept; anything longer is a vocabulary

Scalar: TypeAlias = int | float | bool | str

PART_LIMIT: Final = 1000  # the largest models have some fifty parts
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_SCALARS: Final = dict(enumerate(["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"])) | {
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says of itself. `files` are its parts, `path` the first of them.

    `kv_heads` has one entry a layer, 0 where it attends to nothing;
    `windowed` says which layers keep no more than the `sliding_window`. `state_bytes` is what the
    recurrent layers keep of one sequence, however long. `pooling` is how a model that makes vectors
    makes one of many. Lengths are in elements."""

    path: Path
    files: tuple[Path, ...]
    file_bytes: int
    weights_bytes: int
    architecture: str
    name: str | None
    quant: str
    context_length: int
    embedding_length: int
    feed_forward_length: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window: int | None
    windowed: tuple[bool, ...]
    state_bytes: int
    vocabulary: int
    tokeniser: str
    chat_template: str | None
    tool_template: str | None
    bos: str | None
    eos: str | None
    adds_bos: bool
    pooling: str | None


@dataclass(frozen=True, slots=True)
class _Array:
    """An array that was stepped over: its element type, length and first byte."""

    kind: int
    count: int
    start: int


def read_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF whose tensors all lie inside the file, or inside its parts: the first one
    stands for all. Raises Unfit."""
    with opened(path) as data:
        tensors, facts = _facts(data)
        files = _parts(data, facts)
        if not tensors and len(files) == 1:
            raise data.fault("holds no tensors: a vocabulary alone", "name a file with weights")
        types = _tensors(data, tensors, facts)
        total = data.total
    for number, other in enumerate(files[1:], 2):
        with opened(other) as part:
            tensors, of_part = _facts(part)
            if (of_part.number("split.no", 0), of_part.number("split.count", 1)) != (number - 1, len(files)):
                raise part.fault(f"is not part {number} of {len(files)}, as its name says")
            types.update(_tensors(part, tensors, of_part))
            total += part.total
    if not types:
        raise data.fault("holds no tensors", "name a file with weights")
    return _header(facts, types, files, total)


@contextmanager
def opened(path: Path) -> Iterator[Bytes]:
    """The bytes of a regular file. Raises Unfit."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
            raise Unfit(f"{path}: {what}; name the .gguf file itself")
        with path.open("rb") as file:
            yield Bytes(file, path, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise Unfit(f"{path}: there is no such file; check the model's source") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unfit(f"{path}: cannot be read: {error}") from error


def _facts(data: Bytes) -> tuple[int, "_Meta"]:
    """How many tensors follow, and what the file says of itself."""
    tensors, pairs = preamble(data)
    meta: dict[str, Scalar | _Array | tuple[int, ...]] = {}
    for index in range(pairs):
        key = data.text(f"key {index + 1} of {pairs}", most=65535)
        if key in meta:
            raise data.fault(f"key {key!r} comes twice")
        meta[key] = read_value(data, key)
    return tensors, _Meta(data, meta)


def preamble(data: Bytes) -> tuple[int, int]:
    """How many tensors and key-value pairs follow."""
    if data.total == 0:
        raise data.fault("is empty")
    magic = data.head(24)
    if magic[:4] != b"GGUF":
        raise data.fault(f"is not GGUF: it looks like {_looks_like(magic)}", "name a .gguf file")
    data.at = 4
    version = int(data.number("<I", "the version"))
    if version & 0xFFFF == 0 and version:
        raise data.fault("is a big-endian GGUF", "use the little-endian one")
    if version not in (2, 3):
        raise data.fault(f"has GGUF version {version}; 2 and 3 are understood", "convert it again")
    tensors, pairs = data.count("the number of tensors"), data.count("the number of keys")
    if tensors > TENSOR_LIMIT or pairs > TENSOR_LIMIT:
        raise data.fault(f"claims {tensors} tensors and {pairs} keys; {TENSOR_LIMIT} is the limit")
    return tensors, pairs


def _looks_like(magic: bytes) -> str:
    if len(magic) > 8 and magic[8:9] == b"{" and int.from_bytes(magic[:8], "little") < 2**32:
        return "safetensors"
    for start, what in LOOKS:
        if magic.startswith(start):
            return what
    return "nothing known (it starts with " + magic[:8].hex(" ") + ")"


def read_value(data: Bytes, key: str) -> Scalar | _Array | tuple[int, ...]:
    """The value of `key`, which follows it; stepped over where it is long."""
    kind = int(data.number("<I", f"the type of {key}"))
    if kind == _STRING:
        return data.text(key)
    if kind in _SCALARS:
        return data.number(_SCALARS[kind], key)
    if kind != _ARRAY:
        raise data.fault(f"key {key!r} has the unknown type {kind}")
    inner, count = int(data.number("<I", f"the type inside {key}")), data.count(f"the length of {key}")
    start = data.at
    if inner in _SCALARS:
        form = _SCALARS[inner]
        if count <= KEPT_ARRAY and form[1] in "BbHhIiQq?":
            return tuple(int(data.number(form, key)) for _ in range(count))
        data.skip(count * struct.calcsize(form), key)
    elif inner == _STRING:
        if count > data.total // 8:
            raise data.fault(f"{key} claims {count} texts, more than the file has room for")
        data.skip_texts(count, key)
    else:
        raise data.fault(f"array {key!r} has the unsupported element type {inner}")
    return _Array(inner, count, start)


def _tensors(data: Bytes, count: int, facts: "_Meta") -> Counter[str]:
    """Bytes of all tensors, every one inside the file, by type."""
    alignment = facts.number("general.alignment", 32, most=2**16)
    if alignment < 1 or alignment & (alignment - 1):
        raise data.fault(f"general.alignment is {alignment}, not a power of two")
    names: set[str] = set()
    by_type: Counter[str] = Counter()
    reach, last = 0, ""
    for index in range(count):
        name = data.text(f"the name of tensor {index + 1} of {count}", most=64)
        if name in names:
            raise data.fault(f"tensor {name!r} comes twice")
        names.add(name)
        type_name, length = _tensor_bytes(data, name)
        offset = data.count(f"the offset of {name}")
        if offset % alignment:
            raise data.fault(f"tensor {name!r} is not aligned to {alignment} bytes")
        by_type[type_name] += length
        if offset + length > reach:
            reach, last = offset + length, name
    end = -(-data.at // alignment) * alignment + reach
    if end > data.total:
        raise data.fault(f"truncated: {data.total} of {end} bytes are there (tensor {last!r} is cut)")
    return by_type


def _tensor_bytes(data: Bytes, name: str) -> tuple[str, int]:
    dimensions = int(data.number("<I", f"the shape of {name}"))
    if not 1 <= dimensions <= 4:
        raise data.fault(f"tensor {name!r} has {dimensions} dimensions; 1 to 4 are possible")
    shape = [data.count(f"the shape of {name}") for _ in range(dimensions)]
    kind = int(data.number("<I", f"the type of {name}"))
    if kind not in TENSOR_TYPES:
        raise data.fault(f"tensor {name!r} has the unknown type {kind}", "it may need a newer cortex")
    type_name, block, block_bytes = TENSOR_TYPES[kind]
    # Python's integers do not overflow; the engine's do.
    if math.prod(shape) >= 2**63 or min(shape) < 1 or shape[0] % block:
        raise data.fault(f"tensor {name!r} has the impossible shape {shape} for {type_name}")
    return type_name, math.prod(shape) // block * block_bytes


class _Meta:
    """The key-value pairs, asked for by type. A wrong type is Unfit."""

    def __init__(self, data: Bytes, pairs: Mapping[str, "Scalar | _Array | tuple[int, ...]"]) -> None:
        self.data, self.pairs = data, pairs

    def number(self, key: str, default: int | None = None, most: int = 2**31) -> int:
        value = self.pairs.get(key, default)
        if value is None:
            raise self.data.fault(f"key {key!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise self.data.fault(f"key {key!r} is not a number from 0 to {most}")
        return value

    def optional(self, key: str, most: int = 2**31) -> int | None:
        return self.number(key, most=most) if key in self.pairs else None

    def per_layer(self, key: str, layers: int, default: int) -> tuple[int, ...]:
        """One number for each layer, from an array or from one number for all."""
        value = self.pairs.get(key)
        if not isinstance(value, tuple):
            return (self.number(key, default, most=2**16),) * layers
        if len(value) != layers or not all(0 <= number <= 2**16 for number in value):
            raise self.data.fault(f"key {key!r} does not hold one number for each of {layers} layers")
        return value

    def text(self, key: str) -> str | None:
        value = self.pairs.get(key)
        if value is not None and not isinstance(value, str):
            raise self.data.fault(f"key {key!r} is not text")
        return value

    def token(self, key: str) -> str | None:
        """The text of the token whose id `key` holds; None when there is none."""
        index, tokens = self.optional(key), self.pairs.get("tokenizer.ggml.tokens")
        if index is None or not isinstance(tokens, _Array) or tokens.kind != _STRING:
            return None
        if index >= tokens.count:
            raise self.data.fault(f"key {key!r} is {index}, but there are {tokens.count} tokens")
        self.data.at = tokens.start
        self.data.skip_texts(index, key)
        return self.data.text(key)


def _parts(data: Bytes, facts: _Meta) -> tuple[Path, ...]:
    """All files of the model, of which this is the first. Raises Unfit for what is no model."""
    kind = facts.text("general.type")
    if kind not in (None, "model") or facts.text("general.architecture") == "clip":
        raise data.fault(
            f"holds a {kind or 'vision projector'}, not a language model", "name the model's file"
        )
    count, number = facts.number("split.count", 1, most=PART_LIMIT), facts.number("split.no", 0) + 1
    if count <= 1:
        return (data.path,)
    match = _PART.fullmatch(data.path.name)
    if number > 1:
        raise data.fault(f"is part {number} of {count} of a split GGUF", "name the first part")
    if match is None or (int(match[2]), int(match[3])) != (1, count):
        named = f"-00001-of-{count:05}.gguf"
        raise data.fault(f"is part 1 of {count} of a split GGUF", f"let its name end in {named}, as it did")
    names = (f"{match[1]}-{part:05}-of-{count:05}.gguf" for part in range(1, count + 1))
    return tuple(data.path.with_name(name) for name in names)


def _header(facts: _Meta, types: Counter[str], files: tuple[Path, ...], total: int) -> GgufHeader:
    architecture = facts.text("general.architecture")
    if not architecture:
        raise facts.data.fault("key 'general.architecture' is missing")

    def own(key: str, default: int | None = None) -> int:
        return facts.number(f"{architecture}.{key}", default)

    layers, embedding = facts.number(f"{architecture}.block_count", most=MOST_LAYERS), own("embedding_length")
    if not layers:
        raise facts.data.fault(f"key '{architecture}.block_count' is 0")
    heads = facts.per_layer(f"{architecture}.attention.head_count", layers, 0)
    head_length = embedding // max((*heads, 1))
    file_type = facts.optional("general.file_type")
    pooling = facts.optional(f"{architecture}.pooling_type", most=len(POOLINGS) - 1)
    tokens = facts.pairs.get("tokenizer.ggml.tokens")
    known = tokens.count if isinstance(tokens, _Array) else 0
    window = facts.pairs.get(f"{architecture}.attention.sliding_window")
    windowed = _windowed(facts, architecture, layers) if isinstance(window, int) and window else ()
    kv_heads = facts.per_layer(f"{architecture}.attention.head_count_kv", layers, max((*heads, 0)))
    if interval := facts.number(f"{architecture}.full_attention_interval", 0):
        # Every so many layers one attends; the others are recurrent, whatever the file says of heads.
        kv_heads = tuple(count if (at + 1) % interval == 0 else 0 for at, count in enumerate(kv_heads))
    return GgufHeader(
        path=facts.data.path,
        files=files,
        file_bytes=total,
        weights_bytes=types.total(),
        architecture=architecture,
        name=facts.text("general.name"),
        quant=MIXTURES.get(-1 if file_type is None else file_type, types.most_common(1)[0][0]),
        context_length=own("context_length"),
        embedding_length=embedding,
        feed_forward_length=max(facts.per_layer(f"{architecture}.feed_forward_length", layers, 0), default=0),
        kv_heads=kv_heads,
        key_length=own("attention.key_length", head_length),
        value_length=own("attention.value_length", head_length),
        sliding_window=window if isinstance(window, int) and window else None,
        windowed=windowed or (False,) * layers,
        state_bytes=_state_bytes(facts, architecture, kv_heads.count(0)),
        vocabulary=own("vocab_size", known),
        tokeniser=facts.text("tokenizer.ggml.model") or "none",
        chat_template=facts.text("tokenizer.chat_template"),
        tool_template=facts.text("tokenizer.chat_template.tool_use"),
        bos=facts.token("tokenizer.ggml.bos_token_id"),
        eos=facts.token("tokenizer.ggml.eos_token_id"),
        adds_bos=_adds_bos(facts),
        pooling=None if pooling is None else POOLINGS[pooling],
    )


def _windowed(facts: _Meta, architecture: str, layers: int) -> tuple[bool, ...]:
    """Which layers look at the sliding window alone: what the file says of each, or of every how
    many one looks at all, else what llama.cpp knows of that architecture. None, when in doubt."""
    key = f"{architecture}.attention.sliding_window_pattern"
    if isinstance(facts.pairs.get(key), tuple):
        return tuple(bool(each) for each in facts.per_layer(key, layers, 0))
    period = facts.number(key, WINDOW_PERIODS.get(architecture, 1))
    return tuple(at % period < period - 1 for at in range(layers)) if period else (True,) * layers


def _state_bytes(facts: _Meta, architecture: str, layers: int) -> int:
    """Convolution and state of `layers` recurrent layers, in single precision."""
    conv, inner, state, groups = (
        facts.number(f"{architecture}.ssm.{name}", 0)
        for name in ("conv_kernel", "inner_size", "state_size", "group_count")
    )
    return 4 * layers * (max(0, conv - 1) * (inner + 2 * groups * state) + state * inner)


def _adds_bos(facts: _Meta) -> bool:
    """What the file says, else what llama.cpp does for that kind of vocabulary."""
    _check_around(facts)
    said = facts.pairs.get("tokenizer.ggml.add_bos_token")
    if isinstance(said, bool):
        return said
    model = facts.text("tokenizer.ggml.model")
    return model in ("llama", "bert") or (
        model == "gpt2" and facts.text("tokenizer.ggml.pre") in BPE_WITH_BOS
    )


def _check_around(facts: _Meta) -> None:
    """Unfit when the engine would end the process for want of a token that it puts beside a text."""
    tokens, model = facts.pairs.get("tokenizer.ggml.tokens"), facts.text("tokenizer.ggml.model")
    needed: Mapping[str, int | None] = AROUND_WORDPIECES if model == "bert" else {}
    if model == "t5" and facts.pairs.get("tokenizer.ggml.add_bos_token") is True:
        needed = {"bos": None}
    for name, usual in needed.items():
        key = f"tokenizer.ggml.{name}_token_id"
        known = tokens.count if isinstance(tokens, _Array) else 0
        if facts.token(key) is None and (usual is None or usual >= known):
            raise facts.data.fault(f"key {key!r} is missing, and texts need that token", "convert it again")
