"""What tells a model's files from others of the same name: a short digest, without reading them whole.

Sizes, times and the ends of a file, where its header is, and where an unfinished download
differs. A file that is copied or downloaded anew counts as another one: what was learned of it
is learned again, and what it was blamed for is forgotten.
"""

import hashlib
import os
from pathlib import Path
from typing import Final

from cortex.errors import Unfit

END_BYTES: Final = 2**16


def digest(path: Path) -> str:
    """The digest of a model's file, or of all files of its folder. Raises Unfit."""
    found = hashlib.blake2b(digest_size=16)
    try:
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as data:
                status = os.fstat(data.fileno())
                found.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
                found.update(data.read(END_BYTES))
                data.seek(max(0, status.st_size - END_BYTES))
                found.update(data.read(END_BYTES))
    except (OSError, ValueError) as error:
        raise Unfit(f"{path}: cannot be read: {error}; check the model's source") from error
    return found.hexdigest()
