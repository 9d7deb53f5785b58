"""Asks the hub: which files a repo has, and for their bytes.

One GET at a time, redirects by hand: the token goes to the hub's own scheme, host and port
and nowhere else. Library errors end here, as `Cut` when another try may help, else as a
`CortexError`. Cancelled anywhere, the connection is closed and nothing is left.
"""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

import httpx
import msgspec
import trio

from cortex import __version__
from cortex.errors import LoadFailed, Unfit
from cortex.hub.names import refuse_hostile
from cortex.hub.refusals import Cut, of, unusable
from cortex.hub.settings import Settings, is_address
from cortex.hub.source import Source

CONNECT_S: Final = 10.0
# No byte for so long is a connection that is gone.
STALL_S: Final = 30.0
REDIRECTS: Final = 5
# The largest listings, of repos with ten thousand files, have some MiB.
LISTING_BYTES: Final = 32 * 2**20
# What is gathered before a thread writes it; on a slow line what came in so many seconds.
CHUNK: Final = 2**20
GATHER_S: Final = 0.25

Take = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """`digest` is its SHA-256 when `sha256`, else that of git, which hashes small files by SHA-1."""

    name: str
    bytes: int
    digest: str
    sha256: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repo has at a commit."""

    commit: str
    files: dict[str, RemoteFile]

    @property
    def sizes(self) -> dict[str, int]:
        return {file.name: file.bytes for file in self.files.values()}


class _Lfs(msgspec.Struct, frozen=True):
    sha256: str = ""
    size: int = 0


class _Sibling(msgspec.Struct, frozen=True, rename={"name": "rfilename", "blob": "blobId"}):
    name: str
    size: int | None = None
    blob: str = ""
    lfs: _Lfs | None = None
    type: str = "file"


class _Model(msgspec.Struct, frozen=True):
    sha: str
    siblings: list[_Sibling] = []


class Client:
    """The hub for the time of one download."""

    def __init__(self, settings: Settings, http: httpx.AsyncClient) -> None:
        self._settings, self._http = settings, http

    async def listing(self, source: Source) -> Listing:
        """The repo's files at the commit where the revision is now."""
        url = f"{self._settings.endpoint}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}"
        said = bytearray()

        async def take(piece: bytes) -> None:
            said.extend(piece)
            if len(said) > LISTING_BYTES:
                raise Unfit(f"{source.repo} lists more files than any model has; nothing of it is downloaded")

        async with self._answer(source, f"{url}?blobs=true", "its list of files") as answer:
            await self._read(answer, take)
        try:
            model = msgspec.json.decode(said, type=_Model)
        except (ValueError, RecursionError) as error:
            raise LoadFailed(
                f"{self._settings.endpoint} lists {source.repo} in no known form: {error}"
            ) from error
        return _listing(source, model)

    async def bytes_of(self, source: Source, commit: str, file: RemoteFile, start: int, into: "Into") -> None:
        """The bytes from `start` on are taken; from 0 when the hub does not do parts."""
        url = f"{self._settings.endpoint}/{source.repo}/resolve/{commit}/{quote(file.name)}"
        span = {"range": f"bytes={start}-"} if start else {}
        async with self._answer(source, url, file.name, span) as answer:
            await into.begin(_start_of(answer, start, file))
            await self._read(answer, into.take)

    @asynccontextmanager
    async def _answer(
        self, source: Source, url: str, what: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer that is no redirect; a refusal is raised."""
        target = httpx.URL(url)
        home = _origin(target)
        for _ in range(REDIRECTS + 1):
            sent = {**(headers or {}), "accept-encoding": "identity"}
            if self._settings.token is not None and _origin(target) == home:
                sent["authorization"] = f"Bearer {self._settings.token}"
            async with self._stream(target, sent) as answer:
                if answer.status_code in (301, 302, 303, 307, 308) and "location" in answer.headers:
                    target = self._next(target, answer.headers["location"])
                    continue
                if answer.status_code not in (200, 206):
                    if _origin(target) != home:
                        # An address that the hub gave is good for minutes: the next try gets another.
                        raise Cut(f"{target.host} answers with status {answer.status_code}")
                    refusal = of(source, self._settings, answer.status_code, answer.headers, what)
                    raise refusal
                yield answer
                return
        raise LoadFailed(f"{self._settings.endpoint} redirects in circles for {what} of {source.repo}")

    def _next(self, target: httpx.URL, location: str) -> httpx.URL:
        try:
            to = target.join(location)
        except httpx.InvalidURL:
            to = httpx.URL("")
        if not is_address(str(to)) or (target.scheme == "https" and to.scheme == "http"):
            # Not echoed: such an address may be signed.
            raise LoadFailed(f"{self._settings.endpoint} redirects to an address that is not safe to follow")
        return to

    @asynccontextmanager
    async def _stream(self, target: httpx.URL, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream("GET", target, headers=headers) as answer:
                yield answer
        except httpx.TimeoutException as error:
            raise Cut(f"{target.host} did not answer in time ({type(error).__name__})") from error
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise Cut(
                f"the connection to {target.host} broke: {str(error) or type(error).__name__}"
            ) from error

    async def _read(self, answer: httpx.Response, take: Take) -> None:
        """Every byte as it came is taken; an error of `take` is raised.

        Cancelled from within rather than left: so the library's own generators are all unwound.
        """
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise LoadFailed(
                f"{self._settings.endpoint} encodes what it sends, unasked; is a proxy in between?"
            )
        failed: list[Exception] = []
        gathered = bytearray()

        async def hand_over() -> None:
            # Shielded, since a cancellation must be felt by the library and not here.
            with trio.CancelScope(shield=True):
                try:
                    await take(bytes(gathered))
                except Exception as error:  # noqa: BLE001 - raised below
                    failed.append(error)
            gathered.clear()

        began = trio.current_time()
        try:
            with trio.CancelScope() as enough:
                async for piece in answer.aiter_raw():
                    if failed:
                        enough.cancel()
                        continue
                    gathered += piece
                    if len(gathered) >= CHUNK or trio.current_time() - began >= GATHER_S:
                        await hand_over()
                        began = trio.current_time()
        finally:
            # Also what came before a break counts: the next try goes on from there.
            if gathered and not failed:
                await hand_over()
        if failed:
            raise failed[0]


class Into(Protocol):
    """Where the bytes of a file go."""

    async def begin(self, at: int) -> None:
        """What is there beyond `at` is forgotten; bytes from there on follow."""

    async def take(self, piece: bytes) -> None: ...


@asynccontextmanager
async def open_client(settings: Settings) -> AsyncIterator[Client]:
    """Proxies of the environment are used, as by all tools of the hub."""
    timeout = httpx.Timeout(STALL_S, connect=CONNECT_S)
    headers = {"user-agent": f"cortex/{__version__}"}
    try:
        http = httpx.AsyncClient(timeout=timeout, headers=headers, follow_redirects=False)
    except (httpx.InvalidURL, ImportError, ValueError, OSError) as error:
        raise unusable(error) from error
    async with http:
        yield Client(settings, http)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _start_of(answer: httpx.Response, asked: int, file: RemoteFile) -> int:
    """Where in the file the bytes of an answer begin."""
    if answer.status_code == 200:
        return 0
    told = answer.headers.get("content-range", "").removeprefix("bytes ").partition("/")
    begin = told[0].partition("-")[0]
    if begin != str(asked) or told[2] not in (str(file.bytes), "*"):
        raise Cut(f"a part of {file.name} was asked for and another one came")
    return asked


def _listing(source: Source, model: _Model) -> Listing:
    if not (len(model.sha) == 40 and model.sha.isalnum() and model.sha.isascii()):
        raise LoadFailed(f"the hub names no commit of {source.repo}; is it one of models?")
    refuse_hostile(source.repo, (sibling.name for sibling in model.siblings))
    files: dict[str, RemoteFile] = {}
    for sibling in model.siblings:
        if sibling.type != "file":
            raise Unfit(
                f"{source.repo} lists {sibling.name!r} as a {sibling.type}; nothing of a repo is downloaded "
                "that holds other things than plain files"
            )
        sha256 = sibling.lfs is not None
        digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob
        size = sibling.lfs.size if sibling.lfs is not None else sibling.size
        if (size or 0) < 0:
            raise LoadFailed(f"the hub lists {sibling.name} of {source.repo} with {size} bytes; is it a hub?")
        files[sibling.name] = RemoteFile(sibling.name, size or 0, digest.lower(), sha256)
    return Listing(model.sha.lower(), files)


def ensure_digests(source: Source, files: list[RemoteFile]) -> None:
    """The hub told a digest of each: without one nothing could be checked."""
    for file in files:
        if len(file.digest) != (64 if file.sha256 else 40) or not set(file.digest) <= set("0123456789abcdef"):
            raise Unfit(
                f"the hub tells no digest of {file.name} of {source.repo}, so nobody could tell whether it "
                "came whole; use an endpoint that does"
            )
