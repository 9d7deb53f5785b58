"""Whether a way to paged attention computes what attention is, on the device that it shall run on.

Before a model is read, a way is given a cache whose pages lie out of order, with lengths at the
borders of pages and NaNs behind them, and its outputs are held against plain arithmetic in single
precision. One that differs or raises is never used: wrong answers are worse than no model.

Imports torch at its top: only the thread of a device imports this module, when it loads a model.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch

from cortex.catalogue import PAGE
from cortex.errors import LoadFailed
from cortex.harness.exllamav2.paged import Call, Index, Way

log = logging.getLogger(__name__)

# Inputs are of size one. Half precision leaves 0.001 there; a key too many or too few, 0.1.
TOLERANCE: Final = 0.01
_HEADS, _KV_HEADS = 8, 2


@dataclass(frozen=True, slots=True)
class Trial:
    """One call: what each row is long after it, how many of that are queries, how wide a head is."""

    lengths: tuple[int, ...]
    steps: int
    width: int = 128
    window: int | None = None
    writes: bool = True


TRIALS: Final = (
    Trial((1, 255, 256, 257, 600), 1),
    Trial((40, 257, 513), 1, width=64),
    Trial((600, 700), 1, window=300),
    Trial((8, 256, 260, 777), 5),
    Trial((600,), 300, writes=False),
    Trial((777,), 256, width=64, window=100, writes=False),
)


def first(ways: Iterable[Way], device: torch.device) -> Way:
    """The first way that computes rightly on `device`; those before it are told of. Raises LoadFailed."""
    told = []
    for way in ways:
        why = disagreement(way, device)
        if why is None:
            return way
        log.warning("attention.refused device=%s way=%s why=%s", device, way.name, why)
        told.append(f"{way.name}: {why}")
    raise LoadFailed(
        f"attention is not computed rightly on {device} ({'; '.join(told)}); load with another "
        'attention, "unpaged" at last'
    )


def disagreement(way: Way, device: torch.device) -> str | None:
    """What a way does wrong; None when nothing. Errors of the device itself are raised."""
    with torch.inference_mode():
        found = (_tried(way, trial, seed, device) for seed, trial in enumerate(TRIALS))
        return next((f"{trial} {why}" for trial, why in zip(TRIALS, found, strict=True) if why), None)


def _tried(way: Way, trial: Trial, seed: int, device: torch.device) -> str | None:
    call, expected = _posed(trial, seed, device)
    try:
        index = Index(call)
        if call.new:
            way.append(call, index)
        got = way.attend(call, index).float()
    except (RuntimeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise
        return f"raises {error}"
    if got.shape != expected.shape:
        return f"gives {tuple(got.shape)}"
    off: float = (got - expected).abs().max().item()
    return None if off < TOLERANCE else f"is off by {off:.3g}"  # a NaN is not below it


def _posed(trial: Trial, seed: int, device: torch.device) -> tuple[Call, torch.Tensor]:
    """A call on `device`, and its right answer there."""
    chance = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=chance).half().to(device)

    counts = [-(-length // PAGE) for length in trial.lengths]
    order = (torch.randperm(sum(counts), generator=chance) + 1).tolist()
    table = torch.zeros((len(counts), max(counts)), dtype=torch.int32)
    shape = (sum(counts) + 1, PAGE, _KV_HEADS, trial.width)
    caches = [torch.full(shape, float("nan"), dtype=torch.half, device=device) for _ in range(2)]
    q = drawn(len(counts), trial.steps, _HEADS, trial.width)
    new = [
        torch.empty(len(counts), trial.steps, _KV_HEADS, trial.width, device=device).half() for _ in caches
    ]
    outputs = []
    for row, length in enumerate(trial.lengths):
        pages = [order.pop() for _ in range(counts[row])]
        table[row, : len(pages)] = torch.tensor(pages)
        whole = [drawn(length, _KV_HEADS, trial.width) for _ in caches]
        held = length - trial.steps if trial.writes else length
        for cache, fresh, tokens in zip(caches, new, whole, strict=True):
            fresh[row] = tokens[length - trial.steps :]
            for at in range(0, held, PAGE):
                part = tokens[at : min(at + PAGE, held)]
                cache[pages[at // PAGE], : part.shape[0]] = part
        outputs.append(_plain(q[row], whole[0], whole[1], trial.window))
    lengths = torch.tensor(trial.lengths, dtype=torch.int32)
    call = Call(
        q=q,
        k=new[0] if trial.writes else None,
        v=new[1] if trial.writes else None,
        k_cache=caches[0],
        v_cache=caches[1],
        cache_seqlens=(lengths - trial.steps if trial.writes else lengths).to(device),
        block_table=table.to(device),
        causal=True,
        window_size=(-1, -1) if trial.window is None else (trial.window, trial.window),
    )
    return call, torch.stack(outputs)


def _plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """One row, in single precision, every key beside every query."""
    steps, width = q.shape[0], q.shape[2]
    wide_k, wide_v = (each.float().repeat_interleave(_HEADS // _KV_HEADS, 1) for each in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), wide_k) * width**-0.5
    keys = torch.arange(k.shape[0], device=q.device)
    queries = keys[-steps:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys < queries - window
    return torch.einsum("hqk,khd->qhd", torch.softmax(scores.masked_fill(hidden, float("-inf")), -1), wide_v)
