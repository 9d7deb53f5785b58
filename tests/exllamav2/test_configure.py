"""The library, told what a model is, computes what transformers computes; untold, it does not.

Every trap that `configure` cures is sprung here once with the library's own reading, so that a cure
which is no longer needed, or no longer works, is seen. facts: 3.1, 3.2, 3.3, 3.4 and faults row 73.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cortex.catalogue import PAGE
from cortex.harness.base import LoadOrder
from cortex.harness.exllamav2.configure import configured
from cortex.harness.exllamav2.families import SERVED
from cortex.harness.exllamav2.guards import preflight
from tests.exllamav2 import models
from tests.exllamav2.emulation import emulated, opt_in
from tests.fake_checkpoints import EXL2, GPTQ, checkpoint, config_of

opt_in()
torch, transformers = emulated().torch, pytest.importorskip("transformers")

SIZES = {
    "vocab_size": models.VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
FAR = {"rope_type": "default", "rope_theta": 250000.0}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("Llama", {"head_dim": 64, "attention_bias": True, "mlp_bias": True}),
    "MistralForCausalLM": ("Mistral", {"head_dim": 64, "sliding_window": None}),
    "MixtralForCausalLM": ("Mixtral", {"sliding_window": None, **EXPERTS}),
    "Qwen2ForCausalLM": ("Qwen2", {}),
    "Qwen3ForCausalLM": ("Qwen3", {"head_dim": 64, "tie_word_embeddings": True}),
    "Qwen3MoeForCausalLM": (
        "Qwen3Moe",
        {"head_dim": 64, "norm_topk_prob": True, "moe_intermediate_size": 96, **EXPERTS},
    ),
    "Phi3ForCausalLM": ("Phi3", {}),
    "GraniteForCausalLM": (
        "Granite",
        {
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
    ),
}


def write(folder: Path, name: str, **changed: Any) -> Path:
    """A model of random weights, as transformers writes it."""
    kind, own = KINDS[name]
    config = getattr(transformers, f"{kind}Config")(
        **{**SIZES, "rope_parameters": dict(FAR), **own, **changed}
    )
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for part, weights in model.named_parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.12)
        elif part.endswith("bias") or "norm" in part:
            torch.nn.init.uniform_(weights, 0.5, 1.5)
    model.half().save_pretrained(folder)
    models._write_tokenizer(folder)
    return folder


def reworded(folder: Path, **changed: Any) -> Path:
    """The same folder with other words in its config.json; None takes one out."""
    path = folder / "config.json"
    told = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({name: value for name, value in told.items() if value is not None}))
    return folder


def told(folder: Path, context: int = 1024, **options: Any) -> Any:
    order = LoadOrder("m", folder, "cuda:0", context, 1, options=options)
    return configured(emulated(), order, preflight(order))


def model_of(config: Any) -> Any:
    model = emulated().exllamav2.ExLlamaV2(config)
    model.load()
    return model


def logits(model: Any, ids: Any) -> Any:
    cache = emulated().exllamav2.ExLlamaV2Cache(model, max_seq_len=1024)
    model.config.max_output_len = None
    said = model.forward(ids, cache)
    return said.float()[..., : models.VOCABULARY]


def distance(folder: Path, config: Any) -> float:
    """How far the library's logits are from those of transformers, relative to their spread. By its own
    attention: other tests of this process may have put another in its place."""
    config.no_flash_attn = True
    ids = torch.randint(4, models.VOCABULARY, (1, 96), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = models.reference(folder)(ids).logits.float()
        return float((logits(model_of(config), ids) - wanted).abs().max() / wanted.std())


NEAR, FAR_OFF = 0.03, 0.3


def test_every_family_that_is_served_is_compared() -> None:
    assert set(KINDS) == set(SERVED)


@pytest.mark.parametrize("name", KINDS)
def test_a_family_computes_what_transformers_computes(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "m", name)
    assert distance(folder, told(folder)) < NEAR


@pytest.mark.parametrize("name", KINDS)
def test_everything_that_the_library_would_set_is_set(tmp_path: Path, name: str) -> None:
    folder = reworded(write(tmp_path / "m", name), **{"rope_theta": 250000.0, "rope_parameters": None})
    own = vars(emulated().exllamav2.ExLlamaV2Config(str(folder)))
    ours = vars(told(folder))
    # Read from another file, which is not needed, or only for what sees.
    assert set(own) - set(ours) <= {"generation_config", "vision_fullatt_block_indexes"}
    chosen = {
        "arch", "attention_multiplier", "max_attention_size", "max_input_len", "max_output_len",
        "max_seq_len", "no_sdpa", "no_xformers", "num_experts", "num_experts_per_token",
        "original_max_seq_len", "pad_token_id", "sliding_window", "tensor_file_map", "tensor_files",
        "generation_config", "vision_fullatt_block_indexes",
    }  # fmt: skip
    assert {key: ours[key] for key in set(own) - chosen} == {key: own[key] for key in set(own) - chosen}
    assert vars(ours["arch"].lm) | {"headnorm": ""} == vars(own["arch"].lm) | {"headnorm": ""}


def test_untold_the_library_takes_the_mean_off_the_heads_of_qwen3(tmp_path: Path) -> None:
    """facts 3.2."""
    folder = write(tmp_path / "m", "Qwen3ForCausalLM")
    config = told(folder)
    assert config.arch.lm.headnorm == "rmsnorm"
    config.arch.lm.headnorm = "layernorm"
    assert distance(folder, config) > FAR_OFF


def test_untold_the_library_loses_positions_that_transformers_5_wrote(tmp_path: Path) -> None:
    """facts 3.3."""
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())
    own = emulated().exllamav2.ExLlamaV2Config(str(folder))
    own.no_sdpa = True
    assert own.rotary_embedding_base == 10_000
    assert distance(folder, own) > FAR_OFF
    assert told(folder).rotary_embedding_base == 250000.0


def test_untold_the_library_lets_a_prompt_see_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """facts 3.1."""
    monkeypatch.setattr(emulated().exllamav2.attn, "has_lower_right_sdpa", True)
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    config = told(folder)
    assert config.no_sdpa and config.no_xformers
    config.no_sdpa = False
    assert distance(folder, config) > FAR_OFF


def test_unpaged_attention_does_not_use_a_flash_attention_that_is_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    assert told(folder, attention="unpaged").no_flash_attn
    assert not told(folder).no_flash_attn


def test_a_file_beside_the_weights_is_not_taken_for_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    (folder / "broken.safetensors").write_bytes(b"\xff" * 9)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "zzz.safetensors").write_bytes(whole)
    config = told(folder)
    assert config.tensor_files == [str(folder / "model.safetensors")]
    assert set(config.tensor_file_map.values()) == set(config.tensor_files)
    with pytest.raises((ValueError, MemoryError, OverflowError)):
        emulated().exllamav2.ExLlamaV2Config(str(folder))


def test_headers_of_files_since_replaced_are_forgotten(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    stored = emulated().exllamav2.stloader.STFile
    path = str(folder / "model.safetensors")
    first = stored.open(path)
    told(folder)
    assert stored.open(path) is not first


@pytest.mark.parametrize("pad", [-1, 10**6])
def test_a_padding_beyond_the_vocabulary_is_left_out(tmp_path: Path, pad: int) -> None:
    folder = reworded(write(tmp_path / "m", "LlamaForCausalLM"), pad_token_id=pad)
    config = told(folder)
    assert config.pad_token_id is None
    assert model_of(config).modules, "the library made a model of it"


def test_what_is_guessed_ahead_of_the_context_has_positions(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    for context in (1, 256, 1000, 4096):
        config = told(folder, context)
        assert config.max_seq_len % PAGE == 0 and config.max_seq_len >= context + PAGE
    assert told(folder, chunk=512).max_input_len == 512


@pytest.mark.parametrize(("form", "shifted"), [("gptq", False), ("gptq_v2", True)])
def test_zero_points_are_read_as_they_were_written(tmp_path: Path, form: str, shifted: bool) -> None:
    said = {**GPTQ["quantization_config"], "checkpoint_format": form}
    folder = checkpoint(tmp_path / "m", config_of(quantization_config=said), form="gptq")
    config = told(folder)
    assert config.checkpoint_offset_qzeros is shifted
    assert emulated().exllamav2.ExLlamaV2Config(str(folder)).checkpoint_offset_qzeros is shifted


@pytest.mark.parametrize("form", ["exl2", "gptq"])
@pytest.mark.parametrize("name", KINDS)
def test_quantised_weights_are_as_large_as_the_library_counts(tmp_path: Path, name: str, form: str) -> None:
    """What it makes of them on the device is some bytes a row more, which no CPU shows."""
    extra = GPTQ if form == "gptq" else EXL2
    folder = checkpoint(tmp_path / "m", config_of(name, **extra), form=form)
    model = emulated().exllamav2.ExLlamaV2(told(folder))
    counted = sum(module.weight_footprint() for module in model.modules[1:])
    promised = preflight(LoadOrder("m", folder, "cuda:0", 1024, 1)).weights_bytes
    assert counted <= promised <= 1.25 * counted  # rows of 64 elements are short: 2 % at 4096


LONG = {"short_factor": [1.1] * 8 + [1.3] * 8, "long_factor": [1.0 + 0.2 * i for i in range(16)]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "original_max_position_embeddings": 1024, **LLAMA3},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn with both scales": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 1024,
        "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 24, "beta_slow": 2, "truncate": False,
    },
    "yarn of a strength": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 1.0
    },
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 1024, **LONG},
    "longrope of a strength": {
        "rope_type": "longrope", "original_max_position_embeddings": 1024, "attention_factor": 1.25, **LONG
    },
    "partial": {"rope_type": "default", "partial_rotary_factor": 0.5},
}  # fmt: skip


def tables(config: Any) -> tuple[Any, Any]:
    library = emulated()
    model = library.exllamav2.ExLlamaV2(config)
    context = library.exllamav2.model.ExLlamaV2DeviceContext(model, 0, 0)
    context.prepare(False)
    return context.cos[0][0, 0].float(), context.sin[0][0, 0].float()


@pytest.mark.parametrize("older", [False, True], ids=["newer words", "older words"])
@pytest.mark.parametrize("context", [1000, 4000])
@pytest.mark.parametrize("kind", ROPES)
def test_positions_are_those_of_transformers(tmp_path: Path, kind: str, context: int, older: bool) -> None:
    rope = {**ROPES[kind], "rope_theta": 50000.0}
    name = "Phi3ForCausalLM" if kind == "partial" else "LlamaForCausalLM"
    folder = write(
        tmp_path / "m", name, rope_parameters=rope, **({} if kind == "partial" else {"head_dim": 32})
    )
    model = models.reference(folder)
    with torch.inference_mode():
        at = torch.arange(context)[None]
        cos, sin = model.model.rotary_emb(torch.zeros(1, 1, 1), at)
    if older:
        flat = {name: rope.pop(name) for name in ("rope_theta", "partial_rotary_factor") if name in rope}
        both = {"type": rope["rope_type"], **rope}
        reworded(folder, rope_parameters=None, rope_scaling=both, **flat)
    ours = tables(told(folder, context))
    for found, wanted in zip(ours, (cos, sin), strict=True):
        assert float((found[:context] - wanted[0]).abs().max()) < 2e-3


def test_untold_the_library_dies_of_a_kind_of_positions_in_both_words(tmp_path: Path) -> None:
    both = {"type": "linear", "rope_type": "linear", "factor": 2.0}
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    reworded(folder, rope_parameters=None, rope_scaling=both)
    with pytest.raises(AssertionError):
        emulated().exllamav2.ExLlamaV2Config(str(folder))
    assert told(folder).scale_short_factor == [2.0] * 32


@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_untold_the_library_scales_by_the_context_that_is_served(tmp_path: Path, kind: str) -> None:
    rope = {**ROPES[kind], "rope_theta": 50000.0}
    folder = write(tmp_path / "m", "LlamaForCausalLM", head_dim=32, rope_parameters=rope)
    reworded(
        folder,
        rope_parameters=None,
        rope_scaling=ROPES[kind],
        rope_theta=50000.0,
        original_max_position_embeddings=1024,
    )
    own = emulated().exllamav2.ExLlamaV2Config(str(folder))
    own.max_seq_len = 2048
    apart = (tables(own)[0][:2000] - tables(told(folder, 2000))[0][:2000]).abs().max()
    assert float(apart) > 0.03


@pytest.mark.parametrize("name", KINDS)
def test_the_weights_are_as_large_as_the_library_counts(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "m", name)
    order = LoadOrder("m", folder, "cuda:0", 1024, 1)
    model = model_of(told(folder))
    counted = sum(module.weight_footprint() for module in model.modules[1:])
    assert preflight(order).weights_bytes == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("cache", ["fp16", "q8", "q6", "q4"])
def test_the_cache_is_as_large_as_the_library_makes_it(tmp_path: Path, cache: str) -> None:
    folder = write(tmp_path / "m", "LlamaForCausalLM")
    order = LoadOrder("m", folder, "cuda:0", 1024, 3, cache=cache)
    kind = "ExLlamaV2Cache" + ("" if cache == "fp16" else f"_{cache.upper()}")
    model = model_of(told(folder))
    made = getattr(emulated().exllamav2, kind)(model, max_seq_len=3 * (1024 + 256))
    taken = sum(tensor.numel() * tensor.element_size() for tensor in made.all_tensors())
    assert preflight(order).cache_bytes == taken
