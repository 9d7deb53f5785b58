"""A record becomes one line: an event and its keys, as text that logfmt readers take, or as JSON.

A call's text is its event and then `key=%s` pairs; the values are its arguments, put in quotes
where a reader could take them for more than one value. Nothing that a caller sent can begin a line,
make a key or steer a terminal. A text of another form, as libraries have, is told as it is.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

# sd-daemon's marks, by which the journal knows a line's level.
_MARKS: Final = {"ERROR": "<3>", "CRITICAL": "<2>", "WARNING": "<4>", "INFO": "<6>", "DEBUG": "<7>"}

_WORD: Final = re.compile(r"[\w.,:/@+*-]+")
# What a call's text is made of: its event, then pairs, in which the arguments are.
_EVENT: Final = r"[a-z][a-z0-9_]*(?:\.(?:[a-z0-9_]+|%s))+"
_FORM: Final = r"'[^']*'|[^\s'\"]+"
_CALL: Final = re.compile(rf"(?P<event>{_EVENT})(?: [a-z][a-z0-9_]*=(?:{_FORM}))*")
_PAIR: Final = re.compile(rf" ([a-z][a-z0-9_]*)=({_FORM})")
_ARGUMENT: Final = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
_FLOAT: Final = re.compile(r"%\.\d+f")
_OWN: Final = frozenset({"time", "level", "logger", "event", "message", "request_id", "traceback", "stack"})
# More than the calls of a program.
_SHAPES: Final = 2048
# How absence is said in text.
_NONE: Final = "-"

_REQUEST: Final = ContextVar("cortex_request_id", default=_NONE)


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


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal or a log reader would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def word(text: str) -> str:
    """`text` as the value of a key: in quotes where a reader could take it for more than that. What is
    quoted has JSON's escapes."""
    if _WORD.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_printable, quoted))


class Text(logging.Formatter):
    """`time LEVEL logger event key=value… request=id`; within the journal without the time."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal
        self._calls = _Calls()

    def format(self, record: logging.LogRecord) -> str:
        start = _MARKS.get(record.levelname, "") if self._journal else f"{_when(record)} "
        request = _request_of(record)
        more = {} if request == _NONE else {"request": request}
        said = "".join(
            f" {name}={word(text)}" for name, text in {**more, **dict(_trouble(self, record))}.items()
        )
        return f"{start}{record.levelname:<7} {record.name} {self._calls.read(record).text}{said}"


class Json(logging.Formatter):
    """One object a line: time, level, logger, event, the keys of the message with their values, the
    message, request_id where one is bound, and trouble if there was. Within the journal without the
    time."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal
        self._calls = _Calls()

    def format(self, record: logging.LogRecord) -> str:
        told, request = self._calls.read(record), _request_of(record)
        fields: dict[str, object] = {
            **({} if self._journal else {"time": _when(record)}),
            "level": record.levelname.lower(),
            "logger": record.name,
            **told.fields,
            "message": told.text,
            **({} if request == _NONE else {"request_id": request}),
            **dict(_trouble(self, record)),
        }
        # json.dumps escapes all that is not ASCII, lone surrogates included; of ASCII it
        # leaves one control character as it is.
        line = json.dumps(fields, default=str).replace("\x7f", "\\u007f")
        return f"{_MARKS.get(record.levelname, '')}{line}" if self._journal else line


@dataclass(frozen=True, slots=True)
class _Told:
    """What a record says: on one line, and by its keys."""

    text: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class _Key:
    """`name=form` in the text of a call; the first argument of the form is the one at `first`."""

    name: str
    form: str
    first: int
    count: int

    def text(self, arguments: tuple[object, ...]) -> str:
        """As a line has it."""
        mine = arguments[self.first : self.first + self.count]
        if self.form == "%s" and (mine[0] is None or isinstance(mine[0], bool)):
            return _NONE if mine[0] is None else str(mine[0]).lower()
        return word(self.form % mine)

    def value(self, arguments: tuple[object, ...]) -> object:
        """As the call had it, where it is all of the form; None for what is said to be absent."""
        mine = arguments[self.first : self.first + self.count]
        if self.form in ("%s", "%d") and not isinstance(mine[0], str):
            plain = mine[0] is None or isinstance(mine[0], bool | int | float)
            return mine[0] if plain else str(mine[0])
        text = self.form % mine
        if _FLOAT.fullmatch(self.form):
            return float(text)
        return None if text == _NONE else text


@dataclass(frozen=True, slots=True)
class _Call:
    """The text of a call: its event, whose arguments are the first, and its keys."""

    event: str
    count: int
    keys: tuple[_Key, ...]

    def told(self, arguments: tuple[object, ...]) -> _Told:
        event = self.event % arguments[: self.count]
        text = "".join(f" {key.name}={key.text(arguments)}" for key in self.keys)
        values = {key.name: key.value(arguments) for key in self.keys if key.name not in _OWN}
        return _Told(f"{escape(event)}{text}", {"event": event, **values})


class _Calls:
    """The calls that were met, by their text: a program has so many."""

    def __init__(self) -> None:
        self._met: dict[str, _Call | None] = {}

    def read(self, record: logging.LogRecord) -> _Told:
        """What `record` says. What is not of the form is told by its text alone."""
        # As logging does it: a call whose arguments do not fit is an error.
        message = record.getMessage()
        if not isinstance(record.msg, str) or isinstance(record.args, Mapping):
            return _Told(escape(message), {})
        if record.msg not in self._met:
            if len(self._met) >= _SHAPES:
                self._met.clear()
            self._met[record.msg] = _call(record.msg)
        call = self._met[record.msg]
        return _Told(escape(message), {}) if call is None else call.told(record.args or ())


def _call(text: str) -> _Call | None:
    if (whole := _CALL.fullmatch(text)) is None:
        return None
    return _Call(whole["event"], len(_ARGUMENT.findall(whole["event"])), tuple(_keys(text)))


def _keys(text: str) -> Iterator[_Key]:
    for found in _PAIR.finditer(text):
        form = found[2][1:-1] if found[2][0] == "'" else found[2]
        first, count = len(_ARGUMENT.findall(text[: found.start()])), len(_ARGUMENT.findall(form))
        yield _Key(found[1], form, first, count)


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


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
