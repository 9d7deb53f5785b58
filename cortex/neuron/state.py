"""What a neuron remembers over a restart: small JSON files in its state_dir.

Each file has one owner, who reads it once and gives it whole when it changes. A file is there
whole or not at all, whenever the power goes. Nothing here is fatal: a folder that cannot be used
leaves the neuron without a memory, a damaged file is set aside, and `warnings` says so for
/health. Two neurons that share a folder would undo each other's: the second goes without.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from cortex.units import size

log = logging.getLogger(__name__)

T = TypeVar("T")

# A thousand models' worth of any owner's file is far below this; more is not ours.
MOST_BYTES: Final = 16 * 2**20
# A local disk answers in milliseconds. One that hangs must not keep the neuron from starting,
# nor whoever only wanted something remembered.
DISK_S: Final = 5.0


def usual_folder(env: Mapping[str, str]) -> Path | None:
    """Where state lies when neuron.toml does not say: what systemd gives the service, else what
    the user's desktop says. None where there is no home."""
    given = env.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    home = Path(env.get("XDG_STATE_HOME", ""))
    if home.is_absolute():
        return home / "cortex"
    return Path(env["HOME"]) / ".local" / "state" / "cortex" if env.get("HOME") else None


class State:
    """The folder and its files. `read` and `write` block and may be called from any thread; they
    never raise for what a disk does. `run` must have started before either has an effect."""

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._open = folder, False
        self._trouble: dict[str, str] = {}
        self._one_at_a_time, self._in_order = threading.Lock(), trio.CapacityLimiter(1)

    @property
    def warnings(self) -> list[str]:
        """What the operator should know: one line a file, and one for the folder."""
        return list(self._trouble.values())

    def path(self, name: str) -> Path | None:
        """Where file `name` lies, for files of another form and for telling; None while nothing is
        kept."""
        return self._folder / name if self._open and self._folder is not None else None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the folder until cancelled. `started` comes also when it cannot be used."""
        lock: int | None = None
        with trio.move_on_after(DISK_S) as deadline:
            lock = await trio.to_thread.run_sync(self._hold, abandon_on_cancel=True)
        if deadline.cancelled_caught:
            self._lost("does not answer")
        self._open = lock is not None
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self._open = False
            if lock is not None:
                os.close(lock)

    async def keep(self, name: str, value: object) -> None:
        """`value` is on disk as file `name`, or a warning says why not. Calls are carried out in
        their order. Cancelled, it may or may not be written, but never half."""
        data = msgspec.json.encode(value)
        with trio.move_on_after(DISK_S) as deadline:
            await trio.to_thread.run_sync(
                self._write, name, data, abandon_on_cancel=True, limiter=self._in_order
            )
        if deadline.cancelled_caught:
            self._warn(name, f"{name} is not written: the disk of state_dir does not answer")

    def write(self, name: str, value: object) -> None:
        """As `keep`, for those who are not in trio."""
        self._write(name, msgspec.json.encode(value))

    async def recall(self, name: str, kind: type[T]) -> T | None:
        """As `read`. A disk that hangs is not waited for, and never written to: what it has would
        be lost for what was not read."""
        with trio.move_on_after(DISK_S):
            return await trio.to_thread.run_sync(self.read, name, kind, abandon_on_cancel=True)
        self._open = False
        self._lost("does not answer")
        return None

    def read(self, name: str, kind: type[T]) -> T | None:
        """What file `name` holds, checked to be a `kind`. None when there is none to be had: one
        that is there is set aside, so that the next write does not cost it."""
        if not self._open or self._folder is None:
            return None
        path = self._folder / name
        try:
            # What is no file, but a pipe, must not be waited for.
            with open(path, "rb", opener=lambda of, how: os.open(of, how | os.O_NONBLOCK)) as file:
                data = file.read(MOST_BYTES + 1) or b""
            if len(data) > MOST_BYTES:
                raise ValueError(f"has more than {size(MOST_BYTES)}")
            return msgspec.json.decode(data, type=kind)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            self._set_aside(path, error)
        return None

    def _hold(self) -> int | None:
        """The folder is made, and ours alone: the descriptor that holds its lock."""
        if self._folder is None:
            self._lost("is not set and there is no home to put it in")
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._lost(f"cannot be used: {error.strerror}")
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            taken = isinstance(error, BlockingIOError)
            self._lost("is another running neuron's" if taken else f"cannot be locked: {error.strerror}")
            return None
        return lock

    def _write(self, name: str, data: bytes) -> None:
        if not self._open or self._folder is None:
            return
        path, draft = self._folder / name, self._folder / f".{name}.draft"
        if not self._one_at_a_time.acquire(timeout=DISK_S):
            return  # the write that hangs has its warning
        try:
            _written(draft, data)
            draft.replace(path)
            _settled(self._folder)
        except OSError as error:
            self._warn(name, f"{path} cannot be written: {error.strerror}; see to the disk of state_dir")
        else:
            self._trouble.pop(name, None)
        finally:
            self._one_at_a_time.release()

    def _set_aside(self, path: Path, error: Exception) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(aside)
        except OSError as other:
            self._warn(path.name, f"{path} is damaged and cannot be moved away: {other.strerror}")
        else:
            self._warn(f"{path.name}.damaged", f"{path} was damaged and is now {aside}: {error}")

    def _lost(self, why: str) -> None:
        where = "" if self._folder is None else f" {self._folder}"
        self._warn("", f"state_dir{where} {why}: nothing is kept over a restart; set neuron.state_dir")

    def _warn(self, about: str, what: str) -> None:
        """Said once, until it is over or something else is wrong."""
        if self._trouble.get(about) != what:
            log.warning("state.trouble what=%s", what)
        self._trouble[about] = what


def _written(draft: Path, data: bytes) -> None:
    """`draft` has `data`, on the disk itself; only we may read it."""
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # an older draft may have been anybody's
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _settled(folder: Path) -> None:
    """What was renamed in `folder` stays so when the power goes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
