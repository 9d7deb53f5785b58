"""One neuron's answer, read as it comes: head, body chunks, trailers, and whether it is whole.

Owns what llhttp says about the bytes of a link. Promises bounded memory whatever the neuron sends,
and that every body byte that came before a fault is handed over before the fault is raised. What
the bytes mean is for others.
"""

from typing import Final

import httptools

from cortex.errors import UpstreamFailed
from cortex.web.link import BROKEN, Link

# Head, trailers and chunk extensions: what may come without a byte of body between.
HEAD_LIMIT: Final = 65536
# As good as any chunk before what comes next.
_PLAIN: Final = b"9\r\ndata: 0\n\n\r\n"


class Answer:
    """The answer to one request, written by the trio time `asked_at`, `delivered` whole or not.

    `headers` and `trailers` have lower-case names and latin-1 text; a repeated name is
    joined by commas. `trailers` are filled when `complete` is. `by_close` says that only the
    closing of the connection told the end: such a body may have been cut.
    """

    def __init__(self, link: Link, *, asked_at: float, delivered: bool) -> None:
        self.asked_at = asked_at
        self.by_close = False
        self._delivered = delivered
        self.link = link
        self._heard = _Heard()
        self._parser = httptools.HttpResponseParser(self._heard)
        self._heard.parser = self._parser
        self._unframed = 0
        self._event_ended = False
        self._fault: UpstreamFailed | None = None

    @property
    def status(self) -> int:
        return self._heard.status

    @property
    def headers(self) -> dict[str, str]:
        return self._heard.headers

    @property
    def trailers(self) -> dict[str, str]:
        return self._heard.trailers

    @property
    def complete(self) -> bool:
        """Whether the body has come to its end, and all of it was received."""
        return self._heard.ended and not self._heard.pieces

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        heard = self._heard
        return self._delivered and heard.ended and heard.keep and not heard.excess

    @property
    def headed(self) -> bool:
        """Whether status and headers are known."""
        return self._heard.headed

    @property
    def between_chunks(self) -> bool:
        """Whether what was fed ended with a chunk that is not the last, and an event in it. Whole chunks that
        come behind it may then be kept from the parser, which is none the wiser."""
        return self._event_ended and self._heard.between and self._fault is None

    async def head(self) -> None:
        """`status` and `headers` are known. UpstreamFailed when the neuron breaks off before."""
        while not self._heard.headed:
            if self._fault is not None:
                raise self._fault
            await self._more()
        self.check()

    def check(self) -> None:
        """The body can be read. UpstreamFailed when it is framed in an odd way."""
        coding = self.headers.get("transfer-encoding", "chunked")
        if coding.strip().lower() != "chunked" or self._parser.get_http_version() not in ("1.0", "1.1"):
            raise UpstreamFailed("The neuron's answer is framed in a way that cortex does not read.")

    async def receive(self) -> bytes:
        """The next bytes of the body, all that have come; b"" at the end.

        UpstreamFailed when the body breaks off or is malformed, after the bytes before the
        break were handed over. Nothing is lost on cancellation.
        """
        heard = self._heard
        while not heard.pieces and not heard.ended:
            if self._fault is not None:
                raise self._fault
            await self._more()
        return self.take()

    def take(self) -> bytes:
        """What of the body has come and was not taken yet."""
        pieces = self._heard.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return data

    @property
    def fault(self) -> UpstreamFailed | None:
        """What is wrong behind the bytes that can be taken."""
        return self._fault

    async def _more(self) -> None:
        try:
            data = await self.link.read()
        except BROKEN as broken:
            raise UpstreamFailed(
                f"The connection to the neuron broke {self._where()}.", reason=self._broken
            ) from broken
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """These bytes have come, b"" for the end: UpstreamFailed where that is none."""
        if not data:
            self._closed()
            return
        heard, framed = self._heard, self._heard.framed
        self._event_ended = data.endswith(b"\n\n\r\n")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fault = UpstreamFailed(f"The neuron does not speak HTTP {self._where()}: {error}.")
            self._fault.__cause__ = error
        self._unframed = self._unframed + len(data) if heard.framed == framed else 0
        if heard.ended:
            heard.parser = None  # parser and listener hold each other: free them without the collector
        elif self._unframed > HEAD_LIMIT:
            self._fault = UpstreamFailed(
                f"The neuron's answer has more than {HEAD_LIMIT} bytes of headers.", reason="oversize"
            )

    def goes_on(self, head: bytes) -> None:
        """`head` has come, and plain events in chunks, which were taken."""
        self.feed(head + _PLAIN)
        self.take()

    def _closed(self) -> None:
        heard = self._heard
        if heard.headed and not heard.headers.keys() & {"content-length", "transfer-encoding"}:
            heard.ended = self.by_close = True
        else:
            raise UpstreamFailed(
                f"The neuron closed the connection {self._where()}. It may have run; send the request again.",
                reason=self._broken,
            )

    @property
    def _broken(self) -> str:
        """What metrics call a connection that ends here."""
        return "cut" if self._heard.headed else "crash"

    def _where(self) -> str:
        return "in the middle of its answer" if self._heard.headed else "before it answered"


class _Heard:
    """What the parser has said so far. Interim (1xx) heads leave no trace."""

    def __init__(self) -> None:
        self.parser: httptools.HttpResponseParser | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.headed = self.ended = self.keep = self.excess = self.between = False
        # Grows with each whole head and each piece of body: bytes without growth are overhead.
        self.framed = 0

    def on_message_begin(self) -> None:
        self.excess = self.ended

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.excess:
            return
        fields = self.trailers if self.headed else self.headers
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        fields[key] = f"{fields[key]}, {text}" if key in fields else text

    def on_headers_complete(self) -> None:
        if self.excess or self.parser is None:
            return
        self.status = self.parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self.headed = True
        self.keep = self.parser.should_keep_alive()
        self.framed += 1

    def on_body(self, data: bytes) -> None:
        if not self.ended:
            self.pieces.append(data)
            self.framed += 1
            self.between = False

    def on_chunk_complete(self) -> None:
        self.between = not self.ended

    def on_message_complete(self) -> None:
        self.ended = self.headed
