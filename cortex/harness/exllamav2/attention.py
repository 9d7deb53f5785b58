"""Which attention the models of this process compute, put where exllamav2 looks for it.

The library knows flash-attn and nothing else that can read pages, so whatever it shall use takes
flash-attn's place among its module's names: flash-attn itself, the flash kernels inside torch
("paged"), or kernels of our own ("triton"). They are one choice for the whole process: a second
model that names another is refused as long as the first one's `Attention` is alive; "auto" takes
what is there. "unpaged" is one job at a time by the library's own explicit mask, and lives beside
any of them; `configure` tells its model to leave flash attention alone.

A stand-in is held against plain arithmetic on the device before a model is read. The library's
branch over torch's attention, whose prefill is not causal, is closed whatever is chosen.
"""

import importlib
import importlib.util
import inspect
import logging
import re
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cortex.errors import LoadFailed
from cortex.harness.exllamav2.runtime import Library

log = logging.getLogger(__name__)

AUTO, FLASH_ATTN, PAGED, TRITON, UNPAGED = "auto", "flash-attn", "paged", "triton", "unpaged"
CHOICES: Final = (AUTO, FLASH_ATTN, PAGED, TRITON, UNPAGED)

# What one call may take beside the model for copies of pages and partial outputs, unless a single row
# needs more: enough that 8 rows of 8k tokens of an 8B model go at once.
TRANSIENT_BYTES: Final = 256 * 2**20

# What flash kernels run on.
_LEAST: Final = (8, 0)
# Its first version that reads and appends through a block table.
_LEAST_FLASH_ATTN: Final = (2, 5, 7)
_HELD: Final = "cortex_attention"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Attention:
    """What a model's attention is. Whoever drives the model keeps this as long as it is loaded."""

    name: str
    paged: bool


@dataclass(slots=True)
class _Process:
    """What this process computes, and for whom. Lives on the library's module, as its functions do."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    name: str | None = None
    holders: weakref.WeakSet[Attention] = field(default_factory=weakref.WeakSet)


@dataclass(frozen=True, slots=True)
class _Functions:
    """In the place of flash-attn's."""

    with_kvcache: Callable[..., Any]
    dense: Callable[..., Any]
    softcap: bool
    prove: Callable[[], object] = lambda: None


def install(library: Library, choice: str, capability: tuple[int, int] | None) -> Attention:
    """The library computes as `choice` says, on the current device of a GPU with this capability; None
    stands for CPU tensors. Raises LoadFailed when it cannot be had, or another choice is in use."""
    if choice not in CHOICES:
        raise LoadFailed(f"attention = {choice!r} is none of {', '.join(CHOICES)}")
    process: _Process = vars(library.exllamav2.attn).setdefault(_HELD, _Process())
    with process.lock:
        library.exllamav2.attn.has_lower_right_sdpa = False
        if choice == UNPAGED:
            return Attention(UNPAGED, False)
        name, functions = _chosen(choice, capability, process)
        functions.prove()
        if process.name != name:
            _put(library, functions)
            process.name = name
        attention = Attention(name, True)
        process.holders.add(attention)
        return attention


def _chosen(choice: str, capability: tuple[int, int] | None, process: _Process) -> tuple[str, _Functions]:
    used = process.name if process.holders else None
    if choice == AUTO and used is None:
        choice = _best(capability)
    name = used if choice == AUTO and used is not None else choice
    if used is not None and name != used:
        raise LoadFailed(
            f"attention = {name!r} cannot be had while another model of this process computes with {used!r}: "
            "give both the same, or unload the other"
        )
    return name, _flash_attn(capability) if name == FLASH_ATTN else _stand_in(name, capability)


def _best(capability: tuple[int, int] | None) -> str:
    """flash-attn where it is usable. One that is installed and is not, is told of."""
    if importlib.util.find_spec("flash_attn") is None:
        return PAGED
    try:
        _flash_attn(capability)
    except LoadFailed as error:
        log.warning("attention.without_flash_attn why=%s", error)
        return PAGED
    return FLASH_ATTN


def _put(library: Library, functions: _Functions) -> None:
    """The library calls these from its next forward pass on."""
    attn = library.exllamav2.attn
    attn.flash_attn_with_kvcache, attn.flash_attn_func = functions.with_kvcache, functions.dense
    attn.has_flash_attn = attn.has_flash_attn_with_paged = attn.has_flash_attn_with_window = True
    # A softcap that the function is not told of would be left out in silence; one that it is told of and
    # does not know, it refuses.
    attn.has_flash_attn_with_softcap = functions.softcap
    library.exllamav2.model.has_flash_attn = True  # imported there by value


def _flash_attn(capability: tuple[int, int] | None) -> _Functions:
    """The real ones. Raises LoadFailed."""
    if capability is None or capability < _LEAST:
        raise LoadFailed(f'flash-attn needs a GPU of compute capability 8.0; load with attention = "{PAGED}"')
    try:
        package = importlib.import_module("flash_attn")
        importlib.import_module("flash_attn_2_cuda")
    except (ImportError, OSError, RuntimeError) as error:
        raise LoadFailed(
            f"flash-attn cannot be imported: {error}; install it for this torch, or load with "
            f'attention = "{PAGED}"'
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", package.__version__)[:3])
    if version < _LEAST_FLASH_ATTN:
        least = ".".join(map(str, _LEAST_FLASH_ATTN))
        raise LoadFailed(f"flash-attn {package.__version__} reads no pages: install {least} or newer")
    softcap = "softcap" in inspect.signature(package.flash_attn_func).parameters
    return _Functions(package.flash_attn_with_kvcache, package.flash_attn_func, softcap)


def _stand_in(name: str, capability: tuple[int, int] | None) -> _Functions:
    """Ours. Raises LoadFailed."""
    import torch  # noqa: PLC0415 - on the device's thread only

    from cortex.harness.exllamav2 import agreement, flash  # noqa: PLC0415
    from cortex.harness.exllamav2.paged import Paged, Way, dense  # noqa: PLC0415

    def choose(device: torch.device) -> Way:
        own = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        return agreement.first((_kernels(device, own),) if name == TRITON else flash.ways(own), device)

    if name == TRITON:
        _check_triton(capability)
    paged = Paged(choose)
    here = torch.device("cpu") if capability is None else torch.device("cuda", torch.cuda.current_device())
    return _Functions(paged.with_kvcache, dense, True, lambda: paged.way(here))


def _kernels(device: Any, capability: tuple[int, int] | None) -> Any:  # noqa: ANN401 - torch is untyped here
    import torch  # noqa: PLC0415

    from cortex.harness.exllamav2.tiled import Tiled  # noqa: PLC0415

    _check_triton(capability)
    return Tiled(torch.cuda.get_device_properties(device).multi_processor_count)


def _check_triton(capability: tuple[int, int] | None) -> None:
    if capability is None or capability < _LEAST:
        raise LoadFailed(
            f'attention = "{TRITON}" needs a GPU of compute capability 8.0; load with attention = "{PAGED}"'
        )
    if importlib.util.find_spec("triton") is None:
        raise LoadFailed(
            f'attention = "{TRITON}" needs triton, which comes with builds of torch for CUDA: pip install '
            f'triton, or load with attention = "{PAGED}"'
        )
