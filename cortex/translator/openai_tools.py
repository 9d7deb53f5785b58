"""The tools of a chat, and which of them the model may or must call.

Tools are functions; the legacy `functions` and `function_call` mean the same and are
answered as tool calls. A choice that names a tool must name one of those given, and
`allowed_tools` leaves only the ones it lists.
"""

import re
from typing import Final

from cortex.ask import Tool, ToolChoice
from cortex.errors import BadAsk, Unsupported
from cortex.wire import reading
from cortex.wire.openai_bodies import (
    FUNCTION_CHOICE,
    FUNCTIONS,
    TOOL_CHOICE,
    TOOLS,
    AllowedTools,
    ChatBody,
    ChoiceBody,
    FunctionBody,
    ToolBody,
)

MOST_TOOLS: Final = 128
# All schemas together. The largest agent seen sends a twelfth of it.
TOOLS_BYTES: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")


def tools(body: ChatBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools of `body` and the choice among them, held against each other."""
    modern, legacy = _modern(body), _legacy(body)
    if modern and legacy:
        raise BadAsk("'functions' is the old name of 'tools': send one of them", param="functions")
    given, param = (legacy, "function_call") if legacy else (modern, "tool_choice")
    if not reading.absent(body.function_call) and not reading.absent(body.tool_choice):
        raise BadAsk("'function_call' is the old name of 'tool_choice': send one", param="function_call")
    choice, allowed = _choice(body)
    if allowed is not None:
        _known(allowed, given, param)
        given = tuple(tool for tool in given if tool.name in allowed)
    if choice.mode in ("required", "named") and not given:
        raise BadAsk(f"'{param}' asks for a call, but no tools are given", param=param)
    if choice.name is not None:
        _known({choice.name}, given, param)
    return given, choice


def _modern(body: ChatBody) -> tuple[Tool, ...]:
    found = reading.part(body.tools, TOOLS, "tools", TOOLS_BYTES) or []
    _few(found, "tools")
    return tuple(
        _tool(_function(tool, index), f"tools[{index}].function") for index, tool in enumerate(found)
    )


def _legacy(body: ChatBody) -> tuple[Tool, ...]:
    found = reading.part(body.functions, FUNCTIONS, "functions", TOOLS_BYTES) or []
    _few(found, "functions")
    return tuple(_tool(function, f"functions[{index}]") for index, function in enumerate(found))


def _few(found: list[ToolBody] | list[FunctionBody], name: str) -> None:
    if len(found) > MOST_TOOLS:
        raise BadAsk(f"'{name}' has more than {MOST_TOOLS} entries", param=name)


def _function(tool: ToolBody, index: int) -> FunctionBody:
    if tool.type not in (None, "function"):
        name = f"tools[{index}].type"
        raise Unsupported(f"'{name}': only 'function' is supported, not '{tool.type}'", param=name)
    if tool.function is None:
        raise BadAsk(f"'tools[{index}].function' is missing", param=f"tools[{index}].function")
    return tool.function


def _tool(function: FunctionBody, at: str) -> Tool:
    if not _NAME.match(function.name):
        raise BadAsk(f"'{at}.name' must be 1 to 128 of A-Z a-z 0-9 _ . -", param=f"{at}.name")
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=reading.tree(function.parameters, f"{at}.parameters", TOOLS_BYTES),
        strict=bool(function.strict),
    )


def _known(names: set[str], given: tuple[Tool, ...], param: str) -> None:
    strangers = names - {tool.name for tool in given}
    if strangers:
        raise BadAsk(f"'{param}' names {sorted(strangers)[0]!r}, which is not among the tools", param=param)


def _choice(body: ChatBody) -> tuple[ToolChoice, set[str] | None]:
    """The choice, and the names it leaves when it leaves only some."""
    named = reading.part(body.function_call, FUNCTION_CHOICE, "function_call")
    if named is not None:
        return (
            _mode(named, "function_call") if isinstance(named, str) else ToolChoice("named", named.name)
        ), None
    wanted = reading.part(body.tool_choice, TOOL_CHOICE, "tool_choice", TOOLS_BYTES)
    if wanted is None:
        return ToolChoice(), None
    return (_mode(wanted, "tool_choice"), None) if isinstance(wanted, str) else _object(wanted)


def _mode(word: str, param: str) -> ToolChoice:
    match word:
        case "auto" | "none" | "required":
            return ToolChoice(word)
        case _:
            raise BadAsk(f"'{param}' must be auto, none, required, or name a tool", param=param)


def _object(wanted: ChoiceBody) -> tuple[ToolChoice, set[str] | None]:
    match wanted:
        case ChoiceBody(type="function", function=function) if function is not None:
            return ToolChoice("named", function.name), None
        case ChoiceBody(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=refs)):
            if mode not in (None, "auto", "required"):
                raise BadAsk("'tool_choice.allowed_tools.mode' must be auto or required", param="tool_choice")
            if any(ref.function is None for ref in refs):
                raise Unsupported("'tool_choice.allowed_tools': only functions", param="tool_choice")
            return _mode(mode or "auto", "tool_choice"), {ref.function.name for ref in refs if ref.function}
        case ChoiceBody(type="function" | "allowed_tools"):
            raise BadAsk(f"'tool_choice.{wanted.type}' is missing", param=f"tool_choice.{wanted.type}")
        case _:
            raise Unsupported(
                f"'tool_choice' of type '{wanted.type}' is not supported", param="tool_choice.type"
            )
