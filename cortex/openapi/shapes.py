"""The shapes on the wire as JSON schema (2020-12), made from the structs that read and write them.

Fields, bounds and defaults are the structs' own, so that nothing here can differ from what is
obeyed. A field that is decoded later than its struct says nothing of itself: `Fills` says as
what it is decoded. Owns the names of components; which of them are needed is for who asks.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import NODEFAULT, UNSET, inspect

from cortex.ask import Json

Schema: TypeAlias = dict[str, Json]
# By struct and field: the decoder that reads it in the end, or the schema itself.
Fill: TypeAlias = "msgspec.json.Decoder[Any] | Schema"
Fills: TypeAlias = Mapping[type[msgspec.Struct], Mapping[str, Fill]]
# Fields that a reader asks for although their struct does not; a list among them is not empty.
Demands: TypeAlias = Mapping[type[msgspec.Struct], tuple[str, ...]]

REF: Final = "#/components/schemas/"
NOTHING: Final[Mapping[str, Json]] = {"type": "null"}
# Two dialects have a ToolBody each.
_FAMILIES: Final = {"anthropic": "Anthropic", "responses": "Responses"}


class Shapes:
    """Schemas by name, as they are asked for."""

    def __init__(self, fills: Fills, demands: Demands) -> None:
        self._fills, self._demands = fills, demands
        self._structs: dict[str, type[msgspec.Struct]] = {}
        self.components: dict[str, Json] = {}

    def of(self, kind: object) -> Schema:
        """The schema of `kind`, a type that msgspec can read or write."""
        return self._schema(inspect.type_info(kind))

    def _schema(self, info: inspect.Type) -> Schema:
        match info:
            case inspect.AnyType() | inspect.RawType():
                return {}
            case inspect.LiteralType(values):
                return {"enum": list(values)}
            case inspect.StructType():
                return self._struct(info)
            case inspect.UnionType(types):
                return any_of([self._schema(each) for each in types])
            case inspect.Metadata(inner):
                return self._schema(inner)
        return _plain(info) or self._collection(info)

    def _collection(self, info: inspect.Type) -> Schema:
        match info:
            case inspect.ListType() | inspect.VarTupleType():
                bounds = _said(minItems=info.min_length, maxItems=info.max_length)
                return {"type": "array", "items": self._schema(info.item_type), **bounds}
            case inspect.TupleType(()):
                return {"type": "array", "maxItems": 0}
            case inspect.DictType():
                named: Schema = {}
                if isinstance(info.key_type, inspect.IntType):
                    named = {"propertyNames": {"pattern": "^(0|[1-9][0-9]*)$"}}
                bounds = _said(minProperties=info.min_length, maxProperties=info.max_length)
                inner = self._schema(info.value_type)
                return {"type": "object", "additionalProperties": inner, **named, **bounds}
        raise TypeError(f"nothing on the wire is a {type(info).__name__}")

    def _struct(self, info: inspect.StructType) -> Schema:
        name = name_of(info.cls)
        if self._structs.setdefault(name, info.cls) is not info.cls:
            raise ValueError(f"two structs would be called {name}: {info.cls} and {self._structs[name]}")
        if name not in self.components:
            self.components[name] = {}  # for a struct that holds itself
            self.components[name] = self._object(info)
        return {"$ref": REF + name}

    def _object(self, info: inspect.StructType) -> Schema:
        fills = {
            name: fill
            for kind in reversed(info.cls.__mro__)
            for name, fill in self._fills.get(kind, {}).items()
        }
        demanded = self._demands.get(info.cls, ())
        properties: dict[str, Json] = {}
        required: list[Json] = []
        if info.tag_field is not None:
            properties[info.tag_field] = {"const": info.tag}
            required.append(info.tag_field)
        for field in info.fields:
            fill = fills.get(field.name)
            schema = self._filled(fill) if fill is not None else self._schema(field.type)
            properties[field.encode_name] = {**schema, **_default(field)}
            if field.name in demanded:
                properties[field.encode_name] = _present(schema)
            if field.required or field.name in demanded:
                required.append(field.encode_name)
        told: Schema = {"type": "object", "properties": properties}
        if required:
            told["required"] = required
        if info.forbid_unknown_fields:
            told["additionalProperties"] = False
        if info.cls.__doc__:
            told["description"] = " ".join(info.cls.__doc__.split())
        return told

    def _filled(self, fill: Fill) -> Schema:
        if isinstance(fill, dict):
            return fill
        # What is decoded late may always be null, which is as good as left out.
        return any_of([self.of(fill.type), dict(NOTHING)])


def name_of(kind: type[msgspec.Struct]) -> str:
    """What the component of a struct is called."""
    family = kind.__module__.rpartition(".")[2].partition("_")[0]
    prefix, name = _FAMILIES.get(family, ""), kind.__name__.lstrip("_")
    return name if prefix and name.startswith(prefix.rstrip("s")) else prefix + name


def _present(schema: Schema) -> Schema:
    """`schema` of a field that may be neither null nor an empty list."""
    kinds = schema.get("anyOf")
    if isinstance(kinds, list):
        return any_of([_present(kind) for kind in kinds if isinstance(kind, dict) and kind != NOTHING])
    return {**schema, "minItems": 1} if schema.get("type") == "array" else schema


def any_of(schemas: list[Schema]) -> Schema:
    """One of `schemas`."""
    flat: list[Json] = []
    for schema in schemas:
        inner = schema.get("anyOf")
        flat += inner if isinstance(inner, list) and len(schema) == 1 else [schema]
    if {} in flat:
        return {}
    only = flat[0]
    return only if len(flat) == 1 and isinstance(only, dict) else {"anyOf": flat}


def _plain(info: inspect.Type) -> Schema | None:
    match info:
        case inspect.NoneType():
            return dict(NOTHING)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType() | inspect.FloatType():
            kind = "integer" if isinstance(info, inspect.IntType) else "number"
            bounds = {"minimum": info.ge, "exclusiveMinimum": info.gt}
            return {"type": kind, **_said(**bounds, maximum=info.le, exclusiveMaximum=info.lt)}
        case inspect.StrType():
            return {"type": "string", **_said(minLength=info.min_length, maxLength=info.max_length)}
    return None


def _said(**bounds: float | None) -> Schema:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _default(field: inspect.Field) -> Schema:
    """What holds where the field is left out, if that is plain. Null says nothing more."""
    value = field.default if field.default_factory is NODEFAULT else field.default_factory()
    if value is NODEFAULT or value is UNSET or value is None or isinstance(value, msgspec.Raw):
        return {}
    if isinstance(value, float) and not math.isfinite(value):
        return {}
    return {"default": msgspec.to_builtins(value)}
