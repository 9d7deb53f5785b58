"""Starting a worker: its command line, and what it inherits.

It gets the listeners, the memory of `crowd` and its end of a socket, and else what any command has: its
environment, its folder, its log. It must be started by the thread that lives as long as the supervisor: the
kernel kills it when that thread ends, so that nobody outlives a supervisor that is killed.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import cortex

# As an entry point of a package would: nothing of the folder that it starts in is imported.
# A terminal's Ctrl-C and hang-up are the supervisor's business, from the first line on.
_BEGIN: Final = (
    "import json, signal, sys; from importlib import import_module; plan = json.loads(sys.argv[1]); "
    "ours = signal.SIGINT, signal.SIGHUP; [signal.signal(each, signal.SIG_IGN) for each in ours]; "
    "signal.pthread_sigmask(signal.SIG_UNBLOCK, ours); "
    "sys.path += [each for each in plan['path'] if each not in sys.path]; "
    "import_module(plan['entry']).main(sys.argv[1])"
)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
# As a shell tells of a process that was killed.
ORPHANED: Final = 128 + signal.SIGKILL


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is told at its start. `entry` is the module whose `main` gets it, `about` is for that,
    and a list of processes shows the worker as one of `command`; the others are descriptors."""

    entry: str
    command: str
    about: dict[str, str]
    workers: int
    api: int
    page: int
    crowd: int
    index: int = 0
    parent: int = 0
    line: int = -1
    path: list[str] = []


@dataclass(frozen=True, slots=True)
class Born:
    """A worker, and our end of its socket."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket


def start(plan: Plan, index: int) -> Born:
    """The worker of that index, begun. Blocks for some milliseconds."""
    ours, theirs = socket.socketpair()
    # It inherits what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        plan = msgspec.structs.replace(
            plan, index=index, parent=os.getpid(), line=theirs.fileno(), path=_path()
        )
        # What stands before the line does nothing, but `ps` shows it first.
        line = f"'{plan.command} worker {index + 1} of {plan.workers}'; {_BEGIN}"
        words = [sys.executable, "-P", "-c", line, msgspec.json.encode(plan).decode()]
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and a line of our own
            words, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), plan.api, plan.page, plan.crowd)
        )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return Born(process, ours)


def shown_as(index: int) -> None:
    """`top` shows this process as that worker; it has room for 15 letters."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"cortex-work-%d" % (index + 1))


def die_with(parent: int) -> None:
    """This process is killed when `parent` ends, whatever it is doing then."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was quicker
        os._exit(ORPHANED)


def _path() -> list[str]:
    return [*map(os.path.abspath, filter(None, sys.path)), str(Path(cortex.__file__).parent.parent)]
