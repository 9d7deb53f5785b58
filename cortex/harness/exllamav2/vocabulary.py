"""A model's tokens, from the tokenizer.json in its folder: text to ids, and ids to bytes.

The words of the whole vocabulary are turned into bytes once, when a model is loaded. What encodes
is the `tokenizers` library; it is not trusted to keep ids: a file that it reads with other ids than
the file's own is Unfit, since the model was trained with those. A begin token is never added here.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cortex.errors import BadAsk, Unfit
from cortex.harness.exllamav2.endings import Added, begin, ends, rows, tokenizer_settings
from cortex.harness.exllamav2.pieces import Decode, Step, decoding
from cortex.weights import contents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Three times the largest file, and four times the largest vocabulary, of any model at large.
FILE_BYTES: Final = 128 * 2**20
MOST_TOKENS: Final = 2**20


class _AddedWord(Added, frozen=True, kw_only=True):
    id: int


class _File(msgspec.Struct, frozen=True):
    """A tokenizer.json, as far as it matters here."""

    decoder: Step | None = None
    added_tokens: list[_AddedWord] = []


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`pieces` are what each token adds in the middle of an answer; an id that is no word adds
    nothing. `blank_first`: a blank is put before every text that is encoded. `bos` is the begin
    token, which a text prompt has in front where it `adds_bos`; `eos` are the tokens that end an
    answer."""

    pieces: tuple[bytes, ...] = field(repr=False)
    specials: frozenset[int] = field(repr=False)
    eos: frozenset[int]
    bos: int | None
    adds_bos: bool
    blank_first: bool
    _tokenizer: "Tokenizer" = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary":
        """The vocabulary of the model in `folder`. Raises Unfit. Some tenths of a second."""
        path = folder / "tokenizer.json"
        file, tokenizer = _opened(path)
        special = _complete(tokenizer, file, folder)
        pieces = _pieces(tokenizer, decoding(file.decoder, path), path)
        # A padding token is often beyond what the model has weights for.
        pieces = pieces[: rows(folder)]
        bos = begin(folder, tokenizer.token_to_id)
        adds = bos is not None and _begins(tokenizer, bos, tokenizer_settings(folder).add_bos_token)
        if adds and bos not in range(len(pieces)):
            raise Unfit(
                f"{folder}: prompts begin with the token {bos}, and the model has tokens 0 to "
                f"{len(pieces) - 1}; download it again"
            )
        named = ends(folder, tokenizer.token_to_id, special)
        return cls(
            pieces,
            special,
            frozenset(token for token in named if token in range(len(pieces))),
            bos,
            adds,
            _blank_first(tokenizer, pieces),
            tokenizer,
        )

    @property
    def size(self) -> int:
        """One more than the highest id that is a word and has weights. Models have more of these."""
        return len(self.pieces)

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of `text`: special ones are understood, none is added. Raises BadAsk."""
        try:
            tokens = tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except TypeError as error:
            raise BadAsk(
                "The prompt holds half of a surrogate pair, which is no character", param="prompt"
            ) from error
        if tokens and (highest := max(tokens)) >= self.size:
            word = self._tokenizer.id_to_token(highest)
            raise BadAsk(f"The prompt holds {word!r}, a token that this model does not have", param="prompt")
        return tokens

    def piece(self, token: int) -> bytes:
        return self.pieces[token]

    def special(self, token: int) -> bool:
        return token in self.specials

    def text(self, tokens: Sequence[int]) -> str:
        """What `tokens` spell, special ones too; bytes that are no character are U+FFFD. Raises
        BadAsk for a number that is no token."""
        for token in tokens:
            self.check(token, "tokens")
        text = _spoken(self.pieces, tokens).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.blank_first else text

    def check(self, token: int, param: str) -> None:
        """Raises BadAsk, naming `param`, when it is no token."""
        if not 0 <= token < self.size:
            raise BadAsk(f"{token} is no token; this model has tokens 0 to {self.size - 1}", param=param)

    def marker(self, text: str) -> int | None:
        """The special token that is `text`, if there is one."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token if token in self.specials and token < self.size else None

    def hidden(self, visible: Sequence[str]) -> frozenset[int]:
        """The special tokens that have no text in an answer whose markers are `visible`."""
        shown = {self._tokenizer.token_to_id(marker) for marker in visible}
        return self.specials - shown


def _opened(path: Path) -> tuple[_File, "Tokenizer"]:
    from tokenizers import Tokenizer  # noqa: PLC0415

    data = contents(path, FILE_BYTES)
    if data is None:
        raise Unfit(
            f"{path}: is missing, and a vocabulary of another form is not read; choose a folder that has one"
        )
    try:
        file = msgspec.json.decode(data, type=_File)
    except (ValueError, RecursionError) as error:
        raise _broken(path, error) from error
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library's own have no narrower class
        raise _broken(path, error) from error
    # Files carry the settings of the training's batches: a prompt would be cut without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return file, tokenizer


def _complete(tokenizer: "Tokenizer", file: _File, folder: Path) -> frozenset[int]:
    """Tokens that only tokenizer_config.json has are known too; the ids of all special ones."""
    from tokenizers import AddedToken  # noqa: PLC0415

    listed = {word.id: word for word in file.added_tokens}
    settings = folder / "tokenizer_config.json"
    for id_, word in _numbered(tokenizer_settings(folder).added_tokens_decoder, settings):
        if tokenizer.token_to_id(word.content) is None:
            tokenizer.add_tokens(
                [AddedToken(**{name: getattr(word, name) for name in Added.__struct_fields__})]
            )
        listed.setdefault(id_, _AddedWord(id=id_, content=word.content, special=word.special))
    for id_, word in listed.items():
        if (taken := tokenizer.token_to_id(word.content)) != id_:
            raise Unfit(
                f"{folder}: its tokenizer files give {word.content!r} the id {id_}, and the word list of "
                f"tokenizer.json {taken}; download them again, from one and the same model"
            )
    return frozenset(id_ for id_, word in listed.items() if word.special)


def _numbered(words: dict[str, Added], path: Path) -> list[tuple[int, Added]]:
    try:
        return sorted(((int(id_), word) for id_, word in words.items()), key=lambda pair: pair[0])
    except ValueError as error:
        raise _broken(path, error) from error


def _pieces(tokenizer: "Tokenizer", decode: Decode, path: Path) -> tuple[bytes, ...]:
    words: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    added: dict[int, Any] = tokenizer.get_added_tokens_decoder()
    highest = max(itertools.chain(words.values(), added), default=-1)
    if not 0 <= highest < MOST_TOKENS:
        raise Unfit(f"{path}: its highest token is {highest}; from 0 to {MOST_TOKENS - 1} is what is served")
    if len(set(words.values())) != len(words):
        raise Unfit(f"{path}: several words have the same id; download it again")
    pieces = [b""] * (highest + 1)
    for word, id_ in words.items():
        pieces[id_] = decode(word)
    for id_, token in added.items():
        pieces[id_] = token.content.encode()
    return tuple(pieces)


def _begins(tokenizer: "Tokenizer", bos: int, told: bool | None) -> bool:
    """Whether a prompt begins with `bos`: what the settings tell, else what the library would do."""
    if told is not None:
        return told
    return tokenizer.encode("a", add_special_tokens=True).ids[:1] == [bos]


def _blank_first(tokenizer: "Tokenizer", pieces: Sequence[bytes]) -> bool:
    tokens = tokenizer.encode("a", add_special_tokens=False).ids
    return all(token < len(pieces) for token in tokens) and _spoken(pieces, tokens) == b" a"


def _spoken(pieces: Sequence[bytes], tokens: Sequence[int]) -> bytes:
    return b"".join(pieces[token] for token in tokens)


def _broken(path: Path, error: Exception) -> Unfit:
    return Unfit(f"{path}: is not what it should be: {error}; download it again")
