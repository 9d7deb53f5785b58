"""What the heads of one neuron's answers have in common.

A neuron says the same head again and again, but for a date, a length and an id. One whose like was
read by the parser before is known by comparing bytes: that of a whole answer, which is whole if it came
whole, and that of an event stream. Pure, and no second reading of HTTP: a head that differs in anything
else, or that any doubt is about, is the parser's.
"""

from collections.abc import Container, Mapping
from typing import Final

from cortex.web.head import END

# What differs from answer to answer. Of these the length alone is of use here: what the others hold, odd
# bytes too, reaches nobody, since clients are told a date and an id of our own.
_LENGTH: Final = b"content-length"
_MARKS: Final = frozenset({b"date", b"x-request-id", b"request-id"})
_VARIES: Final = _MARKS | {_LENGTH}
# Whatever else is in a value is for the parser to judge.
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
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
        pieces = _pieces(head, headers, _VARIES)
        if pieces is None or all(name != _LENGTH for name, _ in pieces):
            return None
        (_, begin), *rest = pieces
        return cls(begin, tuple((name == _LENGTH, piece) for name, piece in rest), form)

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


class Opening:
    """Of the head of an event stream whose fields are `headers`. `form` is what the client's head is for
    it."""

    __slots__ = ("_begin", "_rest", "form")

    def __init__(self, begin: bytes, rest: tuple[bytes, ...], form: bytes) -> None:
        self._begin, self._rest, self.form = begin, rest, form

    @classmethod
    def of(cls, head: bytes, headers: Mapping[str, str], form: bytes) -> "Opening | None":
        """As `Stencil.of`."""
        pieces = _pieces(head, headers, _MARKS)
        if pieces is None:
            return None
        (_, begin), *rest = pieces
        return cls(begin, tuple(piece for _, piece in rest), form)

    def fits(self, data: bytes) -> int:
        """Where the body begins, if `data` begins with such a head; else -1."""
        if not data.startswith(self._begin):
            return -1
        at = len(self._begin)
        for piece in self._rest:
            end = data.find(b"\r\n", at)
            if not data.startswith(piece, end) or data[at:end].translate(None, _PRINTABLE):
                return -1
            at = end + len(piece)
        return at


def _pieces(
    head: bytes, headers: Mapping[str, str], varies: Container[bytes]
) -> list[tuple[bytes, bytes]] | None:
    """What stays the same of `head`, each piece with the name of what `varies` before it. None where it says
    something twice, or in an odd way."""
    lines = head.removesuffix(END).split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines[1:]]
    if len(head) > _MOST_HEAD or [name.decode("latin-1") for name in names] != [*headers]:
        return None
    found, before, piece = list[tuple[bytes, bytes]](), b"", lines[0]
    for name, line in zip(names, lines[1:], strict=True):
        piece += b"\r\n"
        if name not in varies:
            piece += line
            continue
        value = line[len(name) + 1 :]
        found.append((before, piece + line[: len(line) - len(value.lstrip(b" \t"))]))
        before, piece = name, b""
    return [*found, (before, piece + END)]
