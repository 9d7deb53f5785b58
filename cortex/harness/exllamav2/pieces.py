"""What bytes each token adds in the middle of an answer, as a tokenizer's own decoder has it.

Two families are known: byte-level ones, whose letters stand for bytes, and SentencePiece's, where
a mark stands for the blank and `<0xE2>` for a byte that no other token has. Steps that only concern
the beginning of a text are left to whoever has the whole of it. A decoder of another kind is Unfit:
guessing would garble every answer.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from cortex.errors import Unfit

Decode: TypeAlias = Callable[[str], bytes]
MOST_STEPS: Final = 32  # every word goes through all of them; models have up to four
_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Pattern(msgspec.Struct, frozen=True, rename="pascal"):
    string: str | None = None


class Step(msgspec.Struct, frozen=True):
    """One step of a decoder, or several of them."""

    type: str
    decoders: list["Step"] = []
    pattern: Pattern | None = None
    content: str = ""
    replacement: str = "\u2581"


def decoding(decoder: Step | None, path: Path) -> Decode:
    """How a word of the vocabulary in `path` becomes bytes. Raises Unfit."""
    steps = [] if decoder is None else _flat(decoder, path)
    if "ByteLevel" in (step.type for step in steps):
        return _byte_level
    blanks: list[tuple[str, str]] = []
    bytes_too = fused = False
    for step in steps:
        match step.type:
            case "Replace" if step.pattern is not None and step.pattern.string:
                blanks.append((step.pattern.string, step.content))
            case "Metaspace" if step.replacement:
                blanks.append((step.replacement, " "))
            case "ByteFallback":
                bytes_too = True
            case "Fuse":
                fused = True
            case "Strip" if fused:
                pass  # of the text's beginning
            case kind:
                raise _unknown(f"step {kind!r}", path)
    if not blanks:
        raise _unknown("way to write a blank", path)
    return lambda word: _spelt(word, blanks, bytes_too=bytes_too)


def _spelt(word: str, blanks: list[tuple[str, str]], *, bytes_too: bool) -> bytes:
    if bytes_too and (found := _BYTE.fullmatch(word)):
        return bytes.fromhex(found[1])
    for mark, blank in blanks:
        word = word.replace(mark, blank)
    return word.encode()


def _byte_level(word: str) -> bytes:
    try:
        return word.translate(_BYTES).encode("latin-1")
    except UnicodeEncodeError:
        return word.encode()  # a word with any other letter stands for itself


def _flat(decoder: Step, path: Path) -> list[Step]:
    """The steps, one after another; sequences may hold sequences."""
    waiting: list[Step] = [decoder]
    found: list[Step] = []
    while waiting:
        if len(waiting) + len(found) > MOST_STEPS:
            raise _unknown("length", path)
        step = waiting.pop(0)
        if step.type == "Sequence":
            waiting = [*step.decoders, *waiting]
        else:
            found.append(step)
    return found


def _unknown(what: str, path: Path) -> Unfit:
    return Unfit(
        f"{path}: its decoder's {what} is not understood here; only byte-level and SentencePiece "
        "vocabularies are. Choose another form of the model, or serve it as an upstream"
    )


def _letters() -> dict[int, int]:
    """From the letters of byte-level words to bytes. Printable bytes of Latin-1 are their own letters,
    the others follow from U+0100 on; letters that stand for no byte lead beyond Latin-1."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in own]
    stray = dict.fromkeys(others, 0x100)
    return {**stray, **{byte: byte for byte in own}, **{0x100 + at: byte for at, byte in enumerate(others)}}


_BYTES: Final = _letters()
