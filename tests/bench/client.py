"""A client as light as can be: raw sockets, one selector, no HTTP library.

Reads event streams to their end and keeps only what a benchmark wants: when the first word
came, and how many tokens the usage at the end tells. Anything but a whole stream of good
events is an error, so that a fast failure never counts as speed.
"""

import json
import re
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

BLOCK: Final = 65536
PATIENCE_S: Final = 120.0
_TOKENS: Final = re.compile(rb'"completion_tokens":\s*(\d+)')
_PROMPT: Final = re.compile(rb'"prompt_tokens":\s*(\d+)')
_CACHED: Final = re.compile(rb'"cached_tokens":\s*(\d+)')
_DONE: Final = b"data: [DONE]"
_LONGEST_END: Final = 512  # end mark, last chunk and trailers


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer: its tokens, those of the prompt that were not cached, and when its first word came."""

    tokens: int
    read: int
    first_s: float


@dataclass(frozen=True, slots=True)
class Burst:
    """Some streams at once, timed from the first byte sent to the last stream's end."""

    streams: tuple[Stream, ...]
    wall_s: float

    @property
    def tokens(self) -> int:
        return sum(stream.tokens for stream in self.streams)

    @property
    def first_s(self) -> tuple[float, ...]:
        return tuple(stream.first_s for stream in self.streams)

    @property
    def speed(self) -> float:
        return self.tokens / self.wall_s

    @property
    def prefill_speed(self) -> float:
        """Tokens of prompts a second, to the end of all: for answers of one token."""
        return sum(stream.read for stream in self.streams) / self.wall_s


@dataclass(slots=True)
class _Listened:
    sock: socket.socket
    first_at: float | None = None
    data: list[bytes] = field(default_factory=list)
    tail: bytes = b""

    def hear(self, data: bytes) -> bool:
        """Whether the stream is complete."""
        if self.first_at is None and b"data:" in data:
            self.first_at = time.perf_counter()
        self.data.append(data)
        self.tail = (self.tail + data)[-_LONGEST_END:]
        return not data or (self.tail.endswith(b"\r\n\r\n") and _DONE in self.tail)

    def told(self, began: float) -> Stream:
        answer = b"".join(self.data)
        counts = [pattern.findall(answer) for pattern in (_TOKENS, _PROMPT, _CACHED)]
        whole = answer.startswith(b"HTTP/1.1 200 ") and _DONE in answer
        if not whole or not counts[0] or not counts[1] or self.first_at is None:
            raise RuntimeError(f"no whole answer, but {answer[:300]!r} ... {answer[-300:]!r}")
        made, prompt, cached = (int(found[-1]) if found else 0 for found in counts)
        return Stream(made, prompt - cached, self.first_at - began)


def request(host: str, body: bytes) -> bytes:
    """A chat request for `body`, as bytes."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def burst(address: tuple[str, int], bodies: Sequence[bytes]) -> Burst:
    """Each body is one stream, all at once, on connections that are already open."""
    host = f"{address[0]}:{address[1]}"
    requests = [request(host, body) for body in bodies]
    with selectors.DefaultSelector() as ready:
        streams = [_Listened(socket.create_connection(address)) for _ in bodies]
        try:
            for stream in streams:
                stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ready.register(stream.sock, selectors.EVENT_READ, stream)
            began = time.perf_counter()
            for stream, said in zip(streams, requests, strict=True):
                stream.sock.sendall(said)
            _listen(ready)
            wall_s = time.perf_counter() - began
        finally:
            for stream in streams:
                stream.sock.close()
    return Burst(tuple(stream.told(began) for stream in streams), wall_s)


def ask(
    address: tuple[str, int], path: str, body: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    """The JSON that GET `path` answers with, or POST with a `body`. OSError while nobody listens."""
    method, data = ("GET", b"") if body is None else ("POST", json.dumps(body).encode())
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection(address, PATIENCE_S) as sock:
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode() + data)
        data = b"".join(iter(lambda: sock.recv(BLOCK), b""))
    if not data.startswith(b"HTTP/1.1 200 "):
        raise OSError(f"{method} {path} was answered with {data[:500]!r}")
    body = data.partition(b"\r\n\r\n")[2]
    said: Mapping[str, object] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return said


def _listen(ready: selectors.BaseSelector) -> None:
    while ready.get_map():
        events = ready.select(PATIENCE_S)
        if not events:
            raise TimeoutError(f"nothing was said for {PATIENCE_S:.0f} s")
        for key, _ in events:
            if key.data.hear(key.data.sock.recv(BLOCK)):
                ready.unregister(key.data.sock)
