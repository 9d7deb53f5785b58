"""A site that does what it is told by the `x-do` header, alike on both corridors, and a raw client.

`Stage` remembers which handlers began and how they were left. The inference routes are
`/v1/chat/completions` and `/v1/messages`; the control route is `/control` of a real
quart-trio application.
"""

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import msgspec
import quart
import trio
from quart_trio import QuartTrio
from trio.testing import memory_stream_pair

from cortex.config.limits import Limits
from cortex.errors import CortexError, EngineFailed, Loading
from cortex.web import faults
from cortex.web.connection import Reply, Request
from cortex.web.control import Control
from cortex.web.door import Door, Route, Site
from cortex.web.guard import Policy, Scope
from cortex.web.hall import Hall
from cortex.web.line import Line
from cortex.web.reactor import Reactor
from cortex.web.visit import Visit

CHAT, MESSAGES, CONTROL = "/v1/chat/completions", "/v1/messages", "/control"
KINDS = (CHAT, CONTROL)
LOCAL = Policy(trusted_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
EVENT = b'data: {"n": 1}\n\n'
DONE = b"data: [DONE]\n\n"
BLOB = b"data: " + b"x" * 65536 + b"\n\n"


def scope_of(_method: str, path: str) -> Scope:
    if path in ("/livez", "/readyz"):
        return "open"
    return "admin" if path.startswith("/admin") else "inference"


@dataclass
class Stage:
    """What the handlers did. `left` holds the `x-do` of each that was cancelled."""

    began: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    go_on: trio.Event = field(default_factory=trio.Event)
    _news: trio.Event = field(default_factory=trio.Event)

    def note(self, where: list[str], what: str) -> None:
        where.append(what)
        self._news.set()
        self._news = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()


async def pieces(stage: Stage, what: str) -> AsyncIterator[bytes]:
    """The events of one stream, and its end or fault."""
    stage.note(stage.began, what)
    over = False
    try:
        yield EVENT
        if what == "hang":
            await trio.sleep_forever()
        if what == "pause":
            await stage.go_on.wait()
        if what == "minute":
            await trio.sleep(3600)
        while what == "flood":
            yield BLOB
        if what == "fail-late":
            raise EngineFailed("The engine broke.")
        if what == "bug-late":
            raise ZeroDivisionError("a bug")
        yield DONE
        over = True
    finally:
        if not over:
            stage.note(stage.left, what)


async def plain(stage: Stage, what: str) -> None:
    """Before any byte of an answer."""
    if what == "fail-early":
        raise Loading("The model is being loaded.", retry_after_s=1.2)
    if what == "bug-early":
        raise ZeroDivisionError("a bug that names /secret/path")
    if what == "bug-on-cancel":
        stage.note(stage.began, what)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError("a bug in cleaning up")
    if what == "wait":
        stage.note(stage.began, what)
        try:
            await trio.sleep_forever()
        finally:
            stage.note(stage.left, what)


STREAMS = ("hang", "pause", "minute", "flood", "stream", "fail-late", "bug-late")


def facts(request: Request) -> bytes:
    return msgspec.json.encode(
        {
            "path": request.path,
            "query": request.query,
            "peer": request.peer,
            "caller": request.caller,
            "id": request.id,
            "length": len(request.body),
            "cookies": request.headers.all("cookie"),
        }
    )


def handler(stage: Stage):
    async def handle(request: Request, reply: Reply) -> None:
        what = request.headers.get("x-do") or "echo"
        await plain(stage, what)
        if what in STREAMS:
            await reply.start(trailers=["x-cortex-usage"])
            async with aclosing(pieces(stage, what)) as said:
                async for piece in said:
                    await reply.write(piece)
            await reply.end([("x-cortex-usage", "1,0,1")])
        elif what == "half":
            await reply.start()
            await reply.write(EVENT)
        elif what == "half-json":
            await reply.start(content_type="application/json")
            await reply.write(b'{"a": ')
            raise EngineFailed("The engine broke.")
        elif what == "twice":
            await reply.whole(200, b"{}")
            await reply.whole(200, b"{}")
        elif what == "inject":
            await reply.whole(200, b"{}", [("x-a", "b\r\nx-evil: 1")])
        elif what != "silent":
            stage.note(stage.began, what)
            stage.bodies.append(request.body)
            await reply.whole(200, facts(request))

    return handle


def control_app(stage: Stage) -> QuartTrio:
    app = QuartTrio("control", static_folder=None)
    app.config.update(RESPONSE_TIMEOUT=None, BODY_TIMEOUT=None, MAX_CONTENT_LENGTH=None)

    @app.route(CONTROL, methods=["GET", "POST"])
    async def control() -> quart.Response:
        request = quart.request
        what = request.headers.get("x-do") or "echo"
        await plain(stage, what)
        if what in STREAMS:
            return quart.Response(pieces(stage, what), content_type="text/event-stream")
        body = await request.get_data()
        stage.note(stage.began, what)
        stage.bodies.append(body)
        told = {
            "path": request.path,
            "query": request.query_string.decode(),
            "peer": request.remote_addr,
            "id": request.headers["x-request-id"],
            "length": len(body),
            "cookies": request.headers.getlist("cookie"),
        }
        return quart.Response(msgspec.json.encode(told), content_type="application/json")

    @app.get("/livez")
    async def livez() -> str:
        return "ok"

    @app.errorhandler(CortexError)
    async def named(error: CortexError) -> quart.Response:
        answer = faults.response(error, "openai", quart.request.headers["x-request-id"])
        return quart.Response(
            answer.body, answer.status, dict(answer.headers), content_type="application/json"
        )

    return app


def make_site(stage: Stage, policy: Policy = LOCAL) -> Site:
    routes = {
        CHAT: Route(CHAT, handler(stage), "openai"),
        MESSAGES: Route(MESSAGES, handler(stage), "anthropic"),
    }
    return Site(routes, control_app(stage), policy, scope_of)


@dataclass
class Open:
    """A door that is open."""

    door: Door
    stage: Stage
    host: str
    port: int
    clients: list["Client"] = field(default_factory=list)

    async def dial(self) -> "Client":
        self.clients.append(Client(await trio.open_tcp_stream(self.host, self.port)))
        return self.clients[-1]

    async def dial_narrow(self) -> "Client":
        """A client whose window is as small as the kernel allows."""
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((self.host, self.port))
        self.clients.append(Client(trio.SocketStream(sock)))
        return self.clients[-1]

    async def until_connections(self, count: int) -> None:
        """The door has noticed who left."""
        while self.door.connections != count:  # noqa: ASYNC110 - the door tells nobody
            await trio.sleep(0.001)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@asynccontextmanager
async def open_door(policy: Policy = LOCAL, host: str = "127.0.0.1", **limits: float) -> AsyncIterator[Open]:
    stage = Stage()
    door = Door(make_site(stage, policy), replace(Limits(), **limits))
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(door.run, host, 0)
        site = Open(door, stage, bound[0], bound[1])
        try:
            yield site
        finally:
            for client in site.clients:
                await trio.aclose_forcefully(client.stream)
            nursery.cancel_scope.cancel()


def ask(path: str = CHAT, body: bytes = b"{}", method: str = "POST", **headers: str) -> bytes:
    """The bytes of a request."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"host": "127.0.0.1", "content-length": str(len(body)), **given}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def do(what: str, path: str = CHAT, **headers: str) -> bytes:
    return ask(path, x_do=what, **headers)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class Client:
    """A raw socket with a strict reader of answers."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.data = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self.data:
            await self._more()
        end = self.data.index(mark) + len(mark)
        taken, self.data = self.data[:end], self.data[end:]
        return taken

    async def rest(self) -> bytes:
        """Everything until the close."""
        try:
            while True:
                await self._more()
        except EOFError:
            taken, self.data = self.data, b""
            return taken

    async def head(self) -> Answer:
        """The whole answer, or of an event stream the head alone."""
        head = await self.until(b"\r\n\r\n")
        self.data = head + self.data
        if b"text/event-stream" not in head:
            return await self.answer()
        await self.until(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        return Answer(int(lines[0].split(" ")[1]), parse_fields(lines[1:]), b"", {})

    async def answer(self) -> Answer:
        head = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = parse_fields(head[1:])
        status, trailers = int(head[0].split(" ")[1]), {}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.until(b"\r\n"), 16):
                body += await self._exactly(size)
                assert await self._exactly(2) == b"\r\n"
            while (line := await self.until(b"\r\n")) != b"\r\n":
                trailers.update(parse_fields([line.decode().strip()]))
        elif "content-length" in headers:
            body = await self._exactly(int(headers["content-length"]))
        elif status == 204:
            body = b""
        else:
            body = await self.rest()
        return Answer(status, headers, body, trailers)

    async def gone(self) -> bool:
        """Whether the door has closed the connection, with nothing more said."""
        return await self.rest() == b""

    async def close(self) -> None:
        await self.stream.aclose()

    async def _exactly(self, count: int) -> bytes:
        while len(self.data) < count:
            await self._more()
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    async def _more(self) -> None:
        try:
            block = await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            block = b""
        if not block:
            raise EOFError(self.data)
        self.data += block


def parse_fields(lines: list[str]) -> dict[str, str]:
    pairs = [line.split(": ", 1) for line in lines if line]
    assert len({name.lower() for name, _ in pairs}) == len(pairs), f"a header is there twice: {lines}"
    return {name.lower(): value for name, value in pairs}


def reset(client: Client) -> None:
    """The client vanishes with a reset."""
    sock = client.stream.socket
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def open_visit(policy: Policy = LOCAL, **limits: float) -> AsyncIterator[tuple[Client, Stage]]:
    """One visit over a stream in memory, for tests that own the clock."""
    stage = Stage()
    chosen = replace(Limits(), **limits)
    site = make_site(stage, policy)
    ours, theirs = memory_stream_pair()
    visit = Visit(
        Line(theirs, chosen.stall_s), "127.0.0.1", Hall(site, chosen, Control(site.app, chosen), Reactor())
    )

    async def run() -> None:
        await visit.run()
        await visit.cut()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Client(ours), stage
        nursery.cancel_scope.cancel()
