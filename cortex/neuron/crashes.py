"""Which models took a process with them, and which are kept out for it.

What the crash journals of the last process left, and what children died of in this one, is
noted, kept in state_dir, and told. A model whose file was blamed for two deaths within ten
minutes is quarantined: refused, until its file changes, an operator forces a load, or the
file of this list is deleted. Requests that were served in a crash are named, since one of
them may have been its cause: nobody should send it again.
"""

import logging
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import msgspec
import trio

from cortex.errors import Unfit
from cortex.harness import journal
from cortex.harness.journal import Journal
from cortex.harness.losses import Crash
from cortex.neuron.state import State
from cortex.wire import neuron as wire

log = logging.getLogger(__name__)

FILE: Final = "crashes.json"
SUFFIX: Final = ".crash"
# Two in so many seconds: faults that come with use take longer, and rot of a disk does not wait.
DEATHS: Final = 2
WITHIN_S: Final = 600.0
KEPT: Final = 32


class Noted(msgspec.Struct, kw_only=True, frozen=True):
    """One death. `models` gives the digest of each that may have caused it; `at` is Unix time."""

    device: str
    phase: str
    at: float
    boot_id: str = ""
    why: str = ""
    models: dict[str, str] = {}
    requests: tuple[str, ...] = ()
    more: int = 0


class Held(msgspec.Struct, kw_only=True, frozen=True):
    """A model in quarantine, and when it took something down."""

    model: str
    times: tuple[float, ...]


class Memory(msgspec.Struct, kw_only=True):
    """The file. `held` is by digest."""

    crashes: list[Noted] = []
    held: dict[str, Held] = {}


class Crashes:
    """Of one neuron. `run` keeps what is noted; `clock` gives Unix seconds."""

    def __init__(
        self,
        state: State,
        boot_id: str = "",
        memory: Memory | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._boot_id, self._clock = state, boot_id, clock
        self._memory = memory or Memory()
        self._on_disk = memory is not None
        self._digests: dict[str, str] = {}
        self._journals: list[Journal] = []
        self._changed = trio.Event()
        self.died_before: tuple[Noted, ...] = ()  # found at this start

    @classmethod
    async def remembered(cls, state: State, boot_id: str) -> "Crashes":
        """With what earlier processes kept, and what the last one left when it died."""
        memory = await state.recall(FILE, Memory)
        crashes = cls(state, boot_id, memory)
        left = await trio.to_thread.run_sync(_left, state.path(""))
        crashes.died_before = tuple(left)
        for noted in left:
            crashes._note(noted)
        return crashes

    async def open(self, device: str) -> Journal | None:
        """A journal for a device; None without a state_dir, which has its own warning."""
        path = self._state.path(re.sub(r"[^A-Za-z0-9+]", "-", device) + SUFFIX)
        if path is None:
            return None
        try:
            found = await trio.to_thread.run_sync(Journal, path, device, self._boot_id)
        except OSError as error:
            log.warning("journal.failed device=%s error=%s", device, error)
            return None
        self._journals.append(found)
        return found

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what is noted, until cancelled."""
        task_status.started()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._state.keep(FILE, self._memory)
            self._on_disk = await trio.to_thread.run_sync(self._is_there)

    def leave(self) -> None:
        """The process was told to end: what cuts it short from here on is no crash."""
        for each in self._journals:
            each.leave()

    @property
    def last(self) -> wire.Crash | None:
        """The last death, of a process or of a child."""
        noted = self._memory.crashes[-1] if self._memory.crashes else None
        if noted is None:
            return None
        return wire.Crash(
            at=noted.at,
            device=noted.device,
            phase=noted.phase,
            why=noted.why,
            boot_id=noted.boot_id,
            models=sorted(noted.models),
            request_ids=list(noted.requests),
            more_requests=noted.more,
        )

    def quarantined(self) -> list[wire.Quarantined]:
        """Who is kept out."""
        return [
            wire.Quarantined(model=held.model, crashes=list(held.times), remedy=self._remedy(held))
            for held in self._memory.held.values()
        ]

    async def admit(self, model: str, digest: str) -> None:
        """Raises Unfit for a model in quarantine. Whoever is let in is known by this digest."""
        self._digests[model] = digest
        held = self._memory.held.get(digest)
        if held is None:
            # Its file is another one than that which crashed.
            for old in [old for old, each in self._memory.held.items() if each.model == model]:
                self._release(old)
            return
        if self._on_disk and not await trio.to_thread.run_sync(self._is_there):
            log.warning("quarantine.forgotten file=%s", FILE)
            self._memory, self._on_disk = Memory(), False
            return
        raise Unfit(f"Model '{model}' is in quarantine: {self._remedy(held)}")

    def lift(self, model: str) -> None:
        """An operator wants `model` loaded, whatever it did."""
        for digest in [digest for digest, held in self._memory.held.items() if held.model == model]:
            self._release(digest)

    def died(self, device: str, crash: Crash) -> None:
        """A child died, and its model with it."""
        digest = "" if crash.shot else self._digests.get(crash.model, "")
        self._note(
            Noted(
                device=device,
                phase=crash.phase,
                at=self._clock(),
                boot_id=self._boot_id,
                why=crash.why,
                models={crash.model: digest},
                requests=crash.requests,
            )
        )

    def _note(self, noted: Noted) -> None:
        log.error(
            "crash.noted device=%s phase=%s models=%s requests=%s not_retryable=yes why=%s",
            noted.device,
            noted.phase,
            ",".join(noted.models),
            ",".join(noted.requests) or "-",
            noted.why or "the process died",
        )
        crashes = self._memory.crashes = [*self._memory.crashes, noted][-KEPT:]
        for model, digest in noted.models.items():
            times = [
                each.at
                for each in crashes
                if digest in each.models.values() and abs(noted.at - each.at) <= WITHIN_S
            ]
            if digest and len(times) >= DEATHS:
                self._memory.held[digest] = held = Held(model=model, times=tuple(times))
                log.error("model.quarantined model=%s remedy=%s", model, self._remedy(held))
        self._changed.set()

    def _release(self, digest: str) -> None:
        """Free, and with a clean record."""
        held = self._memory.held.pop(digest)
        log.warning("quarantine.lifted model=%s", held.model)
        self._memory.crashes = [each for each in self._memory.crashes if digest not in each.models.values()]
        self._changed.set()

    def _remedy(self, held: Held) -> str:
        times = ", ".join(time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at)) for at in held.times)
        path = self._state.path(FILE)
        delete = f", or delete {path}" if path is not None else ""
        return (
            f"processes died with it at {times}. See the log for why; then replace its file, load it "
            f'with POST /models/load and "force": true{delete}'
        )

    def _is_there(self) -> bool:
        path = self._state.path(FILE)
        return path is not None and path.exists()


def _left(folder: Path | None) -> list[Noted]:
    """What the journals of the last process tell. Those are then as good as empty."""
    if folder is None:
        return []
    noted: list[Noted] = []
    blamed: set[str] = set()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        entry = journal.read(path)
        if entry is not None and entry.crashed:
            noted.append(_noted(entry, blamed))
            blamed |= {each.digest for each in entry.blamed}
        try:
            path.unlink()  # of a device that is gone, it would be found again and again
        except OSError as error:
            log.warning("journal.stays file=%s error=%s", path, error)
    return noted


def _noted(entry: journal.Entry, blamed: Collection[str]) -> Noted:
    """A process dies once, whatever its other devices were at: who is `blamed` already is not
    blamed for the same death again."""
    return Noted(
        device=entry.device,
        phase=entry.phase,
        at=entry.at,
        boot_id=entry.boot_id,
        models={each.model: "" if each.digest in blamed else each.digest for each in entry.blamed},
        requests=tuple(request for each in entry.blamed for request in each.requests),
        more=entry.more,
    )
