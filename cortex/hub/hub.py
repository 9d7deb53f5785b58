"""The hub as callers see it: what is in the cache, and bringing what is not.

A look into the cache asks nobody. A download asks the hub what it has first, so that what
cannot be loaded here, is not clear, or is too large for the disk is refused before any byte
of it. One `Hub` for all downloads of a process: together they leave the disk its room.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from trio.to_thread import run_sync as in_thread

from cortex.config.hub import HubConfig
from cortex.errors import CortexError, LoadFailed, Unfit
from cortex.hub.choice import Choice, Format, choose
from cortex.hub.client import Client, Listing, RemoteFile, ensure_digests, open_client
from cortex.hub.refusals import Cut
from cortex.hub.settings import Settings, cache_of, settle
from cortex.hub.source import Source
from cortex.hub.transfer import Transfer, length
from cortex.hub.tree import Local, Tree
from cortex.hub.tries import PAUSES_S, Tries
from cortex.units import size

log = logging.getLogger(__name__)

Phase: TypeAlias = Literal["download", "verify"]
# Is told the phase, and how many bytes of how many are through it, over all files.
Tell: TypeAlias = Callable[[Phase, int, int], None]


def free_bytes(folder: Path) -> int:
    """What is free for us on the disk of `folder`."""
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be brought, from which client."""

    client: Client
    source: Source
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class _Told:
    """The progress of one file among all: `before` bytes of `total` are through already. What is
    `owed` for its `blob` is kept true."""

    tell: Tell
    file: RemoteFile
    blob: Path
    before: int
    total: int
    owed: dict[Path, int]

    def downloaded(self, done: int) -> None:
        self.owed[self.blob] = self.file.bytes - done
        self.tell("download", self.before + done, self.total)

    def verified(self, done: int) -> None:
        self.tell("verify", self.before + done, self.total)


class Hub:
    """Downloads of one process. `free` and `pauses_s` are for tests."""

    def __init__(
        self,
        config: HubConfig,
        *,
        free: Callable[[Path], int] = free_bytes,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._config, self._free, self._pauses_s = config, free, pauses_s
        # What running downloads are still going to write, each by content.
        self._owed: list[dict[Path, int]] = []

    def cached(self, source: Source, formats: Sequence[Format]) -> Local | None:
        """The model, if the cache has it whole. No network; touches the disk: for a thread."""
        try:
            return Tree(cache_of(self._config), source.repo).find(source, formats)
        except Unfit:
            return None

    async def fetch(
        self,
        source: Source,
        formats: Sequence[Format],
        tell: Tell,
        planned: Callable[[int], None] = lambda weights_bytes: None,
    ) -> Local:
        """The model as the hub has it now is in the cache, whole and verified. A commit that is
        there already is not asked for. `planned` is told the bytes of the weights before anything
        is fetched, and may raise. Cancelled or failed, what came is kept for the next time, and no
        half model is seen."""
        settings = await in_thread(settle, self._config)
        tree = Tree(settings.cache, source.repo)
        if source.pinned or settings.offline is not None:
            try:
                return await in_thread(tree.find, source, formats)
            except Unfit as missing:
                if settings.offline is not None:
                    raise _offline(source, settings, missing) from missing
        async with open_client(settings) as client:
            listing = await self._listing(client, source, settings)
            choice = choose(source.repo, listing.sizes, source.pick, formats)
            files = [listing.files[name] for name in (*choice.beside, *choice.weights)]
            ensure_digests(source, files)
            planned(sum(listing.files[name].bytes for name in choice.weights))
            await in_thread(tree.make)
            # Several names may have one content.
            distinct = tuple({file.digest: file for file in files}.values())
            await self._bring(tree, _Job(client, source, listing.commit, distinct), tell)
        return await in_thread(_finish, tree, source, listing, choice)

    async def _listing(self, client: Client, source: Source, settings: Settings) -> Listing:
        remedy = "see whether this host reaches it, perhaps by a proxy (HTTPS_PROXY), or set [hub] endpoint"
        tries = Tries(f"the list of files of {source}", remedy, self._pauses_s)
        while True:
            try:
                return await client.listing(source)
            except Cut as cut:
                await tries.again(cut)

    async def _bring(self, tree: Tree, job: _Job, tell: Tell) -> None:
        total, done = sum(file.bytes for file in job.files), 0
        owed, free = await in_thread(_missing, tree, job.files), await in_thread(self._free, tree.folder)
        # No await from here until the room is ours: another download would be promised the same.
        self._ensure_room(tree, job.source, owed, free)
        self._owed.append(owed)
        need = sum(owed.values())
        log.info("hub.download source=%s commit=%s bytes=%d of=%d", job.source, job.commit, need, total)
        try:
            for file in job.files:
                if (blob := tree.blob(file.digest)) in owed:
                    told = _Told(tell, file, blob, done, total, owed)
                    transfer = Transfer(job.client, tree, job.source, job.commit, told, self._pauses_s)
                    await transfer.bring(file)
                done += file.bytes
        finally:
            self._owed = [other for other in self._owed if other is not owed]

    def _ensure_room(self, tree: Tree, source: Source, owed: Mapping[Path, int], free: int) -> None:
        # What two want is written once.
        running = {blob: left for each in self._owed for blob, left in each.items()}
        need = sum(left for blob, left in owed.items() if blob not in running)
        others = sum(running.values())
        free = max(0, free - others)
        if need > free:
            beside = f" (beside other downloads, which still need {size(others)})" if others else ""
            raise Unfit(
                f"{source} needs {size(need)} ({need} bytes) more on the disk of {tree.cache}, where "
                f"{size(free)} ({free} bytes) are free{beside}: make room there, or set [hub] cache_dir",
                facts={"needed_bytes": need, "free_bytes": free},
            )


def _missing(tree: Tree, files: Sequence[RemoteFile]) -> dict[Path, int]:
    """The bytes that are yet to come of each content that the cache has not whole."""
    absent = {tree.blob(file.digest): file for file in files if not tree.blob(file.digest).exists()}
    return {blob: max(0, file.bytes - length(tree.partial(file.digest))) for blob, file in absent.items()}


def _finish(tree: Tree, source: Source, listing: Listing, choice: Choice) -> Local:
    """Every file is here: the snapshot shows them, the weights last."""
    names = (*choice.beside, *choice.weights)
    try:
        tree.link(listing.commit, ((name, listing.files[name].digest) for name in names))
        if not source.pinned:
            tree.note(source.revision, listing.commit)
    except OSError as error:
        raise LoadFailed(
            f"the snapshot of {source} cannot be written to {tree.folder}: {error.strerror or error}; the "
            "cache needs a folder of ours on a disk that knows links"
        ) from error
    return tree.local(source, listing.commit, choice, listing.sizes)


def _offline(source: Source, settings: Settings, missing: CortexError) -> Unfit:
    return Unfit(
        f"{missing.message}; nothing is downloaded since {settings.offline}: get it with "
        f"'cortex models pull {source}' where there is a network, into this cache"
    )
