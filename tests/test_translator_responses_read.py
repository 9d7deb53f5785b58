"""Bodies of OpenAI's Responses dialect become asks: everything said is in them, or is refused by name."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Ask, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.errors import BadAsk, CortexError, Unsupported
from cortex.translator import openai_chat
from cortex.translator.openai_manners import CORTEX
from cortex.translator.openai_responses import read
from cortex.translator.openai_write import write
from cortex.translator.responses_turns import sealed

GOLDEN = Path(__file__).parent / "golden" / "responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "of a city", "parameters": SCHEMA}
PATCH = {"type": "custom", "name": "patch", "description": "Edits files"}
AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "Other agents",
    "tools": [{"type": "function", "name": "close", "parameters": SCHEMA}, PATCH],
}
SEARCH = {"type": "web_search", "external_web_access": True}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Bern"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
USE = ToolUse("c1", "weather", '{"city": "Bern"}')


def ask(**fields: Any) -> Ask:
    return read(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def refused(kind: type[BadAsk] = BadAsk, **fields: Any) -> BadAsk:
    with pytest.raises(kind) as caught:
        ask(**fields)
    assert caught.value.param
    return caught.value


def turns(*items: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    return ask(input=list(items), **fields).messages


def said(role: str, *parts: dict[str, Any] | str) -> dict[str, Any]:
    return {
        "role": role,
        "content": [{"type": "input_text", "text": p} if isinstance(p, str) else p for p in parts],
    }


def golden(name: str) -> Ask:
    return read((GOLDEN / f"{name}.json").read_bytes())


# -- plain fields


def test_a_plain_request_says_what_it_says_and_nothing_else() -> None:
    assert ask() == Ask("m", (Message("user", "hi"),))


def test_every_field_of_sampling_arrives() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 4,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.2,
        "repetition_penalty": 1.1,
    }
    heard = ask(**fields, max_output_tokens=9, stream=True, parallel_tool_calls=False)
    assert heard.sampling == Sampling(**fields)  # type: ignore[arg-type]
    assert heard.max_tokens == 9 and heard.stream and not heard.parallel_tool_calls


def test_null_is_absent_in_every_field() -> None:
    """Some clients send all the fields they know, most of them null."""
    names = [
        "instructions",
        "max_output_tokens",
        "stream",
        "temperature",
        "top_p",
        "top_logprobs",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "parallel_tool_calls",
        "include",
        "truncation",
        "store",
        "background",
        "previous_response_id",
        "conversation",
        "prompt",
        "context_management",
        "moderation",
        "metadata",
        "user",
        "chat_template_kwargs",
        "top_k",
        "seed",
        "stream_options",
    ]
    assert ask(**dict.fromkeys(names)) == ask()


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "safety_identifier": "s"},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "client_metadata": {"a": {"b": 1}}},
        {"text": {"verbosity": "low"}, "stream_options": {"include_obfuscation": True}, "max_tool_calls": 3},
        {"text": {"format": {"type": "text"}}, "store": False, "background": False, "truncation": "auto"},
        {"reasoning": {"summary": "auto"}, "context_management": [], "anything": {"new": [1]}},
        {"include": ["web_search_call.action.sources", "file_search_call.results"]},
        {"include": [], "tools": [], "truncation": "disabled"},
    ],
)
def test_what_changes_no_answer_is_without_effect(fields: dict[str, Any]) -> None:
    assert ask(**fields) == ask()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"mode": "block"}}, "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"include": ["message.output_text.feelings"]}, "include"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(Unsupported, **fields).param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"truncation": "middle"}, "truncation"),
        ({"reasoning": {"effort": "some"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"chat_template": "x"}, "chat_template"),
        ({"n": 2}, "n"),
        ({"stop": ["x"]}, "stop"),
        ({"stop_sequences": ["x"]}, "stop_sequences"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"enable_thinking": False}, "enable_thinking"),
        ({"guided_json": {}}, "guided_json"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": "x"}] * 4097}, "input"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize(
    ("effort", "told"),
    [
        ("none", {"enable_thinking": False}),
        *((word, {"reasoning_effort": word}) for word in ("minimal", "high")),
    ],
)
def test_effort_is_a_wish_to_the_template(effort: str, told: dict[str, Any]) -> None:
    heard = ask(reasoning={"effort": effort, "summary": "auto"})
    assert heard.template == told and heard.wishes == frozenset(told)


def test_forms_of_the_answer() -> None:
    schema = {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}
    assert ask(text={"format": schema}).shape == Shape("json_schema", SCHEMA)
    assert ask(text={"format": {"type": "json_object"}}).shape == Shape("json_object")


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 3}, 3),
        ({"top_logprobs": 0}, None),
    ],
)
def test_log_probabilities_are_asked_for_by_either_field(fields: dict[str, Any], count: int | None) -> None:
    assert ask(**fields).logprobs == count


# -- items


def test_instructions_come_first_and_every_system_voice_keeps_its_place() -> None:
    heard = turns(
        said("developer", "one ", "two"),
        said("user", "hi"),
        {"type": "message", "role": "system", "content": "late"},
        instructions="be kind",
    )
    assert heard == (
        Message("system", "be kind"),
        Message("system", "one two"),
        Message("user", "hi"),
        Message("system", "late"),
    )


def test_the_items_of_one_answer_are_one_turn() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "hm"}],
        "content": None,
    }
    words = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Wait.", "annotations": []}],
    }
    assert turns(said("user", "hi"), thought, words, CALL, RESULT, said("assistant", "Rain.")) == (
        Message("user", "hi"),
        Message("assistant", "Wait.", "hm", (USE,)),
        Message("tool", "rain", tool_call_id="c1"),
        Message("assistant", "Rain."),
    )


def test_two_messages_side_by_side_stay_two_turns() -> None:
    heard = turns(said("assistant", "a"), said("assistant", "b"), CALL)
    assert heard == (Message("assistant", "a"), Message("assistant", "b", tool_calls=(USE,)))


def test_what_a_thought_between_two_messages_parted_is_one_turn_again() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}
    assert turns(said("assistant", "a"), thought, said("assistant", "b")) == (
        Message("assistant", "ab", "x"),
    )


def test_results_stand_in_the_order_of_their_calls() -> None:
    other = {**CALL, "call_id": "c2"}
    late = {
        **RESULT,
        "call_id": "c2",
        "output": [{"type": "input_text", "text": "su"}, {"type": "input_text", "text": "n"}],
    }
    heard = turns(CALL, other, late, RESULT)
    assert [(turn.tool_call_id, turn.text) for turn in heard[1:]] == [("c1", "rain"), ("c2", "sun")]


def test_a_custom_call_is_a_call_with_one_text() -> None:
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": 'a "b"\n'}
    result = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    heard = turns(call, result)
    assert heard[0].tool_calls[0].name == "patch"
    assert json.loads(heard[0].tool_calls[0].arguments) == {"input": 'a "b"\n'}
    assert heard[1] == Message("tool", "done", tool_call_id="c1")


def test_a_name_is_no_longer_with_its_namespace_than_any_other_may_be() -> None:
    """Else a neuron that is told the request in chat refuses what another one serves."""
    inner = {"type": "function", "name": "f" * 100, "parameters": {}}
    with pytest.raises(BadAsk) as caught:
        ask(tools=[{"type": "namespace", "name": "n" * 100, "tools": [inner]}])
    assert caught.value.param == "tools[0].tools[0].name"


def test_a_call_in_a_namespace_has_the_name_that_the_model_knows() -> None:
    assert turns({**CALL, "namespace": "agents"})[0].tool_calls[0].name == "agents__weather"


def test_a_call_without_arguments_has_none() -> None:
    for arguments in ("", None):
        assert turns({**CALL, "arguments": arguments})[0].tool_calls[0].arguments == "{}"


def reasoning(**fields: Any) -> str:
    return turns({"type": "reasoning", "summary": [], **fields})[0].thought


@given(st.text(min_size=1))
def test_a_sealed_thought_is_read_to_the_letter(thought: str) -> None:
    summary = [{"type": "summary_text", "text": "shorter"}]
    assert reasoning(summary=summary, encrypted_content=sealed(thought)) == thought


def test_a_thought_without_our_seal_is_what_its_item_tells() -> None:
    parts = [{"type": "summary_text", "text": text} for text in ("a", "b")]
    foreign = base64.b64encode(b"their own").decode()
    assert reasoning(summary=parts, encrypted_content=foreign) == "a\n\nb"
    assert reasoning(summary=parts, encrypted_content="gAAAA no base64") == "a\n\nb"
    assert reasoning(summary=parts, content=[{"type": "reasoning_text", "text": "all"}]) == "all"
    broken = base64.b64encode(b"cortex:\xff").decode()
    assert reasoning(encrypted_content=broken) == reasoning(encrypted_content=foreign) == ""


def test_whether_thoughts_are_sealed_is_asked_for() -> None:
    assert ask(include=["reasoning.encrypted_content"]) == Ask(
        "m", (Message("user", "hi"),), sealed_thoughts=True
    )


@pytest.mark.parametrize("kind", ["input_file", "input_audio", "new_thing"])
def test_a_part_that_cannot_be_read_is_refused_at_its_place(kind: str) -> None:
    assert refused(Unsupported, input=[said("user", "a", {"type": kind})]).param == "input[0].content[1]"
    output = [CALL, {**RESULT, "output": [{"type": kind}]}]
    assert refused(Unsupported, input=output).param == "input[1].output[0]"


def test_what_was_refused_to_say_was_said() -> None:
    assert turns(said("assistant", {"type": "refusal", "refusal": "no"})) == (Message("assistant", "no"),)


# As the vendor tells what it did itself.
HOSTED: dict[str, dict[str, Any]] = {
    "web_search_call": {
        "id": "ws_1",
        "status": "completed",
        "action": {"type": "search", "query": "q", "sources": [{"type": "url", "url": "https://a.example"}]},
    },
    "file_search_call": {
        "id": "fs_1",
        "queries": ["q"],
        "results": [{"file_id": "f", "filename": "a.txt", "score": 0.5, "text": "t", "attributes": {}}],
    },
    "code_interpreter_call": {
        "id": "ci_1",
        "container_id": "c",
        "code": "print(1)",
        "outputs": [{"type": "logs", "logs": "1"}],
    },
    "image_generation_call": {"id": "ig_1", "status": "completed", "result": "aGk="},
    "mcp_list_tools": {"id": "l", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
    "mcp_call": {
        "id": "m",
        "server_label": "s",
        "name": "t",
        "arguments": "{}",
        "output": "o",
        "error": None,
    },
    "mcp_approval_request": {"id": "r", "server_label": "s", "name": "t", "arguments": "{}"},
    "mcp_approval_response": {"approval_request_id": "r", "approve": True},
    "compaction": {"id": "cmp_1", "encrypted_content": "Z0FB"},
    "compaction_summary": {"encrypted_content": "Z0FB"},
    "context_compaction": {"encrypted_content": "Z0FB"},
}


@pytest.mark.parametrize("kind", HOSTED)
def test_what_the_vendor_did_itself_is_left_out_and_the_conversation_goes_on(kind: str) -> None:
    item = {"type": kind, **HOSTED[kind]}
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    items = [said("user", "a"), thought, said("assistant", "b"), said("assistant", "c"), CALL, RESULT]
    plain = turns(*items)
    assert len(plain) == 4
    for place in range(len(items) + 1):
        assert turns(*items[:place], item, *items[place:]) == plain


@pytest.mark.parametrize("kind", HOSTED)
@pytest.mark.parametrize("instructions", [None, "be brief"])
def test_a_conversation_of_nothing_that_can_be_read_is_refused(kind: str, instructions: str | None) -> None:
    error = refused(input=[{"type": kind, **HOSTED[kind]}], instructions=instructions)
    assert error.param == "input" and "nothing that a model here can read" in error.message


@pytest.mark.parametrize(
    "kind",
    [
        "item_reference",
        *("local_shell_call", "local_shell_call_output", "shell_call", "apply_patch_call"),
        *("computer_call", "computer_call_output", "tool_search_call", "new_call"),
    ],
)
def test_an_item_that_nobody_here_can_read_is_refused_at_its_place(kind: str) -> None:
    error = refused(Unsupported, input=[said("user", "a"), {"type": kind, "id": "x"}])
    assert error.param == "input[1]"
    assert kind == "item_reference" or f"'{kind}'" in error.message
    assert ("send the item itself" in error.message) == (kind == "item_reference")
    # What users of the AI SDK have to set, which refers to items by itself.
    assert ("'store': false" in error.message) == (kind == "item_reference")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"role": "tool", "content": "x"}, "input[0].role"),
        ({"content": "x"}, "input[0].role"),
        ({**CALL, "call_id": ""}, "input[0].call_id"),
        ({**CALL, "name": None}, "input[0].name"),
        ({"type": "function_call_output", "output": "x"}, "input[0].call_id"),
        ({"role": "user", "content": 5}, "input[0].content"),
    ],
)
def test_an_item_that_lacks_something_is_refused_at_its_place(item: dict[str, Any], param: str) -> None:
    assert refused(input=[item]).param == param


# -- tools


def test_tools_of_all_forms_are_functions_to_the_model() -> None:
    text = {"type": "object", "properties": {"input": {"type": "string"}}}
    free = {**text, "required": ["input"], "additionalProperties": False}
    assert ask(tools=[{**WEATHER, "strict": True}, PATCH, AGENTS]).tools == (
        Tool("weather", "of a city", SCHEMA, strict=True),
        Tool("patch", "Edits files", free, free_form=True),
        Tool("agents__close", "", SCHEMA, namespace="agents"),
        Tool("agents__patch", "Edits files", free, namespace="agents", free_form=True),
    )


def test_the_grammar_of_a_custom_tool_is_told_to_the_model() -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": "start: A"}
    [tool] = ask(tools=[{**PATCH, "format": form}]).tools
    assert tool.description == "Edits files\n\nThe input follows this grammar (lark):\nstart: A"
    assert ask(tools=[{**PATCH, "format": {"type": "text"}}]).tools[0].description == "Edits files"


@pytest.mark.parametrize(
    "kind", ["web_search", "file_search", "code_interpreter", "image_generation", "unheard_of"]
)
def test_what_the_vendor_runs_itself_is_left_out(kind: str) -> None:
    assert ask(tools=[{"type": kind}, WEATHER]).tools == (Tool("weather", "of a city", SCHEMA),)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "apply_patch"}, "tools[0].type"),
        ({"type": "local_shell"}, "tools[0].type"),
        ({"type": "computer_use_preview"}, "tools[0].type"),
        ({"type": "mcp", "server_label": "x"}, "tools[0].type"),
        ({**AGENTS, "tools": [SEARCH]}, "tools[0].tools[0].type"),
        ({**AGENTS, "tools": [AGENTS]}, "tools[0].tools[0].type"),
        ({"type": "function", "function": {"name": "f"}}, "tools[0].name"),
        ({**AGENTS, "name": ""}, "tools[0].name"),
        ({**PATCH, "format": {"type": "grammar"}}, "tools[0].format.definition"),
        ({**PATCH, "format": {"type": "xml"}}, "tools[0].format.type"),
    ],
)
def test_a_tool_that_would_not_work_is_refused_at_its_place(tool: dict[str, Any], param: str) -> None:
    assert refused(tools=[tool]).param == param


def test_two_tools_of_one_name_are_refused() -> None:
    assert refused(tools=[AGENTS, {**WEATHER, "name": "agents__close"}]).param == "tools"
    assert refused(tools=[{**WEATHER, "name": f"f{index}"} for index in range(1025)]).param == "tools"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "weather"}, ToolChoice("named", "weather")),
        ({"type": "function", "name": "close", "namespace": "agents"}, ToolChoice("named", "agents__close")),
        ({"type": "custom", "name": "patch"}, ToolChoice("named", "patch")),
        ({"type": "web_search_preview"}, ToolChoice()),
    ],
)
def test_choices_among_tools(choice: Any, told: ToolChoice) -> None:
    assert ask(tools=[WEATHER, PATCH, AGENTS, SEARCH], tool_choice=choice).tool_choice == told


@pytest.mark.parametrize(
    ("refs", "names"),
    [
        ([{"type": "function", "name": "weather"}], {"weather"}),
        ([{"type": "custom", "name": "patch"}, {"type": "web_search"}], {"patch"}),
        ([{"type": "namespace", "name": "agents"}], {"agents__close", "agents__patch"}),
        ([{"type": "function", "name": "close", "namespace": "agents"}], {"agents__close"}),
    ],
)
def test_allowed_tools_are_those_that_are_left(refs: list[Any], names: set[str]) -> None:
    for mode in ("auto", "required"):
        choice = {"type": "allowed_tools", "mode": mode, "tools": refs}
        heard = ask(tools=[WEATHER, PATCH, AGENTS], tool_choice=choice)
        assert {tool.name for tool in heard.tools} == names and heard.tool_choice.mode == mode


def test_what_must_be_called_and_is_run_by_nobody_gets_a_plain_answer() -> None:
    assert ask(tools=[SEARCH], tool_choice="required").tool_choice == ToolChoice()
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "web_search"}]}
    assert ask(tools=[SEARCH, WEATHER], tool_choice=choice).tools == ()


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        "required",
        {"type": "function", "name": "weather"},
        {"type": "function"},
        {"name": "weather"},
        {"type": "mcp", "server_label": "x"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
        {"type": "allowed_tools", "mode": "none", "tools": []},
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(choice: Any) -> None:
    assert (refused(tool_choice=choice).param or "").startswith("tool_choice")


# -- what clients were seen to send


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.json")))
def test_every_recorded_request_is_read(name: str) -> None:
    assert golden(name).messages


@pytest.mark.parametrize("name", sorted(p.stem for p in GOLDEN.glob("*.json")))
def test_what_is_told_in_chat_loses_nothing_that_the_model_would_see(name: str) -> None:
    """A neuron that speaks chat alone is asked so; how calls are told back stays at the gateway."""
    heard = golden(name)
    told = openai_chat.read(write(heard, heard.model, CORTEX))
    tools = tuple(replace(tool, namespace="", free_form=False) for tool in heard.tools)
    # A neuron is asked for a stream with its usage in any case.
    streamed = replace(heard, tools=tools, stream=True, include_usage=True)
    assert told == replace(streamed, sealed_thoughts=False, wishes=told.wishes)


def test_codex_is_understood() -> None:
    heard = golden("codex-plain")
    assert [turn.role for turn in heard.messages] == ["system", "system", "user", "user"]
    assert [tool.name for tool in heard.tools] == ["exec_command", "multi_agent_v1__close_agent"]
    assert heard.sealed_thoughts and heard.stream and heard.template == {}


def test_codex_hands_back_what_was_thought_and_called() -> None:
    spoken, result = golden("codex-thought-and-tool").messages[-2:]
    assert spoken.thought == "Let me think about it."
    assert spoken.tool_calls == (ToolUse("call_stub83", "exec_command", '{"cmd":"echo hi"}'),)
    assert result.tool_call_id == "call_stub83" and result.text.startswith("Chunk ID")
    spoken, first, second = golden("codex-two-results").messages[-3:]
    assert [use.id for use in spoken.tool_calls] == [first.tool_call_id, second.tool_call_id]
    assert golden("codex-namespace").messages[-2].tool_calls[0].name == "multi_agent_v1__close_agent"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "input",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "instructions",
        "store",
        "conversation",
        "prompt",
    ]
)


@given(st.dictionaries(FIELDS, JSON, max_size=3))
def test_whatever_is_sent_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        ask(**fields)
    except CortexError as error:
        assert isinstance(error, BadAsk)
