"""One neuron as a gateway knows it: how it is reached, what it told last, and who waits for it.

The fleet decides what becomes of it; here is no judgement.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, Protocol
from urllib.parse import urlsplit

import trio

from cortex.config.gateway import NeuronRef
from cortex.errors import CortexError, TooSlow
from cortex.gateway.remote import Remote
from cortex.web.names import Resolve, resolve
from cortex.web.pool import Pool
from cortex.web.reactor import Reactor
from cortex.wire import neuron as wire


@dataclass(frozen=True, slots=True)
class Found(NeuronRef):
    """A neuron that DNS names, and not the file."""


class Waiter(Protocol):
    """Who waits by callbacks."""

    def give_up(self, error: CortexError) -> None:
        """It is in vain: `error` says why."""


class Waits:
    """Those who wait for answers of one neuron at one address, for as long as they take."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._scopes: set[trio.CancelScope] = set()
        self._waiters: set[Waiter] = set()

    def __bool__(self) -> bool:
        return bool(self._scopes or self._waiters)

    def begin(self, waiter: Waiter) -> None:
        """He waits, and is told when it is in vain, until `end`."""
        self._waiters.add(waiter)

    def end(self, waiter: Waiter) -> None:
        """He waits no longer. Harmless when he did not."""
        self._waiters.discard(waiter)

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """The block waits for an answer that takes as long as it takes. TooSlow when the neuron
        shows no sign of life meanwhile."""
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise self._lifeless()

    def give_up(self) -> None:
        """Nobody waits any longer."""
        for scope in self._scopes:
            scope.cancel()
        for waiter in list(self._waiters):
            waiter.give_up(self._lifeless())

    def _lifeless(self) -> TooSlow:
        return TooSlow(
            f"Neuron '{self._name}' gives no sign of life. The request may have run; send it again."
        )


# A boot id that comes again is of a process that was never gone; two at one address take turns.
MOST_BOOTS: Final = 8


@dataclass(slots=True)
class Neuron:
    """One neuron as this gateway knows it. Times are trio's, -inf before the first report.

    `boot_id` is the process that was believed last, and `boots` are those before; `seq` is the number
    of its last report. `clash` says whom it was mistaken for, and when: another process, or another
    neuron. `dismissed` says why it belongs to the fleet no longer: nobody new goes there, and it is
    forgotten when the last has left.
    """

    ref: NeuronRef
    remote: Remote
    pool: Pool
    discovery: wire.Discovery | None = None
    health: wire.Health = field(default_factory=wire.Health)
    residents: wire.Residents = field(default_factory=wire.Residents)
    boot_id: str = ""
    boots: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_BOOTS))
    seq: int = 0
    clash: tuple[str, float] = ("", -inf)
    failures: int = 0
    why: str = ""
    asked_at: float = -inf  # when the last look began, and
    looked_at: float = -inf  # when the last one began that told something
    suspected: bool = False  # a look is asked for by a request that failed
    seen_at: float = -inf
    dismissed: str = ""
    watching: trio.CancelScope = field(default_factory=trio.CancelScope)
    look_now: trio.Event = field(default_factory=trio.Event)
    looked: trio.Event = field(default_factory=trio.Event)
    waits: Waits = field(init=False)

    def __post_init__(self) -> None:
        self.waits = Waits(self.name)

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def up(self) -> bool:
        """Whether its last report counts."""
        return self.discovery is not None

    @property
    def heard(self) -> bool:
        """Whether it has ever reported to this gateway."""
        return self.seen_at > -inf

    @property
    def stopping(self) -> bool:
        return self.health.activation.state == "stopping"

    def knows(self) -> set[str]:
        """What it can load from a catalogue of its own. Of one that is away or going: what it could,
        and what it had."""
        gone = not self.up or self.stopping
        had = (report.id for report in self.residents.models) if gone else ()
        return {*self.residents.known, *had}


def pool_of(ref: NeuronRef, lookup: Resolve = resolve, reactor: Reactor | None = None) -> Pool:
    """Connections to the neuron of that address, which `lookup` finds."""
    parts = urlsplit(ref.endpoint)
    return Pool(parts.hostname or "", parts.port or 80, lookup=lookup, reactor=reactor)


def together(listed: tuple[NeuronRef, ...], found: tuple[Found, ...]) -> dict[str, NeuronRef]:
    """The members by name. What the file lists wins over what was found at its endpoint; one that was
    found and has a listed one's name has its port behind it."""
    members = {ref.name: ref for ref in listed}
    endpoints = {ref.endpoint for ref in listed}
    for ref in found:
        if ref.endpoint not in endpoints:
            name = ref.name
            while name in members:
                name += "-" + ref.endpoint.rpartition(":")[2]
            members[name] = replace(ref, name=name)
    return members
