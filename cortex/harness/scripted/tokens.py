"""Tokens without a vocabulary: at most seven bytes of UTF-8, cut after spaces, not at code points.

An id is those bytes as a number; so ids, text and counts agree.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Final

from cortex.errors import BadAsk

PIECE: Final = re.compile(rb" ?[^ ]{1,6}| ")
_MARK: Final = b"\x01"  # before a token's bytes, so that leading zero bytes count too


def tokens_of(text: str | bytes) -> tuple[int, ...]:
    """The ids of `text`."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return tuple(int.from_bytes(_MARK + piece, "big") for piece in PIECE.findall(data))


def bytes_of(token: int) -> bytes:
    """The bytes of a token; empty for a number that is no token."""
    return token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big")[1:]


def known_bytes_of(token: int) -> bytes:
    if not (token > 0 and token.to_bytes(max(1, (token.bit_length() + 7) // 8), "big").startswith(_MARK)):
        raise BadAsk(f"{token} is no token of this model", param="tokens")
    return bytes_of(token)


def numbered(count: int | None = None) -> Iterator[bytes]:
    """Tokens that show gaps and repeats: "0 1 2 ..."; without end when `count` is None."""
    numbers = itertools.count() if count is None else range(count)
    return (b" %d" % number if number else b"0" for number in numbers)
