"""What the tests of a neuron say to it, and how they look at it from outside."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httptools
import httpx
import msgspec
import trio

from cortex.config.limits import Limits
from cortex.config.neuron import Admission, NeuronConfig, NeuronEviction
from tests.fake_web import Client, ask
from tests.roles import Running

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EVENTS = "/fleet/events"


def hello(model: str = "a", **more: object) -> Json:
    """A small chat; greedy, so that a real engine repeats itself."""
    return {"model": model, "messages": [{"role": "user", "content": "one two"}], "temperature": 0, **more}


def settings(
    *,
    slots: int = 4,
    queue: int = 64,
    wait_s: float = 60.0,
    young_s: float = 0.0,
    drain_s: float = 5.0,
    **more,
) -> NeuronConfig:
    """A neuron's configuration, with models that may leave at once."""
    return replace(
        NeuronConfig(),
        admission=Admission(slots, queue, wait_s),
        eviction=NeuronEviction(min_residency_s=young_s),
        limits=Limits(drain_s=drain_s),
        **more,
    )


def fault_of(answer: httpx.Response) -> Json:
    """The error object of a refusal."""
    return answer.json()["error"]


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


async def load_of(role: Running, model: str) -> Json:
    """What /health says that `model` has to do: in_flight and queue above all."""
    models = (await role.http.get("/health")).json()["models"]
    return next((row for row in models if row["id"] == model), {})


async def figures(role: Running) -> dict[str, tuple[int, int]]:
    """Seats taken and requests waiting, by resident model."""
    models = (await role.http.get("/health")).json()["models"]
    return {row["id"]: (row["in_flight"], row["queue"]) for row in models}


async def residents(role: Running) -> dict[str, Json]:
    """The rows of GET /models by id."""
    return {row["id"]: row for row in (await role.http.get("/models")).json()["models"]}


@dataclass
class Answered:
    """One answer as it came over a socket: a stream's events are in `data`."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    @property
    def data(self) -> list[str]:
        return events(self.body)


def events(body: bytes) -> list[str]:
    """The data of each event of a stream; comments are left out."""
    return [line[6:] for line in body.decode().split("\n\n") if line.startswith("data: ")]


class Caller:
    """A client with a socket of its own: it can leave in every way, and sees the trailers."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.answer = Answered()
        self._parser = httptools.HttpResponseParser(self)

    async def ask(self, path: str, body: Mapping[str, object] | bytes, **headers: str) -> None:
        """The whole request is sent."""
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    async def until(self, part: bytes) -> None:
        """`part` has come."""
        while part not in self.answer.body:
            await self._more()

    async def all(self) -> Answered:
        """The whole answer, or what there was before the neuron closed."""
        while not self.answer.complete and await self._more():
            pass
        return self.answer

    async def leave(self, how: str = "fin") -> None:
        """Hang up: in order, by a reset, or behind bytes that were sent ahead."""
        if how == "rst":
            self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif how == "ahead":
            await self.stream.send_all(b"\r\nGET /health HTTP/1.1\r\n")
        elif how == "half":
            await self.stream.send_eof()
            return
        await self.stream.aclose()

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        if data:
            self._parser.feed_data(data)
        return bool(data)

    # -- what the parser says

    def on_header(self, name: bytes, value: bytes) -> None:
        into = self.answer.trailers if self.answer.status else self.answer.headers
        into[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.answer.body += data

    def on_message_complete(self) -> None:
        self.answer.complete = True


@asynccontextmanager
async def calling(role: Running) -> AsyncIterator[Caller]:
    """A client with a connection of its own."""
    host, _, port = role.url.removeprefix("http://").partition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        yield Caller(stream)


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> None:
    """`holds` becomes true `within_s`: a bound of the contract, not of the test."""
    with trio.fail_after(within_s):
        while not await holds():  # noqa: ASYNC110 - asked over HTTP: there is no event on this side
            await trio.sleep(0.005)


@dataclass
class Reader:
    """One who listens to a gateway's events; `ids` are those of the events that it read."""

    client: Client
    ids: list[str] = field(default_factory=list)

    async def next(self) -> Json:
        """The next event, keep-alives aside."""
        while True:
            await self.client.until(b"\r\n")  # the size of the chunk
            chunk = await self.client.until(b"\r\n")
            if not chunk.startswith(b":"):
                break
        fields = dict(line.split(b": ", 1) for line in chunk.strip().split(b"\n"))
        event = msgspec.json.decode(fields[b"data"])
        self.ids.append(fields[b"id"].decode())
        assert fields[b"event"].decode() == event["type"]
        return event

    async def until(self, kind: str, **facts: object) -> Json:
        """An event of that kind has come, and is so."""
        while True:
            event = await self.next()
            if event["type"] == kind and facts.items() <= event.items():
                return event


async def read_events(client: Client, **headers: str) -> Reader:
    """GET /fleet/events."""
    await client.send(ask(EVENTS, b"", "GET", **headers))
    head = await client.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"text/event-stream" in head and b"no-cache" in head
    return Reader(client)
