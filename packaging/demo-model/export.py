"""A model's weights become files: a Hugging Face folder, and GGUF in F16 and Q8_0.

Key names and tensor names are those that llama.cpp and exllamav2 read. The same fp16
numbers go into safetensors and F16, so that both engines answer alike.
"""

import json
from pathlib import Path
from typing import Any, Final

import chat
import gguf
import numpy as np
from safetensors.numpy import save_file
from shape import Shape, Weights
from tokenizers import Tokenizer
from vocabulary import mark_ids

NAME: Final = "cortex-demo"

_GGUF_PARTS: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
}


def write_folder(folder: Path, tokenizer: Tokenizer, shape: Shape, weights: Weights) -> None:
    """config, generation_config, tokenizer_config and model.safetensors beside tokenizer.json."""
    ids = mark_ids(tokenizer)
    _write_json(folder / "config.json", _config(shape, ids))
    ends = [ids[chat.END_OF_TURN], ids[chat.END_OF_TEXT]]
    greedy = {"do_sample": False, "temperature": 0.0}
    _write_json(
        folder / "generation_config.json",
        {"eos_token_id": ends, "pad_token_id": ids[chat.END_OF_TEXT], **greedy},
    )
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(shape, ids))
    halves = {name: np.ascontiguousarray(tensor.astype(np.float16)) for name, tensor in weights.items()}
    save_file(halves, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "torch_dtype": "float16",
        "bos_token_id": ids[chat.END_OF_TEXT],
        "eos_token_id": ids[chat.END_OF_TURN],
        "pad_token_id": ids[chat.END_OF_TEXT],
    }


def _tokenizer_config(shape: Shape, ids: dict[str, int]) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": chat.END_OF_TURN,
        "pad_token": chat.END_OF_TEXT,
        "unk_token": None,
        "model_max_length": shape.context,
        "chat_template": chat.TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(number): {"content": mark, "special": mark in chat.SPECIAL, **plain}
            for mark, number in ids.items()
        },
    }


def write_gguf(
    path: Path, tokenizer: Tokenizer, shape: Shape, weights: Weights, *, name: str, q8: bool
) -> None:
    """One GGUF file: F16, or Q8_0 where `q8`; norms stay F32 in both."""
    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_name(name)
    _add_shape(writer, shape)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if q8 else gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, tokenizer, shape.vocab)
    for source, tensor in weights.items():
        _add_tensor(writer, gguf_name(source), tensor.astype(np.float32), q8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return _GGUF_PARTS[stem] + ".weight"
    number, part = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{number}.{_GGUF_PARTS[part]}.weight"


def _add_shape(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    described, ids = json.loads(tokenizer.to_str()), mark_ids(tokenizer)
    pieces = {number: (f"[PAD{number}]", gguf.TokenType.UNUSED) for number in range(size)}
    pieces |= {
        number: (piece, gguf.TokenType.NORMAL) for piece, number in described["model"]["vocab"].items()
    }
    for added in described["added_tokens"]:
        kind = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
        pieces[added["id"]] = (added["content"], kind)
    if len(pieces) > size:
        raise ValueError(f"the tokenizer has {len(pieces)} tokens, the model has room for {size}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([pieces[number][0] for number in range(size)])
    writer.add_token_types([pieces[number][1] for number in range(size)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids[chat.END_OF_TEXT])
    writer.add_eos_token_id(ids[chat.END_OF_TURN])
    writer.add_eot_token_id(ids[chat.END_OF_TURN])
    writer.add_pad_token_id(ids[chat.END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat.TEMPLATE)


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, q8: bool) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    if tensor.ndim == 1:
        writer.add_tensor(name, tensor)
    elif q8:
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, tensor.astype(np.float16))
