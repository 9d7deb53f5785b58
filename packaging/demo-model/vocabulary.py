"""The tokenizer: byte-level BPE, learnt from the corpus, in Qwen2's manner of splitting.

The split pattern must be the one that GGUF's `tokenizer.ggml.pre = qwen2` names, one
digit a token; otherwise llama.cpp and Hugging Face tokenise the same text differently.
"""

import json
import re
from pathlib import Path
from typing import Final

import chat
from corpus import Dialogues
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# While merges are learnt, what stands before a capital letter is kept apart from it: a name is
# then made of the same tokens in a question and in a call, and copying it is plain copying.
_APART: Final = r"[^\r\n\p{L}\p{N}](?=\p{Lu})|" + _SPLIT
_DIALOGUES: Final = 3000
_FOREIGN: Final = re.compile(r"[^\x00-\x7f]+")
_SEED: Final = 1


def load_or_learn(path: Path, size: int) -> Tokenizer:
    """The tokenizer of `path`, learnt and saved there first if it is missing.

    A trained model is bound to its tokenizer, so an existing one is never learnt again.
    """
    if not path.exists():
        _learn(size).save(str(path))
    return Tokenizer.from_file(str(path))


def mark_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of every mark of the chat template."""
    described = json.loads(tokenizer.to_str())
    ids: dict[str, int] = {added["content"]: added["id"] for added in described["added_tokens"]}
    missing = {*chat.SPECIAL, *chat.MARKERS} - ids.keys()
    if missing:
        raise SystemExit(
            f"tokenizer.json lacks {', '.join(sorted(missing))}: remove it to have it learnt again"
        )
    return ids


def _learn(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = _splitting(_APART)
    tokenizer.decoder = decoders.ByteLevel()
    marks = (*chat.SPECIAL, *chat.MARKERS)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(marks),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
    )
    tokenizer.train_from_iterator(_texts(marks), trainer)
    tokenizer.pre_tokenizer = _splitting(_SPLIT)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in chat.SPECIAL])
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in chat.MARKERS])
    return tokenizer


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _texts(marks: tuple[str, ...]) -> list[str]:
    """The corpus without its marks: they are whole tokens, never learnt from letters.

    Other alphabets are left out too: each of their letters stays two to four tokens, so that
    every answer in them tries the half letters of a stream.
    """
    dialogues, texts = Dialogues(_SEED), []
    for _ in range(_DIALOGUES):
        text = "".join(piece.text for piece in dialogues.one())
        for mark in marks:
            text = text.replace(mark, "\n")
        texts.append(_FOREIGN.sub("\n", text))
    return texts
