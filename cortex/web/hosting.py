"""Waits where trio waits: for what trio waits for, and for callbacks' sockets at once.

A wake through trio's loop costs several times what a callback does: a descriptor is armed anew, a task is
scheduled and stepped. So the waiting is done in trio's hook before it waits itself, for as long as nothing
is there for a task. trio has no public name for what its loop rests on: this is the only room that looks
behind them. Where it does not find what it knows there is no `Host`, and each wake goes through trio's
loop, as right and slower. Never for a clock of tests, whose time is not the kernel's.
"""

import importlib
import select
from collections.abc import Callable
from typing import Any, Final, NoReturn

import trio

# A longer wait means nothing to poll(2).
_LONGEST_S: Final = 86400.0


class Host(trio.abc.Instrument):
    """One for each run of trio, that of the calling task."""

    def __init__(self, runner: Any) -> None:  # noqa: ANN401 - trio's own, which has no public type
        self._ready, self._idlers, self._deadlines = runner.runq, runner.waiting_for_idle, runner.deadlines
        self._nudge: Callable[[], None] = runner.io_manager.force_wakeup
        self._fd: int = runner.io_manager._epoll.fileno()
        self._deadlines.next_deadline()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._guests: dict[int, _Guest] = {}

    @classmethod
    def find(cls) -> "Host | None":
        """None where trio is not as it is known here, or rests otherwise."""
        try:
            return _HOST.get()
        except LookupError:
            pass
        try:
            inside = importlib.import_module("trio._core._run")
            runner = inside.GLOBAL_RUN_CONTEXT.runner
            if runner.is_guest or type(runner.clock) is not inside.SystemClock:
                return None
            host = cls(runner)
        except (ImportError, AttributeError):
            return None
        _HOST.set(host)
        return host

    async def call(self, go: Callable[[], None], fd: int) -> NoReturn:
        """`go` is called whenever `fd` is readable, until cancelled, or until it raises: then this does."""
        guest = self._guests[fd] = _Guest(go)
        self._poll.register(fd, select.POLLIN)
        if len(self._guests) == 1:
            trio.lowlevel.add_instrument(self)
        try:
            await guest.broken.wait()
        finally:
            del self._guests[fd]
            self._poll.unregister(fd)
            if not self._guests:
                trio.lowlevel.remove_instrument(self)
        assert guest.bug is not None  # noqa: S101 - else nobody sets the event
        raise guest.bug

    def before_io_wait(self, timeout: float) -> None:
        """trio is about to wait for so many seconds; for none, if a task is ready."""
        try:
            self._wait_for_trio(timeout)
        except BaseException as bug:  # noqa: BLE001 - raised in the tasks that wait
            # trio would log it, and call this never again: a deaf gateway that looks alive.
            for guest in self._guests.values():
                guest.break_off(bug)
            self._nudge()

    def _wait_for_trio(self, timeout: float) -> None:
        # Whoever waits until all is still is woken by trio, and only after a wait of its own.
        rest_s = 0.0 if self._idlers else timeout
        called, trio_called = self._wait(rest_s)
        while rest_s > 0 and not trio_called:
            rest_s = self._rests_s()
            if rest_s > 0:
                called, trio_called = self._wait(rest_s)
        # A callback may have made a task ready, or a deadline earlier; or the time is up.
        if timeout > 0 and not trio_called and (called or not self._idlers):
            self._nudge()

    def _rests_s(self) -> float:
        """For how long trio would wait, if nothing happens; 0 where a task is ready."""
        if self._ready or self._idlers:
            return 0.0
        left: float = self._deadlines.next_deadline() - trio.current_time()
        return max(0.0, min(left, _LONGEST_S))

    def _wait(self, most_s: float) -> tuple[bool, bool]:
        """Whether callbacks were called, and whether trio has something to do."""
        called = trio_called = False
        for fd, _ in self._poll.poll(most_s * 1000):
            if fd == self._fd:
                trio_called = True
            else:
                called = True
                self._guests[fd].call()
        return called, trio_called


class _Guest:
    """Callbacks, and what went wrong with them."""

    def __init__(self, go: Callable[[], None]) -> None:
        self._go = go
        self.broken = trio.Event()
        self.bug: BaseException | None = None

    def call(self) -> None:
        try:
            self._go()
        except BaseException as bug:  # noqa: BLE001 - raised in the task that waits
            self.break_off(bug)

    def break_off(self, bug: BaseException) -> None:
        """The task that waits goes on, and raises that."""
        self.bug = bug
        self.broken.set()


_HOST: Final[trio.lowlevel.RunVar[Host]] = trio.lowlevel.RunVar("host")
