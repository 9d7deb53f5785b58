"""How many connections each worker has, in memory that all of them see.

Whoever has more than another one leaves a newcomer to him for a moment, and takes it himself when he does
not: a worker that hangs keeps nobody waiting. Each writes his own number alone, so that no lock is needed; a
number that is a moment old costs a connection in the wrong place, and nothing else. Nobody takes anybody
before the supervisor opens: the first worker would have all connections of those who stay.
"""

import mmap
import os
from typing import Final

_BYTES: Final = 4
# More than anybody has.
_AWAY: Final = 2**31 - 1


def make_crowd(workers: int) -> int:
    """The descriptor of the memory, for workers that are all away."""
    fd = os.memfd_create("cortex-workers")
    os.ftruncate(fd, (workers + 1) * _BYTES)
    for index in range(workers):
        Crowd(fd, index, workers).away()
    return fd


class Crowd:
    """The numbers as the worker `index` sees them."""

    def __init__(self, fd: int, index: int, workers: int) -> None:
        self._index = index
        memory = memoryview(mmap.mmap(fd, (workers + 1) * _BYTES)).cast("i")
        self._numbers, self._gate = memory[:workers], memory[workers:]

    def open(self) -> None:
        """Workers take connections from here on."""
        self._gate[0] = 1

    @property
    def is_open(self) -> bool:
        """Whether they do."""
        return bool(self._gate[0])

    def has(self, connections: int) -> None:
        """I have so many."""
        self._numbers[self._index] = connections

    def away(self) -> None:
        """I take nobody."""
        self.has(_AWAY)

    def yields(self) -> bool:
        """Whether another one has less."""
        return self._numbers[self._index] > min(self._numbers)
