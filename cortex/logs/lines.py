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
from functools import lru_cache
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
_ENCODER: Final = json.JSONEncoder(default=str)
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
        request = request_of(record)
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
        told, request = self._calls.read(record), request_of(record)
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
        line = _ENCODER.encode(fields).replace("\x7f", "\\u007f")
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
    # Of one argument alone, told as it is; and of one number with so many digits.
    plain: bool = False
    number: bool = False

    def told(self, arguments: tuple[object, ...]) -> tuple[str, object]:
        """As a line has it, and as the call had it where it is all of the form: None for what is said to
        be absent."""
        if self.plain:
            return self._plainly(arguments[self.first])
        text = self.form % arguments[self.first : self.first + self.count]
        if self.number:
            return text, float(text)
        return word(text), None if text == _NONE else text

    def _plainly(self, mine: object) -> tuple[str, object]:
        if mine is None:
            return _NONE, None
        if isinstance(mine, bool):
            return ("true" if mine else "false"), mine
        if isinstance(mine, int | float) and self.form == "%s":
            return str(mine), mine
        text = self.form % (mine,)
        if isinstance(mine, int | float):
            return text, mine
        return word(text), None if isinstance(mine, str) and text == _NONE else text


@dataclass(frozen=True, slots=True)
class _Call:
    """The text of a call: its event, whose arguments are the first, and its keys."""

    event: str
    count: int
    keys: tuple[_Key, ...]
    arguments: int = 0  # in all

    def told(self, arguments: tuple[object, ...]) -> _Told:
        event = self.event % arguments[: self.count] if self.count else self.event
        values: dict[str, object] = {"event": event}
        texts = [escape(event)]
        for key in self.keys:
            text, value = key.told(arguments)
            texts.append(f"{key.name}={text}")
            if key.name not in _OWN:
                values[key.name] = value
        return _Told(" ".join(texts), values)


_UNMET: Final = _Call("", -1, ())


class _Calls:
    """The calls that were met, by their text: a program has so many."""

    def __init__(self) -> None:
        self._met: dict[str, _Call | None] = {}

    def read(self, record: logging.LogRecord) -> _Told:
        """What `record` says. What is not of the form is told by its text alone."""
        call = None
        if isinstance(record.msg, str) and not isinstance(record.args, Mapping):
            call = self._met.get(record.msg, _UNMET)
            if call is _UNMET:
                if len(self._met) >= _SHAPES:
                    self._met.clear()
                call = self._met[record.msg] = _call(record.msg)
        arguments = record.args or ()
        if call is None or isinstance(arguments, Mapping) or len(arguments) != call.arguments:
            # As logging does it: a call whose arguments do not fit is an error.
            return _Told(escape(record.getMessage()), {})
        return call.told(arguments)


def _call(text: str) -> _Call | None:
    if (whole := _CALL.fullmatch(text)) is None:
        return None
    count, keys = len(_ARGUMENT.findall(whole["event"])), tuple(_keys(text))
    return _Call(whole["event"], count, keys, count + sum(key.count for key in keys))


def _keys(text: str) -> Iterator[_Key]:
    for found in _PAIR.finditer(text):
        form = found[2][1:-1] if found[2][0] == "'" else found[2]
        first, count = len(_ARGUMENT.findall(text[: found.start()])), len(_ARGUMENT.findall(form))
        number = count == 1 and _FLOAT.fullmatch(form) is not None
        yield _Key(found[1], form, first, count, plain=form in ("%s", "%d"), number=number)


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _when(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def request_of(record: logging.LogRecord) -> str:
    """The record's own id, else the bound one. A device thread has none bound: where one job is
    at fault it passes that job's as `extra`."""
    own = getattr(record, "request_id", None)
    return own if isinstance(own, str) else _REQUEST.get()


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    if record.exc_info:
        yield "traceback", formatter.formatException(record.exc_info)
    if record.stack_info:
        yield "stack", record.stack_info
