"""What engines are handed for an answer beside calls: markers as tokens, names as letters."""

from cortex.ask import Shape, Tool
from cortex.harness.shaped import grammar
from cortex.text.toolcalls import beside

FORM = Shape("json_schema", {"type": "object"})


def test_an_engine_is_asked_for_each_marker_once_however_many_tools_there_are() -> None:
    """llama.cpp is asked over a socket, before every job."""
    asked: list[str] = []

    def single(text: str) -> int | None:
        asked.append(text)
        return len(asked)

    tools = tuple(Tool(f"tool_{index}") for index in range(100))
    told = grammar(beside("mistral_args", tools, FORM), single)
    assert sorted(asked) == ["[ARGS]", "[TOOL_CALLS]"]
    assert told.count('("[TOOL_CALLS]" | <[') == told.count('("[ARGS]" | <[') == len(tools)
    assert told.count('"tool_7" ') == 1


def test_every_marker_of_every_form_is_asked_for() -> None:
    asked: list[str] = []
    for form in ("hermes", "qwen_xml", "mistral_list", "mistral_args", "llama"):
        grammar(beside(form, (Tool("now"),), _closed()), asked.append)
    assert {"<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]"} <= {*asked}
    assert "now" not in asked


def _closed() -> Shape:
    return Shape("json_schema", {"type": "object", "properties": {}, "additionalProperties": False})
