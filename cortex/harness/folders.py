"""Temporary folders that a killed process does not leave for ever.

Each is held by a lock that ends with its process, however that ends; whoever makes the next
one sweeps those that nobody holds any more.
"""

import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True, eq=False)
class Folder:
    """A temporary folder; ours as long as we hold its lock."""

    path: Path
    lock: int | None

    @classmethod
    def made(cls, prefix: str) -> "Folder":
        """A new one whose name begins with `prefix`. Those of neurons that were killed are removed
        on the occasion."""
        root = Path(tempfile.gettempdir())
        for left in root.glob(f"{prefix}*"):
            cls._sweep(left)
        while True:
            path = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_dir():
                return cls(path, lock)
            os.close(lock)  # somebody else swept it between the two

    def remove(self) -> None:
        """The folder is gone, with all that is in it. Harmless when done twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self.lock = self.lock, None
        if lock is not None:
            os.close(lock)

    @staticmethod
    def _sweep(path: Path) -> None:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return  # not ours, or gone
        try:
            if os.fstat(lock).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass  # a neuron that lives holds it
        finally:
            os.close(lock)
