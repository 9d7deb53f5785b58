"""A request's body, whole or not at all, within a size and a time.

Owns the pace: a body has `request_body_s` and, beyond that, the time it needs at a fair
rate; and it must never fall below a slow one. So a 64 MiB upload over a poor line arrives,
and a drip is cut in seconds. Refused by its length, a body is not read at all.
"""

from typing import Final

import trio

from cortex.errors import SlowBody, TooBig
from cortex.units import size
from cortex.web.head import Chunks, Head
from cortex.web.line import Line

FAIR_RATE: Final = 16 * 2**10  # bytes a second: the uplink of a poor line, 128 kbit/s
SLOWEST_RATE: Final = 2**10  # bytes a second, after the grace
GRACE_S: Final = 5.0
# A chunked body may be twice its content, and this: a flood of empty framing is cut.
FRAMING: Final = 64 * 2**10

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(line: Line, head: Head, limit: int, request_body_s: float) -> bytes:
    """The body that follows `head`. Raises TooBig, SlowBody, BadFraming; BrokenResourceError
    when the client leaves. Cancelled, the rest of it stays unread: the connection must go.
    """
    if head.length > limit:
        raise _too_big(limit)
    if head.expects and head.has_body and not line.buffer:
        await line.send(CONTINUE)
    pace = _Pace(line, request_body_s)
    return await (_chunked(line, pace, limit) if head.chunked else _counted(line, pace, head.length))


class _Pace:
    """Reads more, as long as what came so far came fast enough."""

    def __init__(self, line: Line, request_body_s: float) -> None:
        self._line = line
        self._started = trio.current_time()
        self._allowed_s = request_body_s

    async def more(self, received: int) -> None:
        """Another block is in the line's buffer."""
        fair = self._allowed_s + received / FAIR_RATE
        slowest = min(GRACE_S, self._allowed_s) + received / SLOWEST_RATE
        with trio.move_on_at(self._started + min(fair, slowest)) as deadline:
            if not await self._line.more():
                raise trio.BrokenResourceError("the client left while its body arrived")
        if deadline.cancelled_caught:
            raise SlowBody(
                "The request body came too slowly; send it again over a better connection.",
                reason="slow_body",
            )


async def _counted(line: Line, pace: _Pace, length: int) -> bytes:
    while len(line.buffer) < length:
        await pace.more(len(line.buffer))
    with memoryview(line.buffer) as view:
        body = view[:length].tobytes()
    del line.buffer[:length]
    return body


async def _chunked(line: Line, pace: _Pace, limit: int) -> bytes:
    chunks, received = Chunks(), 0
    while True:
        used = chunks.feed(line.buffer)
        del line.buffer[:used]
        received += used
        if len(chunks.body) > limit or received > 2 * limit + FRAMING:
            raise _too_big(limit)
        if chunks.done:
            return bytes(chunks.body)
        await pace.more(received)


def _too_big(limit: int) -> TooBig:
    return TooBig(
        f"The request body is larger than {size(limit)}, the most that this route takes; send less."
    )
