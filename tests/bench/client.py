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
_DONE: Final = b"data: [DONE]"
_LONGEST_END: Final = 512  # end mark, last chunk and trailers


@dataclass(frozen=True, slots=True)
class Burst:
    """Some streams at once: all their tokens, the time from the first byte sent to the last
    stream's end, and each stream's time to its first word."""

    tokens: int
    wall_s: float
    first_s: tuple[float, ...]

    @property
    def speed(self) -> float:
        return self.tokens / self.wall_s


@dataclass(slots=True)
class _Stream:
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


def request(host: str, body: bytes) -> bytes:
    """A chat request for `body`, as bytes."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def burst(address: tuple[str, int], bodies: Sequence[bytes]) -> Burst:
    """Each body is one stream, all at once, on connections that are already open."""
    host = f"{address[0]}:{address[1]}"
    requests = [request(host, body) for body in bodies]
    with selectors.DefaultSelector() as ready:
        streams = [_Stream(socket.create_connection(address)) for _ in bodies]
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
    tokens = sum(_tokens(b"".join(stream.data)) for stream in streams)
    return Burst(tokens, wall_s, tuple((stream.first_at or began) - began for stream in streams))


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


def _tokens(answer: bytes) -> int:
    counts = _TOKENS.findall(answer)
    if not answer.startswith(b"HTTP/1.1 200 ") or _DONE not in answer or not counts:
        raise RuntimeError(f"no whole answer, but {answer[:300]!r} ... {answer[-300:]!r}")
    return int(counts[-1])
