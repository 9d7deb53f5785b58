"""A thread that is silent too long hangs; a process that was stopped does not (row 77)."""

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from cortex.harness.alarm import Alarm
from cortex.harness.pulse import IDLE, Doing
from cortex.harness.watch import Limits, Watch

LIMITS = Limits(turn_s=8.0, warmup_s=16.0, load_s=24.0)  # a look a second
TURN = Doing("turn", "a", ("r-1",), beat=5.0)


def silent_for(doing: Doing, limits: Limits = LIMITS) -> int | None:
    """After how many looks, a second apart, `doing` is a hang."""
    watch = Watch(limits)
    for second in range(60):
        if watch.look(float(second), {"cpu": doing}) is not None:
            return second
    return None


@pytest.mark.parametrize(
    ("doing", "limit"),
    [
        (TURN, 8),
        (replace(TURN, phase="wait"), 8),
        (replace(TURN, cold=True), 16),
        (replace(TURN, phase="wait", cold=True), 16),
        (Doing("load", "a"), 24),
        (Doing("unload", "a"), 24),
        (IDLE, None),
        (Doing("lost"), None),
    ],
)
def test_each_phase_has_its_own_limit(doing: Doing, limit: int | None) -> None:
    assert silent_for(doing) == limit


def test_a_sign_of_life_begins_the_time_anew() -> None:
    watch = Watch(LIMITS)
    for second in range(100):
        assert watch.look(float(second), {"cpu": replace(TURN, beat=float(second // 7))}) is None


def test_the_hang_says_what_was_going_on() -> None:
    watch = Watch(LIMITS)
    found = None
    for second in range(20):
        busy = replace(TURN, beat=float(second))
        found = watch.look(float(second), {"cpu": busy, "cuda:0": TURN}) or found
    assert found is not None
    assert str(found) == "device=cuda:0 phase=turn model=a silent_s=19.0 requests=r-1"


def test_a_process_that_was_stopped_or_suspended_is_not_taken_for_a_hang() -> None:
    """And neither is one whose loop had no time to look."""
    watch = Watch(LIMITS)
    watch.look(0.0, {"cpu": TURN})
    assert watch.look(3600.0, {"cpu": TURN}) is None
    assert watch.look(7200.0, {"cpu": TURN}) is None
    for second in range(1, 4):
        assert watch.look(7200.0 + second, {"cpu": TURN}) is None
    assert watch.look(7204.0, {"cpu": TURN}) is not None  # 2 + 2 + 4 seconds that were looked at


def test_short_limits_are_looked_at_often_and_long_ones_every_second() -> None:
    assert LIMITS.look_s == 1.0
    assert Limits(turn_s=0.8).look_s == pytest.approx(0.1)
    assert Limits().look_s == 1.0


ALARMED = """
import ctypes, os, sys, threading, time
from cortex.harness.alarm import Alarm
alarm = Alarm(1.0)
alarm.put_off(0.3)
if sys.argv[1] == "held":
    threading.Thread(target=ctypes.PyDLL(None).sleep, args=(60,), name="holder", daemon=True).start()
    time.sleep(60)
until = time.monotonic() + float(sys.argv[2])
print("ready", flush=True)
while time.monotonic() < until:
    time.sleep(0.05)
    alarm.put_off(0.3)
alarm.close()
time.sleep(0.5)
"""


def test_an_interpreter_that_is_held_for_ever_ends_with_a_stack_dump() -> None:
    """Nothing in Python can run: the kernel's timer and the C library do it."""
    assert ctypes.PyDLL(None).sleep
    done = subprocess.run(
        [sys.executable, "-c", ALARMED, "held"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == -signal.SIGALRM
    assert "most recent call first" in done.stderr


@pytest.mark.slow
def test_an_interpreter_that_goes_on_after_a_stop_is_left_alone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ALARMED, "busy", "2.5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)  # five times what it may be silent
    os.kill(process.pid, signal.SIGCONT)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, b"")


def test_an_alarm_that_is_closed_leaves_the_signal_as_it_was() -> None:
    alarm = Alarm(5.0)
    alarm.put_off(60.0)
    alarm.close()
    assert signal.alarm(0) == 0
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
