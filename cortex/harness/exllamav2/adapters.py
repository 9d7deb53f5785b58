"""LoRA adapters are judged by their headers, as models are.

The library takes some kinds of adapter for plain ones and computes something else, and passes over
tensors that it does not know. What is no plain LoRA of this very model is `Unfit`.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cortex.errors import Unfit
from cortex.harness.exllamav2.checkpoint import Checkpoint
from cortex.harness.exllamav2.layers import PLAIN, Linear, linears
from cortex.harness.exllamav2.quantised import check_type
from cortex.weights import Facts, contents, object_of, read_shard

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
CONFIG_BYTES: Final = 2**20
MOST_RANK: Final = 4096
# Settings that change what an adapter means, and that the library does not look at.
_FORBIDDEN: Final = (
    "fan_in_fan_out", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication",
    "lora_bias", "trainable_token_indices", "use_bdlora", "target_parameters",
)  # fmt: skip
_HALF: Final = re.compile(r"(?:.*\.)?(model\.layers\.\d+\..+)\.lora_([AB])\.weight")


def adapter_bytes(path: Path, base: Checkpoint) -> int:
    """What the adapter in a folder takes of the device, beside the model `base` for which it is.
    Raises Unfit."""
    rank = _rank(path)
    if (path / PICKLE).exists():
        raise Unfit(f"{path / PICKLE}: is a pickle, which the library would read first; remove it")
    if base.scales.residual != 1.0:
        raise Unfit(
            f"{path}: its model scales what layers add, and exllamav2 would not scale what the adapter adds; "
            "merge the adapter into its model"
        )
    targets = {linear.name: linear for linear in linears(base.settings, base.family, base.sizes)}
    halves: dict[str, set[str]] = {}
    total = 0
    for tensor in read_shard(path / WEIGHTS):
        found = _HALF.fullmatch(tensor.name)
        linear = targets.get(found[1]) if found else None
        if found is None or linear is None:
            raise _fault(path, f"tensor {tensor.name!r} adapts nothing that exllamav2 can have adapted")
        check_type(path, tensor, PLAIN)
        if tensor.shape != (wanted := _shape(linear, found[2], rank)):
            raise _fault(path, f"tensor {tensor.name!r} has the shape {tensor.shape}, and the model {wanted}")
        if found[2] in halves.setdefault(found[1], set()):
            raise _fault(path, f"{found[1]} is adapted twice")
        halves[found[1]].add(found[2])
        total += 2 * math.prod(tensor.shape)
    for name, have in halves.items():
        if len(have) != 2:
            raise _fault(path, f"{name} has lora_{min(have)} alone")
    if not total:
        raise _fault(path, "holds no tensors")
    return total


def _rank(path: Path) -> int:
    config = path / CONFIG
    data = contents(config, CONFIG_BYTES)
    if data is None:
        raise Unfit(f"{config}: is missing; name the folder of a LoRA adapter in models.toml")
    told = object_of(data, config)
    facts = Facts(config, told)
    if (kind := facts.text("peft_type", "LORA")) != "LORA":
        raise Unfit(f"{config}: is an adapter of the kind {kind}; exllamav2 takes LoRA")
    if facts.text("bias", "none") != "none":
        raise Unfit(f"{config}: adapts biases, which exllamav2 does not; train it with bias = none")
    _refuse_forms(config, told)
    facts.real("lora_alpha", least=1e-6)
    facts.flag("use_rslora")
    return facts.number("r", most=MOST_RANK)


def _refuse_forms(config: Path, told: Mapping[str, object]) -> None:
    for name in _FORBIDDEN:
        if told.get(name):
            raise Unfit(f"{config}: has {name}, which exllamav2 cannot do; merge the adapter into its model")


def _shape(linear: Linear, half: str, rank: int) -> tuple[int, int]:
    return (rank, linear.into) if half == "A" else (linear.out, rank)


def _fault(path: Path, what: str) -> Unfit:
    return Unfit(f"{path / WEIGHTS}: {what}; choose an adapter of this model, or merge it")
