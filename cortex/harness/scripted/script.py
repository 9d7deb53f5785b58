"""What a scripted engine answers, and what goes wrong in it.

The fault switches break the contract on purpose, each in the one way that its name says.
"""

import ctypes
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cortex.errors import CortexError
from cortex.harness.base import EVERYTHING, Feature, Job

SCRIPT_TEMPLATE: Final = (
    "{% for message in messages %}<{{ message.role }}> {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


class Gate:
    """Holds turns back until a test lets some through; from any thread."""

    def __init__(self, turns: int = 0) -> None:
        self._lock = threading.Lock()
        self._turns: float = turns
        self._bells: list[Callable[[], None]] = []

    def let(self, turns: int) -> None:
        """`turns` more turns may be taken."""
        with self._lock:
            self._turns += turns
        self._ring()

    def open(self) -> None:
        """Every turn from here on may be taken."""
        with self._lock:
            self._turns = float("inf")
        self._ring()

    def listen(self, bell: Callable[[], None]) -> None:
        self._bells.append(bell)

    def ready(self) -> bool:
        return self._turns > 0

    def use(self) -> None:
        with self._lock:
            self._turns -= 1

    def _ring(self) -> None:
        for bell in self._bells:
            bell()


def hang(*_: object) -> None:
    """Never returns, and keeps nobody else from running."""
    while True:
        threading.Event().wait()


def hold_interpreter(*_: object) -> None:
    """Never returns, and nothing else in Python runs any more."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


@dataclass(frozen=True, slots=True)
class Script:
    """What an engine answers, and what goes wrong.

    `reply` is the answer's text, or makes its text or tokens from the job; without one
    the words of the prompt come back. `hold` steps the turns; `stall` keeps a turn from
    returning until it is set; `slow_load` keeps a load from ending until it is set, while
    it reports progress. `crash_after` turns, a turn raises. `fail_after` tokens, a job fails.
    `on_load`, `on_submit` and `on_turn` (with the turn's number) are done on the device's
    thread at that moment, and may raise, `hang`, `hold_interpreter` or abort; `resets` says
    whether the engine goes on after it.
    """

    reply: str | Callable[[Job], str | Iterable[bytes]] | None = None
    tokens_per_turn: int = 1
    split: bool = False  # tokens of one byte: every other one ends inside a code point
    endless: bool = False  # numbers, without end, until max_tokens, the context or a cancel
    fail_after: int | None = None
    crash_after: int | None = None
    stall: threading.Event | None = None
    hold: Gate | None = None
    unfit: str | None = None
    load_error: CortexError | None = None
    slow_load: threading.Event | None = None
    bytes: int = 2**20
    trained_context: int = 8192
    template: str | None = SCRIPT_TEMPLATE
    can: frozenset[Feature] = EVERYTHING
    kv_tokens: int | None = None  # of a cache that jobs share
    embeds: int = 0  # the numbers of its vectors, where it makes some and writes nothing
    on_load: Callable[[], object] | None = None
    on_submit: Callable[[Job], object] | None = None
    on_turn: Callable[[int], object] | None = None
    resets: bool = True
