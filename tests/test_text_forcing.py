"""A forced call is one that its form's reader understands, and whose schema holds the tool's."""

import json
from collections.abc import Mapping

import pytest

from cortex.ask import Json, Tool
from cortex.text.toolcalls import CallForm, force
from tests.call_forms import read

ONE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NESTED = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/Point"}, "again": {"$ref": "#"}, "other": {"$ref": "urn:x"}},
    "$defs": {
        "Point": {"type": "array", "items": [{"$ref": "#/$defs/Number"}]},
        "Number": {"type": "number"},
    },
}
WEATHER, PLACE, NOW = Tool("weather", "", ONE), Tool("place", "", NESTED), Tool("now")

# Form, tools, name, opening, what a model could then write, what it comes to.
FORCED: dict[str, tuple[CallForm, tuple[Tool, ...], str | None, str, Json, tuple[str, str]]] = {
    "hermes": (
        "hermes",
        (WEATHER, NOW),
        None,
        "<tool_call>\n",
        {"name": "weather", "arguments": {"city": "Oslo"}},
        ("weather", '{"city": "Oslo"}'),
    ),
    "xml": (
        "qwen_xml",
        (WEATHER, NOW),
        "now",
        "<tool_call>\n",
        {"name": "now", "arguments": {}},
        ("now", "{}"),
    ),
    "llama": ("llama", (WEATHER, NOW), None, "", {"name": "now", "parameters": {}}, ("now", "{}")),
    "mistral's list": (
        "mistral_list",
        (WEATHER, NOW),
        None,
        "[TOOL_CALLS]",
        [{"name": "weather", "arguments": {"city": "Oslo"}}],
        ("weather", '{"city": "Oslo"}'),
    ),
    "mistral, by name": (
        "mistral_args",
        (WEATHER, NOW),
        "weather",
        "[TOOL_CALLS]weather[ARGS]",
        {"city": "Oslo"},
        ("weather", '{"city": "Oslo"}'),
    ),
    "mistral, the only one": ("mistral_args", (NOW,), None, "[TOOL_CALLS]now[ARGS]", {}, ("now", "{}")),
    "mistral, one of two": (
        "mistral_args",
        (WEATHER, NOW),
        None,
        "[TOOL_CALLS]",
        [{"name": "now", "arguments": {}}],
        ("now", "{}"),
    ),
}


@pytest.mark.parametrize(
    ("form", "tools", "name", "opening", "answer", "call"), FORCED.values(), ids=FORCED.keys()
)
def test_a_forced_answer_is_one_call(form, tools, name, opening, answer, call):
    forced = force(form, tools, name)
    assert forced.opening == opening
    assert forced.shape.schema is not None
    assert _valid(answer, forced.shape.schema, forced.shape.schema)
    assert read(form, [opening, json.dumps(answer)]) == [call]
    wrongs = [1, [answer], [], [{"name": "now", "arguments": {}}] * 2]
    for wrong in wrongs if answer == {} else [*wrongs, {}, {"name": "weather"}]:
        if wrong != answer:
            assert not _valid(wrong, forced.shape.schema, forced.shape.schema), wrong


@pytest.mark.parametrize("form", ["hermes", "llama", "mistral_list"])
def test_a_forced_call_has_nothing_beside_it(form: CallForm):
    """A model would think aloud in a key of its own."""
    schema = force(form, (NOW,), None).shape.schema
    assert schema is not None
    call: dict = {"name": "now", "parameters" if form == "llama" else "arguments": {}}
    whole = (lambda call: [call]) if form == "mistral_list" else dict
    assert _valid(whole(call), schema, schema)
    assert not _valid(whole({**call, "why": "x"}), schema, schema)


@pytest.mark.parametrize("form", ["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"])
@pytest.mark.parametrize("tools", [(PLACE,), (NOW, PLACE)])
def test_references_inside_a_tool_s_schema_lead_where_they_led(form: CallForm, tools: tuple[Tool, ...]):
    """Nested models of clients' libraries come as references, which are counted from the root."""
    schema = force(form, tools, None).shape.schema
    assert schema is not None
    found = list(_references(schema))
    assert "urn:x" in found
    led = [_at(reference, schema) for reference in found if reference.startswith("#")]
    assert None not in led
    points = [part for part in led if isinstance(part, Mapping) and part.get("type") == "array"]
    (number,) = (_at(item["$ref"], schema) for item in points[0]["items"])
    assert number == {"type": "number"}
    roots = [part for part in led if isinstance(part, Mapping) and "at" in part.get("properties", {})]
    assert roots


def test_the_tools_of_the_caller_stay_as_they_are():
    before = json.dumps(NESTED)
    force("hermes", (PLACE,), None)
    assert json.dumps(NESTED) == before


def _references(schema: Json):
    if isinstance(schema, Mapping):
        if "$ref" in schema:
            yield schema["$ref"]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _at(reference: str, root: Mapping[str, Json]) -> Json:
    found: Json = dict(root)
    for step in reference.split("/")[1:]:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _valid(value: Json, schema: Mapping[str, Json], root: Mapping[str, Json]) -> bool:
    """As much of JSON schema as forced calls are made of."""
    if "anyOf" in schema:
        return any(_valid(value, option, root) for option in schema["anyOf"])
    if "const" in schema:
        return value == schema["const"]
    if schema.get("type") == "array":
        least, most = schema["minItems"], schema["maxItems"]
        fits = isinstance(value, list) and least <= len(value) <= most
        return fits and all(_valid(each, schema["items"], root) for each in value)
    if schema.get("type") == "string":
        return isinstance(value, str)
    properties = schema.get("properties", {})
    return (
        isinstance(value, dict)
        and value.keys() >= set(schema.get("required", ()))
        and (schema.get("additionalProperties", True) or value.keys() <= properties.keys())
        and all(_valid(each, properties[key], root) for key, each in value.items() if key in properties)
    )
