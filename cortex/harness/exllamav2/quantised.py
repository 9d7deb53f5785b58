"""Which forms of weights can be read: EXL2, GPTQ with 4 bits, and plain 16 or 32 bits.

What config.json says is not believed alone: the tensors' own names and types give other methods
away, and some of them (AWQ) look so much like GPTQ that the library would read them as nonsense.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cortex.errors import Unfit
from cortex.weights import Facts, ModelFolder, Tensor

CHOICES: Final = "choose EXL2, GPTQ with 4 bits, or fp16 or bf16 weights, or serve it as an upstream"
READ_TYPES: Final = ("I32", "I16", "F16", "BF16", "F32")
# Ends of tensor names that only one method has.
_MARKS: Final = (
    (".trellis", "EXL3"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale_inv", "FP8"),
    (".weight_scale", "FP8 or compressed-tensors"),
    (".input_scale", "FP8"),
    (".absmax", "bitsandbytes"),
    (".quant_map", "bitsandbytes"),
    (".W_q", "HQQ"),
    (".Qidxs", "QuIP#"),
    (".codebooks", "AQLM"),
    ("_proj_blocks", "MXFP4"),
)
_TYPES: Final[Mapping[str, str]] = {
    "F8_E4M3": "FP8",
    "F8_E5M2": "FP8",
    "F8_E8M0": "MXFP4",
    "U8": "bitsandbytes or FP4",
    "I8": "an 8-bit method",
}


def check_method(folder: ModelFolder) -> bool:
    """Whether the zero points of GPTQ weights are stored as the second version of that format does.
    Raises Unfit for weights that cannot be read."""
    config, told = folder.path / "config.json", folder.settings.told
    for key in ("compression_config", "quantization_config"):
        if told.get(key) is not None and not isinstance(told[key], dict):
            raise Unfit(f"{config}: {key} is no table; download it again")
    if told.get("compression_config") is not None:
        raise _unread(config, "compressed-tensors")
    quant = told.get("quantization_config")
    second = False
    if quant is not None:
        method = Facts(config, quant).text("quant_method", "")
        if method not in ("exl2", "gptq"):
            raise _unread(config, method or "a method that quantization_config does not name")
        if method == "gptq":
            second = _check_gptq(config, quant)
    _check_marks(folder, None if quant is None else quant["quant_method"])
    return second


def _check_gptq(config: Path, quant: Mapping[str, Any]) -> bool:
    facts = Facts(config, quant)
    bits = facts.number("bits", least=1, most=32)
    if bits != 4:
        raise _unread(config, f"GPTQ with {bits} bits")
    kind = facts.text("checkpoint_format", facts.text("format", "gptq"))
    if kind not in ("gptq", "gptq_v2") or facts.flag("is_marlin_format"):
        raise _unread(config, f"GPTQ in the form {kind if kind != 'gptq' else 'marlin'!r}")
    if quant.get("dynamic"):
        raise _unread(config, "GPTQ that differs from layer to layer (dynamic)")
    group = facts.number("group_size", -1, least=-1, most=2**20)
    if group != -1 and (group < 32 or group & (group - 1)):
        raise _unread(config, f"GPTQ in groups of {group}, which are no power of two from 32 on")
    return kind == "gptq_v2"


def _check_marks(folder: ModelFolder, method: str | None) -> None:
    for tensor in folder.tensors:
        mark = next((name for end, name in _MARKS if tensor.name.endswith(end)), _TYPES.get(tensor.type))
        if mark is None and tensor.name.endswith(".qweight") and method != "gptq":
            mark = "a method that config.json does not name, perhaps GPTQ or AWQ"
        if mark is None and tensor.name.endswith(".q_weight") and method == "gptq":
            mark = "EXL2, where config.json says GPTQ"
        if mark is not None:
            raise _unread(folder.path / tensor.file, mark, f" (tensor {tensor.name!r} of {tensor.type})")


def check_type(path: Path, tensor: Tensor, types: tuple[str, ...] = READ_TYPES) -> None:
    """Raises Unfit when the library cannot take a tensor of this type."""
    if tensor.type not in types:
        raise Unfit(
            f"{path / tensor.file}: tensor {tensor.name!r} is of {tensor.type} where exllamav2 reads "
            f"{', '.join(types)}; {CHOICES}"
        )


def _unread(path: Path, method: str, detail: str = "") -> Unfit:
    return Unfit(f"{path}: is quantised by {method}, which exllamav2 cannot read{detail}; {CHOICES}")
