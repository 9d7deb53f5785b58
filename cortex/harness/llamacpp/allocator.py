"""What the C library's allocator keeps of freed memory goes back to the host.

The engine's caches and buffers are mapped while the process is young. Once the first of them
is freed, glibc takes blocks of that size from its heap, and keeps them there when they are
freed: about 10 MiB for the smallest of models. A trim after an unload takes a millisecond or two.
"""

import ctypes


def trim() -> None:
    """Free memory of the heaps is the host's again, where the C library can do it."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)
