"""Lines of the log are written by a thread, and nobody waits for it.

`configure` puts one `Outlet` on the root logger. What is logged becomes a line where it is made, and lines
gather for a thread that writes them many at a time: it takes the interpreter from others a few times in each
`REST_S`, however many there are. `say` is for what needs no record. When nobody reads the log the lines that
may gather are too many, and further ones are dropped, counted, and owned up to in a line of their own later.
"""

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from select import PIPE_BUF
from typing import Final, Literal, TextIO, TypeAlias

from cortex.logs.calls import word
from cortex.logs.lines import Figure, Given, Json, Lines, Text, bind_request, filled

Format: TypeAlias = Literal["text", "json"]

# Ten thousand lines are a burst of seconds and at most a few megabytes.
BOUND: Final = 10_000
# Written in one go at most.
PAGE: Final = 128
# How long a line waits for others: to be told of each would cost whoever logs more than the line.
REST_S: Final = 0.01
# A reader that is alive takes what has gathered well within this.
GRACE_S: Final = 1.0
# Libraries that say at info what belongs to debug: a line for each request.
_TALKERS: Final = ("httpx", "httpcore", "hypercorn")


def configure(level: str, form: Format | None, stream: TextIO, more: Mapping[str, str] = {}) -> "Outlet":
    """Everything logged at `level` or above goes to `stream` from here on, and `more` in every line of it.
    Without a form it is text for a terminal, and JSON for whatever else reads.

    Whoever has `more` to say shares the stream with other processes, and keeps lines whole for that.

    An outlet that was there before is closed. `close` writes what is left.
    """
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, Outlet)]:
        root.removeHandler(old)
        old.close()
    outlet = Outlet(stream, shared=bool(more))
    journal = _is_journal(stream)
    as_text = stream.isatty() if form is None else form == "text"
    # No line names a thread, a process or a place in the code, and each record would look for them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    outlet.setFormatter(Text(journal=journal, more=more) if as_text else Json(journal=journal, more=more))
    root.addHandler(outlet)
    root.setLevel(level.upper())
    for name in _TALKERS:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    return outlet


def say(
    logger: logging.Logger, request: str, text: str, given: tuple[Given, ...], figures: tuple[Figure, ...]
) -> None:
    """What `logger.info` says, about the request of that id, without the record: for lines of which there
    is one a request. The arguments are `given`, and in the place of each that is `OPEN` the next of
    `figures`. What was given before with the same text is put together once: of what is given in one place
    all have the same type, since True is found where 1 is kept. Only the loop says.

    Whoever listens beside the outlet, or instead, gets the record all the same."""
    if not logger.isEnabledFor(logging.INFO):
        return
    outlet = _alone(logger)
    if outlet is None:
        with bind_request(request):
            logger.info(text, *filled(given, figures))
    else:
        outlet.say(logger.name, request, text, given, figures)


def _alone(logger: logging.Logger) -> "Outlet | None":
    """The outlet that all records of `logger` go to as they are, and nobody else."""
    at = logger
    while at.parent is not None:
        if at.handlers or not at.propagate:
            return None
        at = at.parent
    outlet = at.handlers[0] if len(at.handlers) == 1 else None
    if not isinstance(outlet, Outlet) or outlet.level > logging.INFO or outlet.filters or logger.filters:
        return None
    return None if outlet.form is None else outlet


def dropped() -> int:
    """How many records the outlet in use has lost so far."""
    return sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, Outlet))


class Outlet(logging.Handler):
    """Takes lines without waiting; a thread writes them.

    `dropped` counts those lost because too many had gathered or the stream is gone.
    """

    def __init__(self, stream: TextIO, bound: int = BOUND, *, shared: bool = False) -> None:
        super().__init__()
        # Each counter has one that adds to it at a time: the handler's lock, the loop, the thread.
        self._crowded = 0
        self._unsaid = 0
        self._unwritten = 0
        self._owned_up = 0
        self._ended = False
        self._bound = bound
        # The formatter, where it tells what has no record.
        self.form: Lines | None = None
        self._lines: deque[str] = deque()
        # Whether the next line has to ring.
        self._resting = False
        # Who rings never waits, and takes no lock of Python's.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._write = _writer(stream, shared)
        # A daemon: a reader that never comes back must not keep the process alive.
        self._thread = threading.Thread(target=self._drain, name="log-outlet", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._crowded + self._unsaid + self._unwritten

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        super().setFormatter(fmt)
        self.form = fmt if isinstance(fmt, Lines) else None

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= self._bound:
            self._crowded += 1
            return
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - what cannot be told is to cost nobody what he does
            line = _unreadable(record.levelname, record.name, error)
        self._add(line)

    def say(
        self, logger: str, request: str, text: str, given: tuple[Given, ...], figures: tuple[Figure, ...]
    ) -> None:
        """The same of what has no record."""
        if len(self._lines) >= self._bound:
            self._unsaid += 1
            return
        assert self.form is not None  # noqa: S101 - the caller looked
        try:
            line = self.form.say(logger, request, text, given, figures)
        except Exception as error:  # noqa: BLE001 - as above
            line = _unreadable("INFO", logger, error)
        self._add(line)

    def _add(self, line: str) -> None:
        self._lines.append(line)
        if self._resting:
            self._resting = False
            self._bell.put(None)

    def close(self) -> None:
        """What has gathered is written, as far as the reader takes it within `GRACE_S`. Lines to come are
        lost, and count as that."""
        if not self._ended:
            self._bound, self._ended = 0, True
            self._bell.put(None)
            self._thread.join(GRACE_S)
        super().close()

    def _drain(self) -> None:
        busy = False
        while not self._ended:
            if not busy:
                self._rest()
            time.sleep(REST_S)
            busy = bool(self._lines)
            self._write_all()
        self._write_all()

    def _rest(self) -> None:
        """There is a line, or the end has come."""
        self._resting = True
        # One that was added a moment before it could know does not ring.
        if not self._lines:
            self._bell.get()
        self._resting = False

    def _write_all(self) -> None:
        """What is there at the call is written. What comes meanwhile is not waited for, line after line."""
        lines = self._lines
        left = len(lines)
        while left:
            page = [lines.popleft() for _ in range(min(left, PAGE))]
            left -= len(page)
            self._put("\n".join(page), len(page))
            self._own_up()
        self._own_up()

    def _own_up(self) -> None:
        seen = self._crowded + self._unsaid
        if seen == self._owned_up:
            return
        count, self._owned_up = seen - self._owned_up, seen
        record = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "logs.dropped count=%d", (count,), None
        )
        self._put(self.format(record), 1)

    def _put(self, text: str, count: int) -> None:
        try:
            self._write(text + "\n")
        except (OSError, ValueError):
            # The stream is closed. The service goes on; the counter tells.
            self._unwritten += count


def _unreadable(level: str, logger: str, error: Exception) -> str:
    return f"{level} logs.unreadable logger={logger} cause={word(repr(error))}"


def _writer(stream: TextIO, shared: bool) -> Callable[[str], object]:
    """How to write to `stream`: past its buffer where it has a descriptor, because a
    thread stuck inside a buffer holds a lock that the interpreter wants at exit."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream.write

    def write(text: str) -> None:
        data = text.encode()
        for piece in _pieces(data) if shared else (data,):
            rest = piece
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    return write


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines, as many as a pipe takes at once whoever else writes: of more, it takes a part when it is
    full, and somebody else's next. A line that is longer by itself goes as it is."""
    while data:
        end = len(data)
        if end > PIPE_BUF:
            end = data.rfind(b"\n", 0, PIPE_BUF) + 1 or data.find(b"\n") + 1
        yield data[:end]
        data = data[end:]


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd reads `stream`: JOURNAL_STREAM names the very file, since a child
    whose output was sent elsewhere inherits the variable too."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
