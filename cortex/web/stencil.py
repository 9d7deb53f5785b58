"""What the heads of one neuron's answers have in common.

A neuron says the same head again and again, but for a date, a length and an id. One whose like was
read by the parser before is known by comparing bytes, and its answer is whole if it came whole. Pure, and
no second reading of HTTP: a head that differs in anything else, or that any doubt is about, is the parser's.
"""

from collections.abc import Mapping
from typing import Final

from cortex.web.head import END

# What differs from answer to answer. Of these the length alone is of use here.
_LENGTH: Final = b"content-length"
_VARIES: Final = frozenset({_LENGTH, b"date", b"x-request-id", b"request-id"})
_MOST_DIGITS: Final = 9
# So much of an answer is read in one go; a longer one does not come whole.
_MOST_HEAD: Final = 8192


class Stencil:
    """Of a head whose fields are `headers`. `form` is what the client's head begins with for it."""

    __slots__ = ("_begin", "_rest", "form")

    def __init__(self, begin: bytes, rest: tuple[tuple[bool, bytes], ...], form: bytes) -> None:
        self._begin, self._rest, self.form = begin, rest, form

    @classmethod
    def of(cls, head: bytes, headers: Mapping[str, str], form: bytes) -> "Stencil | None":
        """For others like `head`, in which the parser has found `headers`. None for one that says
        something twice, or in an odd way."""
        lines = head.removesuffix(END).split(b"\r\n")
        names = [line.partition(b":")[0].lower() for line in lines[1:]]
        if len(head) > _MOST_HEAD or [name.decode("latin-1") for name in names] != [*headers]:
            return None
        begin, rest, piece = b"", list[tuple[bool, bytes]](), lines[0]
        counts: bool | None = None
        for name, line in zip(names, lines[1:], strict=True):
            piece += b"\r\n"
            if name not in _VARIES:
                piece += line
                continue
            value = line[len(name) + 1 :]
            piece += line[: len(line) - len(value.lstrip(b" \t"))]
            if counts is None:
                begin = piece
            else:
                rest.append((counts, piece))
            counts, piece = name == _LENGTH, b""
        if counts is None or _LENGTH not in names:
            return None
        rest.append((counts, piece + END))
        return cls(begin, tuple(rest), form)

    def fits(self, data: bytes) -> int:
        """Where the body begins, if `data` is one whole answer with such a head and no more; else -1."""
        if not data.startswith(self._begin):
            return -1
        at, length = len(self._begin), -1
        for counts, piece in self._rest:
            end = data.find(b"\r\n", at)
            if counts:
                digits = data[at:end]
                if not digits.isdigit() or len(digits) > _MOST_DIGITS:
                    return -1
                length = int(digits)
            if not data.startswith(piece, end):
                return -1
            at = end + len(piece)
        return at if at + length == len(data) else -1
