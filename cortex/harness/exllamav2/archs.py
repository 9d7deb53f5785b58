"""Which GPUs a compiled extension runs on.

A GPU has a compute capability, (8, 9). An extension holds machine code for some of them: code for
8.6 runs on every 8.x from there on, and on no 9.x; "8.6+PTX" also carries code that the driver
compiles for whatever is newer. So a list of archs covers a capability, or it does not.
"""

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

Capability: TypeAlias = tuple[int, int]

# What its kernels need: half-precision arithmetic and tensor cores begin with Volta.
LEAST: Final[Capability] = (7, 0)
# CUDA 13 compiles for Turing and newer, and so do the builds of torch for it.
LEAST_BY_CUDA: Final[tuple[tuple[int, Capability], ...]] = ((13, (7, 5)),)
PTX: Final = "+PTX"
_ARCH: Final = re.compile(r"(\d{1,2})\.(\d)(\+PTX)?")


def parse(arch: str) -> Capability | None:
    """The capability of "8.6" or "8.6+PTX"; None when it is neither."""
    found = _ARCH.fullmatch(arch)
    return None if found is None else (int(found[1]), int(found[2]))


def covers(archs: Iterable[str], capability: Capability) -> bool:
    """Whether code for `archs` runs on a GPU of `capability`."""
    return any(_runs(arch, capability) for arch in archs)


def least(cuda: str | None) -> Capability:
    """The lowest capability that a torch built for `cuda` ("13.0") can use with this engine."""
    major = int(cuda.partition(".")[0]) if cuda else 0
    return max([LEAST, *(floor for since, floor in LEAST_BY_CUDA if major >= since)])


def names(capabilities: Iterable[Capability]) -> list[str]:
    """The archs to compile for these GPUs: each once, lowest first."""
    return [f"{major}.{minor}" for major, minor in sorted(set(capabilities))]


def ordered(archs: Iterable[str]) -> list[str]:
    """Each once, lowest first, so that the same wish is the same folder."""
    return sorted(set(archs), key=lambda arch: (parse(arch) or (0, 0), arch))


def _runs(arch: str, capability: Capability) -> bool:
    least = parse(arch)
    if least is None:
        return False
    same = least[0] == capability[0] and least[1] <= capability[1]
    return same or (arch.endswith(PTX) and least <= capability)
