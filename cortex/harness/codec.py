"""Orders and words as bytes and back, exactly.

A record is an array that begins with its kind's number; plain sequences have a number
too, so that a tuple stays a tuple and nothing is guessed from its shape. What a turn brings
has a short form, since it is most of what is ever said. Both ends are the same `BUILD`. An
error keeps its class; one that `errors` does not know becomes EngineFailed. Nothing here is
ever executed or looked up by a name that came in: kinds are listed.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from cortex import __version__, ask, errors, events
from cortex.errors import CortexError, EngineFailed
from cortex.harness import base, orders, pulse

Plain: TypeAlias = Any  # what msgpack can carry; msgspec cannot name a type that names itself

_LIST: Final = 0
_TUPLE: Final = 1
_SET: Final = 2
_PATH: Final = 3
_ERROR: Final = 4
_TEXT: Final = 5  # text with half surrogate pairs
_WHOLE: Final = 6  # an integer of more than 64 bits
_MAP: Final = 7
_TURN: Final = 8  # words of jobs, of which most are bare tokens: (job, bytes, count), else (job, event)
_RECORDS: Final = 9
_KINDS: Final[tuple[type, ...]] = (
    orders.Load,
    orders.GiveUp,
    orders.Unload,
    orders.Tokenise,
    orders.Detokenise,
    orders.Measure,
    orders.Release,
    orders.Submit,
    orders.Cancel,
    orders.Ring,
    orders.Stop,
    orders.Done,
    orders.Undone,
    orders.Progress,
    orders.Heard,
    orders.Faulted,
    orders.Gone,
    orders.Beat,
    pulse.Doing,
    base.LoadOrder,
    base.EngineFacts,
    base.Memory,
    base.Job,
    ask.Ask,
    ask.Message,
    ask.Image,
    ask.ToolUse,
    ask.Tool,
    ask.ToolChoice,
    ask.Sampling,
    ask.Embed,
    ask.Spelling,
    ask.Shape,
    events.Started,
    events.Prefilled,
    events.Tokens,
    events.TokenLogprob,
    events.Text,
    events.Thought,
    events.ToolCall,
    events.Embedded,
    events.Stopped,
    events.Usage,
    events.Failed,
)


def _names(kind: type[Any]) -> tuple[str, ...]:
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    return tuple(field.name for field in fields(kind))


_FIELDS: Final[Mapping[type, tuple[int, tuple[str, ...]]]] = {
    kind: (number, _names(kind)) for number, kind in enumerate(_KINDS, _RECORDS)
}
# Of two builds the same bytes may be two messages: each end is to know that the other one has its own.
BUILD: Final = blake2b(
    repr(
        [__version__, *((number, kind.__name__, names) for kind, (number, names) in _FIELDS.items())]
    ).encode(),
    digest_size=8,
).hexdigest()
_ERRORS: Final[Mapping[str, type[CortexError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, CortexError) and kind.__init__ is CortexError.__init__
}
_AS_THEY_ARE: Final = frozenset({str, int, float, bool, bytes, type(None)})


class Garbled(Exception):
    """The bytes are no order and no word: the other end is not what it should be."""


def encode(message: orders.Order | orders.Word) -> bytes:
    """The bytes of `message`. RecursionError where a schema is nested too deeply."""
    try:
        if isinstance(message, orders.Heard) and type(message.said) is list:
            return msgspec.msgpack.encode([_TURN, message.model, [*map(_said, message.said)]])
        return msgspec.msgpack.encode(_pack(message, _as_it_is))
    except (UnicodeEncodeError, OverflowError):
        # Rare, and dear to look for in every text.
        return msgspec.msgpack.encode(_pack(message, _with_care))


def order_of(data: bytes) -> orders.Order:
    """The order that `data` is; Garbled when it is none."""
    message = _message(data)
    if not isinstance(message, orders.Order):
        raise Garbled(f"{type(message).__name__} is no order")
    return message


def word_of(data: bytes) -> orders.Word:
    """The word that `data` is; Garbled when it is none."""
    message = _message(data)
    if not isinstance(message, orders.Word):
        raise Garbled(f"{type(message).__name__} is no word")
    return message


def _message(data: bytes) -> object:
    try:
        return _unpack(msgspec.msgpack.decode(data))
    except (msgspec.DecodeError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise Garbled(f"{type(error).__name__}: {error}") from error


def _pack(value: object, plain: Callable[[Any], Plain]) -> Plain:
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return plain(value)
    if (known := _FIELDS.get(kind)) is not None:
        number, names = known
        return [number, *[_pack(getattr(value, name), plain) for name in names]]
    number, parts = _parts(value)
    return [number, *[_pack(part, plain) for part in parts]]


def _said(said: base.Said) -> Plain:
    job_id, event = said
    if type(event) is events.Tokens and not (event.logprobs or event.choice):
        return job_id, event.data, event.count
    return job_id, _pack(event, _as_it_is)


def _turn(model: str, told: Sequence[Sequence[Any]]) -> orders.Heard:
    said: list[base.Said] = []
    for each in told:
        if len(each) == 3:
            job_id, data, count = each
            said.append((job_id, events.Tokens(data, count)))
        else:
            job_id, event = each
            said.append((job_id, _unpack(event)))
    return orders.Heard(model, said)


def _parts(value: object) -> tuple[int, Iterable[object]]:
    match value:
        case tuple():
            return _TUPLE, value
        case list():
            return _LIST, value
        case Mapping():
            return _MAP, chain.from_iterable(value.items())
        case frozenset():
            return _SET, value
        case Path():
            return _PATH, (bytes(value),)
        case CortexError():
            return _ERROR, _told(value)
    raise TypeError(f"{type(value).__name__} is not carried between processes")


def _unpack(value: Plain) -> Any:  # noqa: ANN401 - the caller asks what it is
    if not isinstance(value, list):
        return value
    number, *parts = value
    if number < 0:
        raise ValueError(f"{number} is no kind")
    if number in _SPELT:
        return _SPELT[number](*parts)
    known = [_unpack(part) for part in parts]
    return _MADE[number](known) if number in _MADE else _KINDS[number - _RECORDS](*known)


def _as_it_is(value: Plain) -> Plain:
    return value


def _with_care(value: Plain) -> Plain:
    if isinstance(value, str):
        return [_TEXT, value.encode("utf-8", "surrogatepass")]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return [_WHOLE, hex(value)]
    return value


def _told(error: CortexError) -> tuple[object, ...]:
    # A kind of its own that a harness made is told as the nearest one that both ends know.
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), "")
    facts = error.param, error.retry_after_s, error.facts, error.final, error.not_started
    return name, error.message, *facts


def _error(told: Sequence[Any]) -> CortexError:
    name, message, param, retry_after_s, facts, final, not_started = told
    kind = _ERRORS.get(name, EngineFailed)
    error = kind(message, param=param, retry_after_s=retry_after_s, facts=facts)
    error.final, error.not_started = final, not_started
    return error


# Records of a number below _RECORDS: those that hold others, and those that do not.
_MADE: Final[Mapping[int, Callable[[list[Any]], Any]]] = {
    _LIST: list,
    _TUPLE: tuple,
    _SET: frozenset,
    _MAP: lambda parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    _ERROR: _error,
}
_SPELT: Final[Mapping[int, Callable[..., Any]]] = {
    _TURN: _turn,
    _PATH: lambda data: Path(os.fsdecode(data)),
    _TEXT: lambda data: data.decode("utf-8", "surrogatepass"),
    _WHOLE: lambda digits: int(digits, 16),
}
