"""A record becomes one line: an event and its keys, as text that logfmt readers take, or as JSON.

What a call says is read in `calls`; here is what stands around it: time, level, logger, the request that it
is about, and trouble. A text of another form, as libraries have, is told as it is. What is said again and
again with other figures, as of each request, is put together once and kept as a `_Phrase`.
"""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from math import isfinite
from typing import Final, TypeAlias

from cortex.logs.calls import HOLE, NONE, OPEN, Calls, Open, Told, as_json, word

Given: TypeAlias = str | int | Open
Figure: TypeAlias = str | int | float

# sd-daemon's marks, by which the journal knows a line's level.
_MARKS: Final = {"ERROR": "<3>", "CRITICAL": "<2>", "WARNING": "<4>", "INFO": "<6>", "DEBUG": "<7>"}
# Ways for requests to end: what keys, models and neurons make of each other. Some megabytes at most.
MOST_PHRASES: Final = 4096
_WHOLE: Final = ("%s", "%d")
_MILLISECONDS: Final = tuple(f".{number:03d}Z" for number in range(1000))
# A word that is the same in JSON.
_SAME: Final = re.compile(r"[A-Za-z0-9_.,:/@+*-]+")

_REQUEST: Final = ContextVar("cortex_request_id", default=NONE)


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


class _Phrase:
    """The line of a call at the level info, but for its time, the figures and the request. `parts` are what
    stands between these: they come in this order, in JSON the figures as members and then as text.
    Each figure has its own of `forms`."""

    __slots__ = ("_forms", "_json", "_parts", "_templates", "_timed")

    def __init__(self, parts: list[str], forms: tuple[str, ...], *, json: bool, timed: bool) -> None:
        self._parts, self._forms, self._json, self._timed = parts, forms, json, timed
        # By the types of the figures.
        self._templates: dict[tuple[type, ...], _Template | None] = {}

    def line(self, request: str, figures: tuple[Figure, ...]) -> str | None:
        """None where something is told otherwise than nearly all."""
        kinds = tuple(map(type, figures))
        template = self._templates.get(kinds, _UNMADE)
        if template is _UNMADE:
            template = self._templates[kinds] = self._made(kinds)
        if template is None or request == NONE or not _SAME.fullmatch(request):
            return None
        text, floats, words = template
        for at in floats:
            if not isfinite(figures[at]):  # type: ignore[arg-type]
                return None
        for at in words:
            if figures[at] != NONE:
                return None
        if self._json:
            figures += figures
        return text % ((_when(time.time()), *figures, request) if self._timed else (*figures, request))

    def _made(self, kinds: tuple[type, ...]) -> "_Template | None":
        """How figures of these `kinds` are told; None where they are told otherwise than here."""
        texts: list[str] = []
        values: list[str] = []
        floats: list[int] = []
        words: list[int] = []
        for at, (form, kind) in enumerate(zip(self._forms, kinds, strict=True)):
            text = value = form
            if kind is float and form != "%d":
                floats.append(at)
            elif kind is str and form == "%s":
                words.append(at)
                # Of the argument no letter.
                text, value = f"{NONE}%.0s", "null%.0s"
            elif kind is not int or form not in _WHOLE:
                return None
            texts.append(text)
            values.append(value)
        texts.append('"%s"' if self._json else "%s")
        holes = [*(["%s"] if self._timed else []), *(values if self._json else []), *texts]
        begin, *parts = (part.replace("%", "%%") for part in self._parts)
        line = "".join((begin, *(piece for both in zip(holes, parts, strict=True) for piece in both)))
        return line, tuple(floats), tuple(words)


# The line for `%`; which of the figures have to be finite, and which have to say that there is none.
_Template: TypeAlias = tuple[str, tuple[int, ...], tuple[int, ...]]
_UNMADE: Final[_Template] = ("", (), ())
_UNMET: Final = _Phrase([], (), json=False, timed=False)


class Lines(logging.Formatter, ABC):
    """What both forms of a line have in common. Within the journal they are without the time; `more` is in
    every line."""

    json: bool

    def __init__(self, *, journal: bool, more: str) -> None:
        super().__init__()
        self._journal, self._more = journal, more
        self._calls = Calls()
        self._phrases: dict[tuple[str, str, tuple[Given, ...]], _Phrase | None] = {}
        self._unkept = 0

    def say(
        self, logger: str, request: str, text: str, given: tuple[Given, ...], figures: tuple[Figure, ...]
    ) -> str:
        """The line of a call at the level info, as `format` has it of its record. What is `OPEN` among the
        arguments that are `given` are the `figures`."""
        which = (logger, text, given)
        phrase = self._phrases.get(which, _UNMET)
        if phrase is _UNMET:
            phrase = self._phrase(*which)
        line = None if phrase is None else phrase.line(request, figures)
        if line is None:
            told = self._calls.told(text, filled(given, figures))
            line = self._line(_when(time.time()), "INFO", logger, told, self._word(request))
        return line

    def _phrase(self, logger: str, text: str, given: tuple[Given, ...]) -> _Phrase | None:
        """Kept for the next time. To make one costs several lines: where there are too many to keep, the
        others are told without, and all are forgotten when those are as many again."""
        if len(self._phrases) >= MOST_PHRASES:
            self._unkept += 1
            if self._unkept < MOST_PHRASES:
                return None
            self._phrases.clear()
            self._unkept = 0
        phrase = None
        if (forms := self._calls.open(text, given)) is not None:
            line = self._line(HOLE, "INFO", logger, self._calls.told(text, given), HOLE)
            phrase = _Phrase(line.split(HOLE), forms, json=self.json, timed=not self._journal)
        self._phrases[logger, text, given] = phrase
        return phrase

    @abstractmethod
    def _line(self, when: str, level: str, logger: str, told: Told, request: str) -> str:
        """`request` as `_word` has it."""

    @abstractmethod
    def _word(self, request: str) -> str:
        """The id of a request as the line has it, "" for none."""


class Text(Lines):
    """`time LEVEL logger event key=value… request=id`."""

    json = False

    def __init__(self, *, journal: bool, more: Mapping[str, str] = {}) -> None:
        super().__init__(
            journal=journal, more="".join(f" {name}={word(text)}" for name, text in more.items())
        )

    def format(self, record: logging.LogRecord) -> str:
        told, request = self._calls.read(record), self._word(request_of(record))
        line = self._line(_when(record.created), record.levelname, record.name, told, request)
        return line + "".join(f" {name}={word(text)}" for name, text in _trouble(self, record))

    def _line(self, when: str, level: str, logger: str, told: Told, request: str) -> str:
        start = _MARKS.get(level, "") if self._journal else f"{when} "
        line = f"{start}{level:<7} {logger} {told.text}{self._more}"
        return f"{line} request={request}" if request else line

    def _word(self, request: str) -> str:
        return "" if request == NONE else word(request)


class Json(Lines):
    """One object a line: time, level, logger, event, the keys of the message with their values, the
    message, request_id where one is bound, and trouble if there was."""

    json = True

    def __init__(self, *, journal: bool = False, more: Mapping[str, str] = {}) -> None:
        told = "".join(f', "{name}": {as_json(text)}' for name, text in more.items())
        super().__init__(journal=journal, more=told)

    def format(self, record: logging.LogRecord) -> str:
        told, request = self._calls.read(record), self._word(request_of(record))
        line = self._line(_when(record.created), record.levelname, record.name, told, request)
        trouble = "".join(f', "{name}": {as_json(text)}' for name, text in _trouble(self, record))
        return f"{line[:-1]}{trouble}}}"

    def _line(self, when: str, level: str, logger: str, told: Told, request: str) -> str:
        start = _MARKS.get(level, "") if self._journal else ""
        time = "" if self._journal else f'"time": "{when}", '
        known = self._calls.words
        named = f'"level": {known.of(level.lower())[1]}, "logger": {known.of(logger)[1]}'
        # A hole is no text to be escaped.
        message = HOLE.join(as_json(piece)[1:-1] for piece in told.text.split(HOLE))
        about = f', "request_id": {request}' if request else ""
        return f'{start}{{{time}{named}, {told.members}"message": "{message}"{self._more}{about}}}'

    def _word(self, request: str) -> str:
        return "" if request == NONE else as_json(request)


def filled(given: tuple[Given, ...], figures: tuple[Figure, ...]) -> tuple[Given | Figure, ...]:
    """The arguments of a call, all told."""
    rest = iter(figures)
    return tuple(next(rest) if each is OPEN else each for each in given)


def _when(created: float) -> str:
    second = int(created)
    return _second(second) + _MILLISECONDS[int((created - second) * 1000)]


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
