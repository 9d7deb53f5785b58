"""The C library's allocator gives an engine's memory back to the host when it is freed.

glibc maps a big block by itself until the first such block is freed. From then on it takes
blocks of that size, up to 32 MiB, from its heaps, and keeps what is freed of them; a heap
that is not the main one keeps its end even when it is trimmed. An engine's caches are such
blocks. What this settles holds for the whole process.
"""

import ctypes
import os
from typing import Final

# Whatever an engine allocates for each token is far smaller.
MAPPED_BYTES: Final = 2**20
_TRIM_THRESHOLD: Final = -1  # glibc's own numbers
_MMAP_THRESHOLD: Final = -3
_OPERATORS: Final = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def settle() -> None:
    """From now on, blocks of MAPPED_BYTES and more go back when they are freed. What an operator says
    by the environment stays."""
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None and not any(name in os.environ for name in _OPERATORS):
        choose(_MMAP_THRESHOLD, MAPPED_BYTES)
        choose(_TRIM_THRESHOLD, 2 * MAPPED_BYTES)  # the proportion that glibc has by itself


def trim() -> None:
    """Free memory of the heaps goes back, where the C library can do it: a millisecond or two."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
