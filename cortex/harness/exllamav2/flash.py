"""Ways to paged attention over the flash kernels that torch carries, and the plain one beside them.

torch's op has no block table before 2.12, but it takes where each sequence begins among the keys
and how many of them count. `Pages` makes each page a sequence of its own: nothing is copied, all
pages of all rows are read at once, and their outputs are joined by their log-sum-exp. That serves
single queries; longer runs, whose causal mask would cross pages, read a copy of their pages side
by side (`Gathered`). Where the op has a block table, `Tables` hands it over.

Imports torch at its top: only the thread of a device imports this module, when it loads a model.
"""

from collections.abc import Iterator
from typing import Final

import torch

from cortex.errors import LoadFailed
from cortex.harness.exllamav2.attention import TRANSIENT_BYTES
from cortex.harness.exllamav2.masked import Rule, masked
from cortex.harness.exllamav2.paged import Appending, Call, Index, Way

# Sequences of one launch of the flash kernel, which are the grid's second dimension.
SEQUENCES: Final = 65535


def takes(argument: str) -> bool:
    """Whether this torch's flash attention knows an argument."""
    schema = torch.ops.aten._flash_attention_forward.default._schema
    return any(each.name == argument for each in schema.arguments)


def ways(capability: tuple[int, int] | None) -> tuple[Way, ...]:
    """What can be tried on a device, best first; None stands for CPU tensors. Raises LoadFailed."""
    if capability is None or capability < (8, 0):
        return (Masked(),)
    if not takes("seqused_k"):
        raise LoadFailed(
            f"the flash attention of torch {torch.__version__} cannot be told how many keys count "
            '(seqused_k): install torch 2.6 or newer, or load with attention = "unpaged"'
        )
    return ((Tables(),) if takes("block_table") else ()) + (Pages(), Gathered())


class Masked(Appending):
    """A copy of the pages, and an explicit mask."""

    name = "masked"

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        rule = Rule(call.scale, call.window)
        parts = []
        for rows in _portions(call, _copy_bytes(call)):
            k, v = _copies(call, rows)
            tokens = torch.arange(k.shape[1], device=k.device)
            behind = (tokens >= index.lengths[rows, None])[..., None, None]
            for each in (k, v):
                each.masked_fill_(behind, 0)
            parts.append(masked(call.q[rows], k, v, index.lengths[rows], rule))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Gathered(Appending):
    """A copy of the pages, read by the flash kernel."""

    name = "gathered"

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        parts = [self._part(call, index, rows) for rows in _portions(call, _copy_bytes(call))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, call: Call, index: Index, rows: slice) -> torch.Tensor:
        k, v = _copies(call, rows)
        q = call.q[rows]
        count, steps, reach = q.shape[0], q.shape[1], k.shape[1]
        starts_q, starts_k, lengths = index.once(
            ("gathered", rows.start, rows.stop),
            lambda: (_ramp(count, steps, q), _ramp(count, reach, q), index.lengths[rows].contiguous()),
        )
        # No right edge of the window is given: with one, the op gives up splitting long keys.
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), starts_q, starts_k, steps, reach,
            0.0, True, False, scale=call.scale, window_size_left=call.window, seqused_k=lengths,
        )[0]  # fmt: skip
        return out.view(q.shape)


class Pages(Gathered):
    """Each page a sequence, for single queries; copies for longer runs."""

    name = "pages"

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        if call.q.shape[1] > 1:
            return super().attend(call, index)
        pages, heads, width = call.block_table.shape[1], call.q.shape[2], call.q.shape[3]
        # Partial outputs in half precision, and joined in single.
        parts = [
            self._joined(call, index, rows)
            for rows in _portions(call, pages * heads * width * 6, SEQUENCES // pages)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _joined(self, call: Call, index: Index, rows: slice) -> torch.Tensor:
        starts, used, starts_q = index.once(
            ("pages", rows.start, rows.stop, call.window, call.group), lambda: _spans(call, index, rows)
        )
        q = call.q[rows, 0].unflatten(1, (-1, call.group))  # rows, KV heads, group, width
        count, kv_heads, group, width = q.shape
        pages = call.block_table.shape[1]
        # The heads of a group are the queries of their KV head: all see all keys of the page.
        queries = q.transpose(1, 2)[:, None].expand(-1, pages, -1, -1, -1).reshape(-1, kv_heads, width)
        k, v = call.flat()
        out, sums = torch.ops.aten._flash_attention_forward(
            queries, k, v, starts_q, starts, group, call.page,
            0.0, False, False, scale=call.scale, seqused_k=used,
        )[:2]  # fmt: skip
        parts = out.view(count, pages, group, kv_heads, width)
        empty = used.view(count, pages, 1, 1) == 0
        weights = torch.softmax(_by_page(sums, parts.shape).masked_fill(empty, float("-inf")), 1)
        joined = (parts * weights[..., None]).sum(1)
        return joined.transpose(1, 2).reshape(count, 1, -1, width).to(call.q.dtype)


class Tables(Appending):
    """The op reads through the block table itself."""

    name = "tables"

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        q, reach = call.q, call.block_table.shape[1] * call.page
        starts_q, starts_k = index.once(
            "tables", lambda: (_ramp(q.shape[0], q.shape[1], q), _ramp(q.shape[0], reach, q))
        )
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            q.flatten(0, 1), call.k_cache, call.v_cache, starts_q, starts_k, q.shape[1], reach,
            0.0, True, False, scale=call.scale, window_size_left=call.window,
            seqused_k=index.lengths, block_table=call.block_table,
        )[0]  # fmt: skip
        return out.view(q.shape)


def _by_page(sums: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Log-sum-exps as (rows, pages, group, KV heads), from either layout that the op has had."""
    count, pages, group, kv_heads, _ = shape
    if sums.dim() == 2:  # KV heads, sequences x group
        return sums.view(kv_heads, count, pages, group).permute(1, 2, 3, 0)
    return sums[..., :group].reshape(count, pages, kv_heads, group).transpose(2, 3)


def _spans(call: Call, index: Index, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where among all keys each page's seen ones begin, how many they are, and where its queries are."""
    table, ends = call.block_table[rows], index.lengths[rows, None]
    bases = torch.arange(table.shape[1], dtype=torch.int32, device=table.device) * call.page
    begins = torch.zeros_like(ends) if call.window is None else ends - 1 - call.window
    first = (begins - bases).clamp(0, call.page)
    used = ((ends - bases).clamp(0, call.page) - first).clamp(min=0)
    starts = (table * call.page + first).flatten()
    # One more than there are sequences, as the op wants: how long the last might be is not read.
    starts = torch.cat((starts, starts[-1:]))
    return starts, used.flatten(), _ramp(used.numel(), call.group, call.q)


def _ramp(count: int, step: int, like: torch.Tensor) -> torch.Tensor:
    """0, step, 2 x step ... count x step."""
    return torch.arange(0, count * step + 1, step, dtype=torch.int32, device=like.device)


def _copies(call: Call, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows' pages side by side: (rows, tokens, KV heads, width)."""
    table = call.block_table[rows]
    k, v = (
        cache.index_select(0, table.flatten()).view(table.shape[0], -1, *cache.shape[2:])
        for cache in (call.k_cache, call.v_cache)
    )
    return k, v


def _copy_bytes(call: Call) -> int:
    """What the copies of one row's pages take, keys and values."""
    tokens = call.block_table.shape[1] * call.page
    return int(tokens * call.k_cache.shape[2] * call.k_cache.shape[3] * 2 * call.k_cache.element_size())


def _portions(call: Call, row_bytes: int, most: int = 2**31) -> Iterator[slice]:
    """Rows that go at once."""
    rows = call.q.shape[0]
    width = max(1, min(TRANSIENT_BYTES // row_bytes, most))
    return (slice(at, min(at + width, rows)) for at in range(0, rows, width))
