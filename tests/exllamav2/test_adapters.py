"""An adapter that the guards let through does in exllamav2 what merging it into its model does."""

import json
from pathlib import Path
from typing import Any

import pytest

from cortex.harness.base import LoadOrder
from cortex.harness.exllamav2.configure import configured
from cortex.harness.exllamav2.guards import preflight
from tests.exllamav2 import models
from tests.exllamav2.emulation import emulated, opt_in

opt_in()
torch, stored = emulated().torch, pytest.importorskip("safetensors.torch")

RANK, ALPHA = 4, 8.0


def adapter(folder: Path, base: Any, **changed: object) -> Path:
    """A LoRA of all matrices of the layers, in the form that peft writes."""
    folder.mkdir()
    torch.manual_seed(3)
    halves = {}
    for name, part in base.named_modules():
        if isinstance(part, torch.nn.Linear) and name != "lm_head":
            down, up = torch.randn(RANK, part.in_features), torch.randn(part.out_features, RANK)
            halves[f"base_model.model.{name}.lora_A.weight"] = down * 0.1
            halves[f"base_model.model.{name}.lora_B.weight"] = up * 0.1
    stored.save_file(halves, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", **changed}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def merged(base: Any, folder: Path, scale: float) -> Any:
    halves = stored.load_file(folder / "adapter_model.safetensors")
    for name, part in base.named_modules():
        at = f"base_model.model.{name}.lora_"
        if f"{at}A.weight" in halves:
            part.weight.data += scale * halves[f"{at}B.weight"] @ halves[f"{at}A.weight"]
    return base


@pytest.mark.parametrize(
    ("changed", "scale"), [({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)]
)
def test_an_adapter_does_what_merging_it_does(
    tmp_path: Path, changed: dict[str, object], scale: float
) -> None:
    folder = models.make(tmp_path / "m", "qwen2")
    lora = adapter(tmp_path / "a", models.reference(folder), **changed)
    order = LoadOrder("m", folder, "cuda:0", 512, 1, lora=(lora,))
    library, header = emulated(), preflight(order)
    config = configured(library, order, header)
    config.max_output_len = None
    model = library.exllamav2.ExLlamaV2(config)
    model.load()
    held = library.exllamav2.ExLlamaV2Lora.from_directory(model, str(lora))
    ids = torch.randint(4, models.VOCABULARY, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = merged(models.reference(folder), lora, scale)(ids).logits
        plain = models.reference(folder)(ids).logits
        cache = library.exllamav2.ExLlamaV2Cache(model, max_seq_len=512)
        said = model.forward(ids, cache, loras=[held]).float()[..., : models.VOCABULARY]
    assert float((said - wanted).abs().max() / wanted.std()) < 0.05
    assert float((said - plain).abs().max() / wanted.std()) > 0.5
    taken = sum(2 * tensor.numel() for tensor in held.tensors.values())
    assert header.weights_bytes - preflight(LoadOrder("m", folder, "cuda:0", 512, 1)).weights_bytes == taken
