"""Starting a child: its command line, and what it inherits.

It gets one end of a socket, the null device for input and output, a pipe for its errors,
a session of its own (so that the terminal's Ctrl-C is for the neuron alone), and of our
environment what engines need. It must be started by a thread that outlives it: the kernel
kills it when that thread ends.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

import cortex
from cortex.harness import codec
from cortex.harness.pulse import Doing
from cortex.harness.watch import Limits

REPLACED: Final = 78  # how a child ends that is of another build than its neuron
_NAMES: Final = frozenset(
    # The two folders are where compiled parts of engines lie.
    {"CACHE_DIRECTORY", "HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TZ", "USER", "XDG_CACHE_HOME"}
)
_FAMILIES: Final = (
    "CUDA_",
    "GGML_",
    "GOMP_",
    "KMP_",
    "LC_",
    "MALLOC_",
    "NVIDIA_",
    "OMP_",
    "PYTORCH_",
    "TORCH_",
    "TRITON_",
)
# The interpreter is isolated from the environment and from the folder that it starts in, and
# is told instead where we found what we are made of, in our order: both ends are one build.
_BEGIN: Final = (
    "import json, sys; path = json.loads(sys.argv[1])['path']; "
    "sys.path[:] = [*path, *(each for each in sys.path if each not in path)]; "
    "from cortex.harness.hosts.child import main; main(sys.argv[1])"
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told at its start. `factory` is the dotted name of what makes its harness:
    it comes from a harness's own code, never from a file or a request."""

    model: str
    device: str
    factory: str
    parent: int = 0
    line: int = -1  # the descriptor of its end of the socket
    limits: Limits = Limits()
    path: list[str] = []
    build: str = ""  # what we say and hear is of this one

    def patience_s(self, doing: Doing, *, moving: bool) -> float:
        """How long the child may be silent when it was last seen `doing`, which may have changed
        since. `moving`: its model comes or goes."""
        if moving:
            return self.limits.load_s
        told = self.limits.of(doing) if doing.phase in ("turn", "wait") else None
        return told or self.limits.warmup_s


@dataclass(frozen=True, slots=True)
class Born:
    """A child, our end of the socket and of its stderr."""

    process: "subprocess.Popen[bytes]"
    line: socket.socket
    errors: int


def start(plan: Plan, folder: Path) -> Born:
    """The child, begun. Raises OSError, with nothing left open.

    Blocks for some milliseconds: on the thread that stays, for the reason above.
    """
    ours, theirs = socket.socketpair()
    errors, their_errors = os.pipe()
    try:
        plan = msgspec.structs.replace(
            plan, parent=os.getpid(), line=theirs.fileno(), path=_path(), build=codec.BUILD
        )
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, and a line of our own
            command(plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=their_errors,
            pass_fds=(theirs.fileno(),),
            env={**environment(os.environ), "TMPDIR": str(folder)},
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        os.close(errors)
        raise
    finally:
        theirs.close()
        os.close(their_errors)
    ours.setblocking(False)
    os.set_blocking(errors, False)
    return Born(process, ours, errors)


def command(plan: Plan) -> list[str]:
    """The one place that knows how a Python of ours is started. What stands before the line does nothing,
    but `ps` shows it first."""
    line = f"{f'cortex model {plan.model} on {plan.device}'!a}; {_BEGIN}"
    return [sys.executable, "-I", "-c", line, msgspec.json.encode(plan).decode()]


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Of our environment what engines need: no token, no proxy, nothing that steers Python."""
    return {name: value for name, value in ours.items() if name in _NAMES or name.startswith(_FAMILIES)}


def _path() -> list[str]:
    return [*map(os.path.abspath, filter(None, sys.path)), str(Path(cortex.__file__).parent.parent)]
