"""The document of one role: operations, shapes, refusals and keys put together.

Made once for each kind of access that there is, and kept as bytes. The same operations always
make the same bytes.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from cortex import __version__
from cortex.ask import Json
from cortex.openapi import refusals
from cortex.openapi.operation import EVENTS, JSON, Operation, Parameter, Told
from cortex.openapi.raw import DEMANDED, FILLS
from cortex.openapi.shapes import REF, Schema, Shapes, any_of

_IN_PATH: Final = re.compile(r"{([a-z_]+)}")
_SCHEMES: Final[Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_ABOUT_SCOPES: Final = {
    "open": "Answers everybody.",
    "read": "Takes any key.",
    "inference": "Takes a key with the scope `inference`.",
    "admin": "Takes a key with the scope `admin`.",
}


class Access(NamedTuple):
    """Whether keys are asked for, and whether inference goes without one all the same."""

    keyed: bool = False
    anonymous: bool = False


class Page(NamedTuple):
    """The document as it is sent, and its tag."""

    body: bytes
    tag: str


class Description:
    """What `role` answers. `scope_of(method, path)` says what a route demands of its caller."""

    def __init__(
        self, role: str, about: str, operations: Sequence[Operation], scope_of: Callable[[str, str], str]
    ) -> None:
        self.operations = tuple(operations)
        self._role, self._about, self._scope_of = role, about, scope_of
        self._pages: dict[Access, Page] = {}

    def page(self, access: Access) -> Page:
        """The document, made at most once."""
        page = self._pages.get(access)
        if page is None:
            body = msgspec.json.encode(self.document(access))
            page = self._pages[access] = Page(body, hashlib.sha256(body).hexdigest()[:32])
        return page

    def document(self, access: Access) -> Schema:
        """The same as a tree."""
        shapes = Shapes(FILLS, DEMANDED)
        paths: dict[str, dict[str, Json]] = {}
        for operation in self.operations:
            scope = self._scope_of(operation.method, sample(operation.path))
            entry = {**_operation(operation, scope, shapes), "security": _security(scope, access)}
            paths.setdefault(operation.path, {})[operation.method.lower()] = entry
        errors = refusals.schemas(shapes)
        components: Schema = {
            "schemas": {**shapes.components, **errors},
            "responses": _used(refusals.responses(), paths),
            "headers": refusals.HEADERS,
            "securitySchemes": _SCHEMES,
        }
        return {
            "openapi": "3.1.0",
            "info": {
                "title": f"cortex {self._role}",
                "version": __version__,
                "description": self._about,
                "license": {"name": "GPL-3.0-only", "identifier": "GPL-3.0-only"},
            },
            "tags": [{"name": tag} for tag in dict.fromkeys(each.tag for each in self.operations)],
            "paths": dict(paths),
            "components": components,
        }


def sample(path: str) -> str:
    """A path that `path`, with names in braces, stands for."""
    return _IN_PATH.sub(r"some-\1", path)


def _operation(operation: Operation, scope: str, shapes: Shapes) -> Schema:
    entry: Schema = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": " ".join(filter(None, [operation.detail, _ABOUT_SCOPES[scope]])),
    }
    if operation.parameters:
        entry["parameters"] = [_parameter(each) for each in operation.parameters]
    if operation.asked is not None:
        examples: Schema = {name: {"value": {**value}} for name, value in operation.asked.examples.items()}
        content: Schema = {JSON: {"schema": shapes.of(operation.asked.kind), "examples": examples}}
        entry["requestBody"] = {"required": True, "content": content}
    entry["responses"] = refusals.beside(_answers(operation, shapes), operation.raises, operation.family)
    return entry


def _answers(operation: Operation, shapes: Shapes) -> Schema:
    seats = ("x-cortex-model", "x-cortex-neuron") if operation.seated else ()
    headers = refusals.named(*refusals.marks(operation.family), *seats)
    made: Schema = {}
    for status in dict.fromkeys(told.status for told in operation.told):
        forms = [told for told in operation.told if told.status == status]
        answer: Schema = {"description": " ".join(told.about for told in forms), "headers": headers}
        content: Schema = {
            media: {"schema": any_of([_form(told, shapes) for told in forms if told.media == media])}
            for media in dict.fromkeys(told.media for told in forms if told.media)
        }
        made[str(status)] = {**answer, "content": content} if content else answer
    return made


def _form(told: Told, shapes: Shapes) -> Schema:
    form: Schema = {"type": "string"} if told.kind is None else shapes.of(told.kind)
    if told.media != EVENTS:
        return form
    # As later OpenAPI has it: the schema of one event, whose data is a text that may hold JSON.
    data: Schema = {"type": "string"}
    if told.kind is not None:
        error: Schema = {"$ref": REF + "Error"}
        data = {**data, "contentMediaType": JSON, "contentSchema": any_of([form, error])}
    properties: Schema = {"event": {"type": "string"}, "data": data}
    return {
        "type": "object",
        "description": "One event. Comments between events tell that the stream lives.",
        "properties": properties,
        "required": ["data"],
    }


def _parameter(parameter: Parameter) -> Schema:
    said: Schema = {
        "name": parameter.name,
        "in": parameter.within,
        "description": parameter.about,
        "required": parameter.required or parameter.within == "path",
        "schema": parameter.schema,
    }
    return said if parameter.example is None else {**said, "example": parameter.example}


def _security(scope: str, access: Access) -> list[Json]:
    """The keys that open a route; the scope stands where OpenAPI has roles."""
    if scope == "open" or not access.keyed:
        return []
    roles: list[Json] = [scope] if scope in ("inference", "admin") else []
    keys: list[Json] = [{name: roles} for name in _SCHEMES]
    return [*keys, {}] if access.anonymous and scope == "inference" else keys


def _used(responses: Schema, paths: dict[str, dict[str, Json]]) -> Schema:
    """Those of `responses` that are referred to."""
    text = msgspec.json.encode(paths)
    return {name: told for name, told in responses.items() if f'/responses/{name}"'.encode() in text}
