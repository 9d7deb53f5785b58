"""Callbacks on sockets, hosted in trio: a wait costs neither a task nor a call into the kernel.

One epoll that lasts holds the sockets, and what trio waits for beside them. A callback must not
block, and what it raises ends its own watcher and nobody else. It runs in no task: it may start one in a
nursery, set an event, cancel a scope, and must not ask for the current task. Tasks and callbacks take turns
on one thread, so that a callback, like whatever does not await, is never interrupted.
"""

import select
import socket
from contextlib import suppress
from typing import Final

import trio

from cortex.web.hosting import Host, Watcher

__all__ = ["GONE", "NEW_AT_ONCE", "READ", "WRITE", "Reactor", "Watcher"]

READ: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITE: Final = select.EPOLLOUT
# Told of whether it is asked for or not.
GONE: Final = select.EPOLLHUP | select.EPOLLERR
# Told of in one go; between two goes tasks have their turns.
_AT_ONCE: Final = 256
# So many of them may begin something, each in a tenth of a millisecond or two: whoever waits for the next
# piece of a stream is not to wait for a crowd of requests.
NEW_AT_ONCE: Final = 16
# What so many sockets have to transmit waits for one another.
TOGETHER: Final = 64


class Reactor:
    """One for each process. Sockets may be watched before and after `run` runs; nothing is told then."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        # The time of the last go, on trio's clock: as good as now for what a callback does.
        self.now = 0.0
        self._clock = trio.current_time
        # Whether what is sent is kept back, and where it was.
        self._keeps, self._kept = False, list[socket.socket]()

    def watch(self, fd: int, watcher: Watcher, events: int = READ) -> None:
        """`watcher` is told of `events` from here on, until `leave`."""
        if not self._epoll.closed:
            self._watchers[fd] = watcher
            self._epoll.register(fd, events)

    def attend(self, fd: int, watcher: Watcher, events: int) -> None:
        """`watcher` is told of these from here on; of nothing, with none."""
        if events == 0:
            self.leave(fd, watcher)
        elif self._watchers.get(fd) is watcher:
            self._epoll.modify(fd, events)
        else:
            self.watch(fd, watcher, events)

    def change(self, fd: int, watcher: Watcher, events: int) -> None:
        """`watcher` is told of these instead."""
        if self._watchers.get(fd) is watcher:
            self._epoll.modify(fd, events)

    def leave(self, fd: int, watcher: Watcher) -> None:
        """`watcher` is told no more. To be called before its socket is closed; harmless when done twice,
        and when another socket has its number meanwhile."""
        if self._watchers.get(fd) is watcher:
            del self._watchers[fd]
            self._epoll.unregister(fd)
            # A close over bytes that nobody has read is a reset, and drops what has not gone out.
            self._transmit()

    def look_at_clock(self) -> None:
        """It is now, for callbacks that a task calls."""
        self.now = self._clock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell until cancelled."""
        self._clock = trio.lowlevel.current_clock().current_time
        task_status.started()
        host = Host.find()
        if host is not None:
            await host.call(self)
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            self.go(0.0)

    def fileno(self) -> int:
        """Readable when somebody is to be told."""
        return self._epoll.fileno()

    def go(self, most_s: float) -> int:
        """Wait for so long at most until somebody has something to hear, and tell them; how many."""
        events = self._epoll.poll(most_s, _AT_ONCE)
        self.now = self._clock()
        self._keeps = len(events) > 1
        try:
            self._tell(events)
        finally:
            self._keeps = False
            self._transmit()
        return len(events)

    def send(self, sock: socket.socket, data: bytes) -> int:
        """As `sock.send`, from a callback: what the kernel has taken it transmits when others have had
        their say, too. Each transmission wakes whoever reads, most often in another process on another
        core, which falls asleep again before the next one if they come one by one."""
        if not self._keeps:
            return sock.send(data)
        count = sock.send(data, socket.MSG_MORE)
        self._kept.append(sock)
        if len(self._kept) >= TOGETHER:
            self._transmit()
        return count

    def _tell(self, events: list[tuple[int, int]]) -> None:
        watchers, room = self._watchers, NEW_AT_ONCE
        for fd, what in events:
            watcher = watchers.get(fd)
            if watcher is None:
                continue
            if watcher.begins:
                if not room:
                    continue  # it is told of in one of the next goes: it has not heard of it yet
                room -= 1
            try:
                watcher.ready(what)
            except Exception as bug:  # noqa: BLE001 - logged by the watcher, which is closed by it
                watcher.broke(bug)

    def _transmit(self) -> None:
        """What was kept back goes out: tcp(7) does that when it is told that nothing is to be delayed."""
        for sock in self._kept:
            # Where it was closed meanwhile, the kernel has seen to it.
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._kept.clear()

    def close(self) -> None:
        """Nothing is watched any more."""
        self._watchers.clear()
        self._epoll.close()
