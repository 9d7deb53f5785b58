"""A folder is what exllamav2 loads to its end and computes right, or it is `Unfit`, with the file, the
fault and the remedy. Fault rows 73 and 74; the traps are those of the library's release 0.3.2."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cortex.ask import Sampling
from cortex.errors import Unfit
from cortex.harness.exllamav2.families import REASONS, SERVED, UNCOMPARED
from cortex.harness.exllamav2.guards import cache_tokens, chunk_of, draft_order, preflight
from tests.fake_checkpoints import (
    EXL2,
    FAMILIES,
    GPTQ,
    SPECIAL,
    checkpoint,
    config_of,
    matrix,
    order_of,
    promised,
    refused,
    tensors_of,
    tokenizer,
)

FORMS = {"plain": {}, "exl2": EXL2, "gptq": GPTQ}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SERVED)
def test_every_family_is_taken_in_every_form(tmp_path: Path, name: str, form: str) -> None:
    path = checkpoint(tmp_path / "m", config_of(name, **FORMS[form]), form=form)
    found = promised(path)
    assert (found.architecture, found.context, found.trained_context) == (name, 1024, 4096)
    assert found.weights_bytes > 2**15 and found.overhead_bytes > 2**27


def test_exl2_of_old_does_not_say_what_it_is(tmp_path: Path) -> None:
    assert promised(checkpoint(tmp_path / "m", form="exl2")).weights_bytes


def test_the_tests_know_every_family() -> None:
    assert set(FAMILIES) == set(SERVED)


@pytest.mark.parametrize(
    "name", [*REASONS, *UNCOMPARED, "Qwen3NextForCausalLM", "LlamaForSequenceClassification"]
)
def test_a_family_that_is_not_served_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "m", config_of(architectures=[name]), tensors_of(config_of()))
    message = refused(path)
    assert name in message and "config.json" in message and "upstream" in message
    if name == "Gemma2ForCausalLM":
        assert "soft cap" in message
    if name not in REASONS and name not in UNCOMPARED:
        assert "would load it as Llama" in message


def quantised(said: object) -> dict[str, object]:
    return {"quantization_config": said}


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "several architectures": ({"architectures": ["LlamaForCausalLM", "MistralForCausalLM"]}, "one name"),
    "no architecture": ({"architectures": []}, "one name"),
    "an architecture that is no text": ({"architectures": [1]}, "one name"),
    "architectures that are a text": ({"architectures": "LlamaForCausalLM"}, "one name"),
    "a tower that sees": ({"vision_config": {"hidden_size": 4}}, "also sees"),
    "soft cap of scores": ({"attn_logit_softcapping": 50.0}, "soft cap"),
    "soft cap of logits": ({"final_logit_softcapping": 30.0}, "soft cap"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "an activation that is no text": ({"hidden_act": 4}, "hidden_act"),
    "norms of heads": ({"use_qk_norm": True}, "use_qk_norm"),
    "a scale of another family": ({"residual_multiplier": 0.5}, "residual_multiplier"),
    "normalised head": ({"norm_head": 1.5}, "norm_head"),
    "no epsilon": ({"rms_norm_eps": None}, "rms_norm_eps is missing"),
    "an epsilon of nothing": ({"rms_norm_eps": 0}, "rms_norm_eps"),
    "a bias that is no flag": ({"attention_bias": "yes"}, "attention_bias"),
    "heads not shared evenly": ({"num_attention_heads": 3, "num_key_value_heads": 2}, "heads share"),
    "odd heads": ({"head_dim": 36}, "head_dim is 36"),
    "wide heads": ({"head_dim": 264}, "head_dim is 264"),
    "odd hidden": ({"hidden_size": 72}, "hidden_size is 72"),
    "wide hidden": ({"hidden_size": 65536}, "hidden_size is 65536"),
    "odd layer": ({"intermediate_size": 100}, "intermediate_size is 100"),
    "heads that are padded": ({"head_dim": 8, "num_attention_heads": 5}, "40 elements"),
    "keys that are padded": ({"head_dim": 16, "num_attention_heads": 2}, "keys' heads have 16 elements"),
    "another width than its tensors": ({"hidden_size": 128}, "model.norm.weight"),
    "more layers than tensors": ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
    "another vocabulary than its tensors": ({"vocab_size": 352}, "(320, 64)"),
    "more heads than tensors": ({"num_attention_heads": 4}, "q_proj.weight"),
    "biases that are not there": ({"attention_bias": True}, "no bias"),
    "a begin that is no token": ({"bos_token_id": "<s>"}, "bos_token_id"),
    "an end that is no token": ({"eos_token_id": [2, True]}, "eos_token_id"),
    "an end below zero": ({"eos_token_id": -1}, "eos_token_id"),
    "AWQ": (quantised({"quant_method": "awq", "bits": 4}), "awq"),
    "FP8": (quantised({"quant_method": "fp8"}), "fp8"),
    "bitsandbytes": (quantised({"quant_method": "bitsandbytes"}), "bitsandbytes"),
    "compressed-tensors": (quantised({"quant_method": "compressed-tensors"}), "compressed-tensors"),
    "compression of old": ({"compression_config": {"format": "dense"}}, "compressed-tensors"),
    "EXL3": (quantised({"quant_method": "exl3"}), "exl3"),
    "HQQ": (quantised({"quant_method": "hqq"}), "hqq"),
    "a method without a name": (quantised({"load_in_8bit": True}), "does not name"),
    "a method that is no table": ({"quantization_config": "awq"}, "is no table"),
    "GPTQ with 8 bits": (quantised({"quant_method": "gptq", "bits": 8}), "8 bits"),
    "GPTQ without bits": (quantised({"quant_method": "gptq"}), "bits is missing"),
    "GPTQ for Marlin": (
        quantised({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}), "marlin"
    ),
    "GPTQ for Marlin of old": (
        quantised({"quant_method": "gptq", "bits": 4, "is_marlin_format": True}), "marlin"
    ),
    "GPTQ by layer": (
        quantised({"quant_method": "gptq", "bits": 4, "dynamic": {"lm_head": {}}}), "dynamic"
    ),
    "GPTQ in odd groups": (quantised({"quant_method": "gptq", "bits": 4, "group_size": 96}), "96"),
    "long positions beyond all numbers": (
        {"rope_scaling": {"type": "su", "long_factor": [10**400] * 32, "short_factor": [1.0] * 32}},
        "long_factor",
    ),
    "GPTQ of another form": (
        quantised({"quant_method": "gptq", "bits": 4, "format": "marlin"}), "marlin"
    ),
    "positions of no known kind": ({"rope_scaling": {"type": "ntk-by-parts", "factor": 2}}, "ntk-by-parts"),
    "positions by images": ({"rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}, "mrope"),
    "positions that are no table": ({"rope_scaling": "linear"}, "no table"),
    "positions by layer": ({"rope_parameters": {"full_attention": {}}}, "layer to layer"),
    "linear positions without a factor": ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    "positions with a factor of nothing": ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor"),
    "positions with no base": ({"rope_theta": 0}, "rope_theta"),
    "long positions of a wrong length": (
        {"rope_scaling": {"type": "longrope", "long_factor": [1], "short_factor": [1] * 32}}, "long_factor"
    ),
    "long positions of text": (
        {"rope_scaling": {"type": "su", "long_factor": ["1"] * 32, "short_factor": [1.0] * 32}}, "long_factor"
    ),
    "llama 3 positions the wrong way round": (
        {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
        "high_freq_factor",
    ),
    "positions that are weakened": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 0.5}}, "weakened"
    ),
    "heads half turned": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_what_the_library_gets_wrong_of_a_config_is_refused(tmp_path: Path, case: str) -> None:
    changed, fault = CONFIGS[case]
    path = checkpoint(tmp_path / "m", config_of(**changed), tensors_of(config_of()))
    message = refused(path)
    assert fault in message
    assert str(path) in message


OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "heads that the norm cannot take": ("Qwen3ForCausalLM", {"head_dim": 96}, "multiples of 64"),
    "experts without a norm": ("Qwen3MoeForCausalLM", {"norm_topk_prob": False}, "norm_topk_prob"),
    "layers without experts": ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, "no experts"),
    "every other layer": ("Qwen3MoeForCausalLM", {"decoder_sparse_step": 2}, "no experts"),
    "more experts asked than there": ("MixtralForCausalLM", {"num_experts_per_tok": 9}, "per_tok is 9"),
    "more experts than tensors": ("MixtralForCausalLM", {"num_local_experts": 5}, "gate.weight"),
    "no experts": ("MixtralForCausalLM", {"num_local_experts": 0}, "num_local_experts"),
    "a quarter of a head turned": ("Phi3ForCausalLM", {"partial_rotary_factor": 0.1}, "in fours"),
    "a scale of nothing": ("GraniteForCausalLM", {"logits_scaling": 0}, "logits_scaling"),
    "biases Qwen2 must have": ("Qwen2ForCausalLM", {}, "no bias"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_only_one_family_cannot_do_is_refused(tmp_path: Path, case: str) -> None:
    name, changed, fault = OTHERS[case]
    tensors = {key: kind for key, kind in tensors_of(config_of(name)).items() if not key.endswith(".bias")}
    assert fault in refused(checkpoint(tmp_path / "m", config_of(name, **changed), tensors))


def test_a_tied_model_needs_no_head(tmp_path: Path) -> None:
    config = config_of(tie_word_embeddings=True)
    assert promised(checkpoint(tmp_path / "m", config))
    path = checkpoint(tmp_path / "n", config, {**tensors_of(config), **matrix("lm_head", 64, 999)})
    assert "lm_head.weight" in refused(path)


def test_a_vocabulary_of_no_round_number_has_a_padded_quantised_head(tmp_path: Path) -> None:
    config = config_of(vocab_size=310, **EXL2)
    padded = {**tensors_of(config, "exl2"), **matrix("lm_head", 64, 320, "exl2")}
    assert promised(checkpoint(tmp_path / "m", config, padded))


def test_the_tokenizer_must_be_there_and_whole(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    (path / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in refused(path)
    (path / "tokenizer.json").unlink()
    assert "tokenizer.json: is missing" in refused(path)


def test_a_cut_shard_never_reaches_the_library(tmp_path: Path) -> None:
    """Fault row 73: the library dies of it, or hangs for ever."""
    path = checkpoint(tmp_path / "m")
    whole = (path / "model.safetensors").read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        (path / "model.safetensors").write_bytes(whole[:length])
        assert "truncated" in refused(path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"],
)
def test_a_link_to_a_device_is_no_file_of_a_model(tmp_path: Path, name: str) -> None:
    """A cloned repo may have one: /dev/zero, which has no end, or a pipe, which nobody writes to."""
    path = checkpoint(tmp_path / "m")
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(os.devnull)
    assert f"{name}: is not a regular file" in refused(path)


@pytest.mark.parametrize(
    ("name", "changed", "most"),
    [
        ("LlamaForCausalLM", {"sliding_window": 512}, 4096),
        ("MistralForCausalLM", {"sliding_window": 512}, 512),
        ("MixtralForCausalLM", {"sliding_window": 2047}, 2047),
        ("Phi3ForCausalLM", {"sliding_window": 2047}, 2047),
        ("Qwen2ForCausalLM", {"sliding_window": 512}, 4096),
        ("Qwen2ForCausalLM", {"sliding_window": 512, "use_sliding_window": True}, 512),
        ("Qwen3ForCausalLM", {"sliding_window": None, "use_sliding_window": True}, 4096),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}},
            16384,
        ),
        (
            "MistralForCausalLM",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 2,
                    "original_max_position_embeddings": 4096,
                },
                "sliding_window": 6000,
            },
            6000,
        ),
        (
            "LlamaForCausalLM",
            {"rope_scaling": {"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64}},
            4096,
        ),
        ("LlamaForCausalLM", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, 4096),
        ("LlamaForCausalLM", {"max_position_embeddings": 300}, 300),
    ],
)
def test_no_more_context_is_granted_than_is_computed_right(
    tmp_path: Path, name: str, changed: dict[str, Any], most: int
) -> None:
    """The library looks at everything where the model would look through its window."""
    found = promised(checkpoint(tmp_path / "m", config_of(name, **changed)), context=100_000)
    assert (found.context, found.trained_context) == (most, most)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("MistralForCausalLM", {}),
        ("Qwen2ForCausalLM", {"use_sliding_window": True}),
        ("Qwen3ForCausalLM", {"use_sliding_window": True}),
        ("Qwen3MoeForCausalLM", {"use_sliding_window": True}),
    ],
)
def test_a_window_that_is_not_said_has_the_width_that_its_family_has(
    tmp_path: Path, name: str, changed: dict[str, Any]
) -> None:
    config = config_of(name, max_position_embeddings=32768, **changed)
    config.pop("sliding_window", None)
    assert promised(checkpoint(tmp_path / "m", config), context=9000).context == 4096


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"context": 0}, "must be positive"),
        ({"slots": 0}, "must be positive"),
        ({"cache": "q5"}, "cache = 'q5'"),
        ({"kv_tokens": 999}, "cache_tokens = 999"),
        ({"options": {"batch": 4, "mmap": True}}, "knows no option batch, mmap"),
        ({"options": {"chunk": 100}}, "chunk = 100"),
        ({"options": {"chunk": 0}}, "chunk = 0"),
        ({"options": {"chunk": 2**17}}, "chunk = 131072"),
        ({"options": {"chunk": True}}, "chunk = True"),
        ({"options": {"chunk": "256"}}, "chunk = '256'"),
        ({"options": {"attention": "sdpa"}}, "attention = 'sdpa'"),
        ({"options": {"speculation": "eagle"}}, "speculation = 'eagle'"),
        ({"options": {"speculation": "ngram", "attention": "unpaged"}}, "unpaged"),
        ({"options": {"chunk": 256}, "slots": 257}, "257 slots"),
        ({"options": {"chunk": 256, "speculation": "ngram"}, "slots": 52}, "look at 260 tokens"),
    ],
)
def test_orders_that_cannot_be_carried_out_are_refused(
    tmp_path: Path, changed: dict[str, Any], fault: str
) -> None:
    assert fault in refused(checkpoint(tmp_path / "m"), **changed)


def test_caches_of_less_than_16_bits_go_by_blocks(tmp_path: Path) -> None:
    config = config_of(head_dim=48, num_attention_heads=2, num_key_value_heads=2)
    path = checkpoint(tmp_path / "m", config)
    assert promised(path)
    assert "blocks of 32" in refused(path, cache="q8")


def test_the_cache_has_a_page_more_for_every_slot(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    assert cache_tokens(order_of(path)) == 2 * (1024 + 256)
    assert cache_tokens(order_of(path, context=1024, slots=3)) == 3 * (1024 + 256)
    assert cache_tokens(order_of(path, kv_tokens=1500)) == 1536 + 2 * 256
    # Layers, heads, length, keys and values in half precision.
    assert promised(path).cache_bytes == 2 * 1 * 64 * 4 * 2 * (1024 + 256)


def test_the_chunk_is_what_was_said(tmp_path: Path) -> None:
    assert (chunk_of(order_of(tmp_path)), chunk_of(order_of(tmp_path, options={"chunk": 512}))) == (1024, 512)


def overhead(path: Path, **changed: Any) -> int:
    return promised(path, **changed).overhead_bytes


def test_every_choice_has_its_price(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    kernels = overhead(path, options={"attention": "triton"})
    copied = 2 * 4 * 1 * 64 * 1024  # slots, bytes of a key and a value, heads, length, tokens
    assert overhead(path, options={"attention": "paged"}) - kernels == copied
    assert overhead(path, options={"attention": "flash-attn"}) == kernels
    assert overhead(path, options={"attention": "unpaged"}) > kernels + 3 * 2 * 2 * 1024 * 1024
    assert overhead(path, options={"attention": "triton", "chunk": 2048}) > kernels
    assert overhead(path, cache="q8", options={"attention": "triton"}) == kernels + 4 * 64 * 2 * 1280
    assert overhead(path, shares={"cuda:0": 1, "cuda:1": 1}) == 2 * overhead(path)


@pytest.mark.parametrize(("context", "most"), [(2**14, 2**26), (2**18, 2**28), (2**21, 2**29)])
def test_what_attention_copies_is_bounded(tmp_path: Path, context: int, most: int) -> None:
    """All 16 sequences where that is little, so much of them as fits, and one sequence anyhow."""
    path = checkpoint(tmp_path / "m", config_of(max_position_embeddings=2**21))
    order = {"context": context, "slots": 16}
    assert overhead(path, **order) - overhead(path, **order, options={"attention": "triton"}) == most


def draft_of(path: Path, **changed: Any) -> Path:
    return checkpoint(path, config_of(num_hidden_layers=1, **changed))


def test_a_draft_takes_its_own_weights_and_as_many_tokens_of_cache(tmp_path: Path) -> None:
    path, draft = checkpoint(tmp_path / "m"), draft_of(tmp_path / "d")
    alone, ahead, both = promised(path), promised(draft), promised(path, draft=draft)
    assert both.weights_bytes == alone.weights_bytes + ahead.weights_bytes
    assert both.cache_bytes == alone.cache_bytes + ahead.cache_bytes
    assert both.overhead_bytes > alone.overhead_bytes + 2**26
    assert (both.architecture, both.context) == (alone.architecture, alone.context)


def test_the_order_of_a_draft_is_that_of_its_model(tmp_path: Path) -> None:
    order = order_of(tmp_path / "m", draft=tmp_path / "d", lora=(tmp_path / "l",), kv_tokens=2000)
    ahead = draft_order(order)
    assert (ahead.path, ahead.draft, ahead.lora) == (tmp_path / "d", None, ())
    assert cache_tokens(ahead) == cache_tokens(order)
    with pytest.raises(ValueError, match="no draft"):
        draft_order(ahead)


DRAFTS: dict[str, tuple[dict[str, Any], Callable[[Path], object], str]] = {
    "another word": (
        {},
        lambda d: d.write_text(tokenizer(special=(*SPECIAL[:3], "<|eot|>"))),
        "another vocabulary",
    ),
    "fewer words": ({}, lambda d: d.write_text(tokenizer(299)), "another vocabulary"),
    "too few rows": ({"vocab_size": 288}, lambda d: None, "another vocabulary"),
    "too many rows": ({"vocab_size": 352}, lambda d: None, "may guess 352 tokens"),
    "too short a memory": ({"max_position_embeddings": 512}, lambda d: None, "trained for 512 tokens"),
    "another kind of positions": ({"rope_scaling": {"type": "mrope"}}, lambda d: None, "mrope"),
    "no tokenizer": ({}, lambda d: d.unlink(), "is missing"),
}


@pytest.mark.parametrize("case", DRAFTS)
def test_a_draft_that_cannot_speak_for_its_model_is_refused(tmp_path: Path, case: str) -> None:
    changed, damage, fault = DRAFTS[case]
    path, draft = checkpoint(tmp_path / "m"), draft_of(tmp_path / "d", **changed)
    damage(draft / "tokenizer.json")
    message = refused(path, draft=draft)
    assert fault in message and str(draft) in message


def test_the_heads_of_a_draft_fit_the_cache_too(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    draft = draft_of(tmp_path / "d", head_dim=48, num_attention_heads=2, num_key_value_heads=2)
    assert promised(path, draft=draft)
    assert f"{draft}: heads of 48" in refused(path, draft=draft, cache="q8")


def test_a_draft_is_judged_as_every_model(tmp_path: Path) -> None:
    path, draft = checkpoint(tmp_path / "m"), draft_of(tmp_path / "d")
    shards = draft / "model.safetensors"
    shards.write_bytes(shards.read_bytes()[:-1])
    assert "truncated" in refused(path, draft=draft)
    assert "choose one of them" in refused(path, draft=draft, options={"speculation": "ngram"})
    assert "unpaged" in refused(path, draft=draft, options={"attention": "unpaged"})
    assert "is no folder" in refused(path, draft=tmp_path / "gone")


def test_what_its_maker_says_of_sampling_is_told(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    assert promised(path).defaults == Sampling()
    said = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "repetition_penalty": 1.05}
    others = {"do_sample": True, "eos_token_id": [2, 3], "max_new_tokens": 2048, "transformers_version": "5"}
    (path / "generation_config.json").write_text(json.dumps({**said, **others}))
    assert promised(path).defaults == Sampling(
        temperature=0.6, top_p=0.95, top_k=20, min_p=0.0, repetition_penalty=1.05
    )


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ('{"temperature": "hot"}', "temperature is 'hot'"),
        ('{"temperature": -1}', "temperature is -1"),
        ('{"temperature": NaN}', "temperature is nan"),
        ('{"top_p": 1.5}', "top_p is 1.5"),
        ('{"top_p": 0}', "top_p is 0"),
        ('{"top_k": 1.5}', "top_k is 1.5"),
        ('{"min_p": true}', "min_p is True"),
        ('{"repetition_penalty": 0}', "repetition_penalty is 0"),
        ('{"eos_token_id": "</s>"}', "eos_token_id"),
        (" " * (2**20 + 1), "larger than 1MiB"),
    ],
)
def test_sampling_that_makes_no_sense_is_not_passed_over(tmp_path: Path, data: str, fault: str) -> None:
    path = checkpoint(tmp_path / "m")
    (path / "generation_config.json").write_text(data)
    message = refused(path)
    assert fault in message and "generation_config.json" in message


def test_template_and_tokens_are_those_of_the_folder(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m")
    told = {"chat_template": "{{ bos_token }}", "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (path / "tokenizer_config.json").write_text(json.dumps({**told, "add_bos_token": True}))
    found = promised(path)
    assert (found.template, found.bos, found.eos, found.adds_bos) == ("{{ bos_token }}", "<s>", "</s>", True)
    both = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    more = {"chat_template": both, "add_bos_token": False}
    (path / "tokenizer_config.json").write_text(json.dumps({**told, **more}))
    found = promised(path)
    assert (found.template, found.tool_template, found.adds_bos) == ("a", "b", False)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        *config_of("Qwen3MoeForCausalLM"), "num_local_experts", "rope_scaling", "rope_parameters",
        "quantization_config", "text_config", "vision_config", "sliding_window", "use_sliding_window",
        "attention_bias", "mlp_bias", "partial_rotary_factor", "original_max_position_embeddings",
    ]
)  # fmt: skip
ROPE = st.fixed_dictionaries(
    {"rope_type": st.sampled_from(["linear", "dynamic", "yarn", "longrope", "llama3", "default"])},
    optional={
        name: ANYTHING | st.floats(0, 100)
        for name in (
            "factor", "rope_theta", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "low_freq_factor",
            "high_freq_factor", "attention_factor", "original_max_position_embeddings", "truncate",
            "long_factor", "short_factor",
        )
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changed=st.dictionaries(KEYS, ANYTHING, min_size=1, max_size=3)
    | st.fixed_dictionaries({"rope_scaling": ROPE})
)
def test_no_config_does_anything_but_pass_or_be_unfit(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "m"
    if not path.exists():
        checkpoint(path)
    (path / "config.json").write_text(json.dumps({**config_of(), **changed}))
    try:
        assert 0 < preflight(order_of(path)).context <= 4096
    except Unfit as error:
        assert str(path) in error.message
