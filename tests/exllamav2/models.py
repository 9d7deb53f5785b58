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


def adapted(folder: Path, into: Path, *, rank: int = 4, alpha: int = 8) -> tuple[Path, Path]:
    """A folder with adapted weights, and one with the adapter that says the same."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(1)
    merged, adapter = into / "merged", into / "adapter"
    shutil.copytree(folder, merged)
    adapter.mkdir()
    weights, parts = load_file(folder / "model.safetensors"), {}
    for name in [each for each in weights if each.endswith(("q_proj.weight", "down_proj.weight"))]:
        rows, columns = weights[name].shape
        a, b = torch.randn(rank, columns) * 0.2, torch.randn(rows, rank) * 0.2
        weights[name] = (weights[name].float() + alpha / rank * (b @ a)).half()
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        parts |= {f"{stem}.lora_A.weight": a.half(), f"{stem}.lora_B.weight": b.half()}
    save_file(weights, merged / "model.safetensors", {"format": "pt"})
    save_file(parts, adapter / "adapter_model.safetensors", {"format": "pt"})
    told = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj", "down_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(told))
    return merged, adapter


def poisoned(folder: Path, into: Path) -> Path:
    """The same with weights that half precision cannot multiply."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, into)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"].fill_(6e4)
    weights["model.layers.0.mlp.gate_proj.weight"].fill_(6e4)
    save_file(weights, into / "model.safetensors", {"format": "pt"})
    return into
