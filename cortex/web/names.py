"""A neuron's host name to addresses, without ever holding the loop.

Owns the last addresses that a lookup gave. Lookups run one at a time in a thread, with a
deadline. Who connects waits for one only while no address is known; from then on whoever owns
the name has it refreshed, and while lookups fail, the addresses from before stay in use. A
name that was not found is not asked for again within a second. IP literals need no lookup.
"""

import math
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import trio

from cortex.errors import Unreachable

FRESH_S: Final = 30.0
# After a failure everyone gets the same answer for a moment: no queue forms behind a dead resolver.
RETRY_S: Final = 1.0
MOST: Final = 4


class Address(NamedTuple):
    """One address of a host, as the socket module takes it."""

    family: socket.AddressFamily
    sockaddr: tuple[str | int | bytes, ...]


Resolve: TypeAlias = Callable[[str, int], list[Address]]


def resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    """Addresses of `host`, by the system's resolver, which blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found[:MOST]]


class Names:
    """The addresses of one host."""

    def __init__(self, host: str, port: int, *, dns_s: float, lookup: Resolve = resolve) -> None:
        self._host, self._port = host, port
        self._dns_s = dns_s
        self._lookup = lookup
        self._turn = trio.Lock()
        # Its own limiter: a resolver that hangs must not eat up the threads of others.
        self._thread = trio.CapacityLimiter(1)
        self._known, self._literal = _numeric(host, port)
        self._asked_at = self._ask_again_at = -math.inf

    async def addresses(self) -> list[Address]:
        """Where to connect, best first; Unreachable when the name has never been found."""
        if not self._known:
            await self.refresh()
        if not self._known:
            raise Unreachable(
                f"The neuron's host name {self._host!r} has no address. Check the name and DNS.",
                reason="dns",
            )
        return list(self._known)

    @property
    def only(self) -> Address | None:
        """Where to connect, if that is known and there is no choice."""
        return self._known[0] if len(self._known) == 1 else None

    async def refresh(self) -> None:
        """The addresses are no older than they may be, or the resolver has no better ones."""
        async with self._turn:
            if not self._literal and trio.current_time() >= self._ask_again_at:
                await self._ask()

    def doubt(self) -> None:
        """Nobody answered at these addresses: they are asked for again before they are trusted."""
        self._ask_again_at = min(self._ask_again_at, self._asked_at + RETRY_S)

    def prefer(self, address: Address) -> None:
        """`address` works: it comes first from now on."""
        if self._known and self._known[0] != address:
            self._known.sort(key=lambda known: known != address)

    async def _ask(self) -> None:
        found: list[Address] = []
        with trio.move_on_after(self._dns_s):
            try:
                found = await trio.to_thread.run_sync(
                    self._lookup, self._host, self._port, abandon_on_cancel=True, limiter=self._thread
                )
            except (OSError, UnicodeError):  # UnicodeError: a label that no resolver takes
                found = []
        if found:
            # The one that worked is still the first to be tried.
            first = self._known[:1]
            self._known = sorted(found, key=lambda address: address not in first)
        self._asked_at = trio.current_time()
        self._ask_again_at = self._asked_at + (FRESH_S if found else RETRY_S)


def _numeric(host: str, port: int) -> tuple[list[Address], bool]:
    try:
        return resolve(host, port, socket.AI_NUMERICHOST), True
    except (OSError, UnicodeError):
        return [], False
