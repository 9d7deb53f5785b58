"""What a scanner has read and may not release yet.

Two small things that the splitters share: how much of a text's end may be the
beginning of a marker, and a hoard of pieces that costs no copy per piece.
"""


def overlap(text: str, start: int, marker: str) -> int:
    """Length of the longest end of `text[start:]` that is a proper beginning of `marker`."""
    for size in range(min(len(text) - start, len(marker) - 1), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0


class Hoard:
    """Text kept in the pieces it came in: adding one is cheap however much is kept."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._size += len(piece)

    def take(self) -> str:
        """All of it; the hoard is empty afterwards."""
        whole = "".join(self._pieces)
        self.clear()
        return whole

    def clear(self) -> None:
        self._pieces.clear()
        self._size = 0
