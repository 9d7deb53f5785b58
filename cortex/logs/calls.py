"""The text of a call of a logger, read: an event, and keys whose values are its arguments.

A call's text is its event and then `key=%s` pairs. What its arguments are told as is said here, on a line
and in JSON; nothing that a caller sent can begin a line, make a key or steer a terminal. An argument that is
`OPEN` leaves a hole, for who says the same again and again.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

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
NONE: Final = "-"
# What stands for an argument that is `OPEN`: all else in a line is printable.
HOLE: Final = "\0"


class Open:
    """An argument that is told later."""


OPEN: Final = Open()


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


def as_json(value: object) -> str:
    """`value` as a line of JSON has it. json.dumps escapes all that is not ASCII, lone surrogates included;
    of ASCII it leaves one control character as it is."""
    return _ENCODER.encode(value).replace("\x7f", "\\u007f")


def number_as_json(value: float) -> str:
    """The same of a number."""
    return repr(value) if isfinite(value) else as_json(value)


@dataclass(frozen=True, slots=True)
class Told:
    """What a call says: on one line, and as members of an object of JSON, with a comma behind each."""

    text: str
    members: str = ""


class Words:
    """Texts that are said again and again, as a line has them and as JSON does."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def of(self, text: str) -> tuple[str, str]:
        """As the value of a key: what is said to be absent is null in JSON."""
        known = self._known.get(text)
        if known is None:
            known = word(text), "null" if text == NONE else as_json(text)
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

    @property
    def fits(self) -> bool:
        """Whether its only argument may be `OPEN`: all of the form is one value, or one number."""
        return self.member and (self.plain or self.number)

    def told(self, arguments: tuple[object, ...], words: Words) -> tuple[str, str]:
        """As a line has it, and as JSON does the value that the call had where that is all of the form."""
        if self.plain:
            return self._plainly(arguments[self.first], words)
        if self.count == 1:
            text = self.form % (arguments[self.first],)
        else:
            text = self.form % arguments[self.first : self.first + self.count]
        if self.number:
            return text, text if isfinite(float(text)) else number_as_json(float(text))
        return words.of(text)

    def _plainly(self, mine: object, words: Words) -> tuple[str, str]:
        if isinstance(mine, str) and self.form == "%s":
            return words.of(mine)
        if mine is None:
            return NONE, "null"
        if isinstance(mine, bool):
            text = "true" if mine else "false"
            return text, text
        if type(mine) is int:
            text = repr(mine)
            return text, text
        if isinstance(mine, int | float):
            return (str(mine) if self.form == "%s" else self.form % (mine,)), number_as_json(mine)
        text = self.form % (mine,)
        return word(text), as_json(text)


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

    def told(self, arguments: tuple[object, ...], words: Words) -> Told:
        """A key of an argument that is `OPEN` has a hole."""
        event = self.event % arguments[: self.count] if self.count else self.event
        texts: list[str] = []
        values: list[str] = []
        for key in self.keys:
            if key.count and arguments[key.first] is OPEN:
                text = value = HOLE
            else:
                text, value = key.told(arguments, words)
            texts.append(text)
            if key.member:
                values.append(value)
        members = f'"event": {words.of(event)[1]}, ' + self.members % tuple(values)
        return Told(escape(event) + self.line % tuple(texts), members)

    def open(self, arguments: tuple[object, ...]) -> tuple[_Key, ...] | None:
        """The keys whose arguments are `OPEN`; None where such an argument is not all of its key's form."""
        keys = tuple(key for key in self.keys if key.count and arguments[key.first] is OPEN)
        told = sum(each is OPEN for each in arguments) == len(keys) and len(arguments) == self.arguments
        return keys if told and all(key.fits for key in keys) else None


_UNMET: Final = _Call("", -1, ())


class Calls:
    """The calls that were met, by their text: a program has so many."""

    def __init__(self) -> None:
        self._met: dict[str, _Call | None] = {}
        self.words = Words()

    def read(self, record: logging.LogRecord) -> Told:
        """What `record` says. What is not of the form is told by its text alone."""
        arguments = record.args or ()
        if not isinstance(record.msg, str) or isinstance(arguments, Mapping):
            return Told(escape(record.getMessage()))
        return self.told(record.msg, arguments)

    def told(self, text: str, arguments: tuple[object, ...]) -> Told:
        """The same of a call with that text."""
        call = self._of(text)
        if call is None or len(arguments) != call.arguments:
            # As logging does it: a call whose arguments do not fit is an error.
            return Told(escape(text % arguments if arguments else text))
        return call.told(arguments, self.words)

    def open(self, text: str, arguments: tuple[object, ...]) -> tuple[str, ...] | None:
        """The forms of the arguments that are `OPEN`; None where such
        a call is told whole or not at all."""
        call = self._of(text)
        keys = None if call is None else call.open(arguments)
        return None if keys is None else tuple(key.form for key in keys)

    def _of(self, text: str) -> _Call | None:
        call = self._met.get(text, _UNMET)
        if call is _UNMET:
            if len(self._met) >= _SHAPES:
                self._met.clear()
            call = self._met[text] = _call(text)
        return call


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
