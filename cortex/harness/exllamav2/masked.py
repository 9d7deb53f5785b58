"""Attention with an explicit mask: right on every device, and the slowest.

Serves GPUs that the flash kernels of torch do not run on, and CPU tensors. Only torch's public
functions are used. The query heads of a KV head are folded into its queries, so
that keys are not repeated, and queries go in portions that bound the scores held at a time.

Imports torch at its top: only the thread of a device imports this module, when it loads a model.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

# Scores of one portion: 128 MiB in half precision, twice that where they are computed in single.
SCORES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Rule:
    """Which keys count, and how much. `window`: keys before its own that a query sees; None: all."""

    scale: float
    window: int | None = None
    causal: bool = True


def masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Attention of `q` (rows, steps, heads, width) over the first `lengths` of the keys of each row,
    the last query standing at the last of them. What lies behind must be numbers: nothing times a NaN
    is a NaN."""
    rows, steps, heads, _ = q.shape
    width = max(1, SCORES // (rows * heads * k.shape[1]))
    keys = torch.arange(k.shape[1], device=q.device)[None, None]
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    first = lengths.long()[:, None, None] - steps
    parts = []
    for at in range(0, steps, width):
        part = q[:, at : at + width]
        queries = first + torch.arange(at, at + part.shape[1], device=q.device)[None, :, None]
        parts.append(_portion(part, k, v, _seen(keys, queries, lengths, rule), rule))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _seen(keys: torch.Tensor, queries: torch.Tensor, lengths: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Which query sees which key: (rows, queries, keys)."""
    if not rule.causal:
        return (keys < lengths[:, None, None]).expand(-1, queries.shape[1], -1)
    seen = keys <= queries
    return seen if rule.window is None else seen & (keys >= queries - rule.window)


def _portion(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor, rule: Rule
) -> torch.Tensor:
    rows, steps, heads, width = q.shape
    group = heads // k.shape[1]
    folded = q.view(rows, steps, -1, group, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
    mask = seen[:, None, None].expand(-1, -1, group, -1, -1).flatten(2, 3)
    out = functional.scaled_dot_product_attention(folded, k, v, attn_mask=mask, scale=rule.scale)
    return out.unflatten(2, (group, steps)).permute(0, 3, 1, 2, 4).reshape(q.shape).contiguous()
