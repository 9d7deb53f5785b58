"""Log records become single lines, and writing them never holds up the loop.

`configure` puts one `Outlet` on the root logger. It forms the line where the record
was made, so that arguments and the request id are those of that moment, and hands
it to a thread over a bounded queue. When nobody reads the log the queue fills and
further records are dropped, counted, and owned up to in a line of their own later.
Nothing that a caller sent can begin a line or steer a terminal: whatever is not
printable is escaped. What is worth a record is left to the floors above.
"""

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal, TextIO, TypeAlias

Format: TypeAlias = Literal["text", "json"]

# Ten thousand lines are a burst of seconds and at most a few megabytes.
BOUND: Final = 10_000
# A reader that is alive takes the rest of the queue well within this.
GRACE_S: Final = 1.0
# Libraries that say at info what belongs to debug: a line for each request.
_TALKERS: Final = ("httpx", "httpcore", "hypercorn")
# sd-daemon's marks, by which the journal knows a line's level.
_MARKS: Final = {"ERROR": "<3>", "CRITICAL": "<2>", "WARNING": "<4>", "INFO": "<6>", "DEBUG": "<7>"}

_WORD: Final = re.compile(r"[\w.:/@+*-]+")
# What a call's text is made of: its event, then pairs, in which the arguments are.
_EVENT: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+")
_PAIR: Final = re.compile(r"""(?<!\S)([a-z][a-z0-9_]*)=('[^']*'|"[^"]*"|\S+)""")
_ARGUMENT: Final = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
_FLOAT: Final = re.compile(r"%\.\d+f")
_OWN: Final = frozenset({"time", "level", "logger", "event", "message", "request_id", "traceback", "stack"})
# More than the calls of a program.
_SHAPES: Final = 2048

_REQUEST: Final = ContextVar("cortex_request_id", default="-")


@contextmanager
def bind_request(request_id: str) -> Iterator[None]:
    """Every record made within the block, in this task and its children, carries `request_id`."""
    token = _REQUEST.set(request_id)
    try:
        yield
    finally:
        _REQUEST.reset(token)


def request_id() -> str:
    """The id bound here, "-" when none is."""
    return _REQUEST.get()


def configure(level: str, form: Format | None, stream: TextIO) -> "Outlet":
    """Everything logged at `level` or above goes to `stream` from here on. Without a form it is text
    for a terminal, and JSON for whatever else reads.

    An outlet that was there before is closed. `close` writes what is left.
    """
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, Outlet)]:
        root.removeHandler(old)
        old.close()
    outlet = Outlet(stream)
    journal = _is_journal(stream)
    as_text = stream.isatty() if form is None else form == "text"
    outlet.setFormatter(Text(journal=journal) if as_text else Json(journal=journal))
    root.addHandler(outlet)
    root.setLevel(level.upper())
    for name in _TALKERS:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    return outlet


def dropped() -> int:
    """How many records the outlet in use has lost so far."""
    return sum(each.dropped for each in logging.getLogger().handlers if isinstance(each, Outlet))


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal or a log reader would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def word(text: str) -> str:
    """`text` as the value of a key: in quotes where a reader could take it for more than that."""
    return text if _WORD.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class Text(logging.Formatter):
    """`time LEVEL logger event key=value… request=id`; within the journal without the time."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        start = _MARKS.get(record.levelname, "") if self._journal else f"{_when(record)} "
        request = _request_of(record)
        return (
            f"{start}{record.levelname:<7} {record.name} {escape(record.getMessage())}"
            f"{'' if request == '-' else f' request={escape(request)}'}"
            f"{''.join(f' {name}={escape(text)}' for name, text in _trouble(self, record))}"
        )


class Json(logging.Formatter):
    """One object a line: time, level, logger, event, the keys of the message with their values, the
    message, request_id, and trouble if there was. Within the journal without the time."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal
        # By the text of the call, of which a program has so many.
        self._shapes: dict[str, tuple[_Key, ...]] = {}

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields: dict[str, object] = {
            **({} if self._journal else {"time": _when(record)}),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._told(record, message),
            "message": message,
            "request_id": _request_of(record),
            **dict(_trouble(self, record)),
        }
        # json.dumps escapes all that is not ASCII, lone surrogates included; of ASCII it
        # leaves one control character as it is.
        line = json.dumps(fields, default=str).replace("\x7f", "\\u007f")
        return f"{_MARKS.get(record.levelname, '')}{line}" if self._journal else line

    def _told(self, record: logging.LogRecord, message: str) -> dict[str, object]:
        """The event and its keys. What has no such form is told by the message alone."""
        if not isinstance(record.msg, str) or isinstance(record.args, Mapping):
            return {}
        if (shape := self._shapes.get(record.msg)) is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[record.msg] = tuple(_keys(record.msg))
        event = _EVENT.match(message)
        if event is None:
            return {}
        arguments = record.args or ()
        told = {key.name: key.value(arguments) for key in shape if key.name not in _OWN}
        return {"event": event[0], **told}


@dataclass(frozen=True, slots=True)
class _Key:
    """`name=form` in the text of a call; the first argument of the form is the one at `first`."""

    name: str
    form: str
    first: int
    count: int

    def value(self, arguments: tuple[object, ...]) -> object:
        """As the call had it, where it is all of the form; None for what is said to be absent."""
        mine = arguments[self.first : self.first + self.count]
        if self.form in ("%s", "%d") and not isinstance(mine[0], str):
            plain = mine[0] is None or isinstance(mine[0], bool | int | float)
            return mine[0] if plain else str(mine[0])
        text = self.form % mine
        if _FLOAT.fullmatch(self.form):
            return float(text)
        if text.startswith('"'):  # of `word`
            with suppress(ValueError):
                return json.loads(text)
        return None if text == "-" else text


def _keys(text: str) -> Iterator[_Key]:
    for found in _PAIR.finditer(text):
        form = found[2][1:-1] if found[2][0] in "'\"" else found[2]
        first, count = len(_ARGUMENT.findall(text[: found.start()])), len(_ARGUMENT.findall(form))
        yield _Key(found[1], form, first, count)


class Outlet(logging.Handler):
    """Takes records without waiting; a thread writes them.

    `dropped` counts those lost because the queue was full or the stream gone.
    """

    def __init__(self, stream: TextIO, bound: int = BOUND) -> None:
        super().__init__()
        # Each counter has one thread that adds to it, so neither needs a lock.
        self._crowded = 0
        self._unwritten = 0
        self._owned_up = 0
        self._ended = False
        self._lines: queue.Queue[str | None] = queue.Queue(bound)
        self._write = _writer(stream)
        # A daemon: a reader that never comes back must not keep the process alive.
        self._thread = threading.Thread(target=self._drain, name="log-outlet", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._crowded + self._unwritten

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError, KeyError) as error:
            line = f"{record.levelname} logs.unreadable logger={record.name} cause={escape(repr(error))}"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._crowded += 1

    def close(self) -> None:
        """What is queued is written, as far as the reader takes it within `GRACE_S`."""
        if not self._ended:
            self._ended = True
            deadline = time.monotonic() + GRACE_S
            with suppress(queue.Full):
                self._lines.put(None, timeout=GRACE_S)
                self._thread.join(max(0.0, deadline - time.monotonic()))
        super().close()

    def _drain(self) -> None:
        while (line := self._lines.get()) is not None:
            self._put(line)
            if self._crowded > self._owned_up:
                self._own_up()

    def _own_up(self) -> None:
        seen = self._crowded
        count, self._owned_up = seen - self._owned_up, seen
        record = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "logs.dropped count=%d", (count,), None
        )
        self._put(self.format(record))

    def _put(self, line: str) -> None:
        try:
            self._write(line + "\n")
        except (OSError, ValueError):
            # The stream is closed. The service goes on; the counter tells.
            self._unwritten += 1


def _writer(stream: TextIO) -> Callable[[str], object]:
    """How to write to `stream`: past its buffer where it has a descriptor, because a
    thread stuck inside a buffer holds a lock that the interpreter wants at exit."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return stream.write

    def write(text: str) -> None:
        rest = text.encode()
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd reads `stream`: JOURNAL_STREAM names the very file, since a child
    whose output was sent elsewhere inherits the variable too."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _when(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


def _request_of(record: logging.LogRecord) -> str:
    """The record's own id, else the bound one. A device thread has none bound: where one job is
    at fault it passes that job's as `extra`."""
    own = getattr(record, "request_id", None)
    return own if isinstance(own, str) else _REQUEST.get()


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    if record.exc_info:
        yield "traceback", formatter.formatException(record.exc_info)
    if record.stack_info:
        yield "stack", record.stack_info
