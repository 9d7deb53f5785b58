"""A model is made to call: the prompt ends with the call's opening, a schema holds the rest.

An engine enforces JSON schemas and nothing else. So each form is forced by JSON that its
reader understands: where a form has a name outside of JSON and several tools may be meant,
or is no JSON at all, its elder kin is used, which the same models know. A forced call is
one call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cortex.ask import Json, Shape, Tool
from cortex.text.toolcalls import bare, mistral, tagged
from cortex.text.toolcalls.forms import CallForm

_DEFS: Final = "$defs"


@dataclass(frozen=True, slots=True)
class Forced:
    """`opening` ends the prompt, and is the answer's beginning for its reader."""

    opening: str
    shape: Shape


def force(form: CallForm, tools: Sequence[Tool], name: str | None) -> Forced:
    """How one call to the tool `name`, or to any of `tools`, is forced."""
    meant = [tool for tool in tools if name is None or tool.name == name]
    if form == "mistral_args" and len(meant) == 1:
        opening = f"{mistral.OPEN}{meant[0].name}{mistral.ARGS}"
        return _forced(opening, parameters(meant[0]))
    if form == "llama":
        return _forced("", one_of(meant, bare.ARGUMENTS[0]))
    if form in ("hermes", "qwen_xml"):
        return _forced(f"{tagged.OPEN}\n", one_of(meant, "arguments"))
    return _forced(mistral.OPEN, {**some_of(meant), "maxItems": 1})


def _forced(opening: str, schema: Mapping[str, Json]) -> Forced:
    return Forced(opening, Shape("json_schema", schema, param="tools"))


def some_of(tools: Sequence[Tool]) -> dict[str, Json]:
    """The schema of Mistral's list of calls to any of `tools`."""
    call = one_of(tools, "arguments")
    definitions = call.pop(_DEFS, None)
    listed: dict[str, Json] = {"type": "array", "items": call, "minItems": 1}
    if definitions is not None:
        listed[_DEFS] = definitions
    return listed


def one_of(tools: Sequence[Tool], key: str) -> dict[str, Json]:
    """The schema of one call to any of `tools`, its arguments under `key`."""
    calls: list[Json] = []
    definitions: dict[str, Json] = {}
    for index, tool in enumerate(tools):
        arguments: Json = parameters(tool)
        if _refers(arguments):
            # References are counted from the root, which is ours: the whole schema moves there.
            definitions[str(index)] = _moved(arguments, f"#/{_DEFS}/{index}")
            arguments = {"$ref": f"#/{_DEFS}/{index}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, key: arguments},
                "required": ["name", key],
                "additionalProperties": False,
            }
        )
    schema: Json = calls[0] if len(calls) == 1 else {"anyOf": calls}
    assert isinstance(schema, dict)  # noqa: S101 - calls are objects
    if definitions:
        schema[_DEFS] = definitions
    return schema


def parameters(tool: Tool) -> dict[str, Json]:
    """The schema of a tool's arguments: any object where it has none."""
    return dict(tool.parameters) or {"type": "object"}


def _refers(schema: Json) -> bool:
    if isinstance(schema, list):
        return any(map(_refers, schema))
    return isinstance(schema, Mapping) and ("$ref" in schema or any(map(_refers, schema.values())))


def _moved(schema: Json, root: str) -> Json:
    """`schema` with its references counted from `root`."""
    if isinstance(schema, list):
        return [_moved(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, root) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved
