"""Strict HTTP/1.1 request heads and chunked bodies, read by llhttp.

Pure: bytes in, values out. llhttp refuses ambiguous lengths, bare line feeds, folded lines
and control characters; what it lets pass and the door does not want is refused here: other
protocols, targets that are not a plain path, a missing or second or odd `Host`, any transfer
coding but chunked, upgrades. A corpus test holds both. Everything refused closes the connection.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Final

import httptools

from cortex.errors import BadFraming, CortexError, HeadTooBig, NoUpgrade
from cortex.web.connection import Headers

END: Final = b"\r\n\r\n"
MAX_FIELDS: Final = 100
# Of what may be the end of a chunked body, in one block: each costs a call. JSON has none but the end.
MOST_ENDS: Final = 64

_TARGET: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?)(?::[0-9]{1,5})?\Z")
_START_LINE: Final = re.compile(rb"[A-Z-]+ /[\x21-\x7e]* HTTP/1\.[01]\r\n")
_LONE_LF: Final = re.compile(rb"(?<!\r)\n")
# A line of size zero and an empty one; and the rest of a line that began in an earlier block.
_LAST_CHUNK: Final = re.compile(rb"\n0[^\r\n]*+\r\n(?=\r\n)")
_LAST_REST: Final = re.compile(rb"[^\r\n]*+\r\n(?=\r\n)")
_CHUNKED_HEAD: Final = b"POST / HTTP/1.1\r\nHost: body\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Head:
    """One request head. `length` is 0 without a body, and for a chunked one."""

    method: str
    target: str
    path: str
    query: str
    version: str
    headers: Headers
    keep_alive: bool
    length: int
    chunked: bool
    expects: bool

    @property
    def has_body(self) -> bool:
        """Whether body bytes follow."""
        return self.chunked or self.length > 0


class _Collector:
    """llhttp's callbacks for a head."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_headers_complete(self) -> None:
        # Asked later, of a request without a body, it would speak of the next one.
        self.keep_alive = self.parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.fields) == MAX_FIELDS:
            raise HeadTooBig(f"The request has more than {MAX_FIELDS} header fields; send fewer.")
        self.fields.append((name, value.rstrip(b" \t")))


def take(buffer: bytearray, limit: int) -> bytes | None:
    """The head at the start of `buffer`, taken out of it; None while its end is not there.

    What is too big, or cannot become a head, is refused without waiting for the end.
    """
    check_prefix(buffer)
    end = buffer.find(END)
    size = len(buffer) if end < 0 else end + len(END)
    if size > limit:
        raise HeadTooBig(f"The request head is larger than {limit} bytes; send less.")
    if end < 0:
        return None
    raw = bytes(buffer[:size])
    del buffer[:size]
    return raw


def check_prefix(data: bytes | bytearray) -> None:
    """Raises BadFraming for bytes that no request head begins with."""
    if data.startswith(b"PRI * HTTP/2"):
        raise BadFraming(
            "HTTP/2 is not spoken here. Use HTTP/1.1, or put a proxy that speaks both in front.",
            reason="proto",
        )
    if not data[:1].isalpha():
        raise BadFraming("This is not an HTTP request. The listener speaks plain HTTP/1.1, without TLS.")
    end = data.find(END)
    if _LONE_LF.search(data, 0, end if end >= 0 else len(data)):
        raise BadFraming("Lines of a request head end with CR LF; a bare LF was found.")


def has_start_line(data: bytes | bytearray) -> bool:
    """Whether `data` begins with a whole, valid request line."""
    return _START_LINE.match(data) is not None


def parse(data: bytes) -> Head:
    """The head in `data`, which ends with its empty line. Raises a CortexError for anything odd."""
    method, target, version = _start_line(data)
    collector = _Collector()
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # said below, in the words of the header
    except httptools.HttpParserError as error:
        raise _named(error) from error
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in collector.fields)
    _check_target(target)
    _check_host(headers, version)
    if headers.get("upgrade") is not None:
        raise NoUpgrade("Upgrades to HTTP/2 or WebSocket are not offered here; send plain HTTP/1.1.")
    text = target.decode("ascii")
    path, _, query = text.partition("?")
    chunked = _chunked(headers, version)
    return Head(
        method=method,
        target=text,
        path=path,
        query=query,
        version=version,
        headers=headers,
        keep_alive=collector.keep_alive,
        length=0 if chunked else int(headers.get("content-length") or 0),
        chunked=chunked,
        expects=_expects(headers, version),
    )


class Chunks:
    """A chunked body, decoded as it arrives into `body`; `done` with its last byte."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.done = False
        self._in_body = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_CHUNKED_HEAD)

    def feed(self, data: bytes | bytearray) -> int:
        """How many bytes of `data` belong to this body; all of them until it is done."""
        start = 0
        try:
            with memoryview(data) as view:
                for stop in _cuts(data):
                    self._parser.feed_data(view[start:stop])
                    start = stop
                    if self.done:
                        break
        except httptools.HttpParserError as error:
            raise _named(error) from error
        if start < len(data) and not self.done:
            raise BadFraming("The body imitates its own end too often; send it with a content-length.")
        return start

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_header(self, _name: bytes, _value: bytes) -> None:
        if self._in_body:
            raise BadFraming("Trailer fields after a chunked request body are not taken; send headers.")

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.done = True


def _cuts(data: bytes | bytearray) -> list[int]:
    """Where to stop feeding, to learn where the body ends: the parser does not tell.

    It ends with a size of zero and CR LF CR LF. An end mark that is split over two blocks lies
    within the first three bytes of the second, hence the single steps there. After too many
    possible ends none follows, not even that of `data`.
    """
    ends = [found.end() + 2 for found in islice(_LAST_CHUNK.finditer(data), MOST_ENDS + 1)]
    if rest := _LAST_REST.match(data):
        ends.append(rest.end() + 2)
    last = () if len(ends) > MOST_ENDS else (len(data),)
    return sorted({*range(1, min(4, len(data))), *ends, *last})


def _named(error: httptools.HttpParserError) -> CortexError:
    """What a callback of ours raised, or the parser's own finding."""
    inner = error.__context__
    if isinstance(inner, CortexError):
        return inner
    return BadFraming(f"The request is not strict HTTP/1.1: {error}.")


def _start_line(data: bytes) -> tuple[str, bytes, str]:
    parts = data.partition(b"\r\n")[0].split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadFraming("A request line is METHOD, a space, a path, a space, and HTTP/1.1.")
    return parts[0].decode("latin-1"), parts[1], parts[2][5:].decode()


def _check_target(target: bytes) -> None:
    if not _TARGET.match(target):
        raise BadFraming("The request target must be a path: it starts with / and has no scheme or fragment.")


def _check_host(headers: Headers, version: str) -> None:
    hosts = headers.all("host")
    if not hosts and version == "1.0":
        return
    if len(hosts) != 1 or not _HOST.match(hosts[0]):
        raise BadFraming("A request has exactly one Host header: a name or address, and a port if need be.")


def _chunked(headers: Headers, version: str) -> bool:
    codings = headers.all("transfer-encoding")
    if not codings:
        return False
    if len(codings) != 1 or codings[0].lower() != "chunked" or version == "1.0":
        raise BadFraming("Of the transfer codings only chunked is taken, alone and in HTTP/1.1.")
    return True


def _expects(headers: Headers, version: str) -> bool:
    wishes = headers.all("expect")
    if any(wish.lower() != "100-continue" for wish in wishes):
        raise BadFraming("Expect: only 100-continue is known.")
    return bool(wishes) and version != "1.0"
