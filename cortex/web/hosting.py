"""Waits where trio waits: for what trio waits for, and for callbacks' sockets at once.

A wake through trio's loop costs several times what a callback does: a descriptor is armed anew, a task is
scheduled and stepped. So the waiting is done in trio's hook before it waits itself, for as long as nothing
is there for a task, and in one call to the kernel: what trio waits for is one more descriptor among those
of the callbacks. trio has no public name for what its loop rests on: this is the only room that looks
behind them. Where it does not find what it knows there is no `Host`, and each wake goes through trio's
loop, as right and slower. Never for a clock of tests, whose time is not the kernel's.
"""

import importlib
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final, NoReturn, Protocol

import trio

# A longer wait means nothing to epoll(7).
_LONGEST_S: Final = 86400.0


class Watcher(Protocol):
    """Whoever owns a socket."""

    @property
    def begins(self) -> bool:
        """Whether it has nothing under way: what it hears begins something, and may wait for others."""

    def ready(self, events: int) -> None:
        """Some of the events have come that were asked for, or none: it may be told in vain."""

    def broke(self, bug: Exception) -> None:
        """`ready` has raised `bug`: it is to be logged, and whatever it owns to be let go of."""


class Callbacks(Protocol):
    """Sockets with watchers, and what tells these."""

    def watch(self, fd: int, watcher: Watcher) -> None:
        """`watcher` is told whenever `fd` is readable, until `leave`."""

    def leave(self, fd: int, watcher: Watcher) -> None:
        """It is told no more."""

    def fileno(self) -> int:
        """A descriptor that is readable when somebody is to be told."""

    def go(self, most_s: float) -> int:
        """Wait for so long at most until there is something to tell, and tell it; how many were told."""


class Host(trio.abc.Instrument):
    """One for each run of trio, that of the calling task."""

    def __init__(self, runner: Any) -> None:  # noqa: ANN401 - trio's own, which has no public type
        self._ready, self._idlers, self._deadlines = runner.runq, runner.waiting_for_idle, runner.deadlines
        self._nudge: Callable[[], None] = runner.io_manager.force_wakeup
        self._fd: int = runner.io_manager._epoll.fileno()
        self._offset_s: float = runner.clock.offset
        self._deadlines.next_deadline()
        # The first of them waits for all.
        self._guests: list[_Guest] = []
        self._trio = _Sign()

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

    async def call(self, callbacks: Callbacks) -> NoReturn:
        """`callbacks` are told until cancelled, or until telling raises: then this does."""
        guest = _Guest(callbacks)
        if self._guests:
            self._guests[0].callbacks.watch(callbacks.fileno(), guest)
        else:
            callbacks.watch(self._fd, self._trio)
            trio.lowlevel.add_instrument(self)
        self._guests.append(guest)
        try:
            await guest.broken.wait()
        finally:
            self._part(guest)
        assert guest.bug is not None  # noqa: S101 - else nobody sets the event
        raise guest.bug

    def _part(self, guest: "_Guest") -> None:
        first, *_ = self._guests
        self._guests.remove(guest)
        if guest is not first:
            first.callbacks.leave(guest.callbacks.fileno(), guest)
            return
        first.callbacks.leave(self._fd, self._trio)
        for other in self._guests:
            first.callbacks.leave(other.callbacks.fileno(), other)
        if not self._guests:
            trio.lowlevel.remove_instrument(self)
            return
        first, *others = self._guests
        first.callbacks.watch(self._fd, self._trio)
        for other in others:
            first.callbacks.watch(other.callbacks.fileno(), other)

    def before_io_wait(self, timeout: float) -> None:
        """trio is about to wait for so many seconds; for none, if a task is ready."""
        try:
            self._wait_for_trio(timeout)
        except BaseException as bug:  # noqa: BLE001 - raised in the tasks that wait
            # trio would log it, and call this never again: a deaf gateway that looks alive.
            for guest in self._guests:
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
        # A callback may have made a task ready, or a deadline earlier; or the time is up. Or what trio was
        # called for is gone since, as a connection that another process has taken: it would wait for more,
        # and callbacks with it.
        if timeout > 0 and (called or trio_called or not self._idlers):
            self._nudge()

    def _rests_s(self) -> float:
        """For how long trio would wait, if nothing happens; 0 where a task is ready."""
        if self._ready or self._idlers:
            return 0.0
        left: float = self._deadlines.next_deadline() - self._offset_s - perf_counter()
        return max(0.0, min(left, _LONGEST_S))

    def _wait(self, most_s: float) -> tuple[bool, bool]:
        """Whether callbacks were called, and whether trio has something to do."""
        self._trio.seen = False
        told = self._guests[0].go(most_s)
        seen = self._trio.seen
        return told > seen, seen


class _Sign:
    """Tells that there was one."""

    begins: Final = False
    seen = False

    def ready(self, events: int) -> None:
        self.seen = True

    def broke(self, bug: Exception) -> None:
        raise bug


class _Guest:
    """Callbacks, and what went wrong with them."""

    begins: Final = False

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self.broken = trio.Event()
        self.bug: BaseException | None = None

    def go(self, most_s: float) -> int:
        """As the callbacks do. What they raise is raised in their task."""
        try:
            return self.callbacks.go(most_s)
        except BaseException as bug:  # noqa: BLE001 - raised in the task that waits
            self.break_off(bug)
            return 1

    def ready(self, events: int) -> None:
        """Another one waits for these."""
        self.go(0.0)

    def broke(self, bug: Exception) -> None:
        self.break_off(bug)

    def break_off(self, bug: BaseException) -> None:
        """The task that waits goes on, and raises that."""
        self.bug = bug
        self.broken.set()


_HOST: Final[trio.lowlevel.RunVar[Host]] = trio.lowlevel.RunVar("host")
