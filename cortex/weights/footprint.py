"""What a model needs on a device follows from its header, before it is loaded.

Estimates, good enough to place a model; what a loaded engine really has is measured by
its harness, and learned from then on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cortex.catalogue import paged
from cortex.weights.gguf import GgufHeader
from cortex.weights.numbers import ENCODERS
from cortex.weights.safetensors import ModelFolder, Tensor
from cortex.weights.settings import Settings

# Bytes per element of a KV cache type. llama.cpp has no q6.
CACHE_BYTES: Final[Mapping[str, float]] = {"fp16": 2.0, "q8": 34 / 32, "q4": 18 / 32}
# The same for exllamav2, keys and values together: its q6 has keys of 8 bits and values of 4.
EXL2_CACHE_BYTES: Final[Mapping[str, float]] = {"fp16": 4.0, "q8": 2.125, "q6": 1.625, "q4": 1.125}
# What torch keeps beside tensors (workspaces of cuBLAS, what is left over in its blocks), by device.
CUDA_SLACK: Final = 160 * 2**20
DEQUANTISED_LIMIT: Final = 512 * 2**20  # elements


def footprint(
    header: GgufHeader, context: int, slots: int, cache: str, batch: int = 256
) -> tuple[int, int, int]:
    """Bytes of weights, KV cache and overhead in llama.cpp, for `slots` sequences of `context` tokens.

    KV cache: for each layer kv_heads x (key_length + value_length) elements a token; layers with
    a sliding window keep that and one batch. Recurrent layers keep a state a sequence. Encoders
    keep nothing; their batch is a whole context, for which the estimate below is up to twice too much.

    Overhead: 12 MiB for the engine itself, 192 bytes a token of the vocabulary, and the
    compute buffers of one batch: 4 bytes x batch x (4 x embedding + 3 x feed-forward +
    context). Fitted to the resident memory of five models of 0.7 M to 190 M parameters
    with 1k to 131k tokens, loaded and run to the end of their context: within 10 %.
    """
    window = min(context, paged((header.sliding_window or 0) + batch))
    cells = (window if windowed else context for windowed in header.windowed)
    tokens = sum(heads * count for heads, count in zip(header.kv_heads, cells, strict=True))
    tokens = 0 if header.architecture in ENCODERS else tokens
    elements = tokens * (header.key_length + header.value_length) * slots
    buffers = 4 * batch * (4 * header.embedding_length + 3 * header.feed_forward_length + context)
    overhead = 12 * 2**20 + 192 * header.vocabulary + buffers
    kept = math.ceil(elements * CACHE_BYTES[cache]) + header.state_bytes * slots
    return header.weights_bytes, kept, overhead


@dataclass(frozen=True, slots=True)
class CudaUse:
    """How a folder is loaded. The KV cache holds `tokens`; a sequence has at most `context`. Prompts
    are read `chunk` at once; a step computes logits for `rows` tokens. What attention copies for
    one layer takes `copied` bytes. A model may lie on several `devices`."""

    tokens: int
    context: int
    chunk: int
    rows: int = 1
    cache: str = "fp16"
    copied: int = 0
    devices: int = 1


def cuda_footprint(folder: ModelFolder, use: CudaUse) -> tuple[int, int, int]:
    """Bytes of weights, KV cache and overhead in exllamav2.

    Weights: all tensors but the token embedding, which stays with the host; single precision is
    halved on the way; tied embeddings without a head of their own have a copy for it; EXL2 adds
    8 bytes a row.

    Overhead of each device: rope tables; buffers for a chunk and the largest matrix in half
    precision where it must be dequantised; one layer of full-length workspace where the cache is
    quantised; what a step takes for a moment, or, if that is more, the copy of a tensor that is
    converted while no cache is there yet; and `CUDA_SLACK`. The CUDA context itself, some 500 MiB of
    a process, belongs to no model: it lies in what is kept free of the device.
    """
    known = folder.settings
    layer = known.kv_heads * known.head_length
    kept = math.ceil(EXL2_CACHE_BYTES[use.cache] * known.layers * layer * use.tokens)
    fixed = 4 * known.head_length * use.context + CUDA_SLACK
    if use.cache != "fp16":
        fixed += 4 * layer * use.tokens
    if any(tensor.name.endswith((".q_weight", ".qweight")) for tensor in folder.tensors):
        fixed += _scratch(known, use.chunk)
    logits = 6 * use.rows * _padded(known.vocabulary)
    moment = use.copied + max(logits, _activations(known, use.chunk))
    weights = _cuda_weights(folder)
    overhead = use.devices * (fixed + moment) + max(0, _converted(folder) - kept - moment)
    return weights, kept, overhead


def _scratch(known: Settings, chunk: int) -> int:
    """What the library sets aside for its quantised layers, which use it one after another."""
    wide = max(known.hidden, known.intermediate)
    unfolded = [known.hidden * _padded(known.vocabulary), known.hidden * wide]
    layers = 2 * chunk * (known.hidden + 2 * wide) + 2 * min(unfolded[1], DEQUANTISED_LIMIT)
    return max(layers, 2 * min(unfolded[0], DEQUANTISED_LIMIT))


def _activations(known: Settings, chunk: int) -> int:
    """What a chunk takes while it goes through one layer."""
    attention = 2 * known.hidden + (3 * known.heads + 2 * known.kv_heads) * known.head_length
    return 2 * chunk * max(attention, 2 * known.hidden + 3 * known.intermediate) + 2 * chunk * known.hidden


def _converted(folder: ModelFolder) -> int:
    """The largest tensor that is on the device in its file's form for a moment."""
    return max(
        (
            tensor.bytes
            for tensor in folder.tensors
            if tensor.type in ("F32", "BF16") and (folder.settings.tied or not _is_embedding(tensor))
        ),
        default=0,
    )


def _cuda_weights(folder: ModelFolder) -> int:
    known = folder.settings
    total = sum(_on_device(tensor) for tensor in folder.tensors)
    if known.tied and not any(tensor.name.startswith("lm_head.") for tensor in folder.tensors):
        total += _padded(known.vocabulary) * known.hidden * 2
    return total


def _on_device(tensor: Tensor) -> int:
    if _is_embedding(tensor):
        return 0
    if tensor.name.endswith(".q_invperm"):
        return tensor.bytes + 8 * math.prod(tensor.shape)
    return tensor.bytes // 2 if tensor.type == "F32" else tensor.bytes


def _is_embedding(tensor: Tensor) -> bool:
    return tensor.name.endswith("embed_tokens.weight")


def _padded(vocabulary: int) -> int:
    return -(-vocabulary // 32) * 32
