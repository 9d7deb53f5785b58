"""The cache on disk, laid out as huggingface_hub does, so that other tools find what is here.

One folder a repo: `blobs/` holds contents under their digest, `snapshots/COMMIT/` links names
to them, `refs/NAME` says which commit a branch was last seen at. A content appears under its
digest only when it is whole and verified, and a model in its snapshot when all its files did.
Blocking: callers are in a thread.
"""

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex.errors import LoadFailed, Unfit
from cortex.hub.choice import Choice, Format, choose
from cortex.hub.source import Source

INDEX: Final = "model.safetensors.index.json"
# An index names some hundred thousand tensors at most.
_INDEX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Local:
    """A whole model in the cache. `path` is what an engine is given; `bytes` are those of the weights."""

    source: Source
    commit: str
    format: Format
    path: Path
    bytes: int


class Tree:
    """The folder of one repo in a cache."""

    def __init__(self, cache: Path, repo: str) -> None:
        self.cache, self.repo = cache, repo
        name = "models--" + repo.replace("/", "--")
        self.folder, self._locks = cache / name, cache / ".locks" / name

    # -- looking ----------------------------------------------------------------------------

    def find(self, source: Source, formats: Sequence[Format]) -> Local:
        """The model, whole. Unfit says what is missing."""
        commit = source.revision if source.pinned else self._commit_at(source.revision)
        if commit is None:
            raise Unfit(f"{source} is not in the cache {self.cache}")
        files = self._files(commit)
        if not files:
            raise Unfit(f"{source}: nothing of it is in the cache {self.cache}")
        found = choose(source.repo, files, source.pick, formats)
        if found.format == "safetensors":
            self._ensure_indexed(source, commit, files)
        return self.local(source, commit, found, files)

    def local(self, source: Source, commit: str, choice: Choice, sizes: Mapping[str, int]) -> Local:
        """The model as it lies, or will lie, in the snapshot of `commit`."""
        total = sum(sizes[name] for name in choice.weights)
        return Local(source, commit, choice.format, self.snapshot(commit) / choice.main, total)

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def _commit_at(self, revision: str) -> str | None:
        try:
            commit = (self.folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            return None
        return commit if commit and all(part not in commit for part in ("/", "..", "\0")) else None

    def _files(self, commit: str) -> dict[str, int]:
        """Names and sizes; only what lies in the cache itself, wherever links point."""
        snapshot, within = self.snapshot(commit), os.path.realpath(self.cache)
        found: dict[str, int] = {}
        for folder, _, names in os.walk(snapshot):
            for name in names:
                path = Path(folder, name)
                real = os.path.realpath(path)
                if os.path.isfile(real) and Path(real).is_relative_to(within):
                    found[path.relative_to(snapshot).as_posix()] = os.path.getsize(real)
        return found

    def _ensure_indexed(self, source: Source, commit: str, files: Mapping[str, int]) -> None:
        """Every shard that the index names is there, and the model's configuration is. An index of
        which no shard is there is that of other weights, from which quants were made."""
        wanted = {"config.json"}
        if files.get(INDEX, _INDEX_BYTES + 1) <= _INDEX_BYTES:
            try:
                index = json.loads((self.snapshot(commit) / INDEX).read_bytes())
                named = {str(name) for name in index["weight_map"].values()}
                wanted |= set() if named.isdisjoint(files) else named
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise Unfit(f"{source}: {INDEX} in the cache cannot be read: {error}") from error
        if missing := sorted(wanted - set(files)):
            raise Unfit(f"{source}: {', '.join(missing[:5])} is not in the cache {self.cache}")

    # -- filling ----------------------------------------------------------------------------

    def make(self) -> None:
        """The folder is there and can be written to."""
        for folder in (self.folder / "blobs", self._locks):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LoadFailed(
                    f"{folder} cannot be made: {error.strerror}; set [hub] cache_dir, or HF_HOME, "
                    "to a folder that can be written to"
                ) from error

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """Where the content grows until it is whole. Tools that clear caches know the suffix."""
        return self.folder / "blobs" / f"{digest}.incomplete"

    def lock(self, digest: str) -> int | None:
        """The lock on a content, as a file descriptor to close; None when somebody else has it."""
        descriptor = os.open(self._locks / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        return descriptor

    def keep(self, digest: str) -> None:
        """The partial content, which is whole and verified, becomes the content."""
        partial = self.partial(digest)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, self.blob(digest))
        _sync(partial.parent)

    def link(self, commit: str, names: Iterable[tuple[str, str]]) -> None:
        """The snapshot has these names, with the digests of their contents, in this order. Whoever
        looks meanwhile sees the first of them only: the ones that make a model come last."""
        for name, digest in names:
            pointer = self.snapshot(commit) / name
            pointer.parent.mkdir(parents=True, exist_ok=True)
            target = os.path.relpath(self.blob(digest), pointer.parent)
            fresh = pointer.with_name(f".{digest[:16]}.{os.getpid()}.link")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(target)
            os.replace(fresh, pointer)
            _sync(pointer.parent)

    def note(self, revision: str, commit: str) -> None:
        """The branch or tag is known to be at `commit`."""
        path = self.folder / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_text(commit)
        os.replace(fresh, path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
