"""Writes the known keys of a configuration file as JSON Schema, for editors.

Made from `tables`, so that it lists what is checked and nothing else. It is weaker than
the check on purpose: what it refuses `cortex config check` refuses too, but what keys mean
together, and what lies in other files, only the check knows. Words of help come from
docs/config.md, where that page can be found.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cortex.ask import Json
from cortex.config.kinds import Kind as Value
from cortex.config.reading import Known, Table
from cortex.config.tables import MODEL_KEYS, SAMPLING
from cortex.config.whole import NAMES, TABLES, Kind

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
# In a checkout, and in an installed package, whose build puts the page there.
_PAGES: Final = (
    Path(__file__).parents[2] / "docs" / "config.md",
    Path(__file__).parent / "config.md",
)
# Keys that several tables have, and the one in models.toml whose words explain them.
_SAME: Final = ((MODEL_KEYS.keys, "models"), (SAMPLING.keys, "models.sampling"))


@dataclass(frozen=True, slots=True)
class Words:
    """What a page says of sections, and of their keys."""

    sections: Mapping[tuple[str, str], str] = field(default_factory=dict)
    keys: Mapping[tuple[str, str, str], str] = field(default_factory=dict)


def schema(kind: Kind, words: Words) -> dict[str, Json]:
    """The schema of one kind of file."""
    body = _table(TABLES[kind], NAMES[kind], "", words)
    return {"$schema": DIALECT, "title": NAMES[kind], **body}


def any_schema(words: Words) -> dict[str, Json]:
    """One that takes a file of any kind."""
    kinds: dict[str, Json] = {kind: _table(TABLES[kind], NAMES[kind], "", words) for kind in NAMES}
    either: list[Json] = [{"$ref": f"#/$defs/{kind}"} for kind in kinds]
    return {"$schema": DIALECT, "title": "a file of cortex", "anyOf": either, "$defs": kinds}


def read_page() -> Words:
    """The words of docs/config.md; none where the page is not at hand."""
    page = next((path for path in _PAGES if path.is_file()), None)
    return Words() if page is None else words_of(page.read_text(encoding="utf-8"))


def words_of(page: str) -> Words:
    """The meaning of each section and of each row of its table, by file."""
    sections: dict[tuple[str, str], str] = {}
    keys: dict[tuple[str, str, str], str] = {}
    for part in re.split(r"^## ", page, flags=re.M)[1:]:
        file, _, rest = part.partition("\n")
        for section in re.split(r"^### ", rest, flags=re.M)[1:]:
            heading, _, text = section.partition("\n")
            name = heading.strip("`[] ")
            if about := text.partition("\n|")[0].strip():
                sections[file, name] = " ".join(about.split())
            for row in re.findall(r"^\| `([a-z0-9_]+)` \| (.*) \| (.*) \| (.*) \|$", text, flags=re.M):
                keys[file, name, row[0]] = _about(*row[1:])
    return Words(sections, keys)


def _about(word: str, default: str, meaning: str) -> str:
    said = "" if default in ("-", "required") else f" Default: {default}."
    return f"{meaning} Type: {word}.{said}"


def _table(table: Table, file: str, at: str, words: Words) -> dict[str, Json]:
    properties: dict[str, Json] = {}
    for name, node in table.keys.items():
        path = f"{at}.{name}".lstrip(".")
        if isinstance(node, Known):
            properties[name] = _key(node, _words_for(words, file, at, name))
        else:
            source = next((where for keys, where in _SAME if node.keys is keys), "")
            inner = (
                _table(node, NAMES["models"], source, words) if source else _table(node, file, path, words)
            )
            properties[name] = _standing(
                _wrapped(node, inner),
                words.sections.get((file, path), ""),
                node.idle,
            )
    required: list[Json] = [
        name for name, node in table.keys.items() if isinstance(node, Known) and node.required
    ]
    body: dict[str, Json] = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**body, "required": required} if required else body


def _wrapped(node: Table, inner: dict[str, Json]) -> dict[str, Json]:
    """One table, or where there may be several the form that they have together."""
    if node.named is not None:
        return {"type": "object", "propertyNames": _value(node.named), "additionalProperties": inner}
    return {"type": "array", "items": inner} if node.many else inner


def _words_for(words: Words, file: str, at: str, name: str) -> str:
    """A key outside all tables has a section of its own."""
    return words.keys.get((file, at, name), "") if at else words.sections.get((file, name), "")


def _key(known: Known, about: str) -> dict[str, Json]:
    return _standing(_form(known), about or f"Type: {known.word}.", known.idle or bool(known.old))


def _form(known: Known) -> dict[str, Json]:
    value = _value(known.kind)
    if known.former:
        value = {"anyOf": [value, {"enum": list(known.former), "deprecated": True}]}
    match known.form:
        case "one":
            return value
        case "list":
            return {"type": "array", "items": value, "uniqueItems": True}
        case "map":
            named: dict[str, Json] = {"propertyNames": _value(known.names)} if known.names else {}
            return {"type": "object", **named, "additionalProperties": value}


def _value(kind: Value) -> dict[str, Json]:
    return dict(kind.schema)


def _standing(body: dict[str, Json], about: str, deprecated: bool) -> dict[str, Json]:
    said: dict[str, Json] = {"description": about} if about else {}
    return {**said, **body, **({"deprecated": True} if deprecated else {})}
