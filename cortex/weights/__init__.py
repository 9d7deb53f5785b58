"""Weight files, judged by their own headers before any engine sees them.

Blocking and bounded: callers read in a thread. A file is a header or `Unfit`.
"""

from cortex.weights.bounded import contents
from cortex.weights.digest import digest
from cortex.weights.footprint import CACHE_BYTES, EXL2_CACHE_BYTES, CudaUse, cuda_footprint, footprint
from cortex.weights.generation import defaults_of
from cortex.weights.gguf import GgufHeader, read_gguf
from cortex.weights.numbers import ENCODERS
from cortex.weights.safetensors import ModelFolder, Tensor, read_folder, read_shard
from cortex.weights.settings import Facts, Settings, object_of, read_settings
from cortex.weights.templates import TemplateSources, stamp, templates_of
from cortex.weights.vocabulary import write_vocabulary

__all__ = [
    "CACHE_BYTES",
    "ENCODERS",
    "EXL2_CACHE_BYTES",
    "CudaUse",
    "Facts",
    "GgufHeader",
    "ModelFolder",
    "Settings",
    "TemplateSources",
    "Tensor",
    "contents",
    "cuda_footprint",
    "defaults_of",
    "digest",
    "footprint",
    "object_of",
    "read_folder",
    "read_gguf",
    "read_settings",
    "read_shard",
    "stamp",
    "templates_of",
    "write_vocabulary",
]
