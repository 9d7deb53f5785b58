"""A child of the build from its start to the end of the last process that it started.

It has a session of its own, so that the terminal's Ctrl-C is for whoever started it alone, and a
pipe for its input, which tells it when they are gone. Its output goes to a log; the steps that
ninja counts are told on, and the last lines kept for the case that it fails.
"""

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ClassVar, Final, Literal, Protocol

import trio

from cortex.errors import CortexError

# ninja tells its compilers to stop, and they do so at once.
_STOP_S: Final = 5.0
_LOOK_S: Final = 0.05
_TOLD_LINES: Final = 20
# Enough for all that compilers side by side say after the first of them has failed.
_KEPT_LINES: Final = 1000
_STEP: Final = re.compile(rb"\[(\d+)/(\d+)\] ")


class BuildFailed(CortexError):
    """The extension could not be compiled. `said` are the lines of the output that tell why."""

    code: ClassVar[str] = "build_failed"
    blame: ClassVar[Literal["caller", "cortex", "engine"]] = "engine"

    def __init__(self, message: str, said: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.said = tuple(said)


class Watcher(Protocol):
    """Is told how a build comes along."""

    def waits(self) -> None:
        """Another build for these versions is under way, and this one begins when it ends."""

    def step(self, done: int, total: int) -> None:
        """So many of the compilations are done."""

    def checks(self) -> None:
        """All is compiled; the module is imported once."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended; `said` are the lines that tell why, where it failed."""

    code: int
    said: tuple[str, ...]

    @property
    def reason(self) -> str:
        return f"exit code {self.code}" if self.code >= 0 else signal.Signals(-self.code).name


async def run(
    command: Sequence[str],
    env: Mapping[str, str],
    folder: Path,
    log: Path,
    step: Callable[[int, int], None],
) -> Ended:
    """The child has ended, and all that it started; its output is in `log`. Cancelled, they are
    ended first."""
    heard = _Heard(step)
    async with await trio.open_file(log, "ab") as file:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
            start_new_session=True,
        )
        try:
            async with trio.open_nursery() as nursery:
                if process.stdout is not None:
                    nursery.start_soon(heard.read, process.stdout, file.wrapped)
                try:
                    code = await process.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        # Nobody is left who could hold the output open, so that it comes to its end.
                        await _end(process)
        finally:
            with trio.CancelScope(shield=True):
                for pipe in filter(None, (process.stdin, process.stdout)):
                    await pipe.aclose()
    return Ended(code, tuple(heard.told()))


@dataclass(slots=True)
class _Heard:
    """A child's output as it comes."""

    step: Callable[[int, int], None]
    _lines: deque[bytes] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))

    async def read(self, output: AsyncIterable[bytes | bytearray], log: IO[bytes]) -> None:
        """All of it is in the log. Cancelled, the rest is not."""
        rest = b""
        async for data in output:
            log.write(data)
            log.flush()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(line)
        self._take(rest)

    def told(self) -> list[str]:
        """What the first compiler that failed has said; the last lines, where none did."""
        lines = [line.decode(errors="replace").rstrip() for line in self._lines]
        failed = next((at for at, line in enumerate(lines) if line.startswith("FAILED: ")), None)
        if failed is None:
            return lines[-_TOLD_LINES:]
        # The line after it is the compiler's command, some thousand characters long.
        return [lines[failed], *lines[failed + 2 :][:_TOLD_LINES]]

    def _take(self, line: bytes) -> None:
        if (step := _STEP.match(line)) is not None:
            self.step(int(step[1]), int(step[2]))
        elif line.strip():
            self._lines.append(line)


async def _end(process: trio.Process) -> None:
    """Nothing of its session runs any more. ninja is asked first: it knows its compilers, which
    are in groups of their own."""
    if process.poll() is None or _session(process.pid):
        _signal([-process.pid], signal.SIGTERM)
    with trio.move_on_after(_STOP_S):
        while process.poll() is None or _session(process.pid):  # noqa: ASYNC110 - grandchildren tell nobody
            await trio.sleep(_LOOK_S)
    _signal(_session(process.pid), signal.SIGKILL)
    await process.wait()


def _session(leader: int) -> list[int]:
    """The processes of a session. None are found where the kernel does not tell (not Linux)."""
    return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/stat") if _leader(each) == leader]


def _leader(stat: Path) -> int | None:
    """Whose session the process is in; None when it is gone, or a zombie."""
    try:
        # The name in brackets may hold anything, a bracket too.
        words = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if len(words) < 4 or words[0] == "Z" else int(words[3])


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
