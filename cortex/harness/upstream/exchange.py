"""One request to an upstream and its answer, blocking, on a connection of its own.

Every wait has a moment at which it is over, however slowly bytes drip; `abort` ends it at once
and from any thread. Redirects are not followed, proxies of the environment not used, cookies
not kept, and nothing is decompressed. An error says whether the request can have run.
"""

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from cortex.errors import TooSlow, Unreachable, UpstreamFailed

READ_BYTES: Final = 64 * 1024
# An aborted exchange ends at once, or within connect_s; only a resolver may take longer.
LET_GO_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An upstream: its base URL, and the key that is sent there and nowhere else."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return parts.scheme, parts.hostname or "", port


class Exchange:
    """Used once: `ask`, then `read` or `whole`, then `close`."""

    def __init__(self, endpoint: Endpoint, connect_s: float) -> None:
        self._endpoint, self._connect_s = endpoint, connect_s
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._line: _Line | None = None
        self._aborted = False

    @property
    def headers(self) -> Mapping[str, str]:
        """Of the answer, names in lower case."""
        if self._response is None:
            raise RuntimeError("nothing was asked")
        return {name.lower(): value for name, value in self._response.getheaders()}

    def ask(self, method: str, route: str, body: bytes | None, until: float, **headers: str) -> int:
        """The status of the answer, whose head came before `until` (monotonic seconds). Raises
        Unreachable when nothing can have run, TooSlow or UpstreamFailed when it may have."""
        scheme, host, port = self._endpoint.origin
        self._line = _Line(self._connect(scheme, host, port), until)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self._line
        said = {"connection": "close", **headers}
        if body is not None:
            said["content-type"] = "application/json"
        if self._endpoint.key is not None:
            said["authorization"] = f"Bearer {self._endpoint.key}"
        path = urlsplit(self._endpoint.url).path.rstrip("/")
        try:
            connection.request(method, f"{path}{route}", body, said)
        except OSError as error:
            self._response = _early_refusal(connection)
            if self._response is None:
                raise Unreachable(
                    f"{self._name} hung up while the request was sent: {_why(error)}"
                ) from error
        else:
            with self._faults():
                self._response = connection.getresponse()
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding != "identity":
            raise UpstreamFailed(f"{self._name} answers in an encoding that was not asked for")
        return self._response.status

    def read(self, until: float) -> bytes:
        """More of the body; b"" at its end. Raises TooSlow when nothing comes before `until`."""
        if self._response is None or self._line is None:
            raise RuntimeError("nothing was asked")
        self._line.until = until
        with self._faults():
            return self._response.read1(READ_BYTES)

    def whole(self, most_bytes: int, until: float) -> bytes:
        """The rest of the body. Raises UpstreamFailed for one that is longer than `most_bytes`."""
        pieces: list[bytes] = []
        size = 0
        while piece := self.read(until):
            pieces.append(piece)
            size += len(piece)
            if size > most_bytes:
                raise UpstreamFailed(f"{self._name} answers with more than {most_bytes} bytes")
        return b"".join(pieces)

    def abort(self) -> None:
        """Whatever waits here ends at once, and the upstream sees the hang-up. From any thread."""
        self._aborted = True
        if (sock := self._socket) is not None:
            # The plain method: that of TLS would wait for a farewell.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """The connection is closed."""
        for part in (self._response, self._socket):
            if part is not None:
                with contextlib.suppress(OSError):
                    part.close()

    @property
    def _name(self) -> str:
        return f"The upstream {self._endpoint.url}"

    def _connect(self, scheme: str, host: str, port: int) -> socket.socket:
        try:
            self._socket = socket.create_connection((host, port), self._connect_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                context = ssl.create_default_context()
                # No handshake yet, so that `abort` reaches the socket while it goes on.
                self._socket = context.wrap_socket(
                    self._socket, server_hostname=host, do_handshake_on_connect=False
                )
                self._socket.do_handshake()
        except (OSError, ValueError) as error:  # a name may be none that a resolver can be asked for
            raise Unreachable(f"{self._name} cannot be reached: {_why(error)}") from error
        if self._aborted:
            raise Unreachable(f"{self._name} is not asked: nobody waits for the answer any longer")
        return self._socket

    @contextlib.contextmanager
    def _faults(self) -> Any:  # noqa: ANN401 - a generator
        try:
            yield
        except TimeoutError as error:
            raise TooSlow(f"{self._name} did not answer in time") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UpstreamFailed(f"{self._name} hung up or does not speak HTTP: {_why(error)}") from error


def _early_refusal(connection: http.client.HTTPConnection) -> http.client.HTTPResponse | None:
    """What was answered to a part of the request, if that is a refusal: proxies do not wait for the
    end of a body that is too large for them."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        response = connection.getresponse()
        return response if response.status >= 400 else None
    return None


def let_go(threads: ThreadPoolExecutor, calls: Iterable[Future[Any]]) -> None:
    """The threads have ended, once their exchanges were aborted. One that hangs in the resolver is
    left to end by itself: the place's thread has others to serve."""
    threads.shutdown(wait=not wait(calls, LET_GO_S).not_done)


class _Line:
    """A socket whose every wait is over at `until`, in the form that http.client wants."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._socket, self.until = sock, until

    def sendall(self, data: bytes) -> None:
        self._pace()
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reading(self))

    def close(self) -> None:
        """Left to the exchange: http.client would close under the reader."""

    def receive(self, buffer: memoryview) -> int:
        self._pace()
        return self._socket.recv_into(buffer)

    def _pace(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time is over")
        self._socket.settimeout(left)


class _Reading(io.RawIOBase):
    def __init__(self, line: _Line) -> None:
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - io's own type
        return self._line.receive(memoryview(buffer))


def _why(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else str(error) or type(error).__name__
