"""The tools of a chat, and which of them the model may or must call.

Tools are functions and custom tools. The legacy `functions` and `function_call` mean the same,
but for how their calls are told back. A choice that names a tool must name one of those given,
and `allowed_tools` leaves only the ones it lists.
"""

import re
from dataclasses import replace
from typing import Final

from cortex.ask import Tool, ToolChoice
from cortex.errors import BadAsk, Unsupported
from cortex.translator.free_tools import PARAMETERS, with_grammar
from cortex.wire import reading
from cortex.wire.openai_bodies import (
    FUNCTION_CHOICE,
    FUNCTIONS,
    TOOL_CHOICE,
    TOOLS,
    AllowedTools,
    ChatBody,
    ChoiceBody,
    CustomBody,
    FunctionBody,
    ToolBody,
)

# Agents send those of all their MCP servers: some hundred. It is their bytes that cost.
MOST_TOOLS: Final = 1024
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
    refuse_twins(given, "functions" if legacy else "tools")
    choice, allowed = _choice(body)
    if allowed is not None:
        _known(allowed, given, param)
        given = tuple(tool for tool in given if tool.name in allowed)
    if choice.mode in ("required", "named") and not given:
        raise BadAsk(f"'{param}' asks for a call, but no tools are given", param=param)
    if choice.name is not None:
        _known({choice.name}, given, param)
    return given, choice


def refuse_twins(given: tuple[Tool, ...], field: str) -> None:
    """Tools of one name could not be told apart: not by the model, and not in a choice."""
    seen: set[str] = set()
    for tool in given:
        if tool.name in seen:
            raise BadAsk(f"'{field}' has two that are called {tool.name!r}", param=field)
        seen.add(tool.name)


def _modern(body: ChatBody) -> tuple[Tool, ...]:
    found = reading.part(body.tools, TOOLS, "tools", TOOLS_BYTES) or []
    _few(found, "tools")
    return tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(found))


def _legacy(body: ChatBody) -> tuple[Tool, ...]:
    found = reading.part(body.functions, FUNCTIONS, "functions", TOOLS_BYTES) or []
    _few(found, "functions")
    return tuple(
        replace(_function(function, f"functions[{index}]"), legacy=True)
        for index, function in enumerate(found)
    )


def _few(found: list[ToolBody] | list[FunctionBody], name: str) -> None:
    if len(found) > MOST_TOOLS:
        raise BadAsk(f"'{name}' has more than {MOST_TOOLS} entries", param=name)


def _tool(tool: ToolBody, at: str) -> Tool:
    kind = tool.type or "function"
    if kind not in ("function", "custom"):
        name = f"{at}.type"
        raise Unsupported(f"'{name}': only function and custom are supported, not '{kind}'", param=name)
    if kind == "function" and tool.function is not None:
        return _function(tool.function, f"{at}.function")
    if kind == "custom" and tool.custom is not None:
        return _custom(tool.custom, f"{at}.custom")
    raise BadAsk(f"'{at}.{kind}' is missing", param=f"{at}.{kind}")


def _custom(custom: CustomBody, at: str) -> Tool:
    said, form = custom.description or "", custom.format
    if form is not None and form.type not in ("text", "grammar"):
        raise BadAsk(f"'{at}.format.type' must be text or grammar", param=f"{at}.format.type")
    if form is not None and form.type == "grammar":
        if form.grammar is None:
            raise BadAsk(f"'{at}.format.grammar' is missing", param=f"{at}.format.grammar")
        said = with_grammar(said, form.grammar.syntax, form.grammar.definition)
    return Tool(_named(custom.name, at), said, PARAMETERS, free_form=True)


def _named(name: str, at: str) -> str:
    if not _NAME.match(name):
        raise BadAsk(f"'{at}.name' must be 1 to 128 of A-Z a-z 0-9 _ . -", param=f"{at}.name")
    return name


def _function(function: FunctionBody, at: str) -> Tool:
    return Tool(
        name=_named(function.name, at),
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
        case ChoiceBody(type="function" | "custom", name=str(name)):
            return ToolChoice("named", name), None
        case ChoiceBody(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=refs)):
            if mode not in (None, "auto", "required"):
                raise BadAsk("'tool_choice.allowed_tools.mode' must be auto or required", param="tool_choice")
            names = {ref.name for ref in refs}
            if None in names:
                raise Unsupported(
                    "'tool_choice.allowed_tools.tools': only functions and custom tools, by name",
                    param="tool_choice",
                )
            return _mode(mode or "auto", "tool_choice"), {name for name in names if name}
        case ChoiceBody(type="function" | "custom" | "allowed_tools"):
            raise BadAsk(f"'tool_choice.{wanted.type}' is missing", param=f"tool_choice.{wanted.type}")
        case _:
            raise Unsupported(
                f"'tool_choice' of type '{wanted.type}' is not supported", param="tool_choice.type"
            )
