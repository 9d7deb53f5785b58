"""What happens in the fleet, told to whoever listens: the owner of GET /fleet/events.

Each event has a number, one more than that of the event before, until the gateway starts
anew. The last ones are kept, so that a reader whose connection broke goes on where it
stopped; any other begins with a snapshot. Nobody who tells ever waits: a reader that is too
far behind loses its place, and is told so after what it has not read yet.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from cortex.errors import Overloaded
from cortex.web.streaming import BEAT_S
from cortex.wire import sse
from cortex.wire.fleet import FleetReport
from cortex.wire.happenings import Happening, Snapshot

# Some minutes of a busy fleet; an event is a few hundred bytes.
KEPT: Final = 512
# How far a reader may be behind, what it missed while it was away included.
BEHIND: Final = 1024


@dataclass(frozen=True, slots=True)
class Told:
    """One event with its number, rendered for those who may know all of it."""

    number: int
    event: Happening
    frame: bytes


@dataclass(slots=True, eq=False)
class Listener:
    """One reader: what it has not read yet. `lost` says that there was more than it may leave unread."""

    unread: deque[Told] = field(default_factory=deque)
    lost: bool = False
    more: trio.Event = field(default_factory=trio.Event)

    def hear(self, told: Told) -> None:
        """One more event."""
        if not self.lost and len(self.unread) < BEHIND:
            self.unread.append(told)
        else:
            self.lost = True
        self.more.set()

    async def next(self) -> Told | None:
        """The next event; None once it has lost its place."""
        while not self.unread:
            if self.lost:
                return None
            self.more = trio.Event()
            await self.more.wait()
        return self.unread.popleft()


class Happenings:
    """One for each gateway. `boot_id` is part of each event's id: numbers begin anew with it."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._number = 0
        self._kept: deque[Told] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()

    def tell(self, event: Happening) -> None:
        """It has happened just now."""
        self._number += 1
        told = self._told(msgspec.structs.replace(event, at=round(time.time(), 3)))
        self._kept.append(told)
        for listener in self._listeners:
            listener.hear(told)

    async def stream(
        self, last_id: str, snapshot: Callable[[], FleetReport], seen: Callable[[Happening], Happening | None]
    ) -> AsyncGenerator[bytes, None]:
        """Events as a reader gets them that read `last_id` before, "" for none; `seen` is what it may
        know of one, if anything. A comment where nothing happens for long. Ends only when the reader
        is too slow: with the error Overloaded, after what it had not read."""
        with self._listening() as listener:
            missed = self._since(last_id)
            if missed is None:
                yield self._told(Snapshot(at=round(time.time(), 3), fleet=snapshot())).frame
            else:
                listener.unread.extend(missed)
            while True:
                told, quiet = None, True
                with trio.move_on_after(BEAT_S):
                    told, quiet = await listener.next(), False
                if quiet:
                    yield sse.COMMENT
                elif told is None:
                    raise _too_slow()
                elif (event := seen(told.event)) is not None:
                    yield told.frame if event is told.event else self._frame(told.number, event)

    @contextmanager
    def _listening(self) -> Iterator[Listener]:
        listener = Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _since(self, last_id: str) -> list[Told] | None:
        """All that happened after the event with that id; None when that is not known any more."""
        boot_id, _, number = last_id.rpartition("-")
        if boot_id != self._boot_id or not (number.isascii() and number.isdigit() and len(number) < 16):
            return None
        last, oldest = int(number), self._kept[0].number if self._kept else self._number + 1
        if not oldest - 1 <= last <= self._number:
            return None
        return [told for told in self._kept if told.number > last]

    def _told(self, event: Happening) -> Told:
        return Told(self._number, event, self._frame(self._number, event))

    def _frame(self, number: int, event: Happening) -> bytes:
        kind = str(event.__struct_config__.tag)
        frame = sse.Frame(msgspec.json.encode(event), kind, event=kind)
        return f"id: {self._boot_id}-{number}\n".encode() + sse.render(frame)


def _too_slow() -> Overloaded:
    return Overloaded(
        f"You are more than {BEHIND} events behind, and later ones were dropped; connect again, with the "
        "last id as Last-Event-ID or without it for a snapshot"
    )
