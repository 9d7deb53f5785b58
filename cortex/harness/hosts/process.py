"""A child process with one model, as its worker sees it.

It owns the process, our end of the socket, and the folder of its temporary files; all three
are gone, and the process is reaped, before `ended` is set. Neither side waits for the other:
orders wait here in line, words are read as fast as trio comes round to it. A child that
shows no sign of life for longer than it may is made to print its stacks, and killed.
"""

import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from cortex.errors import CortexError, TooBig, Unsupported
from cortex.events import Failed
from cortex.harness import codec
from cortex.harness.folders import Folder
from cortex.harness.hosts import Isolation
from cortex.harness.hosts.frames import Frames, TooLong, framed
from cortex.harness.hosts.lines import Lines
from cortex.harness.hosts.spawn import REPLACED, Born, Plan, start
from cortex.harness.orders import (
    Beat,
    Detokenise,
    Done,
    Faulted,
    Gone,
    Heard,
    Load,
    Order,
    Progress,
    Stop,
    Submit,
    Tokenise,
    Undone,
    Word,
)
from cortex.harness.pulse import Doing

log = logging.getLogger(__name__)

FOLDER: Final = "cortex-engine-"  # a child's temporary files
START_S: Final = 30.0  # an interpreter and our imports take half a second
LOOK_S: Final = 1.0
# The child ends itself at its limit, if it still can; only then it is ended from here.
MERCY_S: Final = 5.0
DUMP_S: Final = 1.0  # to print its stacks
EXIT_S: Final = 10.0  # to unload; then SIGTERM
TERM_S: Final = 1.0  # then SIGKILL
REAP_S: Final = 5.0  # the kernel may have gigabytes to take back
LAST_LINES_S: Final = 0.05
LAST_EXIT_S: Final = 1.0  # a process that closed its socket has little left to do
READ_BYTES: Final = 2**15
HEAVY: Final = 2**16  # bytes or tokens that are packed and unpacked in a thread


class ProcessHost:
    """One child. `hear` is called in trio with every word, in order: with all that one read brings at
    once. `ended` is called once, at the end."""

    def __init__(
        self,
        plan: Plan,
        hear: Callable[[Sequence[Word]], None],
        *,
        busy: Callable[[], bool],
        ended: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.leaving = False
        self.over = trio.Event()
        self._hear, self._busy, self._ended = hear, busy, ended
        self._born: Born | None = None
        self._begun, self._left, self._silent = trio.Event(), trio.Event(), trio.Event()
        self._outbox: deque[Order] = deque()
        self._bell = trio.Event()
        self._lines = Lines(plan.model)
        self._beat = self._heard_at = time.monotonic()
        # Its interpreter and its imports are part of the load.
        self._doing = Doing("load", plan.model)
        self._moving = False  # its model comes
        self._condemned, self._verdict = False, ""
        self._closed = False  # its end of the socket
        self._code: int | None = None

    @property
    def isolation(self) -> Isolation:
        return "process"

    @property
    def pid(self) -> int | None:
        return None if self._born is None else self._born.process.pid

    @property
    def age_s(self) -> float:
        return max(0.0, time.monotonic() - self._beat)

    @property
    def doing(self) -> Doing:
        return self._doing

    @property
    def cause(self) -> str:
        """How it ended, for those whose answer it was."""
        if self._verdict:
            return f"its process {self._verdict}"
        if self._code is None:
            return "its process could not be ended"
        by = f"was killed by {signal.Signals(-self._code).name}" if self._code < 0 else ""
        how = by or f"exited with code {self._code}"
        return f"its process {how}" + (f": {self._lines.last}" if self._lines.last else "")

    @property
    def shot(self) -> bool:
        """Whether its end was not its model's doing: somebody else killed it (an operator, or a kernel
        without memory), or it is of another build."""
        return not self._verdict and self._code in (-signal.SIGKILL, -signal.SIGTERM, REPLACED)

    def send(self, order: Order) -> None:
        self._moving = self._moving or isinstance(order, Load)
        self._outbox.append(order)
        self._bell.set()

    def rouse(self) -> None:
        self._beat = time.monotonic()

    def leave(self) -> None:
        """It is told to unload and to end, and is ended if it does not."""
        self.leaving = True
        self.send(Stop())
        self._left.set()

    def kill(self, verdict: str = "was ended") -> None:
        """It ends at once, and `verdict` is why."""
        self._condemned, self._verdict = True, self._verdict or verdict
        self._signal(signal.SIGKILL)

    async def run(self) -> None:
        """The child from its start to its end. Cancelled, it is killed, and reaped all the same."""
        try:
            folder = await trio.to_thread.run_sync(Folder.made, FOLDER)
        except OSError as error:
            self._verdict = f"has no folder for temporary files: {error}"
            self._tell_end()
            self.over.set()
            return
        try:
            await self._live(folder)
        finally:
            await self._reap()
            self._tell_end()
            with trio.move_on_after(REAP_S, shield=True):
                await trio.to_thread.run_sync(folder.remove, abandon_on_cancel=True)
            self.over.set()

    async def _live(self, folder: Folder) -> None:
        """Until it has closed its end, which its death does, and its last lines are read."""
        try:
            # On this thread, which stays: see `spawn`.
            born = self._born = start(self.plan, folder.path)
        except OSError as error:
            self._verdict = f"could not be started: {error}"
            return
        if self._condemned:
            self._signal(signal.SIGKILL)
        log.info("child.started model=%s pid=%d", self.plan.model, born.process.pid)
        self._beat = self._heard_at = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, born.line)
            nursery.start_soon(self._read_lines, born.errors)
            nursery.start_soon(self._watch)
            nursery.start_soon(self._see_off)
            await self._read(born.line)
            self._closed = True
            with trio.move_on_after(LAST_LINES_S):
                await self._silent.wait()
            nursery.cancel_scope.cancel()

    # -- words ------------------------------------------------------------------------------

    async def _read(self, line: socket.socket) -> None:
        frames = Frames()
        while True:
            await trio.lowlevel.wait_readable(line)
            try:
                data = line.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            try:
                await self._take_in(frames.feed(data))
            except (codec.Garbled, TooLong) as error:
                self.kill(f"said what makes no sense: {error}")
                return
            except Exception:
                # Whatever it said, it must not cost other models anything.
                log.exception("child.misheard model=%s", self.plan.model)
                self.kill("said what could not be dealt with; the log has more")
                return

    async def _take_in(self, messages: Sequence[bytes]) -> None:
        words: list[Word] = []
        try:
            for message in messages:
                if len(message) > HEAVY:
                    self._tell(words)  # which do not wait for this one
                self._heed(await _unpacked(message), words)
        finally:
            # Also what was said before something that makes no sense.
            self._tell(words)

    def _tell(self, words: list[Word]) -> None:
        if words:
            told = tuple(words)
            words.clear()  # before: what cannot be dealt with is not told again
            self._hear(told)

    def _heed(self, word: Word, words: list[Word]) -> None:
        """Signs of life are for us; every other word is added to `words`."""
        self._heard_at = time.monotonic()
        self._begun.set()
        if isinstance(word, Beat):
            self._doing = word.doing
            self._beat = max(self._beat, word.doing.beat)
            return
        self._beat = self._heard_at
        if isinstance(word, Done | Undone):
            self._moving = False
        if isinstance(word, Progress | Heard | Faulted | Gone) and word.model != self.plan.model:
            raise codec.Garbled(f"it speaks for {word.model}")
        words.append(word)

    # -- orders -----------------------------------------------------------------------------

    async def _write(self, line: socket.socket) -> None:
        while True:
            await self._bell.wait()
            self._bell = trio.Event()
            while self._outbox:
                order = self._outbox.popleft()
                try:
                    data = memoryview(framed(await _packed(order)))
                except (RecursionError, TooLong, TypeError) as error:
                    self._decline(order, error)
                    continue
                while data:
                    try:
                        data = data[line.send(data) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(line)
                    except OSError:
                        return  # it is gone: whoever reads sees it too

    def _decline(self, order: Order, error: Exception) -> None:
        """What cannot be carried is answered as the child would have answered it."""
        log.warning("order.declined model=%s kind=%s error=%s", self.plan.model, type(error).__name__, error)
        refusal: CortexError
        if isinstance(error, TooLong):
            refusal = TooBig(f"The request is too large for the engine's process: {error}; send less")
        else:
            shape = order.job.shape if isinstance(order, Submit) else None
            param = None if shape is None else shape.param
            refusal = Unsupported("The JSON schema is nested too deeply; flatten it", param=param)
        match order:
            case Submit(model, job):
                self._hear([Heard(model, ((job.id, Failed(refusal)),))])
            case Load(ticket, _, _) | Tokenise(ticket, _, _) | Detokenise(ticket, _, _):
                self._hear([Undone(ticket, refusal)])

    # -- its life ---------------------------------------------------------------------------

    async def _read_lines(self, errors: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(errors)
            try:
                data = os.read(errors, READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                break
            self._lines.feed(data)
        self._lines.end()
        self._silent.set()

    async def _watch(self) -> None:
        """Over its signs of life. Twice late in a row, since it may be us who slept."""
        with trio.move_on_after(START_S):
            await self._begun.wait()
        if not self._begun.is_set():
            self.kill(f"did not begin within {START_S:g} s")
        late = 0
        while late < 2:
            await trio.sleep(LOOK_S)
            moving = self._moving or self.leaving
            limit_s = MERCY_S + self.plan.patience_s(self._doing, moving=moving)
            age_s = max(time.monotonic() - self._heard_at, self.age_s if self._busy() else 0.0)
            late = late + 1 if age_s > limit_s else 0
        log.error("child.hung model=%s silent_s=%.0f", self.plan.model, age_s)
        self._verdict = f"was killed: no sign of life for {age_s:.0f} s"
        # Its stacks go to the log: the handler of this signal needs nothing that may hang.
        self._signal(signal.SIGABRT)
        await trio.sleep(DUMP_S)
        self.kill()

    async def _see_off(self) -> None:
        await self._left.wait()
        await trio.sleep(EXIT_S)
        log.error("child.stays model=%s why='it did not unload in %.0f s'", self.plan.model, EXIT_S)
        self._signal(signal.SIGTERM)
        await trio.sleep(TERM_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._born is not None:
            self._born.process.send_signal(number)

    async def _reap(self) -> None:
        """No process is left, no zombie, and nothing of ours is open."""
        born = self._born
        if born is None:
            return
        with trio.move_on_after(REAP_S, shield=True):
            if not self._closed:
                self._signal(signal.SIGKILL)
            with trio.move_on_after(LAST_EXIT_S):
                await _exited(born)
            self._signal(signal.SIGKILL)
            await _exited(born)
        self._code = born.process.poll()
        if self._code is None:
            log.error(
                "child.stays model=%s pid=%d why='SIGKILL did not end it'", self.plan.model, born.process.pid
            )
        born.line.close()
        os.close(born.errors)

    def _tell_end(self) -> None:
        log.info("child.ended model=%s code=%s", self.plan.model, self._code)
        self._ended()


async def _exited(born: Born) -> None:
    """The process is over, and reaped. Its end of the socket is closed a moment before."""
    while born.process.poll() is None:  # noqa: ASYNC110 - its death rings no bell here
        await trio.sleep(0.001)


async def _packed(order: Order) -> bytes:
    heavy = False
    match order:
        case Submit(_, job):
            heavy = job.chat is not None or len(job.prompt) > HEAVY
        case Tokenise(_, _, text):
            heavy = len(text) > HEAVY
        case Detokenise(_, _, ids):
            heavy = len(ids) > HEAVY
    return await trio.to_thread.run_sync(codec.encode, order) if heavy else codec.encode(order)


async def _unpacked(message: bytes) -> Word:
    if len(message) > HEAVY:
        return await trio.to_thread.run_sync(codec.word_of, message)
    return codec.word_of(message)
