"""Ends a process whose interpreter is held for ever, which no Python code can.

A timer of the kernel's, put off by whoever is alive. When it fires, the C library's own
thread calls `alarm`, which nobody has to hold Python's lock for: a process that was only
stopped has that much time to put it off again, and one that hangs is killed by SIGALRM,
after `faulthandler` has written where every thread stands. There is one a process; a
program that has it must not use SIGALRM.
"""

import ctypes
import faulthandler
import math
import os
import signal
import sys
from typing import Final, Protocol

_CLOCK_MONOTONIC: Final = 1
_SIGEV_THREAD: Final = 2


class _Event(ctypes.Structure):
    """sigevent: padded to the 64 bytes that the C library reads."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    )


class _Time(ctypes.Structure):
    """itimerspec: interval and first expiry."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class Alarm:
    """Held while the process is to be watched. `grace_s` is what one that was stopped gets."""

    def __init__(self, grace_s: float) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        kill = ctypes.cast(self._libc.alarm, ctypes.c_void_p).value
        event = _Event(value=max(1, math.ceil(grace_s)), notify=_SIGEV_THREAD, function=kill)
        self._timer = ctypes.c_void_p()
        if self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            raise OSError(ctypes.get_errno(), "no timer for the watch over the interpreter")
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, file=sys.stderr, all_threads=True, chain=True)

    def put_off(self, seconds: float) -> None:
        """Nothing happens for `seconds` from now, and what was about to happen does not."""
        self._set(seconds)
        signal.alarm(0)

    def close(self) -> None:
        """Nothing happens any more."""
        self._set(0.0)
        signal.alarm(0)
        self._libc.timer_delete(self._timer)
        faulthandler.unregister(signal.SIGALRM)

    def _set(self, seconds: float) -> None:
        when = _Time(first_s=int(seconds), first_ns=int(seconds % 1 * 10**9))
        self._libc.timer_settime(self._timer, 0, ctypes.byref(when), None)


class Ending(Protocol):
    """What may be done to the process that a neuron lives in."""

    def alarm(self, grace_s: float) -> Alarm | None:
        """A watch over the interpreter; None where there can be none."""

    def leave(self, code: int) -> None:
        """The process is gone, at once."""


class Ours:
    """The process is ours alone: a command, or a child that hosts a model."""

    def alarm(self, grace_s: float) -> Alarm | None:
        """None on systems without these timers."""
        try:
            return Alarm(grace_s)
        except (AttributeError, OSError, ValueError):
            return None

    def leave(self, code: int) -> None:
        os._exit(code)


def dump() -> None:
    """Where every thread stands is on stderr."""
    try:
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    except (OSError, ValueError, AttributeError, RuntimeError):
        return  # no stderr, or none that is a file: the log line has to do
