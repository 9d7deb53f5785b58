"""The thread of a device in this process, and the way of its words into trio.

Words come back by one coalesced wake-up a turn, so the device never waits for a reader.
What the thread dies of is raised by `run`.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from cortex.harness.base import Harness
from cortex.harness.hosts import Isolation
from cortex.harness.journal import Journal
from cortex.harness.orders import Order, Stop, Word
from cortex.harness.pulse import Doing
from cortex.harness.turns import DeviceLoop

HANDED_AT_ONCE: Final = 256  # words; the rest goes in the next pass of trio's loop


class ThreadHost:
    """One OS thread, called `name`. `hear` is called in trio, with every word in order: at each wake-up
    with all that were said before it."""

    def __init__(
        self,
        name: str,
        harnesses: Mapping[str, Harness],
        hear: Callable[[Sequence[Word]], None],
        journal: Journal | None = None,
    ) -> None:
        self.name = name
        self.loop = DeviceLoop(self._tell, harnesses, journal)
        self.ended = False
        self._hear = hear
        self._token: trio.lowlevel.TrioToken | None = None
        self._words: deque[Word] = deque()
        self._bug: Exception | None = None

    @property
    def isolation(self) -> Isolation:
        return "thread"

    @property
    def pid(self) -> int | None:
        return os.getpid()

    @property
    def age_s(self) -> float:
        return max(0.0, time.monotonic() - self.loop.beat)

    @property
    def doing(self) -> Doing:
        return self.loop.pulse.doing

    def send(self, order: Order) -> None:
        self.loop.inbox.put(order)

    def rouse(self) -> None:
        self.loop.beat = time.monotonic()

    async def run(self) -> None:
        """Hold the thread until it was told to stop. Cancelled, it is left behind."""
        self._token = trio.lowlevel.current_trio_token()
        await trio.to_thread.run_sync(
            self._run_loop,
            thread_name=self.name,
            limiter=trio.CapacityLimiter(1),  # not one of the forty that all share
            abandon_on_cancel=True,
        )
        self.ended = True
        if self._bug is not None:
            raise self._bug

    def close(self) -> None:
        """What was said is handed over; what a thread that was left behind says yet is not."""
        while self._words:
            self._hand_over()
        self._token = None

    def _run_loop(self) -> None:
        try:
            self.loop.run()
        except trio.RunFinishedError:
            return  # nobody is left to tell: the thread was abandoned

    def _tell(self, word: Word) -> None:
        """From the thread. One wake-up, however many words."""
        self._words.append(word)
        if (token := self._token) is not None:
            token.run_sync_soon(self._hand_over, idempotent=True)

    def _hand_over(self) -> None:
        # Runs inside trio's own loop, and must not raise: that would end the whole run.
        try:
            self._hear([self._words.popleft() for _ in range(min(len(self._words), HANDED_AT_ONCE))])
            if self._words and self._token is not None:
                self._token.run_sync_soon(self._hand_over, idempotent=True)
        except Exception as error:  # noqa: BLE001 - kept, and raised out of `run`
            self._bug = error
            self.send(Stop())
