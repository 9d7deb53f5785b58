"""Chat and text requests become asks: every field is obeyed, or refused by its name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Ask, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.errors import BadAsk, CortexError, Unsupported
from cortex.translator import openai_chat, openai_text
from cortex.translator.free_tools import PARAMETERS

GOLDEN = Path(__file__).parent / "golden" / "openai"
HI = {"role": "user", "content": "hi"}
CHAT = {"model": "m", "messages": [HI]}
TEXT = {"model": "m", "prompt": "hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
OTHER = {"type": "function", "function": {"name": "g"}}
CUSTOM = {"type": "custom", "custom": {"name": "patch", "description": ""}}
RULED = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[a-z]+"}}
F, G = Tool("f", parameters={"type": "object"}), Tool("g")
PATCH = Tool("patch", parameters=PARAMETERS, free_form=True)
# One `function_call` is all that a message has.
LEGACY = {"tools": (replace(F, legacy=True),), "parallel_tool_calls": False}
PLAIN = Ask("m", (Message("user", "hi"),))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def chat(**fields: object) -> Ask:
    return openai_chat.read(json.dumps({**CHAT, **fields}).encode())


def text(**fields: object) -> Ask:
    return openai_text.read(json.dumps({**TEXT, **fields}).encode())


def turns(*messages: object) -> tuple[Message, ...]:
    return chat(messages=messages).messages


# What is obeyed


@pytest.mark.parametrize(
    ("field", "value", "sampling"),
    [
        ("temperature", 0, Sampling(temperature=0.0)),
        ("temperature", 2, Sampling(temperature=2.0)),
        ("top_p", 1, Sampling(top_p=1.0)),
        ("top_k", 40, Sampling(top_k=40)),
        ("top_k", 0, Sampling(top_k=0)),
        ("top_k", -1, Sampling(top_k=0)),
        ("min_p", 0.05, Sampling(min_p=0.05)),
        ("seed", -5, Sampling(seed=-5)),
        ("seed", 2**63 - 1, Sampling(seed=2**63 - 1)),
        ("presence_penalty", -2, Sampling(presence_penalty=-2.0)),
        ("frequency_penalty", 2, Sampling(frequency_penalty=2.0)),
        ("repetition_penalty", 1.1, Sampling(repetition_penalty=1.1)),
        ("logit_bias", {"7": -100, "8": 0.5}, Sampling(logit_bias={7: -100.0, 8: 0.5})),
        ("logit_bias", {}, Sampling()),
    ],
)
def test_a_sampling_field_reaches_the_ask_of_both_dialects(
    field: str, value: object, sampling: Sampling
) -> None:
    assert chat(**{field: value}) == replace(PLAIN, sampling=sampling)
    assert text(**{field: value}) == Ask("m", prompt="hi", max_tokens=16, sampling=sampling)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"n": 8}, {"n": 8}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"stream": True}, {"stream": True}),
        ({"stream": False}, {}),
        ({"stream": True, "stream_options": {}}, {"stream": True}),
        (
            {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
            {"stream": True, "include_usage": True},
        ),
        ({"stream_options": {"include_usage": True}}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"shape": Shape("json_object")}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"a": [1]}}}},
            {"shape": Shape("json_schema", {"a": [1]})},
        ),
    ],
)
def test_a_shared_field_reaches_the_ask_of_both_dialects(fields: dict, changes: dict) -> None:
    assert chat(**fields) == replace(PLAIN, **changes)
    assert text(**fields) == replace(Ask("m", prompt="hi", max_tokens=16), **changes)


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 9, "max_tokens": 5}, {"max_tokens": 9}),
        ({"max_completion_tokens": None, "max_tokens": 5}, {"max_tokens": 5}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": 20}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"enable_thinking": False}, {"template": {"enable_thinking": False}}),
        ({"reasoning_effort": "low"}, {"template": {"reasoning_effort": "low"}}),
        ({"reasoning_effort": "none"}, {"template": {"enable_thinking": False}}),
        (
            {"chat_template_kwargs": {"thinking": True, "thinking_budget": 5, "enable_thinking": None}},
            {"template": {"thinking": True, "thinking_budget": 5}},
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": False},
            {"template": {"enable_thinking": False}},
        ),
        ({"tools": []}, {}),
        ({"tools": [TOOL, OTHER]}, {"tools": (F, G)}),
        ({"tools": [{"function": {"name": "g", "parameters": None}}]}, {"tools": (G,)}),
        (
            {"tools": [{"type": "function", "function": {"name": "g", "description": "d", "strict": True}}]},
            {"tools": (Tool("g", "d", strict=True),)},
        ),
        ({"tools": [TOOL], "parallel_tool_calls": False}, {"tools": (F,), "parallel_tool_calls": False}),
        ({"tool_choice": "auto"}, {}),
        ({"tools": [TOOL], "tool_choice": "none"}, {"tools": (F,), "tool_choice": ToolChoice("none")}),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            {"tools": (F,), "tool_choice": ToolChoice("required")},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tools": (F,), "tool_choice": ToolChoice("named", "f")},
        ),
        (
            {
                "tools": [TOOL, OTHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [OTHER]},
                },
            },
            {"tools": (G,), "tool_choice": ToolChoice("required")},
        ),
        (
            {
                "tools": [TOOL, OTHER],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
            },
            {"tools": (F,)},
        ),
        ({"functions": [FUNCTION]}, LEGACY),
        ({"functions": [FUNCTION], "function_call": "none"}, {**LEGACY, "tool_choice": ToolChoice("none")}),
        (
            {"functions": [FUNCTION], "function_call": {"name": "f"}},
            {**LEGACY, "tool_choice": ToolChoice("named", "f")},
        ),
        ({"tools": [TOOL, CUSTOM]}, {"tools": (F, PATCH)}),
        (
            {"tools": [TOOL, CUSTOM], "tool_choice": {"type": "custom", "custom": {"name": "patch"}}},
            {"tools": (F, PATCH), "tool_choice": ToolChoice("named", "patch")},
        ),
        (
            {
                "tools": [TOOL, CUSTOM, OTHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"tools": [{"type": "custom", "custom": {"name": "patch"}}, TOOL]},
                },
            },
            {"tools": (F, PATCH)},
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "patch", "format": RULED}}]},
            {"tools": (replace(PATCH, description="The input follows this grammar (regex):\n[a-z]+"),)},
        ),
        ({"modalities": ["text"]}, {}),
    ],
)
def test_a_chat_field_reaches_the_ask(fields: dict, changes: dict) -> None:
    assert chat(**fields) == replace(PLAIN, **changes)


NULLABLE = sorted(
    {
        *(
            "stream",
            "stream_options",
            "n",
            "max_tokens",
            "stop",
            "seed",
            "temperature",
            "top_p",
            "top_k",
            "min_p",
        ),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "response_format"),
        *(
            "max_completion_tokens",
            "tools",
            "tool_choice",
            "parallel_tool_calls",
            "functions",
            "function_call",
        ),
        *("logprobs", "top_logprobs", "reasoning_effort", "enable_thinking", "chat_template_kwargs"),
        *("modalities", "audio", "suffix", "echo", "best_of", "store", "web_search_options"),
        *("chat_template", "api_base", "base_url", "user_config", "grammar"),
    }
)


@pytest.mark.parametrize("field", NULLABLE)
def test_null_is_absent(field: str) -> None:
    assert chat(**{field: None}) == PLAIN
    assert text(**{field: None}) == Ask("m", prompt="hi", max_tokens=16)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"service_tier": "flex"},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"verbosity": "low"},
        {"prediction": {"type": "content", "content": "x"}},
        {"store": False},
        {"a field that nobody knows": [{"model": "x"}]},
        {"min_tokens": 0, "ignore_eos": False, "typical_p": 1.0, "mirostat": 0, "bad_words": []},
        {"length_penalty": 1, "repeat_penalty": 1.0, "skip_special_tokens": True},
    ],
)
def test_a_field_without_effect_changes_nothing(fields: dict) -> None:
    assert chat(**fields) == PLAIN
    assert text(**fields) == Ask("m", prompt="hi", max_tokens=16)


# What is refused


BOUNDS = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 10**30}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 2**63}, "max_tokens"),
    ({"max_tokens": 10**400}, "max_tokens"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "a" * 257}, "stop"),
    ({"stop": ["a" * 70_000]}, "stop"),
    ({"stop": {"a": 1}}, "stop"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"word": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
    ({"logit_bias": {"1": -101}}, "logit_bias[...]"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ({"stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": "x" * 65_536}}}},
        "response_format.json_schema.schema",
    ),
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), BOUNDS)
def test_a_value_out_of_bounds_is_refused_by_name_in_both_dialects(fields: dict, param: str) -> None:
    """Fault 46."""
    for read in (chat, text):
        with pytest.raises(BadAsk) as caught:
            read(**fields)
        assert caught.value.param == param
        assert param.partition(".")[0].partition("[")[0] in caught.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [HI] * 2049}, "messages"),
        ({"messages": [{}] * 300_000}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0]"),
        ({"messages": [HI, {"role": "ipython", "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{**HI, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]},
            "messages[0].tool_calls",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "refusal": "no"}]}, "messages[0].refusal"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": -1, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "low<|end|>"}},
            "chat_template_kwargs.reasoning_effort",
        ),
        ({"reasoning_effort": "none", "enable_thinking": True}, "enable_thinking"),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            "reasoning_effort",
        ),
        ({"tools": [{**TOOL, "function": {"name": f"f{i}"}} for i in range(1025)]}, "tools"),
        ({"tools": [TOOL, OTHER, TOOL]}, "tools"),
        ({"tools": [CUSTOM, {"function": {"name": "patch"}}]}, "tools"),
        ({"functions": [FUNCTION, FUNCTION]}, "functions"),
        ({"tools": [{"type": "custom"}]}, "tools[0].custom"),
        ({"tools": [{"type": "custom", "custom": {"name": "a b"}}]}, "tools[0].custom.name"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar"}}}]},
            "tools[0].custom.format.grammar",
        ),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "jpeg"}}}]},
            "tools[0].custom.format.type",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.custom"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a" * 129}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"function": {"name": "f", "description": "x" * 2**20}}]}, "tools"),
        ({"functions": [{"name": "?"}]}, "functions[0].name"),
        ({"functions": [FUNCTION], "tools": [TOOL]}, "functions"),
        ({"functions": [FUNCTION], "function_call": "auto", "tool_choice": "auto"}, "function_call"),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, "function_call"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [OTHER]}}},
            "tool_choice",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [TOOL], "mode": "none"}},
            },
            "tool_choice",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
    ],
)
def test_a_chat_that_contradicts_itself_is_refused_by_name(fields: dict, param: str) -> None:
    """Fault 46."""
    with pytest.raises(BadAsk) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.code) == (param, "invalid_request")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "system", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [HI, {"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[1].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]}]},
            "messages[0].content[1]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "refusal"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0].audio"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "mcp", "mcp": {}}]}]},
            "messages[0].tool_calls[0]",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [{"type": "mcp"}]}},
            },
            "tool_choice",
        ),
        ({"audio": {"voice": "v", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"store": True}, "store"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"thinking_budget": 100}, "thinking_budget"),
        ({"thinking_budget": 0}, "thinking_budget"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"repeat_penalty": 1.1}, "repeat_penalty"),
        ({"guided_json": {}}, "guided_json"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_and_never_dropped(fields: dict, param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize("field", ["chat_template", "api_base", "base_url", "user_config"])
@pytest.mark.parametrize("value", ["x", "", {}, False])
def test_a_field_that_would_take_over_is_refused(field: str, value: object) -> None:
    """Fault 50."""
    for read in (chat, text):
        with pytest.raises(BadAsk) as caught:
            read(**{field: value})
        assert (caught.value.param, caught.value.code) == (field, "invalid_request")


@pytest.mark.parametrize(
    ("kwargs", "param"),
    [
        ({"add_generation_prompt": False}, "chat_template_kwargs.add_generation_prompt"),
        ({"messages": None}, "chat_template_kwargs.messages"),
        ({"enable_thinking": "no"}, "chat_template_kwargs.enable_thinking"),
        ({"thinking_budget": True}, "chat_template_kwargs.thinking_budget"),
        ({"enable_thinking": [False]}, "chat_template_kwargs[...]"),
        ([], "chat_template_kwargs"),
    ],
)
def test_template_arguments_are_scalars_of_a_short_list(kwargs: object, param: str) -> None:
    """Fault 50."""
    with pytest.raises(BadAsk) as caught:
        chat(chat_template_kwargs=kwargs)
    assert caught.value.param == param


# Messages


def test_every_form_of_a_message_becomes_a_turn() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert turns(
        {"role": "developer", "content": "d", "name": "lead"},
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None},
        {
            "role": "assistant",
            "reasoning_content": "hm",
            "tool_calls": [call, {**call, "id": "c2", "type": None}],
        },
        {
            "role": "tool",
            "tool_call_id": "c2",
            "content": [{"type": "text", "text": "sunny", "cache_control": {}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": ""},
        {"role": "assistant", "content": "prefill"},
    ) == (
        Message("system", "d", name="lead"),
        Message("system", "a b"),
        Message("user"),
        Message("user"),
        Message("assistant"),
        Message(
            "assistant",
            thought="hm",
            tool_calls=(ToolUse("c1", "f", '{"a":1}'), ToolUse("c2", "f", '{"a":1}')),
        ),
        Message("tool", "sunny", tool_call_id="c2"),
        Message("tool", "", tool_call_id="c1"),
        Message("assistant", "prefill"),
    )


@pytest.mark.parametrize(("sent", "read"), [("", "{}"), (None, "{}"), ("{}", "{}"), ("{broken", "{broken")])
def test_arguments_of_an_earlier_call_are_kept_and_never_empty(sent: str | None, read: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": sent}}
    assert turns({"role": "assistant", "tool_calls": [call]})[0].tool_calls == (ToolUse("c", "f", read),)


def test_what_the_assistant_refused_with_is_what_it_said() -> None:
    parts = [{"type": "text", "text": "Oh "}, {"type": "refusal", "refusal": "no"}]
    assert turns({"role": "assistant", "content": None, "refusal": "no"}) == (Message("assistant", "no"),)
    assert turns({"role": "assistant", "content": parts}) == (Message("assistant", "Oh no"),)


def test_an_earlier_call_of_a_custom_tool_is_one_with_its_text() -> None:
    """Fault 46: ids pass as they are, whatever their form."""
    call = {"id": "any id/1", "type": "custom", "custom": {"name": "patch", "input": 'a "b"'}}
    answer = {"role": "tool", "tool_call_id": "any id/1", "content": "done"}
    assert turns({"role": "assistant", "tool_calls": [call]}, answer) == (
        Message("assistant", tool_calls=(ToolUse("any id/1", "patch", '{"input":"a \\"b\\""}'),)),
        Message("tool", "done", tool_call_id="any id/1"),
    )


def test_a_legacy_answer_finds_its_call() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "1"}
    stranger = {"role": "function", "name": "g", "content": "2"}
    assert turns(HI, call, answer, stranger, call, answer)[1:] == (
        Message("assistant", tool_calls=(ToolUse("call_1", "f", "{}"),)),
        Message("tool", "1", tool_call_id="call_1", name="f"),
        Message("tool", "2", name="g"),
        Message("assistant", tool_calls=(ToolUse("call_4", "f", "{}"),)),
        Message("tool", "1", tool_call_id="call_4", name="f"),
    )


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ('{"a": 1}', [ToolUse("c", "f", '{"a": 1}')]),
        ('{"a": 2}', [ToolUse("c", "f", '{"a": 1}'), ToolUse("call_0", "f", '{"a": 2}')]),
    ],
)
def test_a_call_that_is_told_in_both_forms_is_one(arguments: str, calls: list[ToolUse]) -> None:
    modern = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    legacy = {"name": "f", "arguments": arguments}
    answer = {"role": "function", "name": "f", "content": "1"}
    [call, told] = turns({"role": "assistant", "tool_calls": [modern], "function_call": legacy}, answer)
    assert list(call.tool_calls) == calls
    assert told.tool_call_id == calls[-1].id, "the legacy answer finds it"


# Text completions


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"prompt": ["hi"]}, {}),
        ({"prompt": [5, 0, 7]}, {"prompt": (5, 0, 7)}),
        ({"prompt": [[5, 0, 7]]}, {"prompt": (5, 0, 7)}),
        ({"prompt": [5]}, {"prompt": (5,)}),
        ({"prompt": ["a", "b", "a"]}, {"prompt": "a", "further": ("b", "a")}),
        ({"prompt": [[1], [2, 3]], "n": 2}, {"prompt": (1,), "further": ((2, 3),), "n": 2}),
        ({"prompt": ["a", [1]]}, {"prompt": "a", "further": ((1,),)}),
        ({"prompt": ["a"] * 32, "n": 2}, {"prompt": "a", "further": ("a",) * 31, "n": 2}),
        ({"prompt": ["a", "b"], "echo": True}, {"prompt": "a", "further": ("b",), "echo": True}),
        ({"echo": True}, {"echo": True}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logprobs": 5}, {"logprobs": 5}),
        ({"best_of": 1}, {}),
        ({"best_of": 2, "n": 2}, {"n": 2}),
        ({"max_tokens": 100}, {"max_tokens": 100}),
        ({"suffix": ""}, {}),
        ({"suffix": "x"}, {"suffix": "x"}),
    ],
)
def test_a_text_field_reaches_the_ask(fields: dict, changes: dict) -> None:
    assert text(**fields) == replace(Ask("m", prompt="hi", max_tokens=16), **changes)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_request"),
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": []}, "prompt", "invalid_request"),
        ({"prompt": [""]}, "prompt[0]", "invalid_request"),
        ({"prompt": [[]]}, "prompt[0]", "invalid_request"),
        ({"prompt": ["a", ""]}, "prompt[1]", "invalid_request"),
        ({"prompt": ["a", 1]}, "prompt[1]", "invalid_request"),
        ({"prompt": [[1], [-2]]}, "prompt[1]", "invalid_request"),
        ({"prompt": ["a"] * 65}, "prompt", "invalid_request"),
        ({"prompt": ["a"] * 33, "n": 2}, "prompt", "invalid_request"),
        ({"prompt": ["a", [1]], "echo": True}, "echo", "unsupported_parameter"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_request"),
        ({"prompt": [-1]}, "prompt", "invalid_request"),
        ({"prompt": [2**31]}, "prompt", "invalid_request"),
        ({"prompt": [1.5]}, "prompt[0]", "invalid_request"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_request"),
        ({"suffix": "x", "prompt": [1]}, "suffix", "unsupported_parameter"),
        ({"best_of": 3}, "best_of", "unsupported_parameter"),
        ({"best_of": 10**30}, "best_of", "unsupported_parameter"),
        ({"best_of": 0}, "best_of", "invalid_request"),
        ({"best_of": 1, "n": 2}, "best_of", "invalid_request"),
        ({"logprobs": 6}, "logprobs", "invalid_request"),
        ({"logprobs": True}, "logprobs", "invalid_request"),
        ({"echo": True, "prompt": [1]}, "echo", "unsupported_parameter"),
        ({"echo": True, "logprobs": 1}, "echo", "unsupported_parameter"),
    ],
)
def test_a_text_request_that_cannot_be_obeyed_is_refused_by_name(fields: dict, param: str, code: str) -> None:
    with pytest.raises(BadAsk) as caught:
        text(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


# Bodies of real clients


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def test_everything_that_the_python_library_can_send_is_read() -> None:
    weather = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    assert openai_chat.read(golden("openai-python-everything")) == Ask(
        model="stub-model",
        messages=(
            Message("system", "be nice", name="lead"),
            Message("system", "sys"),
            Message("user", "what is it", name="user_1"),
            Message("assistant", tool_calls=(ToolUse("c1", "get_weather", "{}"),)),
            Message("tool", tool_call_id="c1"),
            Message("assistant", "prefill"),
        ),
        sampling=Sampling(
            temperature=0.0,
            top_p=0.9,
            top_k=5,
            seed=1,
            presence_penalty=0.1,
            frequency_penalty=0.1,
            logit_bias={50256: -100.0},
        ),
        max_tokens=50,
        stop=("\n\n",),
        tools=(Tool("get_weather", "w", weather, strict=True),),
        tool_choice=ToolChoice("named", "get_weather"),
        parallel_tool_calls=False,
        shape=Shape("json_object"),
        logprobs=2,
        template={"enable_thinking": False, "reasoning_effort": "low"},
    )


def test_the_thought_that_opencode_sends_back_is_kept() -> None:
    ask = openai_chat.read(golden("opencode-thought-and-tool"))
    assert ask.messages[2:] == (
        Message(
            "assistant",
            thought="Let me think about it.",
            tool_calls=(ToolUse("call_stub249", "bash", '{"command":"echo hi"}'),),
        ),
        Message("tool", "hi\n", tool_call_id="call_stub249"),
    )
    assert (ask.stream, ask.include_usage, ask.max_tokens) == (True, True, 4000)
    assert ask.tools[0].parameters["properties"]["timeout"]["minimum"] == -9007199254740991


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("openai-python-parallel-results", lambda ask: [m.tool_call_id for m in ask.messages[2:]]),
        ("ai-sdk-two-results", lambda ask: [m.tool_call_id for m in ask.messages[2:]]),
        ("openai-node-tool-result", lambda ask: [ask.tools[0].strict, ask.stream]),
        ("openai-python-schema", lambda ask: list(ask.shape.schema["properties"])),
        ("langchain-named-tool", lambda ask: [ask.tool_choice.name, ask.parallel_tool_calls]),
        ("litellm-effort", lambda ask: [*ask.template.items()]),
        ("litellm-limit-and-seed", lambda ask: [ask.max_tokens, ask.sampling.seed]),
        ("llm-stream", lambda ask: [ask.stream, ask.include_usage]),
    ],
)
def test_a_recorded_chat_is_read(name: str, seen) -> None:
    assert (
        seen(openai_chat.read(golden(name)))
        == {
            "openai-python-parallel-results": ["call_stub165", "call_stub166"],
            "ai-sdk-two-results": ["call_stub52", "call_stub53"],
            "openai-node-tool-result": [True, False],
            "openai-python-schema": ["city", "population"],
            "langchain-named-tool": ["City", False],
            "litellm-effort": [("reasoning_effort", "low")],
            "litellm-limit-and-seed": [5, 1],
            "llm-stream": [True, True],
        }[name]
    )


def test_a_recorded_image_stands_behind_its_text() -> None:
    (turn,) = openai_chat.read(golden("langchain-image")).messages
    (image,) = turn.images
    assert turn.text and (image.media_type, image.at) == ("image/png", len(turn.text))


def test_a_recorded_text_request_is_read() -> None:
    assert openai_text.read(golden("llm-text")) == Ask(
        "stub-model", prompt="hi", max_tokens=16, stream=True, include_usage=True
    )


# Hostile bodies


@pytest.mark.parametrize("read", [openai_chat.read, openai_text.read])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'{"model":"m","model":"m","messages":[],"prompt":"x"}',
        b'{"model":"m","prompt":"\xff","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"m","prompt":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"model":"m","messages":' + b'[{"role":"user","content":' * 5000 + b"1" + b"}]" * 5000 + b"}",
    ],
)
def test_a_hostile_body_is_refused(read, body: bytes) -> None:
    """Faults 43 and 44."""
    with pytest.raises(BadAsk):
        read(body)


def test_a_schema_may_not_be_a_pit() -> None:
    """Fault 44."""
    deep = json.loads('{"a":' * 65 + "{}" + "}" * 65)
    with pytest.raises(BadAsk, match="deeper than 64") as caught:
        chat(tools=[{"function": {"name": "f", "parameters": deep}}])
    assert caught.value.param == "tools[0].function.parameters"


def test_a_million_unknown_keys_are_skipped() -> None:
    """Fault 45."""
    noise = b",".join(b'"k%d":{}' % i for i in range(1_000_000))
    assert openai_chat.read(json.dumps(CHAT).encode()[:-1] + b"," + noise + b"}") == PLAIN
    inside = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"metadata":{%b}}' % noise
    assert openai_chat.read(inside) == PLAIN


def test_a_million_token_ids_are_read_but_no_more() -> None:
    assert len(text(prompt=[7] * 1_000_000).prompt or ()) == 1_000_000
    with pytest.raises(BadAsk) as caught:
        text(prompt=[7] * 1_100_000)
    assert caught.value.param == "prompt"


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    for read in (openai_chat.read, openai_text.read):
        try:
            read(json.dumps(value).encode())
        except CortexError as error:
            assert isinstance(error, BadAsk)


@given(st.dictionaries(st.sampled_from([*NULLABLE, "messages", "prompt"]), JSON, max_size=3))
def test_any_value_of_a_known_field_is_read_or_refused(fields: dict) -> None:
    for read in (chat, text):
        try:
            read(**fields)
        except CortexError as error:
            assert isinstance(error, BadAsk)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool", "function", "developer"])},
            optional=dict.fromkeys(
                ["content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content"],
                st.text(max_size=3)
                | JSON
                | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})),
            ),
        ),
        max_size=4,
    )
)
def test_any_message_is_read_whole_or_refused(messages: list[dict]) -> None:
    try:
        ask = chat(messages=messages)
    except CortexError as error:
        assert isinstance(error, BadAsk)
    else:
        assert len(ask.messages) == len(messages)
        for message, turn in zip(messages, ask.messages, strict=True):
            if isinstance(message.get("content"), str):
                assert turn.text == message["content"]
