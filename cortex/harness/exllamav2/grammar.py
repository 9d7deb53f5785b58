"""Answers in the form of a JSON schema, or calls instead: llguidance says which tokens may come next.

A schema is compiled before its job gets near the device, and what cannot be enforced is refused
there by name. The words of the vocabulary are handed over once a model, with the first schema;
compiled schemas are kept, and each job has a copy of its own to walk through. When the schema is
fulfilled only the tokens that end an answer are left, every one of them.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from cortex.ask import Shape
from cortex.errors import BadAsk, Unsupported
from cortex.harness.exllamav2.vocabulary import Vocabulary
from cortex.harness.shaped import grammar, schema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# A compiled schema has some hundred kilobytes, and clients send the same few again and again.
SCHEMAS_KEPT: Final = 32
# A line's end is a token of its own, or part of no word, in every vocabulary: what comes after it is
# cut as in the middle of a text.
BEFORE: Final = "\n"
LONGEST: Final = 32  # of tokens in bytes, where they are searched for


class Grammar:
    """What one job may say, token after token. Once it has a `fault` only the answer's end may come."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher
        self.fault: str | None = None

    def allowed(self) -> bytes:
        """A bit for each token, lowest first, set where it may come next."""
        bits: bytes = self._matcher.compute_bitmask()
        self._look()
        return bits

    def accept(self, token: int) -> None:
        """`token` was said."""
        self._matcher.consume_token(token)
        self._look()

    def _look(self) -> None:
        if self.fault is None and self._matcher.is_error():
            self.fault = f"the JSON schema could not be followed further: {_first(self._matcher)}"


class Grammars:
    """The schemas of one model's jobs. For one thread at a time; what it hands out is the taker's."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._words: LLTokenizer | None = None
        self._compiled: dict[str, LLMatcher] = {}

    def grammar(self, shape: Shape) -> Grammar:
        """A fresh one for a job. Raises Unsupported, naming what llguidance does not know."""
        where = shape.param
        try:
            text = self._text(shape)
        except UnicodeEncodeError as error:
            raise BadAsk(f"'{where}' holds half of a surrogate pair, no character", param=where) from error
        except RecursionError as error:
            raise _unknown("it is too deep", where) from error
        compiled = self._compiled.pop(text, None) or self._compile(text, shape)
        if len(self._compiled) >= SCHEMAS_KEPT:
            self._compiled.pop(next(iter(self._compiled)))
        self._compiled[text] = compiled  # the last to be forgotten
        return Grammar(compiled.deep_copy())

    def _text(self, shape: Shape) -> str:
        if shape.calls:
            return grammar(shape, self._vocabulary.marker)
        return msgspec.json.encode(schema(shape)).decode()

    def _compile(self, text: str, shape: Shape) -> "LLMatcher":
        from llguidance import LLMatcher, LLParserLimits  # noqa: PLC0415

        if not self._vocabulary.eos:
            raise Unsupported(
                f"'{shape.param}' needs a model whose files name the token that ends an answer; "
                "this one's do not",
                param=shape.param,
            )
        if self._words is None:
            self._words = _words(self._vocabulary)
        try:
            known = LLMatcher.grammar_from_lark if shape.calls else LLMatcher.grammar_from_json_schema
            made = known(text)
        except ValueError as error:
            raise _unknown(str(error), shape.param) from error
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._words, made, log_level=0, limits=limits)
        if matcher.is_error():
            raise _unknown(_first(matcher), shape.param)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise _unknown(f"this model has no token that could begin it ({_first(matcher)})", shape.param)
        return matcher


class _Words:
    """The vocabulary as llguidance wants it. What a grammar leaves no choice about is cut into the
    tokens that the model would read it as, unless these are not that text to the byte: no blank may
    come first, and no special token stand for a string that is spelt like it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.tokens = list(vocabulary.pieces)
        self._special = vocabulary.specials | vocabulary.eos
        self.special_token_ids = sorted(self._special)
        self.eos_token_id = min(vocabulary.eos)
        self.bos_token_id = vocabulary.bos
        self._plain = {
            piece: token for token, piece in enumerate(vocabulary.pieces) if token not in self._special
        }
        self._longest = min(LONGEST, max(map(len, self._plain), default=0))

    def __call__(self, text: str) -> list[int]:
        data = text.encode()
        try:
            for before in ("", BEFORE):
                first = self._vocabulary.encode(before)
                tokens = self._vocabulary.encode(before + text)
                if tokens[: len(first)] == first and self._are(tokens[len(first) :], data):
                    return list(tokens[len(first) :])
        except BadAsk:
            pass  # it is spelt like a token that the model has no weights for
        return self._greedy(data)

    def _are(self, tokens: tuple[int, ...], data: bytes) -> bool:
        return not self._special.intersection(tokens) and data == b"".join(
            map(self._vocabulary.piece, tokens)
        )

    def _greedy(self, data: bytes) -> list[int]:
        """The longest tokens, from left to right, as far as there are any."""
        found: list[int] = []
        while data:
            lengths = range(min(self._longest, len(data)), 0, -1)
            length = next((length for length in lengths if data[:length] in self._plain), None)
            if length is None:
                break
            found.append(self._plain[data[:length]])
            data = data[length:]
        return found


def _words(vocabulary: Vocabulary) -> "LLTokenizer":
    from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415

    return LLTokenizer(
        TokenizerWrapper(_Words(vocabulary)),
        n_vocab=vocabulary.size,
        eos_token=sorted(vocabulary.eos),
        slices=LLTokenizer.json_slices(),
    )


def _unknown(what: str, where: str) -> Unsupported:
    return Unsupported(
        f"'{where}' holds a JSON schema that cannot be enforced here: {what}. Leave that out of it",
        param=where,
    )


def _first(matcher: "LLMatcher") -> str:
    """What went wrong, in its first line; the others show the parser's insides."""
    lines = matcher.get_error().splitlines()
    return lines[0] if lines else "llguidance does not say why"
