"""Bodies of Anthropic's dialect become asks: everything said is in them, or is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.ask import Ask, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.errors import BadAsk, NoThreads, Unsupported
from cortex.translator.anthropic_messages import read

HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "of a city", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}


def ask(**fields: Any) -> Ask:
    return read(json.dumps({"model": "m", "max_tokens": 9, "messages": HELLO, **fields}).encode())


def refused(kind: type[BadAsk] = BadAsk, **fields: Any) -> BadAsk:
    with pytest.raises(kind) as caught:
        ask(**fields)
    assert caught.value.param
    return caught.value


def turns(*messages: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    return ask(messages=list(messages), **fields).messages


def test_a_plain_request_says_what_it_says_and_nothing_else() -> None:
    assert ask() == Ask("m", (Message("user", "hi"),), max_tokens=9)


def test_every_field_of_sampling_arrives() -> None:
    said = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "seed": 4,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"7": -1.0},
    }
    meant = {**said, "logit_bias": {7: -1.0}}
    heard = ask(**said, stop_sequences=["a", " b"], stream=True)
    assert heard.sampling == Sampling(**meant)  # type: ignore[arg-type]
    assert heard.stop == ("a", " b") and heard.stream


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"user_id": "u"}, "service_tier": "auto"},
        {"cache_control": {"type": "ephemeral"}, "anything": {"new": [1]}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"system": None, "tools": None, "tool_choice": None, "thinking": None, "stop_sequences": None},
        {"system": [], "tools": [], "output_config": {}, "mcp_servers": [], "context_management": {}},
    ],
)
def test_what_changes_no_answer_changes_nothing(fields: dict[str, Any]) -> None:
    assert ask(**fields) == ask()


# Turns


def test_system_text_and_blocks_lead_and_are_joined_as_they_stand() -> None:
    cached = {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}}
    for system in ("one\ntwo", [{"type": "text", "text": "one\n"}, cached]):
        assert ask(system=system).messages == (Message("system", "one\ntwo"), Message("user", "hi"))


def test_the_block_for_the_vendors_bill_is_the_one_thing_taken_out() -> None:
    """It changes with every prompt; facts of Claude Code's requests, finding on the billing block."""
    bill = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.ab1; cc_entrypoint=cli;"}
    real = {"type": "text", "text": "be brief"}
    assert ask(system=[bill, real]).messages[0] == Message("system", "be brief")
    assert ask(system=[bill]).messages == (Message("user", "hi"),)
    assert ask(system=[real, bill]).messages[0].text.endswith("cc_entrypoint=cli;"), "only at its own place"
    assert ask(system=bill["text"]).messages[0].text == bill["text"], "a system text is the user's own"


def test_what_stands_behind_the_line_for_the_bill_is_the_prompt() -> None:
    bill = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2;\nbe brief"}
    assert ask(system=[bill]).messages[0] == Message("system", "be brief")


def test_a_turn_without_blocks_is_a_turn() -> None:
    said = turns({"role": "user", "content": []}, {"role": "assistant", "content": "a"}, *HELLO)
    assert said[0] == Message("user", "") and len(said) == 3


def test_a_system_turn_among_the_messages_keeps_its_place() -> None:
    said = turns(
        {"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "system", "content": "b"}
    )
    assert said == (Message("user", "a"), Message("system", "b"))


def test_what_the_assistant_said_comes_back_with_thoughts_and_calls() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm ", "signature": "xyz"},
        {"type": "redacted_thinking", "data": "opaque"},
        {"type": "text", "text": "look"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern", "n": 1.50}},
        {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
        {"type": "tool_use", "id": "t3", "name": "now"},
    ]
    body = b'{"model":"m","messages":[{"role":"assistant","content":%b}]}'
    text = json.dumps(blocks).replace('"n": 1.5', '"n": 1.50').encode()
    [said] = read(body % text).messages
    assert said == Message(
        "assistant",
        "look",
        "hm ",
        (
            ToolUse("t1", "weather", '{"city": "Bern", "n": 1.50}'),
            ToolUse("t2", "now", "{}"),
            ToolUse("t3", "now", "{}"),
        ),
    )


def called(*ids: str) -> dict[str, Any]:
    uses = [{"type": "tool_use", "id": each, "name": "f", "input": {}} for each in ids]
    return {"role": "assistant", "content": uses}


def result(call: str, content: Any = None, **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": content, **more}


def test_results_become_turns_in_the_order_of_their_calls() -> None:
    """Claude Code sends parallel results in reverse; a template without ids goes by their order."""
    content = [
        result("b", "2"),
        result("a", [{"type": "text", "text": "1"}]),
        {"type": "text", "text": "go on"},
    ]
    said = turns(called("a", "b"), {"role": "user", "content": content})
    assert said[1:] == (
        Message("tool", "1", tool_call_id="a"),
        Message("tool", "2", tool_call_id="b"),
        Message("user", "go on"),
    )


def test_results_of_two_rounds_and_of_unknown_calls_do_not_mix() -> None:
    said = turns(
        called("a", "b"),
        {"role": "user", "content": [result("b"), result("a")]},
        called("c"),
        {"role": "user", "content": [result("x"), result("c"), result("a")]},
    )
    assert [turn.tool_call_id for turn in said if turn.role == "tool"] == ["a", "b", "c", "x", "a"]


def test_text_before_results_stays_before_them() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, result("t", "r")]
    said = turns(called("t"), {"role": "user", "content": content})
    assert said[1:] == (Message("user", "ab"), Message("tool", "r", tool_call_id="t"))


def test_a_failed_tool_that_says_nothing_does_not_look_like_success() -> None:
    content = [result("a", "", is_error=True), result("b", "why", is_error=True), result("c", "")]
    said = turns(called("a", "b", "c"), {"role": "user", "content": content})
    assert [turn.text for turn in said[1:]] == ["error", "why", ""]


def test_a_trailing_assistant_turn_is_a_prefill() -> None:
    assert turns(*HELLO, {"role": "assistant", "content": "{"})[-1] == Message("assistant", "{")


# As the vendor tells what its own servers did; most results have no text but what is encrypted.
HOSTED: dict[str, dict[str, Any]] = {
    "server_tool_use": {"id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
    "web_search_tool_result": {
        "tool_use_id": "srvtoolu_1",
        "content": [{"type": "web_search_result", "url": "https://a.example", "encrypted_content": "Z"}],
    },
    "web_fetch_tool_result": {
        "tool_use_id": "srvtoolu_1",
        "content": {"type": "web_fetch_result", "url": "https://a.example", "content": {"type": "document"}},
    },
    "code_execution_tool_result": {
        "tool_use_id": "srvtoolu_1",
        "content": {"type": "code_execution_result", "stdout": "1", "stderr": "", "return_code": 0},
    },
    "bash_code_execution_tool_result": {"tool_use_id": "srvtoolu_1", "content": {"stdout": "1"}},
    "mcp_tool_use": {"id": "m", "name": "t", "server_name": "s", "input": {}},
    "mcp_tool_result": {"tool_use_id": "m", "is_error": False, "content": [{"type": "text", "text": "o"}]},
    "container_upload": {"file_id": "file_1"},
}


@pytest.mark.parametrize("kind", HOSTED)
def test_what_the_vendors_servers_did_is_left_out_and_the_conversation_goes_on(kind: str) -> None:
    block = {"type": kind, **HOSTED[kind]}
    words = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    words += called("t")["content"]
    answer = {"role": "user", "content": [result("t", "r")]}
    plain = turns(*HELLO, {"role": "assistant", "content": words}, answer)
    for place in range(len(words) + 1):
        content = [*words[:place], block, *words[place:]]
        assert turns(*HELLO, {"role": "assistant", "content": content}, answer) == plain
    # A turn of nothing else stays one: roles take turns.
    assert turns(*HELLO, {"role": "assistant", "content": [block]}, *HELLO)[1] == Message("assistant")


def test_a_file_in_the_vendors_container_is_left_out_of_what_the_user_says() -> None:
    upload = {"type": "container_upload", **HOSTED["container_upload"]}
    text = {"type": "text", "text": "a"}
    for content in ([upload, text], [text, upload]):
        assert turns({"role": "user", "content": content}) == (Message("user", "a"),)
    assert turns({"role": "user", "content": [upload]}) == (Message("user"),)
    answered = turns(called("t"), {"role": "user", "content": [result("t", "r"), upload]})
    assert answered[1:] == (Message("tool", "r", tool_call_id="t"),)


@pytest.mark.parametrize("kind", [kind for kind in HOSTED if kind != "container_upload"])
def test_what_the_vendors_servers_did_is_nothing_that_a_user_says(kind: str) -> None:
    content = [{"type": kind, **HOSTED[kind]}]
    assert refused(Unsupported, messages=[{"role": "user", "content": content}]).param == (
        "messages[0].content[0]"
    )


@pytest.mark.parametrize("kind", ["tool_result", "search_result", "compaction", "new_thing"])
def test_what_an_assistant_cannot_have_said_is_refused_at_its_place(kind: str) -> None:
    content = [{"type": "text", "text": "a"}, {"type": kind, "tool_use_id": "t"}]
    said = {"role": "assistant", "content": content}
    assert refused(Unsupported, messages=[*HELLO, said]).param == "messages[1].content[1]"


def test_a_file_in_a_container_is_no_result_and_no_system_prompt() -> None:
    upload = {"type": "container_upload", **HOSTED["container_upload"]}
    inner = {"role": "user", "content": [result("t", [upload])]}
    assert refused(Unsupported, messages=[called("t"), inner]).param == "messages[1].content[0].content[0]"
    assert refused(Unsupported, system=[upload]).param == "system[0]"


@pytest.mark.parametrize("kind", ["document", "search_result", "server_tool_use"])
def test_blocks_that_cannot_be_read_are_refused_at_their_place(kind: str) -> None:
    block = {"type": kind, "source": {"type": "base64", "media_type": "application/pdf", "data": "aa"}}
    user = {"role": "user", "content": [{"type": "text", "text": "see"}, block]}
    assert refused(Unsupported, messages=[user]).param == "messages[0].content[1]"
    inner = {"role": "user", "content": [result("t", [block])]}
    assert refused(Unsupported, messages=[called("t"), inner]).param == "messages[1].content[0].content[0]"
    assert refused(Unsupported, system=[block]).param == "system[0]"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": [{"text": "no type"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}], "messages[0].content[0]"),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}],
            "messages[0].content[0].id",
        ),
        (
            [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": [1]}]}],
            "messages[0].content[0].input",
        ),
        ([{"role": "user", "content": "x"}] * 2049, "messages"),
    ],
)
def test_messages_that_cannot_be_are_refused_by_place(messages: Any, param: str) -> None:
    assert refused(messages=messages).param == param


# Tools


def test_tools_arrive_whole() -> None:
    heard = ask(tools=[{**WEATHER, "strict": True, "cache_control": {"type": "ephemeral"}}, {"name": "now"}])
    assert heard.tools == (Tool("weather", "of a city", SCHEMA, strict=True), Tool("now"))
    assert heard.tool_choice == ToolChoice() and heard.parallel_tool_calls


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "tool", "name": "weather"}, ToolChoice("named", "weather")),
    ],
)
def test_a_choice_of_tools_is_obeyed(choice: dict[str, Any], meant: ToolChoice) -> None:
    assert ask(tools=[WEATHER], tool_choice=choice).tool_choice == meant
    heard = ask(tools=[WEATHER], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert heard.tool_choice == meant and not heard.parallel_tool_calls


def test_the_vendors_server_tools_are_left_out_and_need_not_be_called() -> None:
    for choice in ({"type": "tool", "name": "web_search"}, {"type": "any"}, None):
        heard = ask(tools=[SEARCH], tool_choice=choice)
        assert heard.tools == () and heard.tool_choice == ToolChoice()
    assert ask(tools=[SEARCH, WEATHER], tool_choice={"type": "any"}).tool_choice == ToolChoice("required")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": f"t{i}"} for i in range(1025)]}, "tools"),
        ({"tools": [WEATHER, {"name": "weather"}]}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "all"}}, "tool_choice.type"),
    ],
)
def test_tools_that_cannot_be_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


# Thinking and form


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, {"enable_thinking": True}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {"enable_thinking": True}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"output_config": {"effort": "high"}}, {"reasoning_effort": "high"}),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
            {"enable_thinking": True, "reasoning_effort": "max"},
        ),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}, {"enable_thinking": False}),
    ],
)
def test_thinking_is_a_wish_that_the_template_is_told(fields: dict[str, Any], told: dict[str, Any]) -> None:
    heard = ask(**fields)
    assert heard.template == told and heard.wishes == frozenset(told)


def test_the_form_of_the_answer_has_two_names() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        assert ask(**fields).shape == Shape("json_schema", SCHEMA)
    both = refused(output_format=form, output_config={"format": form})
    assert both.param == "output_format"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema", "schema": None}}, "output_format.schema"),
        ({"container": "c1"}, "container"),
        ({"n": 2}, "n"),
        ({"stop": ["x"]}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"grammar": "x"}, "grammar"),
        ({"store": True}, "store"),
        ({"mcp_servers": [{"url": "http://x"}]}, "mcp_servers"),
        ({"chat_template": "x"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"api_base": "http://x"}, "api_base"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """Rows 46 and 50."""
    assert refused(**fields).param == param


def test_a_conversation_that_the_server_should_remember_is_refused_in_the_librarys_own_code() -> None:
    error = refused(NoThreads, thread={"type": "create"})
    assert error.code == "thread_unsupported_request"


@pytest.mark.parametrize("name", ["model", "stream"])
def test_a_key_that_readers_differ_on_stands_once(name: str) -> None:
    """Row 43."""
    text = json.dumps({"model": "m", "stream": True, "messages": HELLO})
    value = {"model": '"m"', "stream": "false"}[name]
    with pytest.raises(BadAsk, match=f"'{name}' is given more than once"):
        read(f'{text[:-1]}, "{name}": {value}}}'.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = [
    "system",
    "messages",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "stop_sequences",
    "thread",
]


@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4))
def test_nothing_but_a_refusal_leaves_whatever_is_sent(fields: dict[str, Any]) -> None:
    try:
        ask(**fields)
    except BadAsk as error:
        assert error.message


def test_arguments_of_an_earlier_call_that_are_no_utf_8_are_refused_at_their_place() -> None:
    """They are handed on as they stand, so that no decoder of JSON looks at their text."""
    body = (
        b'{"model":"m","max_tokens":5,"messages":[{"role":"assistant","content":'
        b'[{"type":"tool_use","id":"a","name":"n","input":{"x":"\xff"}}]}]}'
    )
    with pytest.raises(BadAsk) as caught:
        read(body)
    assert caught.value.param == "messages[0].content[0].input"
