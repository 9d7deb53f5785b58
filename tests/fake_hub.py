"""A hub of models that speaks the real HTTP protocol on loopback, and a CDN on another port.

Weights are large files there: the hub redirects to the CDN for them, as the real one does;
everything else it sends itself. Faults are asked for by the path's ending: a cut after some
bytes, a status with headers, other bytes than promised, a halt in the middle of a file.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote

import trio

COMMIT = "c0ffee" + "0" * 34
LARGE = (".gguf", ".safetensors", ".bin", ".pth")


@dataclass(frozen=True)
class Seen:
    """A request: to "hub" or "cdn"."""

    host: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("range", "")


@dataclass
class Repo:
    """`files` by name. `told` is what the listing says instead of the truth, by name; `odd` are
    further entries of it. `commits` are those of other revisions than main."""

    files: dict[str, bytes]
    commit: str = COMMIT
    commits: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    told: dict[str, dict[str, object]] = field(default_factory=dict)
    odd: list[dict[str, object]] = field(default_factory=list)

    def siblings(self) -> list[dict[str, object]]:
        return [entry(name, data) | self.told.get(name, {}) for name, data in self.files.items()] + self.odd

    def commit_at(self, revision: str) -> str | None:
        commits = {"main": self.commit, self.commit: self.commit, **self.commits}
        return commits.get(revision) or (revision if revision in self.commits.values() else None)


def entry(name: str, data: bytes) -> dict[str, object]:
    """One file as the hub lists it."""
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if not name.endswith(LARGE):
        return {"rfilename": name, "size": len(data), "blobId": git}
    lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": "f" * 40, "lfs": lfs}


@dataclass
class FakeHub:
    """`repos` by id. Faults are by the ending of a path; each of a list is used once, in order.

    `cuts`: the connection ends after so many bytes of a body. `answers`: status and headers
    instead. `lies`: other bytes are sent. `halts`: the rest of a body waits for the event, after
    so many bytes, and `halted` is set.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    lies: dict[str, list[bytes]] = field(default_factory=dict)
    halts: dict[str, tuple[int, trio.Event]] = field(default_factory=dict)
    halted: trio.Event = field(default_factory=trio.Event)
    whole_only: bool = False
    requests: list[Seen] = field(default_factory=list)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['hub']}"

    def asked(self, ending: str, host: str | None = None) -> list[Seen]:
        """The requests for paths with that ending, in order."""
        return [seen for seen in self.requests if seen.path.endswith(ending) and host in (None, seen.host)]

    # -- one connection

    async def serve(self, host: str, stream: trio.SocketStream) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                try:
                    more = await stream.receive_some()
                except trio.BrokenResourceError:
                    return
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            path = unquote(first.split(" ")[1])
            seen = Seen(host, path.partition("?")[0], headers)
            self.requests.append(seen)
            try:
                if not await self._answer(seen, stream):
                    return
            except trio.BrokenResourceError:
                return

    async def _answer(self, seen: Seen, stream: trio.SocketStream) -> bool:
        """False when the connection is to be closed."""
        if (wanted := _take(self.answers, seen.path)) is not None:
            return await self._say(stream, wanted[0], wanted[1], b"")
        if seen.host == "cdn":
            return await self._content(seen, stream, *seen.path.removeprefix("/").split("/resolve/"))
        if seen.path.startswith("/api/models/"):
            repo_id, _, revision = seen.path.removeprefix("/api/models/").partition("/revision/")
            return await self._list(seen, stream, repo_id, revision)
        repo_id, _, rest = seen.path.removeprefix("/").partition("/resolve/")
        commit, _, name = rest.partition("/")
        if (refusal := self._refusal(seen, repo_id, commit)) is not None:
            return await self._say(stream, *refusal, b"")
        if name not in self.repos[repo_id].files:
            return await self._say(stream, 404, {"X-Error-Code": "EntryNotFound"}, b"")
        if name.endswith(LARGE):
            told = entry(name, self.repos[repo_id].files[name])
            headers = {
                "Location": f"http://127.0.0.1:{self.ports['cdn']}/{repo_id}/resolve/{name}?signature=secret",
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(told["size"]),
                "X-Linked-ETag": f'"{told["lfs"]["sha256"]}"',
            }
            return await self._say(stream, 302, headers, b"elsewhere")
        return await self._content(seen, stream, repo_id, name)

    def _refusal(self, seen: Seen, repo_id: str, revision: str) -> tuple[int, dict[str, str]] | None:
        repo, sent = self.repos.get(repo_id), seen.headers.get("authorization")
        if repo is None or (repo.token and not repo.gated and sent != f"Bearer {repo.token}"):
            return (
                (401, {"X-Error-Code": "RepoNotFound"})
                if sent is None
                else (404, {"X-Error-Code": "RepoNotFound"})
            )
        if repo.gated and sent != f"Bearer {repo.token}" and "/resolve/" in seen.path:
            return 403 if sent else 401, {"X-Error-Code": "GatedRepo"}
        if repo.commit_at(revision) is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}
        return None

    async def _list(self, seen: Seen, stream: trio.SocketStream, repo_id: str, revision: str) -> bool:
        if (refusal := self._refusal(seen, repo_id, revision)) is not None:
            return await self._say(stream, *refusal, b"")
        repo = self.repos[repo_id]
        model = {"id": repo_id, "sha": repo.commit_at(revision), "siblings": repo.siblings(), "gated": False}
        return await self._say(stream, 200, {"Content-Type": "application/json"}, json.dumps(model).encode())

    async def _content(self, seen: Seen, stream: trio.SocketStream, repo_id: str, name: str) -> bool:
        data = self.repos[repo_id].files[name]
        lie = _take(self.lies, seen.path)
        body = data if lie is None else lie
        start = int(seen.range.removeprefix("bytes=").rstrip("-") or 0)
        if not start or self.whole_only:
            return await self._say(stream, 200, {"ETag": '"x"'}, body, seen.path)
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return await self._say(stream, 206, headers, body[start:], seen.path)

    async def _say(
        self, stream: trio.SocketStream, status: int, headers: dict[str, str], body: bytes, path: str = ""
    ) -> bool:
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n")
        if (cut := _take(self.cuts, path)) is not None:
            await stream.send_all(body[:cut])
            return False
        for ending, (after, go) in self.halts.items():
            if path.endswith(ending) and path:
                await stream.send_all(body[:after])
                self.halted.set()
                await go.wait()
                body = body[after:]
        await stream.send_all(body)
        return True


def _take(faults: dict[str, list], path: str):
    for ending, waiting in faults.items():
        if path and path.endswith(ending) and waiting:
            return waiting.pop(0)
    return None


@asynccontextmanager
async def fake_hub(**repos: Repo) -> AsyncIterator[FakeHub]:
    """A hub with these repos of the organisation `org`."""
    hub = FakeHub({f"org/{name}": repo for name, repo in repos.items()})
    async with trio.open_nursery() as nursery:
        for host in ("hub", "cdn"):
            serve = partial(trio.serve_tcp, partial(hub.serve, host), 0, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            hub.ports[host] = listener.socket.getsockname()[1]
        yield hub
        nursery.cancel_scope.cancel()
