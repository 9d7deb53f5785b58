"""Paged attention as the device runs it: pages are read through the block table, nothing is copied.

`attend` serves prompts and single queries alike. The query heads of a KV head count as queries of
their own, number n being head n % GROUP at step n // GROUP, so that a page is read once for all of
them. Products are of half precision, sums and the running softmax of single precision. `join` puts
splits of the keys together, `write` appends new keys and values. Which tiles there are is `tiled`'s.

Imports triton at its top: only the thread of a device imports this module.
"""

import triton
import triton.language as tl


@triton.jit
def write(
    k, v, keys, values, lengths, table, table_stride, steps,
    PAGE: tl.constexpr, LENGTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One new token of one row: all its KV heads. `lengths` count it."""
    token = tl.program_id(0)
    row = token // steps
    at = tl.load(lengths + row) - steps + token % steps
    page = tl.load(table + row * table_stride + at // PAGE).to(tl.int64)
    place = (page * PAGE + at % PAGE) * LENGTH
    source = token.to(tl.int64) * LENGTH
    piece = tl.arange(0, BLOCK)
    there = piece < LENGTH
    tl.store(keys + place + piece, tl.load(k + source + piece, mask=there), mask=there)
    tl.store(values + place + piece, tl.load(v + source + piece, mask=there), mask=there)


@triton.jit
def attend(
    q, keys, values, out, sums, lengths, table, table_stride, steps, kv_heads, blocks_each, scale, window,
    PAGE: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """One tile of the queries of one KV head of one row, over one split of its keys. KEYS divides PAGE,
    so that a block of keys lies in one page. `scale` is for powers of two."""
    tile, pair, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row, kv_head = pair // kv_heads, pair % kv_heads
    length = tl.load(lengths + row)
    number = tile * QUERIES + tl.arange(0, QUERIES)
    step = number // GROUP
    position = length - steps + step
    lane = tl.arange(0, PADDED)
    within = (lane < WIDTH)[None, :]
    line = (row * steps + step).to(tl.int64) * kv_heads * GROUP + kv_head * GROUP + number % GROUP
    cells = line[:, None] * WIDTH + lane[None, :]
    shown = (step < steps)[:, None] & within
    query = tl.load(q + cells, mask=shown, other=0.0)
    begin, end = _span(tile, length, steps, window, GROUP, QUERIES, KEYS, WINDOWED)
    if SPLIT:
        begin = tl.maximum(begin, split * blocks_each * KEYS)
        end = tl.minimum(end, (split + 1) * blocks_each * KEYS)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, PADDED], tl.float32)
    for start in range(begin, end, KEYS):
        at = start + tl.arange(0, KEYS)
        page = tl.load(table + row * table_stride + start // PAGE).to(tl.int64)
        place = (page * PAGE + at % PAGE) * kv_heads + kv_head
        block = place[:, None] * WIDTH + lane[None, :]
        # What lies behind the end may be anything, and a NaN times nothing is a NaN.
        filled = (at < length)[:, None] & within
        key = tl.load(keys + block, mask=filled, other=0.0)
        value = tl.load(values + block, mask=filled, other=0.0)
        seen = at[None, :] <= position[:, None]
        if WINDOWED:
            seen = seen & (at[None, :] >= position[:, None] - window)
        scores = tl.where(seen, tl.dot(query, tl.trans(key)) * scale, float("-inf"))
        highest, total, mixed = _fold(scores, value, highest, total, mixed)
    lines = tl.num_programs(1).to(tl.int64) * steps * GROUP
    _put(out, sums, cells, line, shown, step < steps, split * lines, highest, total, mixed, WIDTH, SPLIT)


@triton.jit
def _span(
    tile, length, steps, window,
    GROUP: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WINDOWED: tl.constexpr,
):  # fmt: skip
    """Keys that any query of the tile sees: from the begin of a block to the end of the last query."""
    first = length - steps + tile * QUERIES // GROUP
    last = length - steps + tl.minimum(tile * QUERIES + QUERIES - 1, steps * GROUP - 1) // GROUP
    begin = tl.maximum(first - window, 0) // KEYS * KEYS if WINDOWED else first * 0
    return begin, last + 1


@triton.jit
def _fold(scores, value, highest, total, mixed):
    """The running softmax with one block of keys more."""
    higher = tl.maximum(highest, tl.max(scores, 1))
    # A query that has seen nothing so far has no highest score to subtract.
    ground = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores - ground[:, None])
    fade = tl.exp2(highest - ground)
    mixed = tl.dot(weights.to(value.dtype), value, mixed * fade[:, None])
    return higher, total * fade + tl.sum(weights, 1), mixed


@triton.jit
def _put(
    out, sums, cells, line, shown, real, offset, highest, total, mixed,
    WIDTH: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """The tile's outputs; with splits, also the logarithms of their sums, none where nothing was seen."""
    nothing = total == 0.0
    result = mixed / tl.where(nothing, 1.0, total)[:, None]
    if SPLIT:
        tl.store(out + offset * WIDTH + cells, result, mask=shown)
        found = tl.where(nothing, float("-inf"), highest + tl.log2(tl.where(nothing, 1.0, total)))
        tl.store(sums + offset + line, found, mask=real)
    else:
        tl.store(out + cells, result.to(out.dtype.element_ty), mask=shown)


@triton.jit
def join(
    parts, sums, out, lines, count, WIDTH: tl.constexpr, PADDED: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    """One query: what all splits of its keys found, weighed by their sums."""
    line = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS).to(tl.int64)
    there = split < count
    found = tl.load(sums + split * lines + line, mask=there, other=float("-inf"))
    weights = tl.exp2(found - tl.max(found, 0))
    weights = weights / tl.sum(weights, 0)
    lane = tl.arange(0, PADDED)
    place = (split[:, None] * lines + line) * WIDTH + lane[None, :]
    part = tl.load(parts + place, mask=there[:, None] & (lane < WIDTH)[None, :], other=0.0)
    joined = tl.sum(part * weights[:, None], 0)
    tl.store(out + line * WIDTH + lane, joined.to(out.dtype.element_ty), mask=lane < WIDTH)
