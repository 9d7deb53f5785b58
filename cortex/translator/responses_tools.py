"""The tools of OpenAI's Responses dialect, and which of them the model may or must call.

A model knows functions alone. A tool in a namespace is one whose name begins with the
namespace's, and `bare` turns it back; custom tools are those of `free_tools`. The vendor's
hosted tools (`web_search` and kin) are run by nobody here: they are left out, since their clients
take an answer without them. Tools whose calls the client waits for without telling their form
(`apply_patch` and kin) are refused, and so are MCP servers.
"""

import re
from collections.abc import Iterator
from typing import Final

from cortex.ask import Tool, ToolChoice
from cortex.errors import BadAsk, Unsupported
from cortex.translator.free_tools import PARAMETERS, with_grammar
from cortex.translator.openai_tools import MOST_TOOLS, TOOLS_BYTES, refuse_twins
from cortex.wire import reading
from cortex.wire.responses_bodies import (
    CHOICE,
    INPUT_FORMAT,
    TOOLS,
    ChoiceBody,
    RefBody,
    ResponsesBody,
    ToolBody,
)

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_BETWEEN: Final = "__"
_OURS: Final = ("function", "custom", "namespace")
_CLIENTS: Final = frozenset(
    {"local_shell", "shell", "apply_patch", "computer", "computer_use", "computer_use_preview"}
)


def called(name: str, namespace: str | None) -> str:
    """What the model knows that tool as."""
    return f"{namespace}{_BETWEEN}{name}" if namespace else name


def bare(tool: Tool) -> str:
    """What the client knows `tool` as, within its namespace."""
    return tool.name.removeprefix(f"{tool.namespace}{_BETWEEN}") if tool.namespace else tool.name


def tools(body: ResponsesBody) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools of `body` and the choice among them, held against each other."""
    found = reading.part(body.tools, TOOLS, "tools", TOOLS_BYTES) or []
    given = tuple(_given(found, "tools"))
    if len(given) > MOST_TOOLS:
        raise BadAsk(f"'tools' has more than {MOST_TOOLS} entries", param="tools")
    refuse_twins(given, "tools")
    return _chosen(body, given)


def _given(found: list[ToolBody], at: str, namespace: str = "") -> Iterator[Tool]:
    for index, tool in enumerate(found):
        where = f"{at}[{index}]"
        match tool.type or "function":
            case "namespace" if not namespace:
                yield from _given(tool.tools or [], f"{where}.tools", _named(tool, where))
            case "function":
                parameters = reading.tree(tool.parameters, f"{where}.parameters", TOOLS_BYTES)
                name = _joined(tool, where, namespace)
                yield Tool(name, tool.description or "", parameters, bool(tool.strict), namespace)
            case "custom":
                name = _joined(tool, where, namespace)
                yield Tool(name, _described(tool, where), PARAMETERS, False, namespace, free_form=True)
            case kind:
                _leave_out(kind, where, namespace)


def _leave_out(kind: str, at: str, namespace: str) -> None:
    """Nobody waits for its calls, or it is refused."""
    name = f"{at}.type"
    if namespace:
        raise Unsupported(f"'{name}': a namespace holds functions and custom tools", param=name)
    if kind in _CLIENTS:
        raise Unsupported(
            f"'{name}': only the vendor's own models know '{kind}'; describe the tool as a function",
            param=name,
        )
    if kind == "mcp":
        raise Unsupported(f"'{name}': MCP servers are not called here; call them in the client", param=name)


def _named(tool: ToolBody, at: str) -> str:
    if not _NAME.match(tool.name or ""):
        raise BadAsk(f"'{at}.name' must be 1 to 128 of A-Z a-z 0-9 _ . -", param=f"{at}.name")
    return tool.name or ""


def _joined(tool: ToolBody, at: str, namespace: str) -> str:
    """What the model calls it, which is no longer than any name."""
    name = called(_named(tool, at), namespace)
    if not _NAME.match(name):
        raise BadAsk(f"'{at}.name' has more than 128 characters with its namespace", param=f"{at}.name")
    return name


def _described(tool: ToolBody, at: str) -> str:
    form = reading.part(tool.format, INPUT_FORMAT, f"{at}.format", TOOLS_BYTES)
    said = tool.description or ""
    match form.type if form else "text":
        case "text":
            return said
        case "grammar" if form and form.definition:
            return with_grammar(said, form.syntax, form.definition)
        case "grammar":
            raise BadAsk(f"'{at}.format.definition' is missing", param=f"{at}.format.definition")
        case _:
            raise BadAsk(f"'{at}.format.type' must be text or grammar", param=f"{at}.format.type")


# -- the choice


def _chosen(body: ResponsesBody, given: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice]:
    wanted = reading.part(body.tool_choice, CHOICE, "tool_choice", TOOLS_BYTES)
    if wanted is None:
        return given, ToolChoice()
    if isinstance(wanted, str):
        return given, _mode(wanted, given, left_out=not reading.absent(body.tools))
    if wanted.type == "allowed_tools":
        return _allowed(wanted, given)
    return given, _one(wanted, given)


def _mode(word: str, given: tuple[Tool, ...], *, left_out: bool) -> ToolChoice:
    match word:
        case "required" if not given and not left_out:
            raise BadAsk("'tool_choice' asks for a call, but no tools are given", param="tool_choice")
        case "required" if not given:
            return ToolChoice()  # what must be called is what nobody runs: a plain answer will do
        case "auto" | "none" | "required":
            return ToolChoice(word)
        case _:
            raise BadAsk("'tool_choice' must be auto, none, required, or name a tool", param="tool_choice")


def _allowed(wanted: ChoiceBody, given: tuple[Tool, ...]) -> tuple[tuple[Tool, ...], ToolChoice]:
    if wanted.mode not in (None, "auto", "required"):
        raise BadAsk("'tool_choice.mode' must be auto or required", param="tool_choice.mode")
    refs = wanted.tools or []
    ours = [ref for ref in refs if ref.type in (None, *_OURS)]
    names = {_known(ref, given) for ref in ours if ref.type != "namespace"}
    groups = {_known(ref, given) for ref in ours if ref.type == "namespace"}
    left = tuple(tool for tool in given if tool.name in names or tool.namespace in groups)
    return left, _mode(wanted.mode or "auto", left, left_out=bool(refs))


def _one(wanted: RefBody, given: tuple[Tool, ...]) -> ToolChoice:
    match wanted.type:
        case "function" | "custom":
            return ToolChoice("named", _known(wanted, given))
        case None:
            raise BadAsk("'tool_choice.type' is missing", param="tool_choice.type")
        case kind if kind in _CLIENTS or kind in ("mcp", "namespace"):
            raise Unsupported(f"'tool_choice' of type '{kind}' is not supported", param="tool_choice.type")
        case _:
            return ToolChoice()  # what must be called is what nobody runs: a plain answer will do


def _known(ref: RefBody, given: tuple[Tool, ...]) -> str:
    """The name of that tool, or of that namespace, among those given."""
    name = called(ref.name or "", ref.namespace)
    names = {tool.namespace if ref.type == "namespace" else tool.name for tool in given}
    if not name or name not in names:
        raise BadAsk(f"'tool_choice' names {name!r}, which is not among the tools", param="tool_choice")
    return name
