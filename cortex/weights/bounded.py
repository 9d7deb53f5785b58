"""Files are read within bounds: small ones whole, of others the first bytes, each length checked first.

Blocking. What is wrong with a file becomes `Unfit`, with its name and the remedy.
"""

import stat
import struct
from pathlib import Path
from typing import IO, Final

from cortex.errors import Unfit
from cortex.units import size

_LENGTH: Final = struct.Struct("<Q")
HEADER_LIMIT: Final = 32 * 2**20  # the largest vocabularies in use (262k tokens, with merges) need 15 MiB


def contents(path: Path, most: int) -> bytes | None:
    """The bytes of a file of at most `most`; None when there is none. Raises Unfit. A link may lead to
    a device or a pipe, where reading has no end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unfit(f"{path}: is not a regular file; remove it, or download it again")
        if status.st_size > most:
            raise Unfit(
                f"{path}: is larger than {size(most)}, which is the limit; download it again, or remove it"
            )
        with path.open("rb") as file:
            return file.read(most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unfit(f"{path}: cannot be read: {error.strerror}") from error


class Bytes:
    """Read as far as somebody wants to look, up to the limit."""

    def __init__(self, file: IO[bytes], path: Path, total: int) -> None:
        self.path, self.total = path, total
        self.at = 0
        self._file = file
        self._data = b""
        self._safe = 0  # so many of them are within all limits

    def fault(self, what: str, remedy: str = "download it again, or choose another file") -> Unfit:
        return Unfit(f"{self.path}: {what}; {remedy}")

    def skip(self, count: int, what: str) -> int:
        """Step over `count` bytes, which must be there; the place where they start."""
        start, end = self.at, self.at + count
        if end > self.total:
            raise self.fault(f"truncated at {self.total} bytes, in {what}, which ends at byte {end} or later")
        if end > HEADER_LIMIT:
            raise self.fault(f"the header is longer than {size(HEADER_LIMIT)} ({what})")
        while len(self._data) < end:
            more = self._file.read(max(end - len(self._data), len(self._data), 2**16))
            if not more:
                raise self.fault(f"truncated while it was read, at {len(self._data)} of {self.total} bytes")
            self._data += more
            self._safe = min(len(self._data), HEADER_LIMIT)
        self.at = end
        return start

    def number(self, form: str, what: str) -> int | float | bool:
        start = self.skip(struct.calcsize(form), what)
        value: int | float | bool = struct.unpack_from(form, self._data, start)[0]
        return value

    def count(self, what: str) -> int:
        return int(self.number("<Q", what))

    def text(self, what: str, most: int = HEADER_LIMIT) -> str:
        length = self.count(f"the length of {what}")
        if length > most:
            raise self.fault(f"{what} claims {length} bytes, more than {most}")
        start = self.skip(length, what)
        return self._data[start : self.at].decode("utf-8", "replace")

    def skip_texts(self, count: int, what: str) -> None:
        """Step over so many texts, each with its length before it. A vocabulary has half a million:
        what was read already is stepped through without another question."""
        for _ in range(count):
            if (at := self.at + _LENGTH.size) <= self._safe:
                end = at + _LENGTH.unpack_from(self._data, self.at)[0]
                if end <= self._safe:
                    self.at = end
                    continue
            self.skip(self.count(what), what)

    def since(self, start: int) -> bytes:
        """What was read from `start` on, as it stands in the file."""
        return self._data[start : self.at]

    def head(self, count: int) -> bytes:
        self.skip(min(count, self.total), "the magic number")
        return self._data[:count]
