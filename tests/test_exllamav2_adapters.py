"""A folder is a plain LoRA of the very model that it is loaded with, or it is `Unfit`."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fake_checkpoints import Tensors, adapter, checkpoint, config_of, promised, refused

LAYER = "model.layers.1.self_attn.q_proj"


def test_an_adapter_takes_what_its_halves_have(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    one, two = adapter(tmp_path / "a"), adapter(tmp_path / "b", use_rslora=True)
    taken = promised(path, lora=(one, two)).weights_bytes - promised(path).weights_bytes
    assert taken == 2 * 2 * (8 * 64 + 128 * 8)


AT = f"base_model.model.{LAYER}"
A, B = {f"{AT}.lora_A.weight": ("F16", (8, 64))}, {f"{AT}.lora_B.weight": ("F16", (128, 8))}
ADAPTERS: dict[str, tuple[dict[str, Any], Tensors | None, str]] = {
    "DoRA": ({"use_dora": True}, None, "use_dora"),
    "a rank by layer": ({"rank_pattern": {"q_proj": 4}}, None, "rank_pattern"),
    "a strength by layer": ({"alpha_pattern": {"q_proj": 4}}, None, "alpha_pattern"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, None, "modules_to_save"),
    "the other way round": ({"fan_in_fan_out": True}, None, "fan_in_fan_out"),
    "biases": ({"bias": "all"}, None, "biases"),
    "biases of halves": ({"lora_bias": True}, None, "lora_bias"),
    "another kind": ({"peft_type": "IA3"}, None, "IA3"),
    "no rank": ({"r": None}, None, "r is missing"),
    "a rank of nothing": ({"r": 0}, None, "r is 0"),
    "no strength": ({"lora_alpha": None}, None, "lora_alpha is missing"),
    "another rank": ({"r": 4}, None, "has the shape (8, 64)"),
    "a half alone": ({}, A, "has lora_A alone"),
    "nothing": ({}, {}, "holds no tensors"),
    "another model's": ({}, {**A, f"{AT}.lora_B.weight": ("F16", (64, 8))}, "has the shape (64, 8)"),
    "layers that are not there": (
        {}, {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": ("F16", (8, 64))}, "adapts nothing"
    ),
    "embeddings": ({}, {**A, **B, "model.embed_tokens.weight": ("F16", (320, 64))}, "adapts nothing"),
    "a bias of a half": ({}, {**A, **B, f"{AT}.lora_B.bias": ("F16", (128,))}, "adapts nothing"),
    "magnitudes": ({}, {**A, **B, f"{AT}.lora_magnitude_vector": ("F16", (128,))}, "adapts nothing"),
    "whole numbers": ({}, {**B, f"{AT}.lora_A.weight": ("I32", (8, 64))}, "I32"),
    "twice": ({}, {**A, **B, f"{LAYER}.lora_A.weight": ("F16", (8, 64))}, "adapted twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_the_library_would_misread_is_refused(tmp_path: Path, case: str) -> None:
    changed, tensors, fault = ADAPTERS[case]
    path, lora = checkpoint(tmp_path / "m"), adapter(tmp_path / "a", tensors, **changed)
    message = refused(path, lora=(lora,))
    assert fault in message and str(lora) in message


def test_an_adapter_is_two_files_that_are_whole(tmp_path: Path) -> None:
    path, lora = checkpoint(tmp_path / "m"), adapter(tmp_path / "a")
    weights, config = lora / "adapter_model.safetensors", lora / "adapter_config.json"
    (lora / "adapter_model.bin").write_bytes(b"\x80")
    assert "adapter_model.bin" in refused(path, lora=(lora,))
    (lora / "adapter_model.bin").unlink()
    assert promised(path, lora=(lora,))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert "truncated" in refused(path, lora=(lora,))
    weights.unlink()
    assert "adapter_model.safetensors: is missing" in refused(path, lora=(lora,))
    config.write_text("[]")
    assert "no JSON object" in refused(path, lora=(lora,))
    config.write_bytes(b" " * (2**20 + 1))
    assert "larger than" in refused(path, lora=(lora,))
    config.unlink()
    assert "adapter_config.json: is missing" in refused(path, lora=(lora,))
    config.symlink_to(os.devnull)
    assert "adapter_config.json: is not a regular file" in refused(path, lora=(lora,))


def test_an_adapter_of_a_scaled_model_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m", config_of("GraniteForCausalLM"))
    assert "merge the adapter" in refused(path, lora=(adapter(tmp_path / "a"),))
