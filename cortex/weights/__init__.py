"""Weight files, judged by their own header before any engine sees them.

Blocking and bounded: callers read in a thread. A file is a header or `Unfit`.
"""

from cortex.weights.footprint import CACHE_BYTES, footprint
from cortex.weights.gguf import GgufHeader, read_gguf
from cortex.weights.templates import TemplateSources, stamp, templates_of

__all__ = [
    "CACHE_BYTES",
    "GgufHeader",
    "TemplateSources",
    "footprint",
    "read_gguf",
    "stamp",
    "templates_of",
]
