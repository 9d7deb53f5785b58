"""Whether exllamav2 can run here, told without importing it or torch.

Looked at in the order in which it would be mended: a GPU, then the packages, then the extension.
What an operator reads names what is amiss and the one command or step that mends it; programs
get a code: no_driver, unsupported_gpu, not_installed, no_cuda_torch, extension_missing,
abi_mismatch or build_failed. The GPUs are told from above, since they are the driver's to know.
"""

from dataclasses import dataclass
from typing import Final

from cortex.harness.base import Unavailable
from cortex.harness.exllamav2 import archs, extension, installed
from cortex.harness.exllamav2.archs import Capability

__all__ = ["EXTRA", "Cards", "Unavailable", "fit", "why_not"]

EXTRA: Final = "pip install '.[cuda]' in cortex's checkout (docs/cuda.md)"


@dataclass(frozen=True, slots=True)
class Cards:
    """What the NVIDIA driver offers: the compute capabilities of the GPUs, or why there are none.
    `cuda` is the newest CUDA that the driver runs ("13.0"); None where it does not say."""

    capabilities: tuple[Capability, ...] = ()
    why_not: str | None = None
    cuda: str | None = None


def why_not(cards: Cards) -> Unavailable | None:
    """None when it can run on at least one of the GPUs."""
    return _no_card(cards) or _no_library() or _no_match(cards) or _no_extension(cards)


def fit(cards: Cards) -> tuple[Capability, ...]:
    """The GPUs that this engine could use at all, with the torch that is installed."""
    torch = installed.torch()
    floor = archs.least(None if torch is None else torch.cuda)
    return tuple(each for each in cards.capabilities if each >= floor)


def _no_card(cards: Cards) -> Unavailable | None:
    if not cards.capabilities:
        what = cards.why_not or "the NVIDIA driver shows no GPU"
        return Unavailable("no_driver", what, "this engine needs an NVIDIA GPU and its driver")
    if max(cards.capabilities) < archs.LEAST:
        return _too_old(cards, archs.LEAST, "use another engine")
    return None


def _no_library() -> Unavailable | None:
    if missing := installed.missing():
        s = "s" if len(missing) > 1 else ""
        what = f"the package{s} {', '.join(missing)} {'are' if s else 'is'} not installed"
        return Unavailable("not_installed", what, EXTRA)
    torch = installed.torch()
    if torch is None or torch.cuda is None:
        what = f"torch {'' if torch is None else torch.version} is a build without CUDA"
        return Unavailable("no_cuda_torch", what, f"pip uninstall torch, then {EXTRA}")
    return None


def _no_match(cards: Cards) -> Unavailable | None:
    """GPU and driver are for the CUDA of torch."""
    torch = installed.torch()
    cuda = None if torch is None else torch.cuda
    if not fit(cards):
        remedy = "install a torch that is built for CUDA 12, or use another engine"
        return _too_old(cards, archs.least(cuda), remedy)
    # Within a major, an older driver runs what a newer CUDA compiled.
    if cards.cuda and cuda and int(cards.cuda.partition(".")[0]) < int(cuda.partition(".")[0]):
        what = f"the NVIDIA driver runs CUDA up to {cards.cuda}, and torch is built for CUDA {cuda}"
        return Unavailable("no_driver", what, "update the driver, or install a torch built for its CUDA")
    return None


def _no_extension(cards: Cards) -> Unavailable | None:
    usable = fit(cards)
    if extension.choose(usable) is not None:
        return None
    if (failed := extension.failed()) is not None:
        remedy = f"see {failed.log}, then {extension.command()}"
        return Unavailable("build_failed", f"the extension could not be compiled: {failed.why}", remedy)
    abi = installed.abi()
    mismatch = any(not each.fits(abi) for each in extension.shipped())
    code = "abi_mismatch" if mismatch else "extension_missing"
    return Unavailable(code, extension.absence(usable), extension.command())


def _too_old(cards: Cards, floor: Capability, remedy: str) -> Unavailable:
    here, least = ", ".join(archs.names(cards.capabilities)), archs.names([floor])[0]
    what = f"the GPU has compute capability {here}, and {least} is the least that can be used"
    return Unavailable("unsupported_gpu", what, remedy)
