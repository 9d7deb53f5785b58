"""One TCP connection to a neuron, for tasks or for callbacks.

Owns the socket, and how long a neuron may take nothing of it. Promises that a connection that broke, or
vanished without a word, is found out, and that an idle one that says anything is closed. What the bytes
mean is the answer's; which connection is used, and for how long it is kept, is the pool's.
"""

import errno
import logging
import os
import select
import socket
from contextlib import ExitStack, suppress
from typing import Final, Protocol

import trio

from cortex.errors import Unreachable
from cortex.web.names import Address
from cortex.web.reactor import GONE, READ, WRITE, Reactor

log = logging.getLogger(__name__)

BLOCK: Final = 65536
# A neuron that takes nothing of a request for so long is as good as gone; the kernel gives up
# on one that acknowledges nothing after the same time.
WRITE_STALL_S: Final = 15.0
# A neuron may compute for minutes without a byte; probes tell one that computes from one that vanished.
PROBE_S: Final = 5

BROKEN: Final = (OSError, trio.ClosedResourceError)


class Listener(Protocol):
    """Who waits for what the neuron says on a link, by callbacks."""

    def heard(self, data: bytes) -> None:
        """Some bytes, b"" for the end."""

    def unreached(self, problem: OSError | None) -> None:
        """There is no connection: the reason, or None where it took too long."""

    def unwritten(self) -> None:
        """Not all of the request could be sent, since the connection broke."""

    def crash(self) -> None:
        """A bug has ended it: the link is closed."""


class Link:
    """One TCP connection to a neuron. `used` once it has carried a whole exchange.

    Tasks `write` and `read`; while a reactor watches, callbacks `push` and their `listener` hears.
    """

    # Requests begin with clients.
    begins: Final = False

    __slots__ = (
        "_fd",
        "_look",
        "_paused",
        "_plain",
        "_reactor",
        "_sock",
        "_unsent",
        "dialling",
        "idle_since",
        "listener",
        "used",
    )

    def __init__(self, sock: socket.socket) -> None:
        self._plain, self._fd = sock, sock.fileno()
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._reactor: Reactor | None = None
        # Tells at once whether there is anything to hear, and without an error where there is not.
        self._look: select.poll | None = select.poll()
        self._look.register(self._fd, select.POLLIN)
        self._unsent = b""
        self._paused = False
        self.listener: Listener | None = None
        self.dialling = False
        self.idle_since = 0.0
        self.used = False

    @classmethod
    async def open(cls, address: Address) -> "Link":
        """A connection to `address`; OSError if there is none. Cancelled, nothing is left open."""
        link = cls(_socket(address))
        with ExitStack() as undo:
            undo.callback(link.close)
            await link._sock.connect(address.sockaddr)
            undo.pop_all()
        return link

    @classmethod
    def dial(cls, address: Address, reactor: Reactor) -> "Link":
        """The same by callbacks: it is `dialling` until it is connected, and what is pushed waits for
        that. OSError where it is plain already that there will be none."""
        link = cls(_socket(address))
        with ExitStack() as undo:
            undo.callback(link.close)
            found = link._plain.connect_ex(address.sockaddr)
            if found not in (0, errno.EINPROGRESS):
                raise OSError(found, os.strerror(found))
            link.dialling = True
            link.watched(reactor)
            undo.pop_all()
        return link

    @property
    def stale(self) -> bool:
        """Whether an idle connection has closed, or says something that nobody asked for."""
        look = self._look
        return look is None or bool(look.poll(0))

    # -- by callbacks

    @property
    def clean(self) -> bool:
        """Whether the next request can be pushed: nothing of the last one is left."""
        return not self._unsent and not self.dialling

    def watched(self, reactor: Reactor) -> None:
        """`reactor` tells from here on what comes. An idle link that says anything is closed."""
        if self._reactor is reactor and not self._paused and not self._unsent and not self.dialling:
            return  # as it does
        self._reactor, self._paused = reactor, False
        self._attend()

    def unwatched(self) -> None:
        """It is for tasks again."""
        if self._reactor is not None:
            self._reactor.leave(self._fd, self)
            self._reactor = None

    def push(self, data: bytes) -> bool:
        """Whether all of `data` is with the kernel; else the rest follows. OSError when the connection
        has broken before any of it was taken. Only a `clean` link takes a request, or one that dials."""
        if self.dialling:
            self._unsent = data
            return False
        assert self._reactor is not None  # noqa: S101 - callbacks have one
        try:
            count = self._reactor.send(self._plain, data)
        except BlockingIOError:
            count = 0
        if count < len(data):
            self._unsent = data[count:]
            self._attend()
            return False
        return True

    def pause(self) -> None:
        """Nothing is read, not even the end."""
        self._paused = True
        self._attend()

    def go_on(self) -> None:
        """What comes is read again."""
        self._paused = False
        self._attend()

    def sever(self) -> None:
        """The connection is gone, and whoever uses it is told."""
        listener, self.listener = self.listener, None
        self.close()
        if listener is not None:
            listener.heard(b"")

    def _attend(self) -> None:
        """What is waited for follows from what there is to do."""
        if self._reactor is not None:
            writes = WRITE if self._unsent or self.dialling else 0
            reads = 0 if self._paused or self.dialling else READ
            self._reactor.attend(self._fd, self, writes | reads)

    def ready(self, events: int) -> None:
        if self.dialling:
            if events & (WRITE | GONE):
                self._connected()
            return
        if events & WRITE and self._unsent:
            self._push_on()
        if not events & ~WRITE:
            return
        try:
            data = self._plain.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if self.listener is None:
            self.close()
        else:
            self.listener.heard(data)

    def _connected(self) -> None:
        """It is, or will never be."""
        found = self._plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if found and self.listener is not None:
            self.listener.unreached(OSError(found, os.strerror(found)))
            return
        try:
            self._plain.getpeername()
        except OSError:
            if not found:
                return  # it was told of one that had its number, and was closed a moment ago
        self.dialling = False
        if self._unsent:
            self._push_on()
        self._attend()

    def _push_on(self) -> None:
        try:
            self._unsent = self._unsent[self._plain.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = b""
            self._attend()  # a refusal may be there all the same; else the end is
            if self.listener is not None:
                self.listener.unwritten()
            return
        if not self._unsent:
            self._attend()

    def broke(self, bug: Exception) -> None:
        log.error("connection.crashed", exc_info=bug)
        listener, self.listener = self.listener, None
        self.close()
        if listener is not None:
            try:
                listener.crash()
            except Exception:
                # As for a guest: a bug in letting go is this connection's alone.
                log.exception("connection.crashed")

    # -- by tasks

    async def write(self, data: bytes) -> bool:
        """Whether all of `data` is with the kernel; False when the connection broke before.

        Raises Unreachable when the neuron takes nothing for `WRITE_STALL_S`.
        """
        rest = memoryview(data)
        while rest:
            with trio.move_on_after(WRITE_STALL_S) as patience:
                try:
                    rest = rest[await self._sock.send(rest) :]
                except BROKEN:
                    return False
            if patience.cancelled_caught:
                raise Unreachable(
                    f"The neuron took no byte of the request for {WRITE_STALL_S:.0f} s. Nothing ran.",
                    reason="stall",
                )
        return True

    async def read(self) -> bytes:
        """Some bytes; b"" once the neuron has closed."""
        return await self._sock.recv(BLOCK)

    async def hang_up(self) -> None:
        """The neuron has heard that nobody waits any more, and has closed in its turn, or is gone."""
        with suppress(*BROKEN):
            self._sock.shutdown(trio.socket.SHUT_WR)
            while await self._sock.recv(BLOCK):
                pass

    def close(self) -> None:
        """The connection is gone: to the neuron this is the sign that nobody waits any more."""
        self.unwatched()
        self._look = None  # the next socket may have its number
        self._sock.close()


def _socket(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _watch_for_silence(sock)
    return sock


def _watch_for_silence(sock: socket.socket) -> None:
    """A peer that vanished without a word is found out, in requests and between answers."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (
        ("TCP_KEEPIDLE", PROBE_S),
        ("TCP_KEEPINTVL", PROBE_S),
        ("TCP_USER_TIMEOUT", round(WRITE_STALL_S * 1000)),
    )
    for name, value in options:
        option = getattr(socket, name, None)  # Linux has them all, others some
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
