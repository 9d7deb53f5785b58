"""The way to paged attention by kernels of our own: what is launched, in which tiles, how often.

A program takes a tile of the queries of one KV head. Where the tiles are too few to fill the device,
as they are for single queries, their keys are split among several programs, and what these found is
joined by another kernel. How many tokens count is known to the device alone, so splits are cut from
what the block table can hold; those behind a row's end find nothing and end at once.

Imports triton and torch at its top: only the thread of a device imports this module.
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton

from cortex.harness.exllamav2 import kernels
from cortex.harness.exllamav2.paged import Call, Index

LOG2E: Final = 1.4426950408889634
# Programs for each multiprocessor before keys are split no further: two of the largest tiles fit.
WAVES: Final = 2
# Splits that one join reads.
MOST_SPLITS: Final = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries and keys that a program holds at a time, and the warps that work on them."""

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2

    @classmethod
    def of(cls, queries: int, width: int) -> "Tile":
        """For so many queries of a KV head; 16 is the least that tensor cores multiply. Shared memory
        holds the queries, and keys and values for each stage: 80 KiB for 64 x 64 x 128 in 2 stages, of
        the 99 KiB that capabilities 8.6 to 12.0 have at least. Wider heads take smaller tiles."""
        most, keys = (32, 32) if width > 128 else (64, 64)
        return cls(min(max(16, triton.next_power_of_2(queries)), most), keys)


class Tiled:
    """`processors`: multiprocessors of the device."""

    name = "triton"

    def __init__(self, processors: int) -> None:
        self._processors = processors

    def append(self, call: Call, index: Index) -> None:
        k, v = (each.contiguous() for each in call.new)
        rows, steps, heads, width = k.shape
        keys, values = call.flat()
        kernels.write[(rows * steps,)](
            k, v, keys, values, index.lengths, call.block_table, call.block_table.stride(0), steps,
            PAGE=call.page, LENGTH=heads * width, BLOCK=triton.next_power_of_2(heads * width),
        )  # fmt: skip

    def attend(self, call: Call, index: Index) -> torch.Tensor:
        q = call.q.contiguous()
        rows, steps, heads, width = q.shape
        group, kv_heads = call.group, heads // call.group
        tile = Tile.of(steps * group, width)
        tiles = triton.cdiv(steps * group, tile.queries)
        blocks = call.block_table.shape[1] * call.page // tile.keys
        count = splits(tiles * rows * kv_heads, blocks, self._processors)
        out = torch.empty_like(q)
        parts, sums = out, out
        if count > 1:
            parts = torch.empty((count, *q.shape), dtype=torch.float32, device=q.device)
            sums = torch.empty(parts.shape[:-1], dtype=torch.float32, device=q.device)
        keys, values = call.flat()
        kernels.attend[(tiles, rows * kv_heads, count)](
            q, keys, values, parts, sums, index.lengths, call.block_table, call.block_table.stride(0),
            steps, kv_heads, triton.cdiv(blocks, count), call.scale * LOG2E, call.window or 0,
            PAGE=call.page, GROUP=group, WIDTH=width, PADDED=max(16, triton.next_power_of_2(width)),
            QUERIES=tile.queries, KEYS=tile.keys, WINDOWED=call.window is not None, SPLIT=count > 1,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        if count > 1:
            lines = rows * steps * heads
            kernels.join[(lines,)](
                parts, sums, out, lines, count,
                WIDTH=width, PADDED=triton.next_power_of_2(width), SPLITS=triton.next_power_of_2(count),
                num_warps=2,
            )  # fmt: skip
        return out


def splits(programs: int, blocks: int, processors: int) -> int:
    """Among how many programs the keys of one tile are split: enough to fill the device, no more than
    there are blocks of keys, and none that could have nothing."""
    wanted = max(1, min(triton.cdiv(processors * WAVES, programs), blocks, MOST_SPLITS))
    return int(triton.cdiv(blocks, triton.cdiv(blocks, wanted)))
