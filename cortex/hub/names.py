"""Which names of a repo's files are taken to this host, and which condemn the repo.

Pure. The list of suffixes is what models need and nothing can be run from: pickles, archives
and code stay where they are, whatever a configuration file of the repo says of them.
"""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from cortex.errors import Unfit

WEIGHTS: Final = (".gguf", ".safetensors")
BESIDE: Final = (".json", ".jinja", ".txt", ".model")
PICKLES: Final = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
# The longest name that every file system takes, and far more folders than any model has.
_LONGEST: Final = 255
_DEEPEST: Final = 16


def suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def beside(names: Iterable[str], folder: str) -> list[str]:
    """The small files that belong to weights in `folder`: those beside them, and those of the root."""
    folders = {"", folder}
    return sorted(name for name in names if suffix(name) in BESIDE and folder_of(name) in folders)


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def refuse_hostile(repo: str, names: Iterable[str]) -> None:
    """Raises Unfit for a name that could leave its folder: such a repo is no accident."""
    seen: set[str] = set()
    for name in names:
        if (why := _why(name)) is not None or name in seen:
            raise Unfit(
                f"{repo} lists a file named {name[:200]!r}, which {why or 'comes twice'}; "
                "nothing of this repo is downloaded"
            )
        seen.add(name)


def _why(name: str) -> str | None:
    parts = name.split("/")
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts or "\\" in name or not name.isprintable():
        return "is no plain path"
    if len(parts) > _DEEPEST or max(len(part.encode()) for part in parts) > _LONGEST:
        return "is too long"
    return None
