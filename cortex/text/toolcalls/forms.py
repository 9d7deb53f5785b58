"""In which form a model writes its calls: its chat template says so, not its answers.

A template shows the form by writing the calls of earlier turns, or by telling the model
how to call. The order of the looks matters: templates that write one form may describe
the tools with words of another.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from cortex.ask import Tool
from cortex.text.toolcalls import bare, mistral, tagged
from cortex.text.toolcalls.scanning import CallReader

CallForm: TypeAlias = Literal["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"]


def call_form(source: str) -> CallForm | None:
    """The form that the template `source` writes; None when it is none that is known."""
    if mistral.OPEN in source:
        return "mistral_args" if mistral.ARGS in source else "mistral_list"
    if tagged.FUNCTION in source and tagged.PARAMETER in source:
        return "qwen_xml"
    if tagged.OPEN in source and "<arg_key>" not in source:
        return "hermes"
    if bare.TAG in source or ('"name":' in source and '"parameters":' in source):
        return "llama" if tagged.OPEN not in source else None
    return None


def reader(form: CallForm, tools: Sequence[Tool], new_id: Callable[[], str]) -> CallReader:
    """The scanner of one answer. `new_id` gives at least 24 characters that no other call has."""
    match form:
        case "hermes":
            return tagged.TaggedCalls(new_id)
        case "qwen_xml":
            return tagged.XmlCalls(new_id, {tool.name: tool.parameters for tool in tools})
        case "llama":
            return bare.BareCalls(new_id, frozenset(tool.name for tool in tools))
        case "mistral_list" | "mistral_args":
            return mistral.MistralCalls(new_id)


def markers(form: CallForm) -> tuple[str, ...]:
    """The markers of a form, of which a model may have made single tokens without a text."""
    match form:
        case "hermes":
            return (tagged.OPEN, tagged.CLOSE)
        case "qwen_xml":
            return (tagged.OPEN, tagged.CLOSE, tagged.FUNCTION, tagged.FUNCTION_ENDS)
        case "llama":
            return (bare.TAG,)
        case "mistral_list" | "mistral_args":
            return (mistral.OPEN, mistral.ARGS, mistral.CALL_ID)
