"""Brings models from a Hugging Face hub into the cache that all its tools share.

Only importer of huggingface_hub, which says where cache, endpoint and token are. The bytes
are driven here: its own downloads cannot be cancelled, do not resume and check no hash. What
is promised: a model is in its snapshot whole and verified, or not at all; no file is fetched
that could run as code; the token is seen by the hub's own host only. Which model is wanted,
and what becomes of it, is the callers' business.
"""

from cortex.hub.choice import Format, formats_of
from cortex.hub.hub import Hub, Phase, Tell
from cortex.hub.reach import Reached, knock
from cortex.hub.settings import cache_of
from cortex.hub.source import HF, Source
from cortex.hub.tree import Local

__all__ = [
    "HF",
    "Format",
    "Hub",
    "Local",
    "Phase",
    "Reached",
    "Source",
    "Tell",
    "cache_of",
    "formats_of",
    "knock",
]
