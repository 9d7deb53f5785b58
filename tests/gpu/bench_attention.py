"""How long each way to paged attention takes for a layer, at shapes and lengths that are served.

    python -m tests.gpu.bench_attention

A turn is timed as a model has it: new lengths, then several layers with caches of their own, so
that nothing is found in the device's cache that a real turn would not find there. Times are a
layer's, the best of some turns; ratios are to the fastest way of a line.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.gpu.record import record

PAGE: Final = 256
TURNS: Final = 8
LAYERS: Final = 16
# Caches of all layers of a line together; few layers still outgrow the device's cache.
MOST_BYTES: Final = 20 * 2**30


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model: query heads, KV heads, width of a head."""

    name: str
    heads: int
    kv_heads: int
    width: int

    def token_bytes(self) -> int:
        """Keys and values of one token in one layer."""
        return 4 * self.kv_heads * self.width


SHAPES: Final = (Shape("8B", 32, 8, 128), Shape("0.6B", 16, 8, 128))
ROWS: Final = (1, 8, 32)
CONTEXTS: Final = (1024, 8192, 32768)
PROMPT: Final = 1024


def why_not() -> str | None:
    """Why nothing can be measured here."""
    if importlib.util.find_spec("torch") is None:
        return "not installed: torch"
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA device"


def ways() -> dict[str, Any]:
    """By name, what this card can compute with."""
    import torch

    from cortex.harness.exllamav2 import flash

    capability = torch.cuda.get_device_capability()
    found: dict[str, Any] = {way.name: way for way in (*flash.ways(capability), flash.Masked())}
    if capability >= (8, 0) and importlib.util.find_spec("triton") is not None:
        from cortex.harness.exllamav2.tiled import Tiled

        found["triton"] = Tiled(torch.cuda.get_device_properties(0).multi_processor_count)
    return found


def functions() -> dict[str, Callable[..., Any]]:
    """What stands in for flash_attn_with_kvcache, and itself where it is installed."""
    from cortex.harness.exllamav2.paged import Paged

    found: dict[str, Callable[..., Any]] = {
        name: Paged(lambda device, way=way: way).with_kvcache for name, way in ways().items()
    }
    if importlib.util.find_spec("flash_attn") is not None:
        import flash_attn

        found["flash-attn"] = flash_attn.flash_attn_with_kvcache
    return found


def step(shape: Shape, *, rows: int, context: int, steps: int, layers: int) -> list[dict[str, Any]]:
    """Calls of the layers of one turn: the last `steps` of `context` tokens, pages out of order."""
    import torch

    pages = -(-context // PAGE)
    caches = [
        [
            torch.randn((rows * pages, PAGE, shape.kv_heads, shape.width), dtype=torch.half, device="cuda")
            for _ in range(2)
        ]
        for _ in range(layers)
    ]
    table = torch.randperm(rows * pages, device="cuda").int().view(rows, pages)
    lengths = torch.full((rows,), context - steps, dtype=torch.int32, device="cuda")
    q = torch.randn((rows, steps, shape.heads, shape.width), dtype=torch.half, device="cuda")
    k, v = (
        torch.randn((rows, steps, shape.kv_heads, shape.width), dtype=torch.half, device="cuda")
        for _ in range(2)
    )
    return [
        {
            "q": q, "k": k, "v": v, "k_cache": keys, "v_cache": values, "cache_seqlens": lengths,
            "block_table": table, "causal": True, "softmax_scale": shape.width**-0.5,
        }
        for keys, values in caches
    ]  # fmt: skip


def layer_ms(function: Callable[..., Any], calls: list[dict[str, Any]]) -> float:
    """A layer's milliseconds, host and device together, whichever is slower."""
    import torch

    times = []
    for turn in range(TURNS + 2):
        fresh = {name: calls[0][name].clone() for name in ("cache_seqlens", "block_table")}
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for call in calls:
            function(**call | fresh)
        end.record()
        torch.cuda.synchronize()
        if turn >= 2:  # the first compile, and fill the allocator
            times.append(begin.elapsed_time(end) / len(calls))
    return min(times)


def rows() -> list[dict[str, Any]]:
    """One for each shape, number of rows, context, kind of turn and way. Empty without a card."""
    if why_not() is not None:
        return []
    told = []
    for shape in SHAPES:
        for context in CONTEXTS:
            for count in ROWS:
                told += _line(shape, count, context, 1)
            told += _line(shape, 1, context, min(PROMPT, context))
    return told


def _line(shape: Shape, count: int, context: int, steps: int) -> list[dict[str, Any]]:
    import torch

    held = count * context * shape.token_bytes()
    layers = max(1, min(LAYERS, MOST_BYTES // held))
    if held * layers * 1.5 > torch.cuda.mem_get_info()[0]:
        return []
    with torch.inference_mode():
        calls = step(shape, rows=count, context=context, steps=steps, layers=layers)
        times = {
            name: layer_ms(function, calls)
            for name, function in functions().items()
            # An explicit mask over much is seconds, and tells nothing.
            if name != "masked" or count * context <= 2**16
        }
    del calls
    torch.cuda.empty_cache()
    best = min(times.values())
    kind = "decode" if steps == 1 else f"prefill {steps}"
    return [
        {
            "model": shape.name, "turn": kind, "rows": count, "context": context, "attention": name,
            "layer_ms": round(ms, 4), "ratio": round(ms / best, 2), "kv_gb_s": round(held / ms / 1e6, 1),
        }
        for name, ms in sorted(times.items(), key=lambda each: each[1])
    ]  # fmt: skip


def main() -> None:
    if (reason := why_not()) is not None:
        raise SystemExit(f"nothing is measured: {reason}")
    told = rows()
    names = sorted({row["attention"] for row in told})
    print("model  turn          rows  context  " + "  ".join(f"{name:>18}" for name in names))
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in told:
        record("attention_times", **row)
        line = lines.setdefault((row["model"], row["turn"], row["rows"], row["context"]), {})
        line[row["attention"]] = f"{row['layer_ms']:.3f} ms {row['ratio']:.2f}x"
    for (model, turn, count, context), times in lines.items():
        cells = "  ".join(f"{times.get(name, '-'):>18}" for name in names)
        print(f"{model:<6} {turn:<13} {count:>4}  {context:>7}  {cells}")


if __name__ == "__main__":
    main()
