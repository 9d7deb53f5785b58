"""Lines of the log are written by a thread, and nobody waits for it.

`configure` puts one `Outlet` on the root logger. It hands records to a thread over a bounded queue,
which forms their lines many at a time; a record whose arguments may change meanwhile, or that tells of an
exception, becomes a line where it is made. `say` hands over what needs no record. When nobody reads the
log the queue fills and further records are dropped, counted, and owned up to in a line of their own later.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from select import PIPE_BUF
from typing import Final, Literal, TextIO, TypeAlias

from cortex.logs.lines import Json, Said, Text, bind_request, request_of, word

_LASTING: Final = (str, int, float, type(None))
Format: TypeAlias = Literal["text", "json"]

# Ten thousand lines are a burst of seconds and at most a few megabytes.
BOUND: Final = 10_000
# Written in one go, and how long after that whoever writes more has its lines wait.
PAGE: Final = 128
REST_S: Final = 0.01
# A reader that is alive takes the rest of the queue well within this.
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


def say(logger: logging.Logger, request: str, text: str, *arguments: str | float | None) -> None:
    """What `logger.info` says, about the request of that id, without the record: for lines of which there
    is one a request. Whoever listens beside the outlet, or instead, gets the record all the same."""
    if not logger.isEnabledFor(logging.INFO):
        return
    outlet = _alone(logger)
    if outlet is None:
        with bind_request(request):
            logger.info(text, *arguments)
    else:
        outlet.take(Said(time.time(), "INFO", logger.name, text, arguments, request))


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
    return outlet if isinstance(outlet.formatter, Text | Json) else None


def dropped() -> int:
    """How many records the outlet in use has lost so far."""
    return sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, Outlet))


class Outlet(logging.Handler):
    """Takes records without waiting; a thread writes them.

    `dropped` counts those lost because the queue was full or the stream gone.
    """

    def __init__(self, stream: TextIO, bound: int = BOUND, *, shared: bool = False) -> None:
        super().__init__()
        # Each counter has one thread that adds to it, so neither needs a lock.
        self._crowded = 0
        self._unwritten = 0
        self._owned_up = 0
        self._ended = False
        self._bound = bound
        # Its writers never wait for its reader, and it is told of a line without a lock of Python's.
        self._lines: queue.SimpleQueue[logging.LogRecord | Said | str | None] = queue.SimpleQueue()
        self._write = _writer(stream, shared)
        # A daemon: a reader that never comes back must not keep the process alive.
        self._thread = threading.Thread(target=self._drain, name="log-outlet", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._crowded + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= self._bound:
            self._crowded += 1
        elif _lasts(record):
            record.request_id = request_of(record)
            self._lines.put(record)
        else:
            self._lines.put(self._line(record))

    def take(self, said: Said) -> None:
        """The same of what has no record."""
        if self._lines.qsize() >= self._bound:
            self._crowded += 1
        else:
            self._lines.put(said)

    def _line(self, said: logging.LogRecord | Said | str) -> str:
        if isinstance(said, str):
            return said
        level, name = (said.level, said.logger) if isinstance(said, Said) else (said.levelname, said.name)
        try:
            return self._form(said) if isinstance(said, Said) else self.format(said)
        except (TypeError, ValueError, KeyError) as error:
            return f"{level} logs.unreadable logger={name} cause={word(repr(error))}"

    def _form(self, said: Said) -> str:
        assert isinstance(self.formatter, Text | Json)  # noqa: S101 - `configure` gave it one
        return self.formatter.form(said)

    def close(self) -> None:
        """What is queued is written, as far as the reader takes it within `GRACE_S`."""
        if not self._ended:
            self._ended = True
            deadline = time.monotonic() + GRACE_S
            self._lines.put(None)
            self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()

    def _drain(self) -> None:
        ended = False
        while not ended:
            lines, ended = self._waiting()
            if lines:
                self._put("\n".join(lines), len(lines))
                time.sleep(
                    REST_S if len(lines) < PAGE else 0
                )  # a thread that is woken for each line costs more than the line
            if self._crowded > self._owned_up:
                self._own_up()

    def _waiting(self) -> tuple[list[str], bool]:
        """The lines that are there, a page of them at most, at least one; and whether none follow."""
        lines, said = list[str](), self._lines.get()
        while said is not None:
            lines.append(self._line(said))
            if len(lines) == PAGE or self._lines.empty():
                return lines, False
            said = self._lines.get()
        return lines, True

    def _own_up(self) -> None:
        seen = self._crowded
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


def _lasts(record: logging.LogRecord) -> bool:
    """Whether its line will be the same in a moment."""
    if record.exc_info or record.stack_info or not isinstance(record.args, tuple):
        return not (record.exc_info or record.stack_info or record.args)
    return all(isinstance(each, _LASTING) for each in record.args)


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
