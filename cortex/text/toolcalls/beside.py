"""An answer of a form, with tools that may be called instead of it.

The model either answers in the form or writes calls as its template has them, and nothing else:
no word beside either. So calls can begin the answer only, and what its strings say is text. What
the calls may have for arguments is any object, as without a form, unless their tool is `strict`, or
takes one text alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cortex.ask import Shape, Spelling, Tool
from cortex.errors import Unsupported
from cortex.text.toolcalls import bare, mistral, tagged
from cortex.text.toolcalls.forcing import one_of, parameters, some_of
from cortex.text.toolcalls.forms import CallForm

# What lets an object have more keys than it lists, or not list them here.
_OPEN: Final = frozenset(
    ("$ref", "$dynamicRef", "anyOf", "oneOf", "allOf", "patternProperties", "if", "then", "else")
)


def beside(form: CallForm, tools: Sequence[Tool], shape: Shape) -> Shape:
    """`shape`, or calls to any of `tools`. Raises Unsupported where the two could not be told apart."""
    if form == "llama" and not _closed(shape):
        raise Unsupported(
            f"'{shape.param}' together with tools: this model's calls are objects with a name, and could not "
            "be told from such an answer. Send a json_schema of an object that lists its properties, none of "
            'them "name", with "additionalProperties": false; or tool_choice none or required',
            param=shape.param,
        )
    return replace(shape, calls=_spellings(form, [_loose(tool) for tool in tools]))


def _spellings(form: CallForm, tools: Sequence[Tool]) -> tuple[Spelling, ...]:
    match form:
        case "hermes" | "qwen_xml":
            call = one_of(tools, "arguments")
            return (Spelling((tagged.OPEN, "\n"), call, ("\n", tagged.CLOSE)),)
        case "llama":
            return (Spelling((), one_of(tools, bare.ARGUMENTS[0])),)
        case "mistral_list":
            return (Spelling((mistral.OPEN,), some_of(tools)),)
        case "mistral_args":
            return tuple(
                Spelling((mistral.OPEN, tool.name, mistral.ARGS), parameters(tool)) for tool in tools
            )


def _loose(tool: Tool) -> Tool:
    return tool if tool.strict or tool.free_form else replace(tool, parameters={})


def _closed(shape: Shape) -> bool:
    """Whether an answer of `shape` is certainly an object without a name."""
    schema = shape.schema or {}
    listed = schema.get("properties")
    return (
        schema.get("type") == "object"
        and schema.get("additionalProperties") is False
        and not _OPEN.intersection(schema)
        and "name" not in (listed if isinstance(listed, dict) else {})
    )
