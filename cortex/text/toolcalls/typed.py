"""Arguments that a model wrote without types get those of the tool's JSON schema.

What the schema does not settle stays text. A value that does not fit its type stays text
too: the caller validates, and sees what the model wrote.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec

from cortex.ask import Json

_Part: TypeAlias = "Json | Mapping[str, Json]"
# How history shows these values to the model: templates print them as Python does.
_SPELLED: Final[Mapping[str, str]] = {"True": "true", "False": "false", "None": "null"}


def typed_arguments(found: Mapping[str, str], schema: Mapping[str, Json]) -> str | None:
    """The JSON text of an object with the values of `found`; None when one is no text that JSON
    can hold."""
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    try:
        pairs = [f"{_text(key)}: {_value(text, known.get(key), schema)}" for key, text in found.items()]
    except UnicodeEncodeError:
        return None
    return "{" + ", ".join(pairs) + "}"


def _value(text: str, schema: Json, root: Mapping[str, Json]) -> str:
    """`text` as JSON. Where text is allowed, only null and what has brackets is anything else."""
    kinds = set(_kinds(schema, root))
    if "string" in kinds:
        kinds -= {"boolean", "integer", "number"}
    bare = text.strip()
    spelled = _SPELLED.get(bare, bare)
    fits = any(kind in kinds and holds(spelled) for kind, holds in _HOLDS.items())
    return spelled if fits else _text(text)


def _kinds(schema: Json, root: Mapping[str, Json]) -> Iterator[str]:
    """The types that `schema` allows, as far as it tells. No part is looked at twice: references
    may go in circles."""
    seen: set[int] = set()
    waiting: list[_Part] = [schema]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        kind = part.get("type")
        if isinstance(kind, str | list):
            yield from [kind] if isinstance(kind, str) else [each for each in kind if isinstance(each, str)]
            continue
        for word in ("anyOf", "oneOf", "allOf"):
            waiting += _listed(part.get(word))
        yield from map(_kind, [part["const"]] if "const" in part else _listed(part.get("enum")))
        waiting.append(_at(part.get("$ref"), root))


def _listed(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _kind(value: Json) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _at(reference: Json, root: Mapping[str, Json]) -> _Part:
    """What a reference inside the schema points to, or nothing."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: _Part = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _is(kind: object) -> Callable[[str], bool]:
    def holds(text: str) -> bool:
        try:
            msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            return False
        return True

    return holds


_HOLDS: Final[Mapping[str, Callable[[str], bool]]] = {
    "null": lambda text: text == "null",
    "object": _is(dict[str, msgspec.Raw]),
    "array": _is(list[msgspec.Raw]),
    "boolean": lambda text: text in ("true", "false"),
    "integer": _is(int),
    "number": _is(float),
}
