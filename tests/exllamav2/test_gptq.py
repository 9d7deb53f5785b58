"""The packed weights that a card is asked about stand for the rounded ones beside them."""

from pathlib import Path

from tests.exllamav2 import gptq, models
from tests.exllamav2.emulation import opt_in

opt_in()


def test_packed_weights_unpack_to_the_rounded_ones_and_are_fit(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from cortex.harness.base import LoadOrder
    from cortex.harness.exllamav2.guards import preflight

    folder = models.make(tmp_path / "own", "qwen3")
    packed, plain = gptq.quantised(folder, tmp_path)
    stored, meant, own = (load_file(each / "model.safetensors") for each in (packed, plain, folder))
    stem = "model.layers.0.mlp.down_proj"
    shifts = torch.arange(0, 32, 4)
    words, zeros = stored[f"{stem}.qweight"], stored[f"{stem}.qzeros"]
    numbers = ((words[:, None, :] >> shifts[None, :, None]) & 15).flatten(0, 1)
    points = ((zeros[:, :, None] >> shifts) & 15).flatten(1) + 1
    groups = stored[f"{stem}.g_idx"].long()
    unpacked = (numbers - points[groups]).float() * stored[f"{stem}.scales"].float()[groups]
    assert torch.equal(unpacked.T.half(), meant[f"{stem}.weight"])
    off = (meant[f"{stem}.weight"] - own[f"{stem}.weight"]).abs().max()
    assert 0 < off < 0.1
    assert preflight(LoadOrder("m", packed, "cuda:0", 1024, 4)).weights_bytes > 0
