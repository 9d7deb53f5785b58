"""A dialogue becomes its model's prompt, and no word of it is missing."""

import re
from datetime import datetime
from pathlib import Path

import pytest

from cortex.ask import Message, Tool, ToolUse
from cortex.errors import BadAsk, Unfit, Unsupported
from cortex.text.template import MAX_SOURCE_BYTES, ChatTemplate, allowed_kwargs, no_template

DEMO = (Path(__file__).parent / "golden" / "demo_chat_template.jinja").read_text()

CHATML = """
{%- macro body(text) %}{{ text if text is string else '' }}{% endmacro %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}
        {%- set ns.last = messages|length - loop.index0 - 1 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
<tools>
{%- for tool in tools %}

{{ tool | tojson }}
{%- endfor %}

</tools>
{% endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {%- if loop.previtem is undefined or loop.previtem.role != 'tool' %}{{ '<s>user' }}{% endif %}
        {{- '\\n<result>' + body(message.content) + '</result>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<e>\\n' }}{% endif %}
        {%- continue %}
    {%- endif %}
    {{- '<s>' + message.role + '\\n' }}
    {%- if message.reasoning_content is defined and loop.index0 >= ns.last %}
        {{- '<think>\\n' ~ message.reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- body(message.content).split('</think>')[-1].lstrip('\\n') }}
    {%- generation %}
    {%- for call in message.tool_calls or [] %}
        {{- '<call>' + call.function.name + ' ' + call.function.arguments | tojson + '</call>' }}
    {%- endfor %}
    {%- endgeneration %}
    {{- '<e>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<s>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

LLAMA = """
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '[system]' ~ date_string ~ '|' ~ system ~ eos_token }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '[' + message['role'] + ']' + message['content'] | trim + eos_token }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('One call at a time') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '[assistant]{"name": "%s", ' % call.name }}
        {{- '"parameters": ' ~ (call.arguments | tojson) ~ '}' ~ eos_token }}
    {%- else %}
        {{- '[ipython]' ~ message.content | tojson ~ eos_token }}
    {%- endif %}
{%- endfor %}
{%- if tools is not none %}{{ '[tools]' ~ tools | map(attribute='function.name') | join(', ') }}{% endif %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}
"""

MISTRAL = """
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- for turn in turns %}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate: user, assistant, ...') }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for turn in turns %}
    {%- if turn.role == 'user' %}
        {{- '[INST] ' }}
        {%- if system is defined and loop.last %}{{ system + '\\n\\n' }}{% endif %}
        {{- turn.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + turn.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<turn>' + role + '\\n' + message['content'] | trim + '</turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}
"""

SYSTEM, ASKED, ANSWER = (
    Message("system", "Be terse."),
    Message("user", "Hi, <b>ö</b>"),
    Message("assistant", "Yes."),
)
CALL = Message("assistant", tool_calls=(ToolUse("abcdefghi", "now", '{"zone": "Köln", "n": [1, null]}'),))
RESULT = Message("tool", "12:00", tool_call_id="abcdefghi", name="now")
NOW = Tool("now", "The time.", {"type": "object", "properties": {}})
NOW_JSON = (
    '{"type": "function", "function": {"name": "now", "description": "The time.", '
    '"parameters": {"type": "object", "properties": {}}}}'
)


def template(source: str, *, bos: str | None = "<bos>", eos: str | None = "<eos>") -> ChatTemplate:
    return ChatTemplate(source, bos=bos, eos=eos)


GOLDEN = {
    "ChatML": (
        CHATML,
        [SYSTEM, ASKED],
        [],
        {},
        "<s>system\nBe terse.<e>\n<s>user\nHi, <b>ö</b><e>\n<s>assistant\n",
    ),
    "ChatML without thoughts": (
        CHATML,
        [ASKED],
        [],
        {"enable_thinking": False},
        "<s>user\nHi, <b>ö</b><e>\n<s>assistant\n<think>\n\n</think>\n\n",
    ),
    "ChatML with a call and two results": (
        CHATML,
        [ASKED, CALL, RESULT, RESULT],
        [NOW],
        {},
        f"<tools>\n{NOW_JSON}\n</tools>\n<s>user\nHi, <b>ö</b><e>\n<s>assistant\n"
        '<call>now {"zone": "Köln", "n": [1, null]}</call><e>\n'
        "<s>user\n<result>12:00</result>\n<result>12:00</result><e>\n<s>assistant\n",
    ),
    "ChatML drops old thoughts and keeps those of the last turn": (
        CHATML,
        [
            ASKED,
            Message("assistant", "A", thought="old"),
            ASKED,
            Message("assistant", "B", thought="new"),
            RESULT,
        ],
        [],
        {},
        "<s>user\nHi, <b>ö</b><e>\n<s>assistant\nA<e>\n<s>user\nHi, <b>ö</b><e>\n"
        "<s>assistant\n<think>\nnew\n</think>\n\nB<e>\n<s>user\n<result>12:00</result><e>\n<s>assistant\n",
    ),
    "Llama": (
        LLAMA,
        [SYSTEM, ASKED, CALL, RESULT],
        [NOW],
        {},
        "<bos>[system]TODAY|Be terse.<eos>[user]Hi, <b>ö</b><eos>"
        '[assistant]{"name": "now", "parameters": {"zone": "Köln", "n": [1, null]}}<eos>'
        '[ipython]"12:00"<eos>[tools]now[assistant]',
    ),
    "Mistral": (
        MISTRAL,
        [SYSTEM, ASKED, ANSWER, ASKED],
        [],
        {},
        "<bos>[INST] Hi, <b>ö</b>[/INST] Yes.<eos>[INST] Be terse.\n\nHi, <b>ö</b>[/INST]",
    ),
    "Gemma": (
        GEMMA,
        [ASKED, ANSWER, ASKED],
        [],
        {},
        "<bos><turn>user\nHi, <b>ö</b></turn>\n<turn>model\nYes.</turn>\n"
        "<turn>user\nHi, <b>ö</b></turn>\n<turn>model\n",
    ),
    "the demo model": (
        DEMO,
        [SYSTEM, ASKED, CALL, RESULT],
        [],
        {"enable_thinking": False},
        "<|im_start|>system\nBe terse.<|im_end|>\n<|im_start|>user\nHi, <b>ö</b><|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "now", "arguments": '
        '{"zone": "Köln", "n": [1, null]}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n12:00\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
}


@pytest.mark.parametrize(
    ("source", "messages", "tools", "kwargs", "prompt"), GOLDEN.values(), ids=GOLDEN.keys()
)
def test_templates_of_the_known_families_write_their_prompt(source, messages, tools, kwargs, prompt):
    written = template(source).render(messages, tools, kwargs)
    assert re.sub(r"\[system\]\d\d \w+ \d{4}", "[system]TODAY", written) == prompt


def test_the_demo_template_lists_its_tools():
    prompt = template(DEMO).render([SYSTEM, ASKED], [NOW, NOW], {})
    assert prompt.startswith("<|im_start|>system\nBe terse.\n\n# Tools")
    assert f"<tools>\n{NOW_JSON}\n{NOW_JSON}\n</tools>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")


def test_an_absent_token_prints_as_nothing():
    assert template(GEMMA, bos=None).render([ASKED], [], {}).startswith("<turn>user")


def test_there_are_no_documents_as_in_the_conventions():
    reads = template("{{ messages[0].content }}{{ documents is defined and documents is none }}")
    assert reads.render([ASKED], [], {}).endswith("True")


def test_a_template_can_ask_for_the_date():
    prompt = template(LLAMA).render([ASKED], [], {})
    date = re.search(r"\[system\](\d\d \w+ \d{4})\|", prompt)
    assert date and abs((datetime.now() - datetime.strptime(date[1], "%d %b %Y")).days) <= 1


def test_keys_are_there_only_where_there_is_something_to_say():
    keys = template(
        "{% for m in messages %}{{ m | list | join(',') }};{{ m.content }};{% endfor %}{{ tools is none }}"
    )
    thought = Message("assistant", "a", thought="t")
    assert keys.render([ASKED, thought, CALL, RESULT], [], {}) == (
        "role,content;Hi, <b>ö</b>;thinking,role,content,reasoning_content;a;role,content,tool_calls;;"
        "role,content,tool_call_id,name;12:00;True"
    )


@pytest.mark.parametrize(
    ("arguments", "kind"), [('{"a": 1}', "object"), ("[1]", "text"), ("{oops", "text"), ("", "text")]
)
def test_arguments_are_an_object_where_their_text_holds_one(arguments: str, kind: str):
    kinds = template(
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.id }} {{ c.type }} "
        "{{ 'text' if c.function.arguments is string else 'object' }}{% endfor %}{% endfor %}"
    )
    call = Message("assistant", tool_calls=(ToolUse("id-1", "f", arguments),))
    assert kinds.render([call, RESULT], [], {}) == f"id-1 function {kind}12:00"


# -- styles


def test_content_becomes_parts_for_a_template_that_reads_parts():
    parts = template(
        "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}[{{ p.text }}]{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    assert parts.render([SYSTEM, ASKED], [], {}) == "[Be terse.][Hi, <b>ö</b>]"


@pytest.mark.parametrize("write", ["'<' + c.function.arguments + '>'", "c.function.arguments"])
def test_arguments_stay_text_for_a_template_that_would_fail_on_objects_or_misspell_them(write: str):
    textual = template(
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}{{ "
        + write
        + " }}{% endfor %}{% endfor %}"
    )
    assert CALL.tool_calls[0].arguments in textual.render([ASKED, CALL, RESULT], [], {})


def test_a_template_that_leaves_out_what_the_user_says_is_unfit():
    with pytest.raises(Unfit, match="leaves out what the user says"):
        template("{{ bos_token }}Answer:")


# -- prefill


@pytest.mark.parametrize("source", [CHATML, LLAMA, MISTRAL, GEMMA, DEMO])
@pytest.mark.parametrize("words", ["Sure, ", "  two\n\n", "<e>", "", "Hi, <b>ö</b>"])
def test_a_trailing_assistant_turn_is_continued_at_its_last_character(source: str, words: str):
    before = template(source).render([ASKED, Message("assistant", "|")], [], {})
    prompt = template(source).render([ASKED, Message("assistant", words)], [], {})
    assert before.endswith("|")
    opening = before[:-1]
    assert prompt == opening + (words if source in (CHATML, DEMO) else words.lstrip())
    assert ASKED.text in opening


def test_a_prefill_with_a_thought_keeps_it():
    prompt = template(CHATML).render([ASKED, Message("assistant", "So", thought="hm")], [], {})
    assert prompt.endswith("<s>assistant\n<think>\nhm\n</think>\n\nSo")


def test_a_template_without_a_place_for_a_prefill_says_so():
    users = template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(BadAsk, match="cannot continue an assistant turn") as caught:
        users.render([ASKED, ANSWER], [], {})
    assert caught.value.param == "messages"


def test_a_dialogue_cannot_end_with_open_calls():
    with pytest.raises(BadAsk, match="result of each"):
        template(CHATML).render([ASKED, CALL], [NOW], {})


def test_continue_final_needs_an_assistant_turn():
    assert template(CHATML).render([ASKED, ANSWER], [], {}, continue_final=True).endswith("Yes.")
    with pytest.raises(BadAsk, match="no assistant turn to continue"):
        template(CHATML).render([ASKED], [], {}, continue_final=True)


# -- system turns and neighbours

LATE = [SYSTEM, ASKED, ANSWER, Message("system", "And kind."), Message("user", "More.")]


def test_a_template_that_takes_system_turns_anywhere_gets_them_where_they_are():
    prompt = template(CHATML).render(LATE, [], {})
    assert (
        prompt.index("Be terse.") < prompt.index("Yes.") < prompt.index("And kind.") < prompt.index("More.")
    )


def test_system_turns_are_joined_in_front_when_the_template_raises():
    assert template(MISTRAL).render(LATE, [], {}) == (
        "<bos>[INST] Hi, <b>ö</b>[/INST] Yes.<eos>[INST] Be terse.\n\nAnd kind.\n\nMore.[/INST]"
    )


def test_system_turns_are_joined_in_front_when_the_template_drops_one():
    leading = template(
        "{% if messages[0].role == 'system' %}[{{ messages[0].content }}]{% endif %}"
        "{% for m in messages if m.role != 'system' %}{{ m.content }};{% endfor %}"
    )
    assert leading.render(LATE, [], {}) == "[Be terse.\n\nAnd kind.]Hi, <b>ö</b>;Yes.;More.;"
    assert leading.render([ASKED, SYSTEM], [], {}) == "[Be terse.]Hi, <b>ö</b>;"


def test_a_template_may_rewrite_its_system_turn():
    shouting = template(
        "{% for m in messages %}{{ m.content | upper if m.role == 'system' else m.content }};{% endfor %}"
    )
    assert shouting.render([SYSTEM, ASKED], [], {}) == "BE TERSE.;Hi, <b>ö</b>;"


def test_neighbours_of_one_role_are_joined_when_the_template_wants_them_to_alternate():
    turns = [ASKED, Message("user", "There?"), ANSWER, Message("assistant", "So."), Message("user", "More.")]
    assert template(MISTRAL).render(turns, [], {}) == (
        "<bos>[INST] Hi, <b>ö</b>\n\nThere?[/INST] Yes.\n\nSo.<eos>[INST] More.[/INST]"
    )
    assert "[user]Hi, <b>ö</b><eos>[user]There?<eos>" in template(LLAMA).render(turns, [], {})


def test_joining_keeps_a_prefill_a_prefill():
    turns = [ASKED, ASKED, ANSWER, Message("assistant", "So, ")]
    assert template(MISTRAL).render(turns, [], {}).endswith("[/INST] Yes.\n\nSo, ")


def test_the_template_s_own_words_reach_the_caller():
    with pytest.raises(BadAsk, match="System role not supported") as caught:
        template(GEMMA).render([SYSTEM, ASKED], [], {})
    assert caught.value.param == "messages"


def test_what_a_template_stumbles_over_is_told():
    typed = template(
        "{% for m in messages %}{{ m.content + (m.tool_call_id.upper() if m.name else '') }}{% endfor %}"
    )
    with pytest.raises(BadAsk, match=r"fails on these messages: .*tool_call_id") as caught:
        typed.render([Message("user", "a", name="b")], [], {})
    assert caught.value.param == "messages"


def test_no_messages_are_refused():
    with pytest.raises(BadAsk, match="no messages"):
        template(CHATML).render([], [], {})


def test_tools_are_refused_where_the_template_has_no_place_for_them():
    with pytest.raises(Unsupported, match="no place for tools") as caught:
        template(GEMMA).render([ASKED], [NOW], {})
    assert caught.value.param == "tools"


# -- arguments


def test_allowed_arguments_pass_and_null_is_absent():
    given = {"enable_thinking": True, "reasoning_effort": "low", "thinking_budget": 3, "thinking": None}
    assert allowed_kwargs(given) == {"enable_thinking": True, "reasoning_effort": "low", "thinking_budget": 3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "x"),
        ("messages", []),
        ("tools", None),
        ("add_generation_prompt", False),
        ("bos_token", "x"),
        ("enable_thinking", "yes"),
        ("enable_thinking", 1),
        ("thinking_budget", True),
        ("reasoning_effort", ["low"]),
        ("reasoning_effort", {"a": 1}),
    ],
)
def test_other_arguments_are_refused_by_name(name: str, value: object):
    """Fault row 50: template arguments by allow-list, with scalar values only."""
    for refuse in (allowed_kwargs, lambda given: template(CHATML).render([ASKED], [], given)):
        with pytest.raises(BadAsk, match=name) as caught:
            refuse({name: value})
        assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_template_tells_which_arguments_it_reads():
    assert "enable_thinking" in template(CHATML).variables
    assert "enable_thinking" not in template(LLAMA).variables


# -- templates that are none


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for m in", "cannot be compiled"),
        ("{{ 'x' | no_such_filter }}", "no_such_filter"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "nested"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "cannot be compiled"),
        (" \n", "empty"),
        ("é" * (MAX_SOURCE_BYTES // 2 + 1), f"at most {MAX_SOURCE_BYTES}"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_unfit(source: str, words: str):
    """Fault row 82: the size is capped, and failure means that the model is not servable."""
    with pytest.raises(Unfit, match=words):
        template(source)


def test_a_template_of_the_greatest_size_is_accepted():
    source = "{{ messages[0].content }}"
    rest = "x" * (MAX_SOURCE_BYTES - len(source))
    assert template(source + rest).render([ASKED], [], {}) == f"{ASKED.text}{rest}"


def test_a_model_without_a_template_is_told_the_way_out():
    error = no_template("org/base")
    assert error.message.startswith("org/base ships no chat template")
    assert "/v1/completions" in error.message
