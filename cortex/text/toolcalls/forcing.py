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
        return Forced(opening, Shape("json_schema", _parameters(meant[0])))
    if form == "llama":
        return Forced("", Shape("json_schema", _one_of(meant, bare.ARGUMENTS[0])))
    call = _one_of(meant, "arguments")
    if form in ("hermes", "qwen_xml"):
        return Forced(f"{tagged.OPEN}\n", Shape("json_schema", call))
    definitions = call.pop(_DEFS, None)
    listed: dict[str, Json] = {"type": "array", "items": call, "minItems": 1, "maxItems": 1}
    if definitions is not None:
        listed[_DEFS] = definitions
    return Forced(mistral.OPEN, Shape("json_schema", listed))


def _one_of(tools: Sequence[Tool], key: str) -> dict[str, Json]:
    """The schema of one call to any of `tools`, its arguments under `key`."""
    calls: list[Json] = []
    definitions: dict[str, Json] = {}
    for index, tool in enumerate(tools):
        parameters: Json = _parameters(tool)
        if _refers(parameters):
            # References are counted from the root, which is ours: the whole schema moves there.
            definitions[str(index)] = _moved(parameters, f"#/{_DEFS}/{index}")
            parameters = {"$ref": f"#/{_DEFS}/{index}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, key: parameters},
                "required": ["name", key],
                "additionalProperties": False,
            }
        )
    schema: Json = calls[0] if len(calls) == 1 else {"anyOf": calls}
    assert isinstance(schema, dict)  # noqa: S101 - calls are objects
    if definitions:
        schema[_DEFS] = definitions
    return schema


def _parameters(tool: Tool) -> dict[str, Json]:
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
