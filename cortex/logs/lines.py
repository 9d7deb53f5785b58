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
from math import isfinite
from typing import Final, NamedTuple

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
_LONGEST_WORD: Final = 64
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


class Said(NamedTuple):
    """One call of a logger: what is in a record that matters here."""

    created: float
    level: str
    logger: str
    text: str
    arguments: tuple[object, ...]
    # The id of the request that it is about, "-" for none.
    request: str


class Text(logging.Formatter):
    """`time LEVEL logger event key=value… request=id`; within the journal without the time. `more` is
    in every line."""

    def __init__(self, *, journal: bool, more: Mapping[str, str] = {}) -> None:
        super().__init__()
        self._journal = journal
        self._more = "".join(f" {name}={word(text)}" for name, text in more.items())
        self._calls = _Calls()

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record.created, record.levelname, record.name, self._calls.read(record))
        request = request_of(record)
        more = {} if request == _NONE else {"request": request}
        told = {**more, **dict(_trouble(self, record))}
        return line + "".join(f" {name}={word(text)}" for name, text in told.items())

    def form(self, said: Said) -> str:
        """The line of a call without trouble, as `format` has it of its record."""
        told = self._calls.told(said.text, said.arguments)
        line = self._line(said.created, said.level, said.logger, told)
        return line if said.request == _NONE else f"{line} request={word(said.request)}"

    def _line(self, created: float, level: str, logger: str, told: "_Told") -> str:
        start = _MARKS.get(level, "") if self._journal else f"{_when(created)} "
        return f"{start}{level:<7} {logger} {told.text}{self._more}"


class Json(logging.Formatter):
    """One object a line: time, level, logger, event, the keys of the message with their values, the
    message, request_id where one is bound, and trouble if there was. Within the journal without the
    time. `more` is in every line."""

    def __init__(self, *, journal: bool = False, more: Mapping[str, str] = {}) -> None:
        super().__init__()
        self._journal = journal
        self._more = "".join(f', "{name}": {_json(text)}' for name, text in more.items())
        self._calls = _Calls()

    def format(self, record: logging.LogRecord) -> str:
        told = self._calls.read(record)
        trouble = [f'"{name}": {_json(text)}' for name, text in _trouble(self, record)]
        return self._line(record.created, record.levelname, record.name, told, request_of(record), *trouble)

    def form(self, said: Said) -> str:
        """The line of a call without trouble, as `format` has it of its record."""
        told = self._calls.told(said.text, said.arguments)
        return self._line(said.created, said.level, said.logger, told, said.request)

    def _line(
        self, created: float, level: str, logger: str, told: "_Told", request: str, *trouble: str
    ) -> str:
        start = "" if self._journal else f'"time": "{_when(created)}", '
        known = self._calls.words
        named = f'"level": {known.of(level.lower())[1]}, "logger": {known.of(logger)[1]}'
        line = f'{{{start}{named}, {told.members}"message": {_json(told.text)}{self._more}'
        if request != _NONE:
            line += f', "request_id": {_json(request)}'
        line = ", ".join((line, *trouble)) + "}"
        return f"{_MARKS.get(level, '')}{line}" if self._journal else line


def _json(value: object) -> str:
    """`value` as a line of JSON has it. json.dumps escapes all that is not ASCII, lone surrogates included;
    of ASCII it leaves one control character as it is."""
    return _ENCODER.encode(value).replace("\x7f", "\\u007f")


def _number(value: float) -> str:
    """The same of a number."""
    return repr(value) if isfinite(value) else _json(value)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a call says: on one line, and as members of an object of JSON, with a comma behind each."""

    text: str
    members: str = ""


class _Words:
    """Texts that are said again and again, as a line has them and as JSON does."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def of(self, text: str) -> tuple[str, str]:
        """As the value of a key: what is said to be absent is null in JSON."""
        known = self._known.get(text)
        if known is None:
            known = word(text), "null" if text == _NONE else _json(text)
            if len(text) <= _LONGEST_WORD:
                if len(self._known) >= _SHAPES:
                    self._known.clear()
                self._known[text] = known
        return known


@dataclass(frozen=True, slots=True)
class _Key:
    """`name=form` in the text of a call; the first argument of the form is the one at `first`. As a
    `member` it has a place in JSON."""

    name: str
    member: bool
    form: str
    first: int
    count: int
    # Of one argument alone, told as it is; and of one number with so many digits.
    plain: bool = False
    number: bool = False

    def told(self, arguments: tuple[object, ...], words: _Words) -> tuple[str, str]:
        """As a line has it, and as JSON does the value that the call had where that is all of the form."""
        if self.plain:
            return self._plainly(arguments[self.first], words)
        if self.count == 1:
            text = self.form % (arguments[self.first],)
        else:
            text = self.form % arguments[self.first : self.first + self.count]
        if self.number:
            return text, _number(float(text))
        return words.of(text)

    def _plainly(self, mine: object, words: _Words) -> tuple[str, str]:
        if mine is None:
            return _NONE, "null"
        if isinstance(mine, bool):
            text = "true" if mine else "false"
            return text, text
        if isinstance(mine, int | float):
            return (str(mine) if self.form == "%s" else self.form % (mine,)), _number(mine)
        text = self.form % (mine,)
        return word(text), "null" if isinstance(mine, str) and text == _NONE else _json(text)


@dataclass(frozen=True, slots=True)
class _Call:
    """The text of a call: its event, whose arguments are the first, and its keys. `line` and `members` are
    what follows the event on a line and in JSON, for `%`, which wants the keys' values."""

    event: str
    count: int
    keys: tuple[_Key, ...]
    line: str = ""
    members: str = ""
    arguments: int = 0  # in all

    def told(self, arguments: tuple[object, ...], words: _Words) -> _Told:
        event = self.event % arguments[: self.count] if self.count else self.event
        texts, values = list[str](), list[str]()
        for key in self.keys:
            mine = arguments[key.first] if key.plain else None
            # What nearly all are is told here: there is a line for each request.
            if isinstance(mine, str) and key.form == "%s":
                text, value = words.of(mine)
            elif type(mine) is int:
                text = value = repr(mine)
            else:
                text, value = key.told(arguments, words)
            texts.append(text)
            if key.member:
                values.append(value)
        members = f'"event": {words.of(event)[1]}, ' + self.members % tuple(values)
        return _Told(escape(event) + self.line % tuple(texts), members)


_UNMET: Final = _Call("", -1, ())


class _Calls:
    """The calls that were met, by their text: a program has so many."""

    def __init__(self) -> None:
        self._met: dict[str, _Call | None] = {}
        self.words = _Words()

    def read(self, record: logging.LogRecord) -> _Told:
        """What `record` says. What is not of the form is told by its text alone."""
        arguments = record.args or ()
        if not isinstance(record.msg, str) or isinstance(arguments, Mapping):
            return _Told(escape(record.getMessage()))
        return self.told(record.msg, arguments)

    def told(self, text: str, arguments: tuple[object, ...]) -> _Told:
        """The same of a call with that text."""
        call = self._met.get(text, _UNMET)
        if call is _UNMET:
            if len(self._met) >= _SHAPES:
                self._met.clear()
            call = self._met[text] = _call(text)
        if call is None or len(arguments) != call.arguments:
            # As logging does it: a call whose arguments do not fit is an error.
            return _Told(escape(text % arguments if arguments else text))
        return call.told(arguments, self.words)


def _call(text: str) -> _Call | None:
    if (whole := _CALL.fullmatch(text)) is None:
        return None
    count, keys = len(_ARGUMENT.findall(whole["event"])), tuple(_keys(text))
    line = "".join(f" {key.name}=%s" for key in keys)
    members = "".join(f'"{key.name}": %s, ' for key in keys if key.member)
    return _Call(whole["event"], count, keys, line, members, count + sum(key.count for key in keys))


def _keys(text: str) -> Iterator[_Key]:
    for found in _PAIR.finditer(text):
        form = found[2][1:-1] if found[2][0] == "'" else found[2]
        first, count = len(_ARGUMENT.findall(text[: found.start()])), len(_ARGUMENT.findall(form))
        number = count == 1 and _FLOAT.fullmatch(form) is not None
        name, plain = found[1], form in ("%s", "%d")
        yield _Key(name, name not in _OWN, form, first, count, plain=plain, number=number)


def _printable(letter: str) -> str:
    if letter.isprintable():
        return letter
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]


def _when(created: float) -> str:
    second = int(created)
    return f"{_second(second)}.{int((created - second) * 1000):03d}Z"


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
