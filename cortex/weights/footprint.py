"""What a model needs on a device follows from its header, before it is loaded.

Estimates, good enough to place a model; what a loaded engine really has is measured by
its harness, and learned from then on.
"""

import math
from collections.abc import Mapping
from typing import Final

from cortex.weights.gguf import GgufHeader
from cortex.weights.safetensors import ModelFolder, Tensor

# Bytes per element of a KV cache type. llama.cpp has no q6.
CACHE_BYTES: Final[Mapping[str, float]] = {"fp16": 2.0, "q8": 34 / 32, "q4": 18 / 32}
# The same for exllamav2, keys and values together: its q6 has keys of 8 bits and values of 4.
EXL2_CACHE_BYTES: Final[Mapping[str, float]] = {"fp16": 4.0, "q8": 2.125, "q6": 1.625, "q4": 1.125}
PAGE: Final = 256  # tokens: both engines round a sequence's cache up to it
# Logits, temporaries of attention, and what a CUDA context takes for itself.
CUDA_RESERVE: Final = 1280 * 2**20
DEQUANTISED_LIMIT: Final = 512 * 2**20  # elements


def footprint(
    header: GgufHeader, context: int, slots: int, cache: str, batch: int = 256
) -> tuple[int, int, int]:
    """Bytes of weights, KV cache and overhead in llama.cpp, for `slots` sequences of `context` tokens.

    KV cache: for each layer kv_heads x (key_length + value_length) elements a token; layers with
    a sliding window keep that and one batch. Recurrent layers keep a state a sequence.

    Overhead: 12 MiB for the engine itself, 192 bytes a token of the vocabulary, and the
    compute buffers of one batch: 4 bytes x batch x (4 x embedding + 3 x feed-forward +
    context). Fitted to the resident memory of five models of 0.7 M to 190 M parameters
    with 1k to 131k tokens, loaded and run to the end of their context: within 10 %.
    """
    window = min(context, _paged((header.sliding_window or 0) + batch))
    cells = (window if windowed else context for windowed in header.windowed)
    tokens = sum(heads * count for heads, count in zip(header.kv_heads, cells, strict=True))
    elements = tokens * (header.key_length + header.value_length) * slots
    buffers = 4 * batch * (4 * header.embedding_length + 3 * header.feed_forward_length + context)
    overhead = 12 * 2**20 + 192 * header.vocabulary + buffers
    kept = math.ceil(elements * CACHE_BYTES[cache]) + header.state_bytes * slots
    return header.weights_bytes, kept, overhead


def cuda_footprint(
    folder: ModelFolder, context: int, slots: int, cache: str, chunk: int = 2048
) -> tuple[int, int, int]:
    """Bytes of weights, KV cache and overhead in exllamav2 on one device, for `slots` sequences of
    `context` tokens, of which `chunk` are read at once.

    Weights: all tensors but the token embedding, which stays with the host; single precision is
    halved on the way; tied embeddings have a copy for the head; EXL2 adds 8 bytes a row.

    Overhead: rope tables, one layer of full-length workspace where the cache is quantised,
    activations of a chunk, the largest matrix in half precision where it must be dequantised and
    once more where it is converted on the way in, and `CUDA_RESERVE`.
    """
    known = folder.settings
    cells = slots * _paged(context)
    layer = known.kv_heads * known.head_length
    overhead = 4 * known.head_length * context + CUDA_RESERVE
    overhead += 2 * chunk * (4 * known.hidden + 3 * known.intermediate)
    if cache != "fp16":
        overhead += 4 * layer * cells
    if known.quant_method is not None:
        largest = max(known.hidden * known.vocabulary, known.hidden * known.intermediate)
        overhead += 2 * min(largest, DEQUANTISED_LIMIT)
    converted = (tensor.bytes for tensor in folder.tensors if tensor.type in ("F32", "BF16"))
    overhead += max(converted, default=0)
    kept = math.ceil(EXL2_CACHE_BYTES[cache] * known.layers * layer * cells)
    return _cuda_weights(folder), kept, overhead


def _cuda_weights(folder: ModelFolder) -> int:
    known = folder.settings
    total = sum(_on_device(tensor) for tensor in folder.tensors)
    if known.tied:
        total += -(-known.vocabulary // 32) * 32 * known.hidden * 2
    return total


def _on_device(tensor: Tensor) -> int:
    if tensor.name.endswith("embed_tokens.weight"):
        return 0
    if tensor.name.endswith(".q_invperm"):
        return tensor.bytes + 8 * math.prod(tensor.shape)
    return tensor.bytes // 2 if tensor.type == "F32" else tensor.bytes


def _paged(tokens: int) -> int:
    return -(-tokens // PAGE) * PAGE
