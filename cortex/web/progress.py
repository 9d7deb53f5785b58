"""What a chat stream says while it waits, for those who asked to see it as a thought.

`x-cortex-progress: reasoning` turns keep-alives into chunks with `reasoning_content`: how far
the load is, or how many wait for a seat before this one. They become part of the client's
transcript, which is why nobody gets them unasked. Only what changed is said, and the
neuron's own bytes follow untouched.
"""

import math
import time
from typing import Final

import msgspec

from cortex.errors import BadAsk, Unsupported
from cortex.ledger import Ledger, Ticket
from cortex.ledger.outlook import Outlook
from cortex.units import size
from cortex.web.connection import Request
from cortex.wire import sse
from cortex.wire.neuron import PROGRESS
from cortex.wire.openai import Reply
from cortex.wire.openai_answers import Mould
from cortex.wire.sse import Frame

# Reports come as often, and nobody reads faster.
EVERY_S: Final = 2.0
_DOES: Final = {"download": "Downloading", "verify": "Checking", "queued": "About to load"}


def asked_for(request: Request, *, chat: bool, streams: bool) -> bool:
    """Whether progress is to be shown. A whole answer waits in silence whatever the header says,
    so that a client may send it with all that it asks. Raises for what cannot be done."""
    said = request.headers.all(PROGRESS)
    if not said:
        return False
    if said != ["reasoning"]:
        raise BadAsk(f"'{PROGRESS}' may only be 'reasoning'", param=PROGRESS)
    if streams and not chat:
        raise Unsupported(
            f"'{PROGRESS}' is for streams of /v1/chat/completions: no other can show it "
            "before its answer begins; leave the header out",
            param=PROGRESS,
        )
    return streams


class Progress:
    """One request that waits. `waits` says that it stands in line, and where. `name` is what the client
    calls its model, where that is not the id."""

    def __init__(self, ledger: Ledger, request_id: str, name: str = "") -> None:
        self._ledger, self._name = ledger, name
        self._id = f"chatcmpl-{request_id}"
        self._made = int(time.time())
        self._ticket: Ticket | None = None
        self._said: object = None

    def waits(self, ticket: Ticket) -> None:
        """It stands in line with this ticket, until that is seated."""
        self._ticket = ticket

    def news(self) -> bytes:
        """The chunk that tells what has changed since the last one; b"" when nothing has."""
        ticket = self._ticket
        if ticket is None or ticket.place is not None:
            return b""
        facts, line = self._line(ticket)
        if facts == self._said:
            return b""
        self._said = facts
        return self._chunk(self._name or ticket.want.model, line)

    def _line(self, ticket: Ticket) -> tuple[object, str]:
        """What counts as news, and the words for it."""
        model, name = ticket.want.model, self._name or ticket.want.model
        holders = self._ledger.holders(model)
        at = next((place.name for place, one in holders if one.phase == "loading"), None)
        if at is not None:
            seen = self._ledger.outlook(model)
            return (at, seen.phase, _percent(seen)), _loading(name, at, seen)
        if any(resident.servable for _, resident in holders):
            before = self._ledger.before(ticket)
            return before, f"Waiting for a seat: {before} before you"
        return "room", f"Waiting for room for {name}"

    def _chunk(self, model: str, line: str) -> bytes:
        mould = Mould(Reply(self._id, model, self._made), "chat.completion.chunk")
        inner = b'"delta":{"reasoning_content":%b}' % msgspec.json.encode(line + "\n")
        return sse.render(Frame(mould.chunk(0, inner), "thought"))


def _loading(model: str, at: str, seen: Outlook) -> str:
    line = f"{_DOES.get(seen.phase, 'Loading')} {model} on {at}"
    if seen.total_bytes:
        line += f": {_percent(seen)} % of {size(seen.total_bytes)}"
    if seen.left_s is not None:
        line += f", about {math.ceil(seen.left_s)} s left"
    return line


def _percent(seen: Outlook) -> int:
    return 100 * seen.done_bytes // seen.total_bytes if seen.total_bytes else 0
