"""Small models with random weights, in the shapes of families that exllamav2 serves.

Written by transformers, as publishers do; the weights are wide enough that the likeliest token
is no tie in half precision. Each has a byte-level tokenizer and a chat template of its own.
"""

import json
from pathlib import Path
from typing import Any, Final

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
VOCABULARY: Final = 512
CONTEXT: Final = 4096
_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")


def make(folder: Path, family: str, *, seed: int = 0, hidden: int = 128, layers: int = 2) -> Path:
    """A model of that family in `folder`, which is made. The same arguments give the same weights."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = _config(transformers, family, hidden, layers)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, weights in model.named_parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.15)
        elif "q_norm" in name or "k_norm" in name:
            torch.nn.init.uniform_(weights, 0.5, 1.5)  # a wrong kind of norm shows
        elif name.endswith("bias"):
            torch.nn.init.uniform_(weights, -0.5, 0.5)
    model.half().save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def reference(folder: Path) -> Any:
    """The same model as transformers computes it, in single precision."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _config(transformers: Any, family: str, hidden: int, layers: int) -> Any:
    kind = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }[family]
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=3,
        # Far from the default that is silently used where the key is not understood.
        rope_parameters={"rope_type": "default", "rope_theta": 250000.0},
    )
    if family == "mistral":
        config.sliding_window = None
    return config


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(each, special=True) for each in _SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text(), __doc__] * 3, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"chat_template": _TEMPLATE, "eos_token": "<|im_end|>", "add_bos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
