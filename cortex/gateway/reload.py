"""The files of a gateway are read anew: when a signal asks for it, and when they change.

All or nothing: a file with faults changes nothing, its faults are in the log and in
`/health`, and it is read again until it has none. A change is seen by looking at every
file every few seconds, through symbolic links, so that an editor's rename and a volume
that is swapped as a whole are seen too; files that still change are left to settle.
What the values do once they are read is `tuning`'s.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.whole import Whole
from cortex.errors import ConfigError
from cortex.notify import Notify
from cortex.units import counted

log = logging.getLogger(__name__)

# Between two looks at the files; a change is acted on at the second look that finds it unchanged.
LOOK_S: Final = 2.0
_Mark: TypeAlias = tuple[int, int, int, int] | str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a gateway's values come from. `read` raises ConfigError; `path` is watched even while
    it cannot be read; `asked` returns when somebody wants them read, changed or not."""

    read: Callable[[], Whole[GatewayConfig]]
    path: Path
    asked: Callable[[], Awaitable[None]] = trio.sleep_forever
    look_s: float = LOOK_S


class Tuned(Protocol):
    """Takes new values, and shows what is wrong with those that it does not get."""

    def take(self, whole: Whole[GatewayConfig]) -> list[str]:
        """They are in force; answers what changed. Those of before are, where it raises."""

    def show(self, faults: list[str]) -> None:
        """These stand against the files; none, and all is well."""


class Reloader:
    """One for each gateway that has files. `run` it once the gateway is up."""

    def __init__(self, source: Source, tuned: Tuned, notify: Notify) -> None:
        self._source, self._tuned, self._notify = source, tuned, notify
        self._files: tuple[Path, ...] = (source.path,)
        self._faults: list[str] = []

    async def run(self) -> None:
        """Watch until cancelled. The files are read once at the start, since they may have changed
        while the gateway was on its way."""
        read = before = await self._look()
        await self._reload(asked=False)
        while True:
            asked = False
            with trio.move_on_after(self._source.look_s):
                await self._source.asked()
                asked = True
            marks = await self._look()
            settled, before = marks == before, marks
            if asked or (settled and (marks != read or self._faults)):
                await self._reload(asked=asked)
                # From before it was read: what changes meanwhile differs at the next look.
                read = marks

    async def _look(self) -> tuple[_Mark, ...]:
        return await trio.to_thread.run_sync(_look_at, self._files, abandon_on_cancel=True)

    async def _reload(self, *, asked: bool) -> None:
        """The values of the files are in force, or their faults are told."""
        began_us = time.monotonic_ns() // 1000
        if asked:
            self._notify.reloading("reading the files again", began_us)
        try:
            whole = await trio.to_thread.run_sync(self._source.read, abandon_on_cancel=True)
        except ConfigError as error:
            self._refuse(error.faults, asked=asked)
        except Exception as bug:
            log.exception("reload.crashed")
            self._refuse([f"the files cannot be read: {bug}"], asked=asked)
        else:
            self._accept(whole, None if asked else began_us)

    def _refuse(self, faults: list[str], *, asked: bool) -> None:
        if faults != self._faults or asked:
            for fault in faults:
                log.error("reload.refused fault=%s", fault)
            self._tuned.show(faults)
        self._faults = list(faults)
        if asked:
            self._notify.ready(f"{counted(len(faults), 'fault')} in the files; the values of before stay")

    def _accept(self, whole: Whole[GatewayConfig], unasked_us: int | None) -> None:
        asked = unasked_us is None
        try:
            changed = self._tuned.take(whole)
        except Exception as bug:
            log.exception("reload.crashed")
            self._refuse([f"the values of before stay, since one was not taken: {bug}"], asked=asked)
            return
        self._files = tuple(dict.fromkeys((self._source.path, *whole.files)))
        if self._faults:
            self._tuned.show([])
        news = bool(changed or self._faults or asked)
        self._faults = []
        if not news:
            return
        if unasked_us is not None:
            self._notify.reloading("the files have changed", unasked_us)
        for warning in whole.warnings:
            log.warning("config.warning what=%s", warning)
        log.info("reload.done changed=%s", ",".join(changed) or "-")
        self._notify.ready(f"{counted(len(whole.config.neurons), 'neuron')} configured")


def _look_at(files: Iterable[Path]) -> tuple[_Mark, ...]:
    """What tells one state of the files from another."""
    return tuple(map(_mark, files))


def _mark(file: Path) -> _Mark:
    try:
        found = file.stat()
    except OSError as error:
        return str(error.errno)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
