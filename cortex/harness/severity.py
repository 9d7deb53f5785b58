"""How bad it is what an engine raised: pure, and without the engine's library.

An error is judged by its class's name and its words, and so is what caused it. A device
that lost its context says so late, in many words, and for ever; running out of memory
sounds much alike and is over in a moment. What nobody knows is borne twice in ten minutes.
An engine that knows better raises `OutOfMemory`, `DeviceLost` or another of our errors.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from cortex.errors import CortexError, DeviceLost, OutOfMemory

# `memory`: these jobs fail, the device has had enough of them for a moment. `job`: what was
# asked is at fault. `sticky`: nothing on this device will work again in this process.
Severity: TypeAlias = Literal["memory", "job", "unknown", "sticky"]

BORNE: Final = 2
BORNE_S: Final = 600.0

_MEMORY: Final = (
    "out of memory",
    "memoryallocation",
    "alloc_failed",
    "insufficient vram",
    "insufficient space in device allocation",
    "failed to allocate",
    "cannot allocate memory",
    "bad_alloc",
)
# The driver refuses such a launch before it begins; the context is as good as before.
_REFUSED: Final = ("no kernel image", "invalid configuration argument", "invalid device function")
_STICKY: Final = (
    "cuda error",
    "cuda driver error",
    "cudaerror",
    "hip error",
    "hiperror",
    "cublas",
    "cudnn",
    "nccl error",
    "device-side assert",
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "launch failure",
    "launch timed out",
    "ecc error",
    "uncorrectable",
    "off the bus",
    "bus error",
    "mmu fault",
    "device unavailable",
    "no cuda-capable device",
    "driver shutting down",
)
_SHAPES: Final = ("shape", "size mismatch", "must match", "broadcast", "scalar type", "dtype")
_ARGUMENT: Final = (ValueError, TypeError, LookupError, AssertionError, NotImplementedError)


def severity(error: BaseException) -> Severity:
    """The worst that `error` and its causes tell: `sticky` wherever it is said, else the first
    that is known."""
    told = [_of(each) for each in _causes(error)]
    if "sticky" in told:
        return "sticky"
    return next((each for each in told if each != "unknown"), "unknown")


@dataclass(slots=True)
class Strikes:
    """The unknown errors of one device, by when they came."""

    _times: deque[float] = field(default_factory=deque)

    def strike(self, now: float) -> bool:
        """One more at `now`. Whether it is one too many."""
        while self._times and now - self._times[0] >= BORNE_S:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) > BORNE


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _of(error: BaseException) -> Severity:
    match error:
        case DeviceLost():
            return "sticky"
        case OutOfMemory() | MemoryError():
            return "memory"
        case CortexError():
            return "job"  # the engine knows what it is
    names, words = [kind.__name__ for kind in type(error).__mro__], str(error).casefold()
    if "OutOfMemoryError" in names or _says(words, _MEMORY):
        return "memory"
    if _says(words, _REFUSED):
        return "job"
    if "AcceleratorError" in names or _says(words, _STICKY):
        return "sticky"
    return "job" if isinstance(error, _ARGUMENT) or _says(words, _SHAPES) else "unknown"


def _says(words: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in words for phrase in phrases)
