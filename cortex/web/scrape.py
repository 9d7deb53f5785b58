"""The metrics listener's only page, as a plain ASGI application.

GET /metrics answers with what `Metrics.render` makes, and with what `whole` makes of that where others
count, too, or with 503 where nobody can say that; everything else is 404. A big page takes tens of
milliseconds to render, so a thread does it, one at a time however many scrape. Who may ask is the
listener's business.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TypeAlias

import trio

from cortex.metrics import CONTENT_TYPE, Metrics

Message: TypeAlias = MutableMapping[str, object]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Whole: TypeAlias = Callable[[bytes], Awaitable[bytes | None]]

_PLAIN = "text/plain; charset=utf-8"
_UNHEARD = (
    b"The supervisor of this gateway does not answer, and it has what other workers counted. Try again.\n"
)
_ABSENT = b"Only GET /metrics is here. The API listens on another port.\n"


class Scrape:
    """The application for one `Metrics`. A request that is cancelled leaves nothing behind."""

    def __init__(self, metrics: Metrics, whole: Whole | None = None) -> None:
        self._metrics, self._whole = metrics, whole
        self._rendering = trio.Lock()

    async def __call__(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"the metrics listener speaks http only, not {scope['type']}")
        if scope["path"] == "/metrics" and scope["method"] in {"GET", "HEAD"}:
            async with self._rendering:
                own = await trio.to_thread.run_sync(self._metrics.render)
                page = own if self._whole is None else await self._whole(own)
            if page is None:
                await _answer(send, 503, _PLAIN, _UNHEARD)
            else:
                await _answer(send, 200, CONTENT_TYPE, page)
        else:
            await _answer(send, 404, _PLAIN, _ABSENT)


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
