"""Compiles the kernels for the capabilities named, without a GPU, and prints the shared memory of each."""

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cortex.harness.exllamav2 import kernels
from cortex.harness.exllamav2.tiled import Tile

HALVES, SINGLES, LENGTHS = "*fp16", "*fp32", "*i32"
TYPES = {
    **dict.fromkeys(("q", "k", "v", "keys", "values", "out"), HALVES),
    **dict.fromkeys(("parts", "sums"), SINGLES),
    **dict.fromkeys(("lengths", "table"), LENGTHS),
    "scale": "fp32",
}


def shared(kernel: Any, arch: str, constants: dict[str, Any], types: dict[str, str], **options: int) -> int:
    """Bytes of shared memory that the compiled kernel takes. Pointers are aligned, as torch's are."""
    signature = {
        name: "constexpr" if name in constants else {**TYPES, **types}.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (at,): [["tt.divisibility", 16]] for at, kind in enumerate(signature.values()) if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", int(arch.replace(".", "")), 32)
    taken: int = triton.compile(source, target=target, options=options).metadata.shared
    return taken


def main() -> None:
    told = {}
    for arch in sys.argv[1:]:
        for width in (64, 80, 128, 256):
            for queries in (4, 4096):
                tile = Tile.of(queries, width)
                for split in (False, True):
                    constants = {
                        "PAGE": 256, "GROUP": 4, "WIDTH": width, "PADDED": triton.next_power_of_2(width),
                        "QUERIES": tile.queries, "KEYS": tile.keys, "WINDOWED": not split, "SPLIT": split,
                    }  # fmt: skip
                    out = {"out": SINGLES if split else HALVES}
                    options = {"num_warps": tile.warps, "num_stages": tile.stages}
                    name = f"attend {arch} {width} {queries} {split}"
                    told[name] = shared(kernels.attend, arch, constants, out, **options)
        told[f"join {arch}"] = shared(
            kernels.join, arch, {"WIDTH": 80, "PADDED": 128, "SPLITS": 64}, {}, num_warps=2
        )
        told[f"write {arch}"] = shared(kernels.write, arch, {"PAGE": 256, "LENGTH": 640, "BLOCK": 1024}, {})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
