"""The library is told what a model is, instead of reading it: every cure is in this one place.

Its own reading of config.json loses the positions of files that transformers 5 wrote, dies of keys
that come in both of their names, takes any *.safetensors of a folder for weights, and has the norm
of Qwen3's heads wrong. Nothing is written into the model's folder, and nothing is read here but
what the guards have judged.
"""

from typing import Any, Final

from cortex.catalogue import PAGE, paged
from cortex.errors import Unfit
from cortex.harness.base import LoadOrder, Preflight
from cortex.harness.exllamav2.checkpoint import Checkpoint, read_checkpoint
from cortex.harness.exllamav2.guards import chunk_of
from cortex.harness.exllamav2.runtime import Library
from cortex.weights import Facts

# Rows of the logits' buffers; a longer run of logits would be refused by the library, and is never
# asked for: a step looks at one token of each sequence and those that were guessed ahead.
OUTPUT_ROWS: Final = 16


def configured(library: Library, order: LoadOrder, header: Preflight) -> Any:  # noqa: ANN401 - the library is untyped
    """The library's configuration for a load of `order`, which `header` grants its context."""
    checkpoint = read_checkpoint(order.path)
    # Headers that the library keeps from a load that failed may be those of files since replaced.
    library.exllamav2.stloader.cleanup_stfiles()
    config = library.exllamav2.ExLlamaV2Config()
    config.model_dir = str(order.path)
    config.arch = library.exllamav2.architecture.ExLlamaV2ArchParams(
        checkpoint.settings.architecture, _biases(checkpoint)
    )
    _check_known(config.arch, checkpoint)
    told = _shape(checkpoint) | _scales(checkpoint) | _tokens(checkpoint) | _files(checkpoint)
    told |= _positions(checkpoint, order, header) | _bounds(order)
    for name, value in told.items():
        setattr(config, name, value)
    # The library's table has the mean subtracted here, which these models do not.
    config.arch.lm.headnorm = "rmsnorm"
    return config


def _biases(checkpoint: Checkpoint) -> dict[str, object]:
    """What the library looks at to know an architecture's variants."""
    sizes = checkpoint.sizes
    return {
        "attention_bias": sizes.o_bias,
        "mlp_bias": sizes.mlp_bias,
        "tie_word_embeddings": checkpoint.settings.tied,
    }


def _check_known(arch: Any, checkpoint: Checkpoint) -> None:  # noqa: ANN401 - as above
    """Another release of the library might no longer know a name, and would load it as Llama."""
    name = checkpoint.settings.architecture
    if arch.arch_string != name:
        raise Unfit(f"{checkpoint.folder.path}: this exllamav2 does not know {name}; install exllamav2 0.3.2")


def _shape(checkpoint: Checkpoint) -> dict[str, object]:
    settings, sizes = checkpoint.settings, checkpoint.sizes
    return {
        "architecture": settings.architecture,
        "vocab_size": settings.vocabulary,
        "num_hidden_layers": settings.layers,
        "hidden_size": settings.hidden,
        "intermediate_size": sizes.inner,
        "num_attention_heads": settings.heads,
        "num_key_value_heads": settings.kv_heads,
        "num_key_value_groups": settings.heads // settings.kv_heads,
        "head_dim": settings.head_length,
        "num_experts": sizes.experts or None,
        "num_experts_per_token": checkpoint.experts_per_token or None,
        "use_qk_norm": checkpoint.family.head_norm,
        "norm_eps": checkpoint.norm_eps,
        "initializer_range": 0.02,
        "vision_model_type": None,
    }


def _scales(checkpoint: Checkpoint) -> dict[str, object]:
    scales = checkpoint.scales
    return {
        "scale_emb": scales.embedding,
        "scale_depth": scales.residual,
        "logit_scale": scales.logits,
        "attention_multiplier": scales.attention,
        "query_pre_attn_scalar": None,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "norm_head": None,
    }


def _tokens(checkpoint: Checkpoint) -> dict[str, object]:
    """What the library's own tokenizer would take for the ends; jobs are told all of them. There is
    no padding: a number beyond the vocabulary, as some files have it, would be refused."""
    path = checkpoint.folder.path
    facts = Facts(path / "config.json", checkpoint.settings.told)
    bos, eos = facts.ids("bos_token_id"), facts.ids("eos_token_id")
    return {
        "bos_token_id": bos[0] if bos else None,
        "eos_token_id": eos[0] if eos else None,
        "pad_token_id": None,
    }


def _files(checkpoint: Checkpoint) -> dict[str, object]:
    """The weights that were judged, and no other file that lies beside them."""
    folder = checkpoint.folder
    places = {tensor.name: str(folder.path / tensor.file) for tensor in folder.tensors}
    return {
        "model_config": str(folder.path / "config.json"),
        "tensor_file_map": places,
        "tensor_files": sorted(set(places.values())),
        "checkpoint_fused_mlp": False,
        "checkpoint_offset_qzeros": checkpoint.second,
    }


def _positions(checkpoint: Checkpoint, order: LoadOrder, header: Preflight) -> dict[str, object]:
    """Tables of positions reach one page beyond the context: what is guessed ahead lies there.

    Every kind of scaling goes by the library's rule for divided frequencies. Where that rule is
    told of more tokens than were trained, it strengthens the rotation by the root of one plus the
    logarithm of their ratio over that of the trained tokens; so the trained tokens are chosen such
    that the strength comes out.
    """
    rope, most = checkpoint.rope(header.context), paged(header.context) + PAGE
    divisors = None if rope.divisors is None else list(rope.divisors)
    if divisors is None and rope.strength != 1.0:
        divisors = [1.0] * (int(checkpoint.settings.head_length * rope.part) // 2)
    return {
        "max_seq_len": most,
        "original_max_seq_len": most ** (1 / rope.strength**2) if rope.strength > 1.0 else most,
        "rotary_embedding_base": rope.base,
        "partial_rotary_factor": rope.part,
        "alt_rope_method": None if divisors is None else "su",
        "scale_long_factor": divisors,
        "scale_short_factor": divisors,
        "scale_pos_emb": 1.0,
        "scale_alpha_value": 1.0,
        "rotary_embedding_base_alt": None,
        "scale_pos_emb_alt": None,
        "pos_id_index": 0,
        "sliding_window": 0,
        "sliding_window_pattern": 1,
    }


def _bounds(order: LoadOrder) -> dict[str, object]:
    """Without flash attention torch's own is left out, which forgets that a prompt is causal; the
    explicit mask that remains is right. Batches are made by the generator over one long row."""
    chunk = chunk_of(order)
    return {
        "max_input_len": chunk,
        "max_attention_size": chunk**2,
        "max_batch_size": 1,
        "max_output_len": OUTPUT_ROWS,
        "no_sdpa": True,
        "no_xformers": True,
        "no_flash_attn": order.options.get("attention") == "unpaged",
        "no_graphs": False,
        "load_in_q4": False,
    }
