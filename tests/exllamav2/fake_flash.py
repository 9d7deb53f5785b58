"""torch's flash attention op, as its schema and its source say it behaves, on CPU tensors.

Sequences are cut from one row of queries and one of keys; where each begins among the keys is told,
how many of its keys count too. Causal masks and windows end at the last key. Sequences with no keys
give zeros, and infinity for the logarithm of their sum; what lies behind the counted keys is not read.
"""

import math
from typing import Any

import torch


def flash_attention(
    query: Any, key: Any, value: Any, cum_seq_q: Any, cum_seq_k: Any, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float | None = None,
    window_size_left: int | None = None, window_size_right: int | None = None, seqused_k: Any = None,
    alibi_slopes: Any = None, block_table: Any = None, num_splits: int | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    assert not dropout_p and not return_debug_mask and alibi_slopes is None and window_size_right is None
    assert all(each.dtype == torch.int32 for each in (cum_seq_q, cum_seq_k, seqused_k))
    assert len(cum_seq_q) == len(cum_seq_k) == len(seqused_k) + 1
    assert query.dtype == key.dtype == torch.half
    out = torch.full(query.shape, math.nan, dtype=torch.half)
    sums = torch.full((query.shape[1], query.shape[0]), math.nan)
    for number, used in enumerate(seqused_k.tolist()):
        begin, end = cum_seq_q[number : number + 2].tolist()
        assert end - begin <= max_q
        assert used <= max_k
        if not used:
            out[begin:end], sums[:, begin:end] = 0, math.inf
            continue
        if block_table is None:
            first = int(cum_seq_k[number])
            k, v = key[first : first + used], value[first : first + used]
        else:
            pages = block_table[number].long()
            k, v = (each[pages].flatten(0, 1)[:used] for each in (key, value))
        assert len(k) == used, "keys beyond the end"
        group = query.shape[1] // k.shape[1]
        wide_k, wide_v = (each.float().repeat_interleave(group, 1) for each in (k, v))
        scores = torch.einsum("qhd,khd->hqk", query[begin:end].float(), wide_k) * scale
        own = torch.arange(used - (end - begin), used)[:, None]
        keys = torch.arange(used)
        hidden = (keys > own) & is_causal
        if window_size_left is not None:
            hidden = hidden | (keys < own - window_size_left)
        scores = scores.masked_fill(hidden, -math.inf)
        sums[:, begin:end] = torch.logsumexp(scores, 2)
        out[begin:end] = torch.einsum("hqk,khd->qhd", torch.softmax(scores, 2), wide_v).half()
    return out, sums, None, None, None
