"""Small GGUFs that llama.cpp loads whole, one for each kind of vocabulary that it knows.

The words are trained on some lines of text, since what is cut how shows only where there are merges.
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.fake_gguf import Raw, Tensor, gguf

LINES: Final = [
    "the quick brown fox jumps over the lazy dog",
    "Καλημέρα 😀 ναι, ça va? 日本語のテキスト",
    'def f(x):\n\treturn {"a": [1, 2.5], "b": None}  # it\'s ok, we\'ll see',
    "   leading, trailing and   inner blanks   1234567 99",
] * 3
SPECIAL: Final = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
DOT: Final = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
WIDTH: Final = 64
Pairs = dict[str, object]


def model(vocabulary: Mapping[str, object], architecture: str = "qwen2", name: str = "small") -> bytes:
    """A whole model with that vocabulary, of one layer."""
    tokens = vocabulary["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    own = {
        "context_length": 512,
        "embedding_length": WIDTH,
        "block_count": 1,
        "feed_forward_length": 96,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "rope.freq_base": 10000.0,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    pairs = {
        "general.architecture": architecture,
        "general.name": name,
        "general.file_type": 0,
        **{f"{architecture}.{key}": said for key, said in own.items()},
        **vocabulary,
        "tokenizer.chat_template": "{{ broken",
    }
    return gguf(pairs, list(_tensors(len(tokens), architecture)), tail=None)


def _tensors(tokens: int, architecture: str):
    yield Tensor("token_embd.weight", (WIDTH, tokens))
    yield Tensor("output_norm.weight", (WIDTH,))
    squares = {
        "attn_q": (WIDTH, WIDTH),
        "attn_k": (WIDTH, WIDTH // 2),
        "attn_v": (WIDTH, WIDTH // 2),
        "attn_output": (WIDTH, WIDTH),
        "ffn_gate": (WIDTH, 96),
        "ffn_up": (WIDTH, 96),
        "ffn_down": (96, WIDTH),
    }
    if architecture == "qwen2":
        squares |= {"attn_q.bias": (WIDTH,), "attn_k.bias": (WIDTH // 2,), "attn_v.bias": (WIDTH // 2,)}
    for each in ("attn_norm", "ffn_norm"):
        yield Tensor(f"blk.0.{each}.weight", (WIDTH,))
    for each, shape in squares.items():
        yield Tensor(f"blk.0.{each if '.' in each else each + '.weight'}", shape)


def _vocabulary(kind: str, tokens: Sequence[str], types: Sequence[int], **more: object) -> Pairs:
    named = {f"tokenizer.ggml.{key}": said for key, said in more.items()}
    return {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": Raw(9, struct.pack(f"<IQ{len(types)}i", 5, len(types), *types)),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **named,
    }


def bpe(pre: str) -> Pairs:
    """Bytes and merges; `pre` is how a text is cut before."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    told = json.loads(made.to_str())["model"]
    tokens = sorted(told["vocab"], key=told["vocab"].__getitem__)
    types = [CONTROL if token in SPECIAL else NORMAL for token in tokens]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in told["merges"]]
    return _vocabulary("gpt2", tokens, types, pre=pre, merges=merges)


def _words() -> list[str]:
    words: dict[str, None] = {}
    for line in LINES:
        for word in line.replace(" ", f" {DOT}").split(" "):
            for end in range(1, min(len(word), 8) + 1):
                words.setdefault(word[:end])
            for start in range(len(word)):
                words.setdefault(word[start : start + 2])
                words.setdefault(word[start])
    return [word for word in words if word]


def spm(**more: object) -> Pairs:
    """SentencePiece as Llama 2 has it: scores, blanks as marks, bytes for the unknown."""
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [word for word in _words() if word not in octets]
    tokens = [*SPECIAL, *octets, DOT, *(word for word in words if word != DOT)]
    rest = len(tokens) - len(SPECIAL) - 256
    types = [UNKNOWN, *[CONTROL] * (len(SPECIAL) - 2), USER, *[BYTE] * 256, *[NORMAL] * rest]
    scores = [-float(at) if len(token) > 1 else -1000.0 - at for at, token in enumerate(tokens)]
    return _vocabulary("llama", tokens, types, scores=scores, **more)


def wpm() -> Pairs:
    """WordPiece as BERT has it."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    words = [word.lower() for word in _words()]
    tokens = list(dict.fromkeys([*special, *words, *(f"{DOT}{word}" for word in words if word[0] != DOT)]))
    types = [UNKNOWN, *[CONTROL] * 4, *[NORMAL] * (len(tokens) - 5)]
    return _vocabulary("bert", tokens, types, seperator_token_id=2, cls_token_id=1, mask_token_id=4)


def ugm() -> Pairs:
    """Unigram as T5 has it."""
    tokens = [*SPECIAL, DOT, *(word for word in _words() if word != DOT)]
    types = [UNKNOWN, *[CONTROL] * (len(SPECIAL) - 1), *[NORMAL] * (len(tokens) - len(SPECIAL))]
    scores = [-float(at) / 50 for at in range(len(tokens))]
    return _vocabulary(
        "t5",
        tokens,
        types,
        scores=scores,
        remove_extra_whitespaces=True,
        add_space_prefix=True,
    )


def rwkv() -> Pairs:
    """The longest word first, each of them spelt with escapes."""
    words = [bytes([byte]) for byte in range(256)] + [word.encode() for word in _words() if len(word) > 1]
    spelt = ["".join(f"\\x{byte:02x}" for byte in word) for word in dict.fromkeys(words)]
    tokens = ["<unk>", "<s>", "</s>", *spelt]
    types = [UNKNOWN, CONTROL, CONTROL, *[NORMAL] * len(spelt)]
    return _vocabulary("rwkv", tokens, types)


KINDS: Final[Mapping[str, Callable[[], Pairs]]] = {
    **{
        f"bpe {pre}": (lambda pre=pre: bpe(pre))
        for pre in ("gpt-2", "qwen2", "llama-bpe", "deepseek-llm", "tekken", "gpt-4o", "falcon", "qwen35")
    },
    "bpe with begin": lambda: {**bpe("llama-bpe"), "tokenizer.ggml.add_bos_token": True},
    "bpe with end": lambda: {**bpe("qwen2"), "tokenizer.ggml.add_eos_token": True},
    "spm": spm,
    "spm, no blank first": lambda: spm(add_space_prefix=False),
    "wpm": wpm,
    "ugm": ugm,
    "rwkv": rwkv,
}
