"""The tools of Anthropic's dialect, and which of them the model may or must call.

A tool with a schema is the client's own. The vendor's server tools (`web_search_20250305` and
kin) have none and are run by nobody here: they are left out, since their clients take an answer
without them. The vendor's client tools (`bash_20250124` and kin) have no schema either, but
their client waits for calls: those are refused.
"""

import re
from typing import Final

from cortex.ask import Tool, ToolChoice
from cortex.errors import BadAsk, Unsupported
from cortex.translator.openai_tools import MOST_TOOLS, TOOLS_BYTES, refuse_twins
from cortex.wire import reading
from cortex.wire.anthropic_bodies import CHOICE, TOOLS, ChoiceBody, MessagesBody, ToolBody

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_CLIENTS: Final = ("bash_", "text_editor_", "computer_", "memory_")


def tools(body: MessagesBody) -> tuple[tuple[Tool, ...], ToolChoice, bool]:
    """The tools, the choice among them, and whether several may be called at once."""
    found = reading.part(body.tools, TOOLS, "tools", TOOLS_BYTES) or []
    if len(found) > MOST_TOOLS:
        raise BadAsk(f"'tools' has more than {MOST_TOOLS} entries", param="tools")
    given = tuple(
        _tool(tool, f"tools[{index}]") for index, tool in enumerate(found) if _ours(tool, f"tools[{index}]")
    )
    refuse_twins(given, "tools")
    wanted = reading.part(body.tool_choice, CHOICE, "tool_choice")
    if wanted is None:
        return given, ToolChoice(), True
    left_out = frozenset(tool.name for tool in found) - {tool.name for tool in given}
    return given, _choice(wanted, given, left_out), not wanted.disable_parallel_tool_use


def _ours(tool: ToolBody, at: str) -> bool:
    """Whether the client runs it, as its schema tells."""
    if tool.type in (None, "custom") or not reading.absent(tool.input_schema):
        return True
    if tool.type.startswith(_CLIENTS):
        raise Unsupported(
            f"'{at}.type': only the vendor's own models know '{tool.type}'; describe the tool with an "
            "input_schema",
            param=f"{at}.type",
        )
    return False


def _tool(tool: ToolBody, at: str) -> Tool:
    if not _NAME.match(tool.name or ""):
        raise BadAsk(f"'{at}.name' must be 1 to 128 of A-Z a-z 0-9 _ . -", param=f"{at}.name")
    return Tool(
        name=tool.name or "",
        description=tool.description or "",
        parameters=reading.tree(tool.input_schema, f"{at}.input_schema", TOOLS_BYTES),
        strict=bool(tool.strict),
    )


def _choice(wanted: ChoiceBody, given: tuple[Tool, ...], left_out: frozenset[str | None]) -> ToolChoice:
    match wanted.type:
        case "auto" | "none":
            return ToolChoice(wanted.type)
        case "any" if given:
            return ToolChoice("required")
        case "tool" if any(tool.name == wanted.name for tool in given):
            return ToolChoice("named", wanted.name)
        case "any" | "tool" if left_out and wanted.name in {None, *left_out}:
            return ToolChoice()  # what must be called is what nobody runs: a plain answer will do
        case "any":
            raise BadAsk("'tool_choice' asks for a call, but no tools are given", param="tool_choice")
        case "tool":
            raise BadAsk(
                f"'tool_choice' names {wanted.name!r}, which is not among the tools", param="tool_choice"
            )
        case _:
            raise BadAsk("'tool_choice.type' must be auto, any, tool or none", param="tool_choice.type")
