"""Every tensor is looked up before exllamav2 loads one: its name, its shape, its type, and what they
give away of how it was quantised. facts 3.5."""

from pathlib import Path

import pytest

from tests.fake_checkpoints import (
    EXL2,
    GPTQ,
    Tensors,
    checkpoint,
    config_of,
    matrix,
    promised,
    refused,
    tensors_of,
)
from tests.fake_safetensors import shard

FORMS = {"plain": {}, "exl2": EXL2, "gptq": GPTQ}
LAYER = "model.layers.1.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_may_be_missing(tmp_path: Path, form: str) -> None:
    config = config_of(**FORMS[form])
    whole = tensors_of(config, form)
    path = checkpoint(tmp_path / "m", config, whole)
    for name in whole:
        if name.endswith(".g_idx"):
            continue  # GPTQ without an order of its own has none
        (path / "model.safetensors").write_bytes(shard({key: whole[key] for key in whole if key != name}))
        message = refused(path)
        assert name.rpartition(".")[0] in message and "missing" in message


@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_may_have_another_shape_or_type(tmp_path: Path, form: str) -> None:
    config = config_of(**FORMS[form])
    whole = tensors_of(config, form)
    path = checkpoint(tmp_path / "m", config, whole)
    for name, (kind, shape) in whole.items():
        rows_of_any_bits = name.endswith(".q_weight")
        for wrong in (
            ("F64", shape),
            (kind, (*shape, 1)),
            *([] if rows_of_any_bits else [(kind, (shape[0] + 8, *shape[1:]))]),
        ):
            (path / "model.safetensors").write_bytes(shard({**whole, name: wrong}))
            message = refused(path)
            assert "shape" in message or "F64" in message or "groups" in message, name


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"model.layers.0.mlp.up_proj.trellis": ("I16", (4,))}, "EXL3"),
        ({"model.layers.0.mlp.up_proj.weight_packed": ("I32", (4,))}, "compressed-tensors"),
        ({"model.layers.0.mlp.up_proj.weight_scale_inv": ("F32", (4,))}, "FP8"),
        ({"model.layers.0.mlp.up_proj.weight.absmax": ("F32", (4,))}, "bitsandbytes"),
        ({"model.layers.0.mlp.up_proj.W_q": ("I32", (4,))}, "HQQ"),
        ({"model.layers.0.mlp.up_proj.more": ("U8", (4,))}, "bitsandbytes or FP4"),
        ({"model.layers.0.mlp.up_proj.more": ("F8_E4M3", (4,))}, "FP8"),
        (matrix("model.layers.0.mlp.up_proj", 64, 96, "gptq"), "perhaps GPTQ or AWQ"),
        ({f"{LAYER}.bias": ("F16", (128,))}, "has a bias"),
        ({f"{LAYER}.weight": ("I32", (128, 64))}, "reads F16, BF16, F32"),
    ],
)
def test_tensors_give_away_what_a_config_does_not_say(tmp_path: Path, extra: Tensors, fault: str) -> None:
    path = checkpoint(tmp_path / "m", config_of(), {**tensors_of(config_of()), **extra})
    assert fault in refused(path)


@pytest.mark.parametrize(
    ("rows", "groups", "fault"),
    [
        (0, 0, "(0, 128)"),
        (3, 2, "(3, 128)"),
        (17, 2, "(17, 128)"),
        (8, 0, "q_scale"),
        (8, 3, "q_scale"),
    ],
)
def test_a_quantised_matrix_has_rows_for_all_that_it_multiplies(
    tmp_path: Path, rows: int, groups: int, fault: str
) -> None:
    """Elements have 2 to 8 bits, in groups of 32 or more: the kernel reads on where less is stored."""
    config = config_of(**EXL2)
    wrong: Tensors = {
        f"{LAYER}.q_weight": ("I32", (rows, 128)),
        f"{LAYER}.q_scale": ("I32", (groups, 16)),
        f"{LAYER}.q_scale_max": ("F16", (groups,)),
        f"{LAYER}.q_groups": ("I16", (2 * groups,)),
    }
    whole = tensors_of(config, "exl2")
    assert fault in refused(checkpoint(tmp_path / "m", config, {**whole, **wrong}))
    for fits in (4, 16):
        checkpoint(tmp_path / "n", config, {**whole, f"{LAYER}.q_weight": ("I32", (fits, 128))})
        assert promised(tmp_path / "n")


def test_awq_that_calls_itself_gptq_is_known_by_its_shape(tmp_path: Path) -> None:
    """facts 3.5: the names are the same, and the library would read nonsense."""
    config = config_of(**GPTQ)
    awq = {**tensors_of(config, "gptq"), f"{DOWN}.qweight": ("I32", (96, 8))}
    assert f"{DOWN}.qweight" in refused(checkpoint(tmp_path / "m", config, awq))


def test_exl2_that_calls_itself_gptq_is_refused(tmp_path: Path) -> None:
    assert "EXL2" in refused(checkpoint(tmp_path / "m", config_of(**GPTQ), form="exl2"))


def test_a_layer_is_quantised_whole_or_not_at_all(tmp_path: Path) -> None:
    config = config_of(**GPTQ)
    mixed = tensors_of(config, "gptq")
    for end in ("qweight", "qzeros", "scales", "g_idx"):
        del mixed[f"{DOWN}.{end}"]
    mixed |= matrix(DOWN, 96, 64)
    assert "is plain where others of its layer are GPTQ" in refused(checkpoint(tmp_path / "m", config, mixed))


def test_groups_that_the_kernel_would_count_otherwise_are_refused(tmp_path: Path) -> None:
    config = config_of(**GPTQ)
    odd = {
        **tensors_of(config, "gptq"),
        f"{DOWN}.qzeros": ("I32", (4, 8)),
        f"{DOWN}.scales": ("F16", (4, 64)),
    }
    assert "no power of two" not in refused(
        checkpoint(tmp_path / "n", config, {**odd, f"{DOWN}.scales": ("F16", (3, 64))})
    )
    five = {**odd, f"{DOWN}.qzeros": ("I32", (5, 8)), f"{DOWN}.scales": ("F16", (5, 64))}
    assert "5 groups for 96 rows" in refused(checkpoint(tmp_path / "m", config, five))


def test_zero_biases_that_gptq_writes_are_let_through(tmp_path: Path) -> None:
    config = config_of(**GPTQ)
    checkpoint(tmp_path / "m", config, {**tensors_of(config, "gptq"), f"{LAYER}.bias": ("F16", (128,))})
    assert promised(tmp_path / "m")


@pytest.mark.parametrize("form", FORMS)
def test_biases_are_there_in_a_type_that_is_read_as_it_is(tmp_path: Path, form: str) -> None:
    """The library halves those of plain weights only, and reads any other two bytes as a half."""
    config = config_of("Qwen2ForCausalLM", **FORMS[form])
    whole = tensors_of(config, form)
    path = checkpoint(tmp_path / "m", config, whole)
    shards, bias = path / "model.safetensors", f"{LAYER}.bias"
    assert promised(path)
    shards.write_bytes(shard({key: kind for key, kind in whole.items() if key != bias}))
    assert f"{LAYER} has no bias" in refused(path)
    for wrong in (("I16", (128,)), ("F16", (64,)), ("F16", (128, 1))):
        shards.write_bytes(shard({**whole, bias: wrong}))
        assert bias in refused(path)
    shards.write_bytes(shard({**whole, bias: ("BF16", (128,))}))
    if form == "plain":
        assert promised(path)
    else:
        assert f"{bias!r} is of BF16 where exllamav2 reads F16" in refused(path)


def test_a_bias_of_a_fused_matrix_is_not_passed_over(tmp_path: Path) -> None:
    config = config_of("Phi3ForCausalLM")
    bias: Tensors = {"model.layers.0.self_attn.qkv_proj.bias": ("F16", (256,))}
    path = checkpoint(tmp_path / "m", config, {**tensors_of(config), **bias})
    assert "qkv_proj has a bias" in refused(path)


def test_a_fused_matrix_that_cannot_be_taken_apart_is_refused(tmp_path: Path) -> None:
    config = config_of("Phi3ForCausalLM", **GPTQ)
    fused = {key: kind for key, kind in tensors_of(config, "gptq").items() if "self_attn.q_proj" not in key}
    fused |= matrix("model.layers.0.self_attn.qkv_proj", 64, 256, "gptq")
    assert "cannot take apart" in refused(checkpoint(tmp_path / "m", config, fused))
