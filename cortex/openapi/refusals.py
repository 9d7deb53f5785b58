"""The errors that a request can get, by status and dialect.

Statuses, codes and what they mean are the error classes' own; which facts an error may hold is
told by the struct with which a gateway reads its neurons' errors.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from cortex.ask import Json
from cortex.errors import (
    BadFraming,
    ConfigError,
    CortexError,
    Denied,
    HeadTooBig,
    NoUpgrade,
    Overloaded,
    SlowBody,
    Stopping,
    TooBig,
    TooMuch,
    Unauthorised,
)
from cortex.openapi.operation import JSON, Family
from cortex.openapi.shapes import REF, Schema, Shapes
from cortex.wire import faults
from cortex.wire.refusals import Refusal

# Whatever is asked: of the bytes, of who asks, and of how busy the listener is.
ANY: Final[tuple[type[CortexError], ...]] = (
    BadFraming,
    Unauthorised,
    Denied,
    SlowBody,
    TooBig,
    NoUpgrade,
    TooMuch,
    HeadTooBig,
    Stopping,
    Overloaded,
    CortexError,
)
_WAIT: Final = frozenset({429, 503, 529})
_SAID: Final = frozenset({"message", "code", "param", "retry_after", "details"})
_NAMES: Final[dict[Family, str]] = {"openai": "Error", "anthropic": "AnthropicError", "either": "EitherError"}

HEADERS: Final[Schema] = {
    "x-request-id": {
        "description": "The request's id in logs and error bodies: the client's own, if it sent one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "request-id": {
        "description": "The same, as Anthropic's clients look for it.",
        "required": True,
        "schema": {"type": "string"},
    },
    "retry-after": {
        "description": "Seconds after which to come again, where that is known.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-should-retry": {
        "description": "`false` where it would not help to repeat the request as it stands.",
        "schema": {"enum": ["false"]},
    },
    "x-cortex-model": {
        "description": "The id of the model that served, or would have.",
        "schema": {"type": "string"},
    },
    "x-cortex-neuron": {
        "description": "Where the request was seated.",
        "schema": {"type": "string"},
    },
}


def marks(family: Family) -> tuple[str, ...]:
    """The headers that every answer has."""
    return ("x-request-id", "request-id") if family == "anthropic" else ("x-request-id",)


def named(*headers: str) -> Schema:
    """References to those headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in headers}


def schemas(shapes: Shapes) -> Schema:
    """The components that error bodies are made of."""
    facts = [field for field in msgspec.structs.fields(Refusal) if field.name not in _SAID]
    told: Schema = {field.encode_name: shapes.of(field.type) for field in facts}
    text: Schema = {"type": "string"}
    retry: Schema = {"type": "integer", "description": "Seconds, as in the header."}
    codes: list[Json] = [*sorted({kind.code for kind in _kinds()})]
    code: Schema = {"enum": codes}
    inner: Schema = {
        "message": text,
        "type": text,
        "code": code,
        "param": {"type": ["string", "null"], "description": "The field, header or parameter at fault."},
        "request_id": text,
        "retry_after": retry,
        **told,
    }
    details = _object({"error_code": code, **told}, "error_code")
    anthropic: Schema = {"type": text, "message": text, "retry_after": retry, "details": details}
    return {
        "Error": _object(
            {"error": _object(inner, "message", "type", "code", "param", "request_id")}, "error"
        ),
        "AnthropicError": _object(
            {
                "type": {"const": "error"},
                "error": _object(anthropic, "type", "message", "details"),
                "request_id": text,
            },
            "type",
            "error",
            "request_id",
        ),
    }


def responses() -> Schema:
    """Every error answer that there is, by name."""
    made: Schema = {}
    for family in _NAMES:
        for status in sorted({status for kind in _kinds() for status in _statuses(kind, family)}):
            made[f"{_NAMES[family]}{status}"] = _response(status, family)
    return made


def beside(told: Schema, raises: Iterable[type[CortexError]], family: Family) -> Schema:
    """All answers by status: those that are `told`, and the errors of a request that may end with one of
    `raises`, or as any request may."""
    found = {status for kind in (*ANY, *raises) for status in _statuses(kind, family)}
    made = dict(told)
    for status in sorted(found):
        ref: Schema = {"$ref": f"#/components/responses/{_NAMES[family]}{status}"}
        made[str(status)] = _either(told[str(status)], status, family) if str(status) in told else ref
    return made


def _either(answer: Json, status: int, family: Family) -> Schema:
    """A status that stands for an answer or for an error, which the media type tells."""
    error = _response(status, family)
    assert isinstance(answer, dict)  # noqa: S101 - made by `document`
    forms, content = answer["content"], error["content"]
    assert isinstance(forms, dict) and isinstance(content, dict)  # noqa: S101 - the same
    text = f"{answer['description']}\n\n{error['description']}"
    return {**error, "description": text, "content": {**content, **forms}}


def _response(status: int, family: Family) -> Schema:
    codes: dict[str, list[str]] = {}
    for kind in _kinds():
        if status in _statuses(kind, family):
            codes.setdefault(kind.code, []).extend(_about(kind))
    lines = [f"`{code}`: {' '.join(words)}" if words else f"`{code}`." for code, words in codes.items()]
    body: Schema = {"$ref": f"{REF}{_NAMES[family]}"}
    if family == "either":
        body = {"anyOf": [{"$ref": REF + "Error"}, {"$ref": REF + "AnthropicError"}]}
    headers = named(*marks(family), "x-should-retry", *(["retry-after"] if status in _WAIT else []))
    return {"description": "\n\n".join(lines), "headers": headers, "content": {JSON: {"schema": body}}}


def _statuses(kind: type[CortexError], family: Family) -> set[int]:
    error = kind("")
    dialects: tuple[faults.Dialect, ...] = ("openai", "anthropic") if family == "either" else (family,)
    return {faults.status(error, dialect) for dialect in dialects}


def _kinds(root: type[CortexError] = CortexError) -> Iterator[type[CortexError]]:
    """Every error that can be told: those of the files never are, and rooms that have kinds of their
    own keep them."""
    yield root
    for kind in root.__subclasses__():
        if kind is not ConfigError and kind.__module__ == root.__module__:
            yield from _kinds(kind)


def _about(kind: type[CortexError]) -> list[str]:
    if kind is CortexError:
        return ["A bug; the log has its traceback under the request id."]
    said = kind.__dict__.get("__doc__")
    return [" ".join(said.split())] if said else []


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": [*required]}
