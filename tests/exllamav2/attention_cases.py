"""Calls of paged attention, and what it is: written plainly, over keys that lie in a row.

The pages of a case lie out of order in a cache whose every other cell is a NaN; rows of the table
are padded with zeros, and page 0 belongs to nobody. The answer is made from the tokens before they
are put into pages, one head of one row at a time, in single precision.
"""

from dataclasses import dataclass
from typing import Any

PAGE = 256
# Half precision of outputs of size one.
NEAR = 0.005


@dataclass(frozen=True)
class Case:
    """`lengths`: of each row after the call; `steps`: queries of each; `width`: of a head."""

    lengths: tuple[int, ...]
    steps: int = 1
    heads: int = 4
    kv_heads: int = 2
    width: int = 64
    window: int | None = None
    writes: bool = True
    scale: float | None = None

    def __str__(self) -> str:
        parts = [f"{'+'.join(map(str, self.lengths))} by {self.steps}"]
        parts.append(f"{self.heads} of {self.kv_heads} x {self.width}")
        if self.window is not None:
            parts.append(f"window {self.window}")
        return ", ".join(parts if self.writes else [*parts, "written"])


BORDERS = (255, 256, 257)
# Single queries: around pages, alone, with every grouping of heads and through windows.
SINGLE = (
    Case((1,)),
    Case((*BORDERS, 1, 511, 512, 513, 700)),
    Case(BORDERS, heads=4, kv_heads=4),
    Case(BORDERS, heads=7, kv_heads=1),
    Case((300, 40), width=80),
    Case((300, 257), width=96, scale=0.3),
    Case((257, 600), width=128),
    Case((520,), width=256, heads=2, kv_heads=1),
    Case((300, 600, 20), window=100),
    Case((257, 600), window=0),
    Case((513, 512), window=255),
    Case((600, 257), writes=False),
)
# Several queries: what is guessed ahead, and prompts, begun and gone on with.
SEVERAL = (
    Case((8, 256, 260, 600), steps=8),
    Case((3, 258), steps=3, heads=6, kv_heads=2),
    Case((256,), steps=256, writes=False),
    Case((257,), steps=257),
    Case((700,), steps=256, writes=False),
    Case((600, 300), steps=5, window=50),
    Case((400,), steps=200, window=64, writes=False),
    Case((300,), steps=40, width=80, heads=8, kv_heads=1),
)
# What takes a device: long prompts and chunks, wide heads, a full batch.
LARGE = (
    Case((1024,), steps=1024, heads=16, kv_heads=8, width=128, writes=False),
    Case((3000,), steps=1024, heads=32, kv_heads=8, width=128, writes=False),
    Case((1300, 2048), steps=1024, heads=8, kv_heads=2, width=64),
    Case((5000, 1, 4096, 4097, 255, 8000, 20, 777), heads=32, kv_heads=8, width=128),
    Case((5000, 9, 4096, 4097, 256, 8000, 20, 777), steps=5, heads=32, kv_heads=8, width=128),
    Case((9000, 700), heads=8, kv_heads=4, width=256),
    Case((9000, 5000), steps=1, heads=32, kv_heads=8, width=128, window=4096),
    Case((6000,), steps=1024, heads=32, kv_heads=8, width=128, window=4096, writes=False),
)


def posed(case: Case, device: str = "cpu", seed: int = 0) -> tuple[dict[str, Any], Any, list[Any]]:
    """The keywords of a call, its right answer, and the caches as they must be afterwards."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    counts = [-(-length // PAGE) for length in case.lengths]
    free = (torch.randperm(sum(counts), generator=chance) + 1).tolist()
    table = torch.zeros((len(counts), max(counts)), dtype=torch.int32)
    full = [
        torch.full((sum(counts) + 1, PAGE, case.kv_heads, case.width), torch.nan).half() for _ in range(2)
    ]
    before = [each.clone() for each in full]
    q = torch.randn(len(counts), case.steps, case.heads, case.width, generator=chance).half()
    new = [torch.empty(len(counts), case.steps, case.kv_heads, case.width).half() for _ in range(2)]
    answer = torch.empty(q.shape)
    for row, length in enumerate(case.lengths):
        whole = [torch.randn(length, case.kv_heads, case.width, generator=chance).half() for _ in range(2)]
        known = length - case.steps if case.writes else length
        for number in range(counts[row]):
            table[row, number] = page = free.pop()
            first, last = number * PAGE, min((number + 1) * PAGE, length)
            for which in range(2):
                full[which][page, : last - first] = whole[which][first:last]
                before[which][page, : max(0, min(last, known) - first)] = whole[which][
                    first : min(last, known)
                ]
        for which in range(2):
            new[which][row] = whole[which][length - case.steps :]
        answer[row] = plain(*(each.to(device) for each in (q[row], *whole)), case)
    lengths = torch.tensor(case.lengths, dtype=torch.int32)
    given = {
        "q": q,
        "k_cache": before[0],
        "v_cache": before[1],
        "k": new[0] if case.writes else None,
        "v": new[1] if case.writes else None,
        "cache_seqlens": lengths - case.steps if case.writes else lengths,
        "block_table": table,
    }
    moved = {name: each if each is None else each.to(device) for name, each in given.items()}
    moved |= {"causal": True, "softmax_scale": case.scale}
    if case.window is not None:
        moved["window_size"] = (case.window, case.window)
    return moved, answer, full


def plain(q: Any, k: Any, v: Any, case: Case) -> Any:
    """Attention of one row, a head at a time."""
    import torch

    scale = case.width**-0.5 if case.scale is None else case.scale
    out = torch.empty(q.shape, device=q.device)
    past = len(k) - case.steps
    hidden = torch.ones(case.steps, len(k), dtype=torch.bool, device=q.device)
    for step in range(case.steps):
        own = past + step
        hidden[step, 0 if case.window is None else max(0, own - case.window) : own + 1] = False
    for head in range(case.heads):
        of = head // (case.heads // case.kv_heads)
        scores = q[:, head].float() @ k[:, of].float().T * scale
        out[:, head] = torch.softmax(scores.masked_fill(hidden, -torch.inf), 1) @ v[:, of].float()
    return out.cpu()


def off(way: Any, case: Case, device: str = "cpu") -> float:
    """How far a way is off, at worst; the caches hold what they must, and nothing else."""
    import torch

    from cortex.harness.exllamav2.paged import Paged

    given, answer, full = posed(case, device)
    got = Paged(lambda device: way).with_kvcache(**given)
    assert got.is_contiguous()
    assert got.dtype == torch.half
    for cache, must in zip((given["k_cache"], given["v_cache"]), full, strict=True):
        assert torch.equal(cache.cpu().nan_to_num(9e4), must.nan_to_num(9e4)), (
            "the cache holds something else"
        )
    worst: float = (got.cpu().float() - answer).abs().max().item()
    return worst
