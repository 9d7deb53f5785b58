"""The process of one model, with its worker at the other end of a socket.

The main thread reads orders, watches over the device's thread and tells that it lives; the
device's thread drives the engine, as it would in the neuron; a third one writes what the
socket did not take at once, so that a neuron that reads slowly never holds up the engine.
The child dies with the neuron: by the kernel's word, and when the socket ends.
"""

import ctypes
import faulthandler
import importlib
import logging
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from cortex import logs
from cortex.harness import alarm, codec
from cortex.harness.alarm import Ours
from cortex.harness.base import Harness
from cortex.harness.hosts.frames import Frames, TooLong, framed
from cortex.harness.hosts.spawn import REPLACED, Plan
from cortex.harness.orders import Beat, Done, Stop, Undone, Word
from cortex.harness.turns import DeviceLoop
from cortex.harness.watch import HUNG, Watch

log = logging.getLogger(__name__)

BEAT_S: Final = 1.0
# A process that was only stopped has so long to say so, once it goes on.
ALARM_S: Final = 2.0
READ_BYTES: Final = 2**16
# Minutes of talk of a fast model. A neuron that has not read them is lost, and so are we.
MOST_UNREAD: Final = 2**26
LAST_WORDS_S: Final = 5.0
CRASHED: Final = 1
UNREAD: Final = 75
_PR_SET_PDEATHSIG: Final = 1


class Outbox:
    """Words on their way to the neuron. `tell` never waits."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._late: deque[memoryview] = deque()
        self._unread = 0
        self._lock = threading.Condition()

    def tell(self, word: Word) -> None:
        """One write, unless the neuron is behind; then it goes later, in order."""
        data = memoryview(framed(codec.encode(word)))
        with self._lock:
            if not self._late:
                data = data[self._send(data) :]
            if data:
                self._late.append(data)
                self._unread += len(data)
                self._lock.notify_all()
            if self._unread > MOST_UNREAD:
                leave(UNREAD, f"the neuron has not read {self._unread} bytes")

    def write(self) -> None:
        """The thread for what is late: for ever."""
        writable = select.poll()
        writable.register(self._line, select.POLLOUT)
        while True:
            with self._lock:
                while not self._late:
                    self._lock.wait()
                head = self._late[0]
            writable.poll()
            sent = self._send(head)
            with self._lock:
                self._unread -= sent
                if sent == len(head):
                    self._late.popleft()
                else:
                    self._late[0] = head[sent:]
                self._lock.notify_all()

    def flush(self) -> None:
        """All is sent, or LAST_WORDS_S are over."""
        with self._lock:
            self._lock.wait_for(lambda: not self._late, LAST_WORDS_S)

    def _send(self, data: memoryview) -> int:
        try:
            return self._line.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the neuron is gone: the reader ends us


class Child:
    """One device loop with one harness, and the line to the neuron."""

    def __init__(self, plan: Plan, line: socket.socket, harness: Harness) -> None:
        self._plan, self._line = plan, line
        self._outbox = Outbox(line)
        self._loop = DeviceLoop(self._tell, {harness.name: harness})
        self._arrived = self._leaving = False  # the model; the one told by its thread, the other by us
        self._watch = Watch(plan.limits)
        self._alarm = Ours().alarm(ALARM_S)
        self._putting_off = threading.Lock()
        self._told = 0.0

    def run(self) -> NoReturn:
        """Until the neuron says so, or is gone."""
        threading.Thread(target=self._outbox.write, name="cortex-out", daemon=True).start()
        threading.Thread(target=self._drive, name=self._plan.device, daemon=True).start()
        readable = select.poll()
        readable.register(self._line, select.POLLIN)
        frames = Frames()
        while True:
            self._beat()
            if readable.poll(min(BEAT_S, self._plan.limits.look_s) * 1000):
                self._obey(frames)

    def _drive(self) -> None:
        code = 0
        try:
            self._loop.run()
        except BaseException:
            log.exception("device.crashed device=%s", self._plan.device)
            code = CRASHED
        self._outbox.flush()
        leave(code)

    def _tell(self, word: Word) -> None:
        if isinstance(word, Done | Undone) and not self._arrived:
            self._arrived = True
            self._put_off()
        self._outbox.tell(word)

    def _beat(self) -> None:
        """Tell that we live, and see whether the device's thread does. Whether this thread does
        is for the alarm to see: an engine may hold the interpreter."""
        now, doing = time.monotonic(), self._loop.pulse.doing
        if now >= self._told + BEAT_S:
            self._told = now
            self._outbox.tell(Beat(doing))
        if (hang := self._watch.look(now, {self._plan.device: doing})) is not None:
            leave(HUNG, f"device.hung {hang}", dump=True)
        self._put_off()

    def _put_off(self) -> None:
        """From here on the interpreter may be held for as long as what may come next may take:
        there may be no further look."""
        if self._alarm is None:
            return
        with self._putting_off:
            moving = self._leaving or not self._arrived
            self._alarm.put_off(self._plan.patience_s(self._loop.pulse.doing, moving=moving))

    def _obey(self, frames: Frames) -> None:
        try:
            data = self._line.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            leave(0)  # the neuron is gone
        for message in frames.feed(data):
            order = codec.order_of(message)
            if isinstance(order, Stop):
                self._leaving = True
                self._put_off()
                # Until here, a signal to all of a service's processes is the neuron's to obey.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._loop.inbox.put(order)


def main(told: str) -> NoReturn:
    """A child, from what it was told at its start."""
    plan = msgspec.json.decode(told, type=Plan)
    if plan.build != codec.BUILD:
        leave(
            REPLACED, "cortex was replaced on disk by another build while the neuron runs; restart the neuron"
        )
    _bind(plan.parent)
    faulthandler.enable()
    outlet = logs.Outlet(sys.stderr)
    outlet.setFormatter(logs.Text(journal=True))
    logging.basicConfig(level=logging.WARNING, handlers=[outlet])
    line = socket.socket(fileno=plan.line)
    line.setblocking(False)
    os.set_inheritable(plan.line, False)
    module, _, name = plan.factory.partition(":")
    harness: Harness = getattr(importlib.import_module(module), name)()
    try:
        Child(plan, line, harness).run()
    except (codec.Garbled, TooLong) as error:
        leave(CRASHED, f"the neuron says what makes no sense: {error}")


def leave(code: int, why: str = "", *, dump: bool = False) -> NoReturn:
    """The end of this process, at once: an interpreter that shuts down could wait for an engine."""
    for outlet in logging.getLogger().handlers:
        outlet.close()
    with suppress(OSError):
        if why:
            os.write(2, f"{why}\n".encode())
    if dump:
        alarm.dump()
    os._exit(code)


def _bind(parent: int) -> None:
    """We die with the neuron, before it where memory ends, and leave no core: it has prompts."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if os.getppid() != parent:
        os._exit(0)  # it was gone before it could take us along
