"""The GGUF format's numbers have names and sizes here, as llama.cpp of the pinned release has them."""

from collections.abc import Mapping
from typing import Final

# ggml type number: (name, elements in a block, bytes of a block)
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
# general.file_type, where the mixture has a name of its own
MIXTURES: Final[Mapping[int, str]] = {
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    21: "Q2_K_S",
    22: "IQ3_XS",
    27: "IQ3_M",
    29: "IQ2_M",
}
LOOKS: Final = (
    (b"PK\x03\x04", "a PyTorch or zip archive"),
    (b"\x80", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<", "an HTML page, as a failed download leaves"),
    (b"{", "JSON"),
    (b"tjgg", "the GGML format that GGUF replaced"),
    (b"lmgg", "the GGML format that GGUF replaced"),
    (b"\x1f\x8b", "gzip"),
    (b"\x00" * 8, "zeros, as an unfinished download leaves"),
)
# Byte-pair vocabularies before which llama.cpp puts the BOS token by itself.
BPE_WITH_BOS: Final = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)
# Architectures that see a whole input at once: they keep no KV cache, and write nothing.
ENCODERS: Final = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
# By the file's number, how the vectors of an input's tokens become one; `rank` scores pairs.
POOLINGS: Final = ("none", "mean", "cls", "last", "rank")
# llama.cpp ends the process at more layers.
MOST_LAYERS: Final = 512
# Special tokens that llama.cpp puts around each text without looking whether the file names them, with
# the ids that it takes where it does not.
AROUND_WORDPIECES: Final[Mapping[str, int]] = {"bos": 101, "seperator": 102}
# Of so many layers one looks at everything, the last; the others look at a window only.
WINDOW_PERIODS: Final[Mapping[str, int]] = {"gemma2": 2, "gemma3": 6, "cohere2": 4, "gpt-oss": 2}
