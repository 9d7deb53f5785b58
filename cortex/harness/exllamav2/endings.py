"""Which tokens end an answer, and whether a prompt begins with one of its own.

The files of a model disagree, so every end that any of them names counts. Models trained to chat
end a turn with a token of their own, and many of them name only the base model's end: such an
answer would go on for ever, speaking the user's part too. So the known turn ends count as well,
where the vocabulary has them as special tokens, which are no text that could be meant otherwise.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cortex.errors import Unfit
from cortex.weights import contents
from cortex.wire.reading import in_json_words

Kind = TypeVar("Kind")
SETTINGS_BYTES: Final = 16 * 2**20
# What instruction-tuned models of the architectures here say at the end of a turn or of a message.
TURN_ENDS: Final = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
)


class _Token(msgspec.Struct, frozen=True):
    content: str


class _Text(msgspec.Struct, frozen=True):
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | list[int] | None = None
    vocab_size: int | None = None


class _Config(_Text, frozen=True):
    """A config.json or a generation_config.json. A model that sees has its language part's settings
    in a table of their own."""

    text_config: _Text | None = None


class Added(msgspec.Struct, frozen=True):
    """A token that was added to a vocabulary after its training."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class TokenizerSettings(msgspec.Struct, frozen=True):
    """A tokenizer_config.json, as far as it matters here."""

    eos_token: str | _Token | None = None
    bos_token: str | _Token | None = None
    add_bos_token: bool | None = None
    added_tokens_decoder: dict[str, Added] = {}

    @property
    def bos(self) -> str | None:
        return _content(self.bos_token)


def tokenizer_settings(folder: Path) -> TokenizerSettings:
    """What the folder's tokenizer_config.json says; nothing where there is none. Raises Unfit."""
    return decoded(folder / "tokenizer_config.json", TokenizerSettings) or TokenizerSettings()


def ends(folder: Path, id_of: Callable[[str], int | None], special: frozenset[int]) -> frozenset[int]:
    """The ids of all tokens that end an answer. `id_of` knows the vocabulary. Raises Unfit."""
    said = [each for config in _configs(folder) for each in _ids(config.eos_token_id)]
    named = _content(tokenizer_settings(folder).eos_token)
    if named is not None and (token := id_of(named)) is not None:
        said.append(token)
    turns = (id_of(name) for name in TURN_ENDS)
    return frozenset(said) | {token for token in turns if token in special}


def rows(folder: Path) -> int | None:
    """How many tokens the model has weights for, if its config.json tells. Raises Unfit."""
    told = (config.vocab_size for config in _configs(folder))
    return next((count for count in told if count is not None), None)


def begin(folder: Path, id_of: Callable[[str], int | None]) -> int | None:
    """The id of the token that a prompt begins with, if the files tell. Raises Unfit."""
    named = tokenizer_settings(folder).bos
    if named is not None:
        return id_of(named)
    return next((each for config in _configs(folder) for each in _ids(config.bos_token_id)), None)


def decoded(path: Path, kind: type[Kind], most: int = SETTINGS_BYTES) -> Kind | None:
    """The JSON of a file; None when there is none. Raises Unfit."""
    data = contents(path, most)
    try:
        return None if data is None else msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{path}: is not what it should be: {in_json_words(error)}; download it again") from error


def _configs(folder: Path) -> Iterator[_Text]:
    for name in ("generation_config.json", "config.json"):
        config = decoded(folder / name, _Config)
        if config is not None:
            if config.text_config is not None:
                yield config.text_config
            yield config


def _ids(said: int | list[int] | None) -> list[int]:
    return said if isinstance(said, list) else [] if said is None else [said]


def _content(token: str | _Token | None) -> str | None:
    return token.content if isinstance(token, _Token) else token
