"""The cache's writing side: one builder at a time, and nothing there that is not whole.

What is under way lies in a folder with a name that nobody looks at, and gets its own by a rename.
The lock is the kernel's: a builder that is killed has none any more, and the next one clears
away what it left.
"""

import fcntl
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from cortex.harness.exllamav2.extension import ABOUT, FAILED, Failed, Made

LOCK: Final = "lock"
LOG: Final = "build.log"
UNFINISHED: Final = ".building-"


@asynccontextmanager
async def locked(home: Path, waits: Callable[[], None]) -> AsyncIterator[None]:
    """Nobody else builds into `home` meanwhile; `waits` is called when somebody does. Cancelled
    while it waits, a thread is left to wait on until the process ends."""
    with _opened(home) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            await trio.to_thread.run_sync(fcntl.flock, file, fcntl.LOCK_EX, abandon_on_cancel=True)
        yield


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """A folder to build in, which is gone afterwards, unless it has got its final name; so is what
    killed builders have left. The lock is held."""
    for each in home.glob(f"{UNFINISHED}*"):
        shutil.rmtree(each, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(home: Path, folder: Path, made: Made) -> Path:
    """The folder has its final name: the extension is there. One of the same name is replaced; who
    has it open keeps what he has."""
    (folder / LOG).unlink()
    (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(made)))
    folder.chmod(0o755)  # it may be built by one user and read by another
    final, old = home / ",".join(made.archs), home / f"{UNFINISHED}replaced"
    if final.exists():
        final.rename(old)
    folder.rename(final)
    shutil.rmtree(old, ignore_errors=True)
    (home / FAILED).unlink(missing_ok=True)
    (home / LOG).unlink(missing_ok=True)
    return final


def remember(home: Path, folder: Path, why: str) -> Path:
    """How a build failed is kept for whoever asks, and its log, whose path is the answer."""
    log = (folder / LOG).replace(home / LOG)
    (home / FAILED).write_bytes(msgspec.json.encode(Failed(why=why, log=str(log), at=time.time())))
    return log


@contextmanager
def _opened(home: Path) -> Iterator[int]:
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("ab") as file:
        yield file.fileno()
