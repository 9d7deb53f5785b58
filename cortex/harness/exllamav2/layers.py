"""Every tensor that a model is made of is there, in a form and of a shape that the library takes.

One that is missing costs minutes before the library says so; one of another shape than config.json
says is read beyond its end on the device. So all of them are looked up by name beforehand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex.errors import Unfit
from cortex.harness.exllamav2.families import Family
from cortex.harness.exllamav2.quantised import check_type
from cortex.weights import ModelFolder, Settings, Tensor

PLAIN: Final = ("F16", "BF16", "F32")
# An expert's gate, upward and downward matrix.
_EXPERT: Final = {"block_sparse_moe": ("w1", "w3", "w2"), "mlp": ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix by its name. `fused` names the tensor that may hold it together with others;
    `group` is those that are all quantised or none."""

    name: str
    into: int
    out: int
    bias: bool = False
    fused: str = ""
    fused_out: int = 0
    group: str = ""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What config.json says of the layers, beside the settings."""

    inner: int
    experts: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool


def linears(settings: Settings, family: Family, sizes: Sizes) -> Iterator[Linear]:
    """All matrices of the model but its head."""
    wide, narrow = (heads * settings.head_length for heads in (settings.heads, settings.kv_heads))
    hidden, inner = settings.hidden, sizes.inner
    for layer in range(settings.layers):
        at = f"model.layers.{layer}"
        fused = f"{at}.self_attn.qkv_proj" if family.fused else ""
        for name, out in (("q", wide), ("k", narrow), ("v", narrow)):
            yield Linear(
                f"{at}.self_attn.{name}_proj", hidden, out, sizes.qkv_bias, fused, wide + 2 * narrow, at + "a"
            )
        yield Linear(f"{at}.self_attn.o_proj", wide, hidden, sizes.o_bias, group=at + "a")
        if family.experts:
            names = _EXPERT[family.experts]
            for expert in range(sizes.experts):
                within = f"{at}.{family.experts}.experts.{expert}"
                for name in names[:2]:
                    yield Linear(f"{within}.{name}", hidden, inner, sizes.mlp_bias, group=at + "m")
                yield Linear(f"{within}.{names[2]}", inner, hidden, sizes.mlp_bias, group=at + "m")
            continue
        fused = f"{at}.mlp.gate_up_proj" if family.fused else ""
        for name in ("gate", "up"):
            yield Linear(
                f"{at}.mlp.{name}_proj", hidden, inner, sizes.mlp_bias, fused, 2 * inner, group=at + "m"
            )
        yield Linear(f"{at}.mlp.down_proj", inner, hidden, sizes.mlp_bias, group=at + "m")


def check_tensors(folder: ModelFolder, family: Family, sizes: Sizes) -> None:
    """All that the library will load is there and of its right shape. Raises Unfit."""
    have, settings = _Tensors(folder), folder.settings
    have.vector("model.norm.weight", settings.hidden)
    have.plain("model.embed_tokens.weight", (settings.vocabulary, settings.hidden))
    for layer in range(settings.layers):
        at = f"model.layers.{layer}"
        have.vector(f"{at}.input_layernorm.weight", settings.hidden)
        have.vector(f"{at}.post_attention_layernorm.weight", settings.hidden)
        if family.head_norm:
            have.vector(f"{at}.self_attn.q_norm.weight", settings.head_length)
            have.vector(f"{at}.self_attn.k_norm.weight", settings.head_length)
        if family.experts:
            have.plain(f"{at}.{family.experts}.gate.weight", (sizes.experts, settings.hidden))
    forms: dict[str, str] = {}
    for linear in linears(settings, family, sizes):
        form = have.linear(linear)
        if forms.setdefault(linear.group, form) != form:
            raise have.fault(f"{linear.name} is {form} where others of its layer are {forms[linear.group]}")
    head = Linear("lm_head", settings.hidden, settings.vocabulary)
    if not settings.tied or have.form(head.name):
        have.linear(head)


class _Tensors:
    """The tensors of a folder by name."""

    def __init__(self, folder: ModelFolder) -> None:
        self._path: Path = folder.path
        self._found = {tensor.name: tensor for tensor in folder.tensors}

    def fault(self, what: str) -> Unfit:
        return Unfit(f"{self._path}: {what}; download it again, or choose another model")

    def vector(self, name: str, length: int) -> None:
        self.plain(name, (length,))

    def plain(self, name: str, shape: tuple[int, ...]) -> None:
        tensor = self._get(name)
        check_type(self._path, tensor, PLAIN)
        self._shaped(tensor, shape)

    def form(self, name: str) -> str:
        """How a matrix is stored; empty when it is not there."""
        ends = ((".q_weight", "EXL2"), (".qweight", "GPTQ"), (".weight", "plain"))
        return next((form for end, form in ends if name + end in self._found), "")

    def linear(self, linear: Linear) -> str:
        """The form of a matrix that is there and sound."""
        form = self.form(linear.name)
        if not form and linear.fused and f"{linear.fused}.weight" in self._found:
            self.plain(f"{linear.fused}.weight", (linear.fused_out, linear.into))
            self._biased(linear.fused, linear.fused_out if linear.bias else 0)
            return "plain"
        if not form:
            held = self.form(linear.fused) if linear.fused else ""
            also = f", and {linear.fused} is {held}, which exllamav2 cannot take apart" if held else ""
            raise self.fault(f"the weights of {linear.name} are missing{also}")
        if form == "EXL2":
            self._exl2(linear)
        elif form == "GPTQ":
            self._gptq(linear)
        else:
            self.plain(f"{linear.name}.weight", (linear.out, linear.into))
        # Zeros that GPTQ writes for no bias are dropped by the library.
        if form != "GPTQ" or linear.bias:
            types = PLAIN if form == "plain" else ("F16",)
            self._biased(linear.name, linear.out if linear.bias else 0, types)
        return form

    def _exl2(self, linear: Linear) -> None:
        name = linear.name
        weight = self._typed(f"{name}.q_weight", "I32")
        scale = self._typed(f"{name}.q_scale", "I32")
        most, groups = self._typed(f"{name}.q_scale_max", "F16"), self._typed(f"{name}.q_groups", "I16")
        self._shaped(self._typed(f"{name}.q_invperm", "I16", "I32"), (linear.into,))
        out = -(-linear.out // 32) * 32
        least, most_rows = (-(-linear.into * bits // 32) for bits in (2, 8))
        if len(weight.shape) != 2 or weight.shape[1] != out or not least <= weight.shape[0] <= most_rows:
            raise self.fault(
                f"tensor {weight.name!r} has the shape {weight.shape}, not ({least} to {most_rows}, {out})"
            )
        count = scale.shape[0] if scale.shape else 0
        if not 1 <= count <= -(-linear.into // 32):
            raise self.fault(f"tensor {scale.name!r} has {count} groups for {linear.into} rows")
        self._shaped(scale, (count, out // 8))
        self._shaped(most, (count,))
        self._shaped(groups, (2 * count,))

    def _gptq(self, linear: Linear) -> None:
        name = linear.name
        self._shaped(self._typed(f"{name}.qweight", "I32"), (linear.into // 8, linear.out))
        zeros = self._typed(f"{name}.qzeros", "I32")
        count = zeros.shape[0] if zeros.shape else 0
        self._shaped(zeros, (count, linear.out // 8))
        scales = self._get(f"{name}.scales")
        check_type(self._path, scales, PLAIN)
        self._shaped(scales, (count, linear.out))
        if f"{name}.g_idx" in self._found:
            self._shaped(self._typed(f"{name}.g_idx", "I32"), (linear.into,))
        # The kernel takes the smallest power of two that covers the rows with so many groups.
        group = 1
        while count and group * count < linear.into:
            group *= 2
        if not count or -(-linear.into // group) != count:
            raise self.fault(
                f"{name} has {count} groups for {linear.into} rows, which are no power of two each"
            )

    def _biased(self, name: str, length: int, types: tuple[str, ...] = PLAIN) -> None:
        """A matrix has a bias of this length; of 0, none."""
        if (f"{name}.bias" in self._found) != bool(length):
            where, wanted = ("no bias", "one") if length else ("a bias", "none")
            raise self.fault(f"{name} has {where}, and the architecture wants {wanted}")
        if length:
            self._shaped(self._typed(f"{name}.bias", *types), (length,))

    def _get(self, name: str) -> Tensor:
        tensor = self._found.get(name)
        if tensor is None:
            raise self.fault(f"tensor {name!r} is missing")
        return tensor

    def _typed(self, name: str, *types: str) -> Tensor:
        tensor = self._get(name)
        check_type(self._path, tensor, types)
        return tensor

    def _shaped(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        if tensor.shape != shape:
            raise self.fault(
                f"tensor {tensor.name!r} has the shape {tensor.shape}, and config.json says {shape}"
            )
