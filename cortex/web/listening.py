"""A listening socket, made here or shared with other processes.

Owns what a listener's socket is set to. One that is `Shared` is accepted from by several processes: with a
`crowd` each takes one connection at a time, and leaves it for a moment to a process that has fewer.
"""

import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

import trio

# Connections the kernel holds until they are accepted; it cuts this to its own ceiling.
BACKLOG: Final = 1024
# A client that vanished without a word is found out within 30 + 3 * 10 seconds.
_KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Crowd(Protocol):
    """How many connections the others have who accept from the same socket."""

    @property
    def is_open(self) -> bool:
        """Whether anybody is taken yet."""

    def has(self, connections: int) -> None:
        """We have so many."""

    def away(self) -> None:
        """We take nobody any more."""

    def yields(self) -> bool:
        """Whether another one has less."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A listening socket that others accept from, too. Without a `crowd`, whoever is quicker does."""

    socket: socket.socket
    crowd: Crowd | None = None


async def listen(host: str, port: int) -> socket.socket:
    """A listening socket on the first address of `host`; `::` takes IPv4 too."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    with ExitStack() as unless_bound:
        listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit these
        for option, value in _KEEP_ALIVE:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        unless_bound.pop_all()
    return listener
