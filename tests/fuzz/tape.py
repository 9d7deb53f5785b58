"""A case of a fuzz is a tape: a few bytes, of which every decision of the case is read.

So one case is one value, which hypothesis shrinks, a loop of a million draws by chance, and a person
writes down. A tape that is at its end reads as zeros, which stand for the plainest choice.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Tape:
    """One case, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        at, self._at = self._at, self._at + 1
        return self._data[at] if at < len(self._data) else 0

    def below(self, bound: int) -> int:
        """A number from 0 on, below `bound`, which is at most 65536."""
        if bound <= 256:
            return self.byte() % bound
        return (self.byte() * 256 + self.byte()) % bound

    def of(self, several: Sequence[T]) -> T:
        return several[self.below(len(several))]

    def some(self, most: int) -> range:
        """As many rounds as it says, one at least."""
        return range(1 + self.below(most))

    def rest(self, most: int) -> bytes:
        """The next `most` bytes as they are."""
        at, self._at = self._at, self._at + most
        return self._data[at : at + most]

    def cut(self, data: bytes | str, most: int) -> list:
        """`data` in up to `most` pieces."""
        edges = sorted(self.below(len(data) + 1) for _ in self.some(most)) if data else []
        return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]
