"""What a model needs on a device follows from its header, before it is loaded.

Estimates, good enough to place a model; what a loaded engine really has is measured by
its harness.
"""

import math
from collections.abc import Mapping
from typing import Final

from cortex.weights.gguf import GgufHeader

# Bytes per element of a KV cache type.
CACHE_BYTES: Final[Mapping[str, float]] = {"fp16": 2.0, "q8": 34 / 32, "q4": 18 / 32}


def footprint(
    header: GgufHeader, context: int, slots: int, cache: str, batch: int = 256
) -> tuple[int, int, int]:
    """Bytes of weights, KV cache and overhead, for `slots` sequences of `context` tokens.

    KV cache: for each layer kv_heads x (key_length + value_length) elements a token. Layers
    with a sliding window need less than that; the full context is counted.

    Overhead: 12 MiB for the engine itself, 192 bytes a token of the vocabulary, and the
    compute buffers of one batch: 4 bytes x batch x (4 x embedding + 3 x feed-forward +
    context). Fitted to the resident memory of five models of 0.7 M to 190 M parameters
    with 1k to 131k tokens, loaded and run to the end of their context: within 10 %.
    """
    elements = sum(header.kv_heads) * (header.key_length + header.value_length) * context * slots
    buffers = 4 * batch * (4 * header.embedding_length + 3 * header.feed_forward_length + context)
    overhead = 12 * 2**20 + 192 * header.vocabulary + buffers
    return header.weights_bytes, math.ceil(elements * CACHE_BYTES[cache]), overhead
