"""Who has to hear of what, while a request is answered by callbacks.

A guest tells the `Errand` that answers its request, and that tells its `Keeper`, who sent it. Nothing of it
waits for anybody.
"""

from typing import Protocol

from cortex.errors import CortexError
from cortex.web.answer import Answer
from cortex.web.framing import Framing


class Errand(Protocol):
    """Who answers one request by callbacks."""

    @property
    def due(self) -> float:
        """When to look after it."""

    @property
    def framing(self) -> Framing:
        """Of its answer."""

    def look(self, now: float) -> None:
        """`due` has come."""

    def drained(self) -> None:
        """All that was sent is with the kernel."""

    def lost(self) -> None:
        """The client is gone, or has taken nothing for too long."""

    def stop(self, why: CortexError | None) -> None:
        """The client gets an end: `why`, else that cortex goes."""

    def drop(self, *, bug: bool) -> None:
        """It has ended by a `bug`, or since the door is gone: whatever it holds is let go of, and nothing
        more is said."""


class Keeper(Protocol):
    """Who sent it. `done`, `odd`, `failed`, `left`, `stopped` and `dropped` are ends: one of them is told,
    once. The others come before."""

    def headed(self) -> None:
        """The head of an answer that is passed on here has come."""

    def done(self) -> None:
        """The client has the whole answer. The link is the keeper's."""

    def odd(self, answer: Answer) -> None:
        """The head of an answer that is for others to read. Nothing of it is with the client."""

    def failed(self, error: CortexError) -> None:
        """There is no whole answer. What came of it is with the client."""

    def left(self) -> None:
        """The client is gone."""

    def unreached(self, problem: OSError | None) -> CortexError:
        """What it means that no connection was made. `failed` follows."""

    def stopped(self, why: CortexError | None) -> None:
        """The client is to be told `why` it gets no more; None: that cortex goes."""

    def dropped(self, *, bug: bool) -> None:
        """It is over, by a `bug` or with the door, and nobody can be told."""


class Client(Protocol):
    """Who gets the answer: a guest, or who stands for one."""

    @property
    def now(self) -> float: ...

    @property
    def full(self) -> bool: ...

    @property
    def stall_at(self) -> float: ...

    def send(self, data: bytes) -> bool: ...

    def wants_look(self, due: float) -> None: ...

    def give_up(self) -> None: ...

    def crashed(self) -> None: ...
