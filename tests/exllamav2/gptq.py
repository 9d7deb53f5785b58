"""A small model with GPTQ weights of 4 bits, made by rounding, and the same with the rounded numbers.

The layout is AutoGPTQ's: eight weights of an input column to an int32, a scale and a zero point for
each group of inputs, zero points stored one less.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

GROUP: Final = 64
BITS: Final = 4


def quantised(folder: Path, into: Path) -> tuple[Path, Path]:
    """A folder with the packed weights of the model in `folder`, and one with what they stand for."""
    from safetensors.torch import load_file, save_file

    packed, plain = into / "gptq", into / "rounded"
    for each in (packed, plain):
        shutil.copytree(folder, each)
    weights = load_file(folder / "model.safetensors")
    stored, meant = dict(weights), dict(weights)
    for name in [each for each in weights if each.endswith("_proj.weight")]:
        stem = name.removesuffix(".weight")
        parts, meant[name] = rounded(stored.pop(name))
        stored |= {f"{stem}.{part}": tensor for part, tensor in parts.items()}
    save_file(stored, packed / "model.safetensors", {"format": "pt"})
    save_file(meant, plain / "model.safetensors", {"format": "pt"})
    path = packed / "config.json"
    told = {"quant_method": "gptq", "bits": BITS, "group_size": GROUP, "desc_act": False, "sym": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": told}))
    return packed, plain


def rounded(weight: Any) -> tuple[dict[str, Any], Any]:
    """The parts that are stored of a matrix (outputs, inputs), and the matrix that they stand for."""
    import torch

    grouped = weight.float().T.unflatten(0, (-1, GROUP))  # groups, inputs of one, outputs
    least, most = grouped.amin(1), grouped.amax(1)
    scales = ((most - least) / (2**BITS - 1)).half()
    # A zero point of 0 could not be stored.
    zeros = (-least / scales.float()).round().clamp(1, 2**BITS - 1).int()
    numbers = (grouped / scales.float()[:, None] + zeros[:, None]).round().clamp(0, 2**BITS - 1).int()
    meant = (numbers - zeros[:, None]).float() * scales.float()[:, None]
    inputs = weight.shape[1]
    parts = {
        "qweight": packed(numbers.flatten(0, 1).T).T.contiguous(),
        "qzeros": packed(zeros - 1),
        "scales": scales,
        "g_idx": (torch.arange(inputs) // GROUP).int(),
    }
    return parts, meant.flatten(0, 1).T.contiguous().half()


def packed(numbers: Any) -> Any:
    """Eight neighbours of a row in one int32, the first in the lowest bits."""
    import torch

    eights = numbers.unflatten(1, (-1, 32 // BITS)).long()
    whole = (eights << torch.arange(0, 32, BITS)).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int().contiguous()
