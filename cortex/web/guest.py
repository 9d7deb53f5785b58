"""One client's connection, from its first byte to its last: at rest, on callbacks, or with a visit.

At rest it costs a socket and this object. A request that has come whole, whose head is known and whose
route takes it at once, is answered by callbacks: an `Errand` does the work and writes through `send`. All
else gets a `Visit`, a task, with the bytes that have come; when that has nothing left to do the
connection is here again. Owns the socket, and which of the three has it.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from cortex.errors import CortexError
from cortex.web.connection import Reply, Request
from cortex.web.duties import Errand
from cortex.web.framing import Framing
from cortex.web.head import END
from cortex.web.line import AHEAD, BLOCK, Line
from cortex.web.reactor import READ, WRITE

if TYPE_CHECKING:
    from cortex.web.hall import Hall
    from cortex.web.known import Known, Last
    from cortex.web.visit import Visit

log = logging.getLogger(__name__)

# How long a connection may rest between requests: above what proxies in front keep theirs (60 s).
KEEP_ALIVE_S: Final = 75.0

# A longer body is a visit's. One that is on its way is waited for so long.
MOST_BODY: Final = 256 * 2**10
GATHER_S: Final = 1.0

Work: TypeAlias = Callable[[Reply], Awaitable[None]]


class Guest:
    """`admitted` by the door, which hears of its end by `gone`."""

    def __init__(self, sock: socket.socket, peer: str, hall: "Hall", gone: Callable[["Guest"], None]) -> None:
        self._sock, self._fd, self._peer, self._hall, self._gone = sock, sock.fileno(), peer, hall, gone
        self._line: Line | None = None
        self._visit: Visit | None = None
        self._errand: Errand | None = None
        # Whether it is between two requests.
        self.begins = True
        self._caller = ""
        self._last: Last | None = None
        self._buffer = b""
        self._unsent = b""
        # How much of the buffer makes a whole request, while that arrives.
        self._needed = 0
        self._closed = False
        self.stalled = False
        self.stall_at = 0.0
        self._taken = 0
        self.first = True
        # Among whom it waits for its time, if it does.
        self.listed: dict[Guest, None] | None = None
        self.since = trio.current_time()
        self.due = self.since + hall.limits.header_s
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hall.reactor.watch(self._fd, self)
        hall.watch.rests(self)

    # -- what the door asks

    @property
    def holds(self) -> bool:
        """Whether a drain waits for this: a request is being answered, and will end by itself."""
        return self._errand is not None or (self._visit is not None and self._visit.holds)

    def rest(self) -> None:
        """No request after this one; at once when the client is between two."""
        if self._visit is not None:
            self._visit.rest()
        elif self._errand is not None:
            self._errand.framing.last = True
        elif self._needed:
            self._call()
        elif not self.first:
            self.close()

    def serves(self, callers: AbstractSet[str]) -> object | None:
        """A token of the request of one of `callers` that is being answered, else None."""
        if self._errand is not None:
            return self._errand.framing if self._caller in callers else None
        return None if self._visit is None else self._visit.serves(callers)

    def stop(self, why: CortexError | None = None) -> None:
        """What is under way is cancelled, and its client gets an end: `why`, else that cortex goes."""
        if self._visit is not None:
            self._visit.stop(why)
        elif self._errand is not None:
            self._errand.stop(why)
        else:
            self.close()

    async def cut(self) -> None:
        """The socket is closed, whatever is under way."""
        if self._visit is not None:
            await self._visit.cut()  # and when that has ended, the door closes
        else:
            self._lose()

    def expire(self) -> None:
        """It has rested for long enough, or its request comes slowly."""
        if self._needed:
            self._call()
        else:
            self.close()

    # -- what the reactor tells

    def ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & ~WRITE:
            self._hear(events)

    def broke(self, bug: Exception) -> None:
        log.error("connection.crashed", exc_info=bug)
        if self._errand is None:
            self.crashed()
        else:
            try:
                self._errand.drop(bug=True)
            except Exception:
                # Nobody above is told of it but the reactor, which all connections have in common.
                log.exception("connection.crashed")
                self._leave_errand()
        self.close()

    def crashed(self) -> None:
        """A bug ends it, and is in the books."""
        self._hall.books.connection_crashed()

    def _hear(self, events: int) -> None:
        if self._closed or self._visit is not None:
            return
        try:
            data = self._sock.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self._errand is not None:
            self._overhear(data)
        elif data:
            self._buffer += data
            if len(self._buffer) >= self._needed:
                self._begin()
        elif self._needed:
            self._call()  # whoever leaves in the middle of his request is in the books
        else:
            self.close()

    def _overhear(self, data: bytes) -> None:
        """Bytes of the next request, sent ahead, or the end, in the middle of an answer."""
        assert self._errand is not None  # noqa: S101 - the caller looked
        self._buffer += data
        if not data or len(self._buffer) > AHEAD:
            self._lose()

    # -- requests

    def _begin(self) -> None:
        """The request that has begun in the buffer is answered at once, or gets a visit."""
        hall, buffer = self._hall, self._buffer
        if self.listed is not None:
            hall.watch.leaves(self)
        if not self.first:
            self.since = hall.reactor.now
        if not hall.draining:
            found = None if self._last is None else self._last.recognise(buffer, hall.site)
            if found is None:
                found = self._recognised(buffer)
            if found is not None and self._taken_at_once(*found):
                return
        self._call()

    def _recognised(self, buffer: bytes) -> "tuple[Known, int, int] | None":
        """What is known of the head in `buffer`, where it ends, and how long the body is."""
        end = buffer.find(END) + len(END)
        if not len(END) <= end <= self._hall.limits.header:
            return None
        found = self._hall.heads.recognise(buffer[:end], self._peer, self._hall.site)
        if found is None:
            return None
        known, length, self._last = found
        return known, end, length

    def _taken_at_once(self, known: "Known", start: int, length: int) -> bool:
        """Whether the request of that head, whose body begins at `start`, needs no visit, as far as it has
        come."""
        hall, quick, end = self._hall, known.route.quick, start + length
        if quick is None or length > min(hall.limits.body, MOST_BODY):
            return False
        if end > len(self._buffer):
            # Asked once: what does not come soon is the visit's, which knows how slow a body may be.
            if self._needed == 0:
                self._needed, self.due = end, trio.current_time() + GATHER_S
                hall.watch.gathers(self)
                return True
            return False
        errand = quick(self, known, self._buffer[start:end])
        if errand is None:
            return False
        self._buffer, self._needed = self._buffer[end:], 0
        self._serve(errand, known.caller)
        return True

    def _serve(self, errand: Errand, caller: str) -> None:
        self._errand, self._caller, self.begins = errand, caller, False
        self._hall.in_flight += 1
        self._hall.watch.serves(errand)

    def _call(self) -> None:
        """A visit takes over what has come, and gives back the connection when it has nothing to do."""
        self._hall.reactor.leave(self._fd, self)
        line = self._lines()
        line.buffer += self._buffer
        self._buffer, self._needed = b"", 0
        self._hall.watch.leaves(self)
        self._hall.visits(self, line, None)

    def _lines(self) -> Line:
        if self._line is None:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(self._sock))
            self._line = Line(stream, self._hall.limits.stall_s, self._sock)
        return self._line

    def visited(self, visit: "Visit | None") -> None:
        """It is with `visit` from here on; with None it is back and at rest."""
        self._visit = visit
        if visit is not None:
            return
        line = self._lines()
        self.first = False
        self._buffer = bytes(line.buffer)
        line.buffer.clear()
        if self._hall.draining:
            self.close()
            return
        self._hall.reactor.watch(self._fd, self)
        self.due = trio.current_time() + KEEP_ALIVE_S
        self._hall.watch.rests(self)
        if self._buffer:
            self._hall.reactor.look_at_clock()
            self._begin()

    # -- what an errand asks

    @property
    def peer(self) -> str:
        return self._peer

    @property
    def gone(self) -> bool:
        """Whether there is nobody any more."""
        return self._closed

    @property
    def now(self) -> float:
        """The time, in callbacks of the reactor."""
        return self._hall.reactor.now

    def wants_look(self, due: float) -> None:
        """The errand is due then, which may be earlier than before."""
        if self._errand is not None:
            self._hall.watch.wants(self._errand, due)

    def request_id(self, known: "Known") -> str:
        """The client's own id, if it is one; else a fresh one."""
        return known.given_id or self._hall.fresh_id()

    @property
    def full(self) -> bool:
        """Whether something that was sent is not with the kernel yet."""
        return bool(self._unsent)

    def send(self, data: bytes) -> bool:
        """Whether all of `data` is with the kernel; else `drained` will be told, and nothing more may be
        sent until then. A client that is gone takes everything: `lost` follows."""
        try:
            count = self._hall.reactor.send(self._sock, data)
        except BlockingIOError:
            count = 0
        except OSError:
            return True  # the reactor tells of the end
        if count == len(data):
            return True
        self._unsent, self._taken = data[count:], 0
        self.stall_at = trio.current_time() + self._hall.limits.stall_s
        self._hall.reactor.change(self._fd, self, READ | WRITE)
        return False

    def _flush(self) -> None:
        if not self._unsent:
            return
        try:
            count = self._sock.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        self._unsent, self._taken = self._unsent[count:], self._taken + count
        if self._taken >= BLOCK:
            # As for a task's writes: so much in each stretch of time, or it counts as a stall.
            self._taken, self.stall_at = 0, trio.current_time() + self._hall.limits.stall_s
        if not self._unsent:
            self._hall.reactor.change(self._fd, self, READ)
            if self._errand is not None:
                self._errand.drained()

    def answered(self, *, stays: bool) -> None:
        """The errand is done, and its last byte is with the kernel."""
        self._leave_errand()
        if not stays or self._hall.draining:
            self.close()
            return
        self.first = False
        self.due = self._hall.reactor.now + KEEP_ALIVE_S
        self._hall.watch.rests(self)
        if self._buffer:
            # Called by a link's callback: what goes wrong in it is this guest's.
            try:
                self._begin()
            except Exception as bug:  # noqa: BLE001 - it is logged there
                self.broke(bug)

    def forsaken(self) -> None:
        """The errand has ended otherwise, and nobody is told of it."""
        self._leave_errand()
        self.close()

    def handed_over(self, request: Request, framing: Framing, work: Work) -> None:
        """`work` ends the answer that is begun, as a task, and as a visit of its own."""
        self._leave_errand()
        self._hall.reactor.leave(self._fd, self)
        line = self._lines()
        line.buffer += self._buffer
        self._buffer = b""
        unsent, self._unsent = self._unsent, b""
        self._hall.visits(self, line, Handed(request, framing, work, unsent))

    def give_up(self) -> None:
        """The client takes nothing any more, and is as good as gone."""
        self.stalled = True
        self._lose()

    def _lose(self) -> None:
        self._hall.reactor.leave(self._fd, self)
        if self._errand is not None:
            self._errand.lost()
        self.close()

    def goes_on(self, errand: Errand) -> None:
        """It is with `errand` from here on, which does what another one has begun."""
        if self._errand is not None:
            self._hall.watch.done(self._errand)
        self._errand, self.begins = errand, False
        self._hall.watch.serves(errand)

    def _leave_errand(self) -> None:
        if self._errand is not None:
            self._hall.watch.done(self._errand)
            self._hall.in_flight -= 1
            self._errand, self._caller, self.begins = None, "", True
            self._hall.tell()

    def close(self) -> None:
        """The socket is closed, whatever is under way."""
        if self._closed:
            return
        if self._errand is not None:
            self._errand.drop(bug=False)
        self._closed = True
        self._hall.watch.leaves(self)
        self._hall.reactor.leave(self._fd, self)
        self._sock.close()
        self._gone(self)


class Handed:
    """A request whose answer a visit is to end. `unsent` goes out first."""

    __slots__ = ("framing", "request", "unsent", "work")

    def __init__(self, request: Request, framing: Framing, work: Work, unsent: bytes) -> None:
        self.request, self.framing, self.work, self.unsent = request, framing, work, unsent
