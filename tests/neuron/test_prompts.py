"""What the engine is handed for an ask, and how its words are read."""

from dataclasses import replace

import pytest

from cortex.ask import Ask, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.errors import BadAsk, Unfit, Unsupported
from cortex.events import Stopped, Text, Thought, Tokens, ToolCall
from cortex.harness.base import Preflight
from cortex.neuron.prompts import Templates, Voice, check, foresee, prepare
from cortex.text.template import ChatTemplate
from cortex.translator.free_tools import PARAMETERS

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% for tool in tools or () %}[{{ tool.function.name }}]{% endfor %}<assistant>"
)
CALLS = PLAIN + "{# calls stand in <tool_call> tags #}"
THINKS = CALLS + "{{ '<think>\n' }}"
BEGINS = "<s>" + PLAIN
SWITCH = PLAIN + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
OTHER_SWITCH = PLAIN + "{% if thinking %}<think>{% endif %}"
EFFORT = PLAIN + "{{ reasoning_effort }}{{ preserve_thinking }}"
HELLO = (Message("user", "hello"),)
FIND = Tool("find", "finds", {"type": "object", "properties": {"what": {"type": "string"}}})
LOSE = Tool("lose")
OBJECT = Shape("json_object")


def voice(template: str | None = PLAIN, bos: str | None = None, **facts: object) -> Voice:
    header = Preflight(1, 1, 1, 1024, 1024, "x", template, bos, **facts)
    made = None if template is None else ChatTemplate(template, bos=bos, eos=None)
    return Voice(Templates(made), header, Sampling(temperature=0.5))


def said(ask: Ask, text: str, template: str = PLAIN) -> list[object]:
    """What comes out when the engine says `text`."""
    (projection,) = prepare(ask, voice(template), "-").readers
    return [*projection.feed(Tokens(text.encode(), 1)), *projection.feed(Stopped("stop"))]


@pytest.mark.parametrize(
    ("bos", "adds", "prompt"),
    [
        ("<s>", True, "<user>hello<assistant>"),
        ("<s>", False, "<s><user>hello<assistant>"),
        (None, False, "<s><user>hello<assistant>"),
    ],
)
def test_a_begin_token_that_the_engine_adds_is_not_sent_twice(
    bos: str | None, adds: bool, prompt: str
) -> None:
    errand = prepare(Ask("m", HELLO), voice(BEGINS, bos, adds_bos=adds), "-")
    assert errand.jobs[0].prompt == prompt


def test_a_plain_prompt_is_sent_as_it_stands_even_where_it_begins_with_the_begin_token() -> None:
    for prompt in ("<s>once", (1, 2)):
        ask = Ask("m", prompt=prompt)
        assert prepare(ask, voice(BEGINS, "<s>", adds_bos=True), "-").jobs[0].prompt == prompt


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "find")])
def test_a_forced_call_is_begun_and_read_as_a_call(choice: ToolChoice) -> None:
    ask = Ask("m", HELLO, tools=(FIND, LOSE), tool_choice=choice)
    (job,) = prepare(ask, voice(CALLS), "-").jobs
    assert job.prompt == "<user>hello[find][lose]<assistant><tool_call>\n"
    assert job.shape is not None
    names = [call["properties"]["name"] for call in job.shape.schema.get("anyOf", [job.shape.schema])]
    assert names == [{"const": "find"}, {"const": "lose"}][: 2 if choice.mode == "required" else 1]
    call, stop = said(ask, '{"name": "find", "arguments": {"what": "x"}}', CALLS)
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("find", '{"what": "x"}')
    assert stop.reason == "tool_calls"


@pytest.mark.parametrize(
    ("form", "opening", "answer"),
    [
        ("<function=x><parameter=y>", "<tool_call>\n", '{"name": "find", "arguments": {"what": "x"}}'),
        ('{"name": "f", "parameters": {}}', "", '{"name": "find", "parameters": {"what": "x"}}'),
        ("[TOOL_CALLS]", "[TOOL_CALLS]", '[{"name": "find", "arguments": {"what": "x"}}]'),
        ("[TOOL_CALLS][ARGS]", "[TOOL_CALLS]find[ARGS]", '{"what": "x"}'),
    ],
)
def test_a_call_is_forced_in_the_form_of_the_template(form: str, opening: str, answer: str) -> None:
    source = PLAIN + "{# " + form + " #}"
    ask = Ask("m", HELLO, tools=(FIND, LOSE), tool_choice=ToolChoice("named", "find"), n=2)
    errand = prepare(ask, voice(source), "-")
    for job, projection in zip(errand.jobs, errand.readers, strict=True):
        assert str(job.prompt) == "<user>hello[find][lose]<assistant>" + opening
        call, stop = [*projection.feed(Tokens(answer.encode(), 1)), *projection.feed(Stopped("stop"))]
        assert isinstance(call, ToolCall)
        assert (call.name, call.arguments, stop.reason) == ("find", '{"what": "x"}', "tool_calls")


def test_the_engine_is_asked_for_the_text_of_the_markers() -> None:
    """Models have made single tokens of them, which have no text in an answer by themselves."""
    for source, markers in (
        (PLAIN, ("<think>", "</think>")),
        (CALLS, ("<think>", "</think>", "<tool_call>", "</tool_call>")),
        (PLAIN + "{# [THINK][TOOL_CALLS] #}", ("[THINK]", "[/THINK]", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")),
    ):
        assert prepare(Ask("m", HELLO), voice(source), "-").jobs[0].visible == markers
    assert prepare(Ask("m", prompt="once"), voice(CALLS), "-").jobs[0].visible == ()


def test_thoughts_are_told_by_the_markers_of_the_template() -> None:
    source = PLAIN + "{{ '[THINK]' }}"
    events = said(Ask("m", HELLO), "hm[/THINK]<think>yes", source)
    assert [(type(event), event.text) for event in events[:-1]] == [(Thought, "hm"), (Text, "<think>yes")]
    (job,) = prepare(Ask("m", HELLO, shape=OBJECT), voice(source), "-").jobs
    assert str(job.prompt).endswith("[THINK]\n[/THINK]\n\n")


def test_only_one_call_is_made_where_calls_are_not_to_be_parallel() -> None:
    both = '{"name": "find", "parameters": {}};{"name": "lose", "parameters": {}}'
    source = PLAIN + '{# {"name": "f", "parameters": {}} #}'
    for parallel in (True, False):
        ask = Ask("m", HELLO, tools=(FIND, LOSE), parallel_tool_calls=parallel)
        events = said(ask, both, source)
        assert [event.name for event in events if isinstance(event, ToolCall)] == ["find", "lose"][
            : 1 + parallel
        ]
        assert events[-1].reason == "tool_calls"


def test_tools_are_shown_by_the_template_that_is_there_for_them() -> None:
    made = voice(PLAIN)
    named = ChatTemplate("with tools: " + CALLS, bos=None, eos=None)
    spoken = replace(made, templates=replace(made.templates, tool_use=named))
    asks = {
        "plain": (Ask("m", HELLO), Ask("m", HELLO, tools=(FIND,), tool_choice=ToolChoice("none"))),
        "tools": (Ask("m", HELLO, tools=(FIND,)),),
    }
    for kind, same in asks.items():
        for ask in same:
            prompt = str(prepare(ask, spoken, "-").jobs[0].prompt)
            assert prompt.startswith("with tools: ") is (kind == "tools")
    assert spoken.templates.reads == {"messages", "tools"}
    alone = replace(made, templates=Templates(None, named))
    with pytest.raises(Unfit):
        prepare(asks["plain"][0], alone, "-")


@pytest.mark.parametrize(
    ("source", "ask", "param"),
    [
        (PLAIN, Ask("m", HELLO, tools=(FIND,), tool_choice=ToolChoice("required")), "tool_choice"),
        ("{{ messages[0].content }}", Ask("m", HELLO, tools=(FIND,)), "tools"),
        (THINKS, Ask("m", HELLO, template={"enable_thinking": False}), "enable_thinking"),
        (
            PLAIN,
            Ask("m", HELLO, template={"preserve_thinking": True}),
            "chat_template_kwargs.preserve_thinking",
        ),
    ],
)
def test_what_a_template_cannot_do_is_known_before_anything_is_rendered(
    source: str, ask: Ask, param: str
) -> None:
    templates = voice(source).templates
    with pytest.raises(Unsupported) as refused:
        foresee(ask, templates)
    assert refused.value.param == param
    foresee(replace(ask, tools=(), tool_choice=ToolChoice(), template={}), templates)
    foresee(replace(ask, messages=(), prompt="once"), templates)


def test_a_form_of_call_that_the_model_does_not_know_is_not_forced_on_it() -> None:
    ask = Ask("m", HELLO, tools=(FIND,), tool_choice=ToolChoice("required"))
    with pytest.raises(Unsupported) as refused:
        prepare(ask, voice(PLAIN), "-")
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize(
    "ask",
    [
        Ask("m", HELLO, shape=OBJECT),
        Ask("m", HELLO, tools=(FIND,), tool_choice=ToolChoice("required")),
    ],
    ids=["shape", "call"],
)
def test_a_thought_that_the_template_opened_is_closed_before_a_forced_form(ask: Ask) -> None:
    """Else the grammar's text would be read as a thought, and the answer be empty."""
    (job,) = prepare(ask, voice(THINKS), "-").jobs
    assert "<assistant><think>\n\n</think>\n\n" in job.prompt
    answer = '{"name": "find", "arguments": {}}'
    kinds = [type(event) for event in said(ask, answer, THINKS)]
    assert kinds == [ToolCall if ask.tools else Text, Stopped]


def test_a_thought_that_the_template_opened_is_one_where_nothing_is_forced() -> None:
    events = said(Ask("m", HELLO), "hm\n</think>\n\nyes", THINKS)
    assert [type(event) for event in events] == [Thought, Text, Stopped]


def test_the_callers_own_open_thought_goes_on() -> None:
    ask = Ask("m", (*HELLO, Message("assistant", "<think>\nso ")))
    (job,) = prepare(ask, voice(), "-").jobs
    assert job.prompt == "<user>hello<assistant><think>\nso "
    assert [type(event) for event in said(ask, "hm</think>yes")] == [Thought, Text, Stopped]


def test_a_call_where_no_tools_are_to_be_called_is_text() -> None:
    call = '<tool_call>\n{"name": "find", "arguments": {}}\n</tool_call>'
    for ask in (Ask("m", HELLO), Ask("m", HELLO, tools=(FIND,), tool_choice=ToolChoice("none"))):
        assert [type(event) for event in said(ask, call, CALLS)] == [Text, Stopped]
    free = Ask("m", HELLO, tools=(FIND,))
    assert [type(event) for event in said(free, call, CALLS)] == [ToolCall, Stopped]
    # The form is the template's word, not a guess from the answer.
    assert [type(event) for event in said(free, call, PLAIN)] == [Text, Stopped]


def test_a_plain_completion_has_neither_thoughts_nor_calls() -> None:
    ask = Ask("m", prompt="once")
    events = said(ask, "<think>a</think><tool_call>{}")
    assert events[0] == Text("<think>a</think><tool_call>{}")


@pytest.mark.parametrize(
    ("ask", "voiced", "seeds"),
    [
        (Ask("m", HELLO, n=3), Sampling(), [None, None, None]),
        (Ask("m", HELLO, n=3, sampling=Sampling(seed=7)), Sampling(), [7, 8, 9]),
        (Ask("m", HELLO, n=2, sampling=Sampling(seed=2**32 - 1)), Sampling(), [2**32 - 1, 0]),
        (Ask("m", HELLO), Sampling(seed=3), [3]),
    ],
)
def test_each_choice_has_a_seed_that_follows_from_the_requests(
    ask: Ask, voiced: Sampling, seeds: list[int | None]
) -> None:
    jobs = prepare(ask, replace(voice(), defaults=voiced), "r-1").jobs
    assert [job.sampling.seed for job in jobs] == seeds
    assert {job.request_id for job in jobs} == {"r-1"}
    assert [job.id for job in jobs] == list(range(ask.n))


def test_every_sampling_field_that_an_engine_needs_is_a_number() -> None:
    sampling = prepare(Ask("m", HELLO), replace(voice(), defaults=Sampling()), "-").jobs[0].sampling
    unsaid = {name for name in Sampling.__slots__ if getattr(sampling, name) is None}
    assert unsaid == {"seed", "logit_bias"}
    assert sampling.temperature == 0.7


CLOSED = Shape("json_schema", {"type": "object", "properties": {"a": {}}, "additionalProperties": False})
LLAMA = PLAIN + "{# calls are <|python_tag|> objects #}"
MISTRAL = PLAIN + "{# [TOOL_CALLS] #}"


@pytest.mark.parametrize(
    ("template", "said", "calls", "text"),
    [
        (CALLS, '<tool_call>\n{"name": "find", "arguments": {"what": "x"}}\n</tool_call>', 1, ""),
        (CALLS, '{"a": "<tool_call>\\n{}"}', 0, '{"a": "<tool_call>\\n{}"}'),
        (CALLS, '{"a": "\n<tool_call>\n{"name": "find"}"}', 0, '{"a": "\n<tool_call>\n{"name": "find"}"}'),
        (
            MISTRAL,
            '[TOOL_CALLS][{"name": "find", "arguments": {}}, {"name": "lose", "arguments": {}}]',
            2,
            "",
        ),
        (MISTRAL, '{"a": "[TOOL_CALLS][{}]"}', 0, '{"a": "[TOOL_CALLS][{}]"}'),
        (LLAMA, '{"name": "find", "parameters": {"what": "x"}}', 1, ""),
        (LLAMA, '{"a": "<|python_tag|>{"name": "find"}"}', 0, '{"a": "<|python_tag|>{"name": "find"}"}'),
    ],
)
def test_with_a_form_and_tools_the_model_answers_in_the_form_or_calls(
    template: str, said: str, calls: int, text: str
) -> None:
    """Letter by letter, as whole: what an answer's strings say of markers is no call."""
    ask = Ask("m", HELLO, tools=(FIND, LOSE), shape=CLOSED)
    for pieces in ([said], list(said)):
        errand = prepare(ask, voice(template), "-")
        shape = errand.jobs[0].shape
        assert shape is not None
        assert shape.schema == CLOSED.schema
        assert len(shape.calls) == 1
        (read,) = errand.readers
        heard = [event for piece in pieces for event in read.feed(Tokens(piece.encode(), 1))]
        heard += read.feed(Stopped("stop"))
        assert sum(isinstance(event, ToolCall) for event in heard) == calls
        assert "".join(event.text for event in heard if isinstance(event, Text)) == text
        (end,) = (event for event in heard if isinstance(event, Stopped))
        assert end.reason == ("tool_calls" if calls else "stop")


@pytest.mark.parametrize(("choice", "calls"), [("none", 0), ("required", 0), ("auto", 1)])
def test_a_form_stands_alone_where_no_call_may_come_and_behind_a_call_that_must(
    choice: str, calls: int
) -> None:
    ask = Ask("m", HELLO, tools=(FIND,), shape=CLOSED, tool_choice=ToolChoice(choice))
    shape = prepare(ask, voice(CALLS), "-").jobs[0].shape
    assert shape is not None
    assert len(shape.calls) == calls
    assert (shape.schema == CLOSED.schema) is (choice != "required")


def test_a_call_beside_a_form_is_held_to_its_schema_where_the_tool_is_strict() -> None:
    """Compilers know a part of JSON schema; tools that nobody wants held need not be of it."""
    patch = Tool("patch", parameters=PARAMETERS, free_form=True)  # whose client reads its one text
    held = {"type": "object"}, FIND.parameters, PARAMETERS
    for tool, schema in zip((FIND, replace(FIND, strict=True), patch), held, strict=True):
        shape = prepare(Ask("m", HELLO, tools=(tool,), shape=OBJECT), voice(CALLS), "-").jobs[0].shape
        assert shape is not None
        assert shape.calls[0].schema["properties"]["arguments"] == schema


@pytest.mark.parametrize(
    ("template", "shape"),
    [
        (PLAIN, CLOSED),  # a template whose calls nobody can read
        (LLAMA, OBJECT),
        (LLAMA, Shape("json_schema", {"type": "object"})),
        (LLAMA, Shape("json_schema", {"additionalProperties": False})),
        (LLAMA, Shape("json_schema", {**(CLOSED.schema or {}), "properties": {"name": {}}})),
        (LLAMA, Shape("json_schema", {**(CLOSED.schema or {}), "allOf": [{}]})),
    ],
)
def test_a_form_that_calls_could_not_be_told_from_is_refused_by_the_caller_s_name_for_it(
    template: str, shape: Shape
) -> None:
    ask = Ask("m", HELLO, tools=(FIND,), shape=replace(shape, param="text.format"))
    with pytest.raises(Unsupported, match=r"'text\.format' together with tools") as caught:
        foresee(ask, voice(template).templates)
    assert caught.value.param == "text.format"
    foresee(replace(ask, tool_choice=ToolChoice("none")), voice(template).templates)
    foresee(replace(ask, shape=None), voice(template).templates)


def test_a_thought_that_the_template_opened_is_closed_before_a_form_and_tools() -> None:
    errand = prepare(Ask("m", HELLO, tools=(FIND,), shape=CLOSED), voice(THINKS), "-")
    assert str(errand.jobs[0].prompt).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "said", "end"),
    [
        (SWITCH, {"enable_thinking": False}, "<think></think>"),
        (SWITCH, {"thinking": False}, "<think></think>"),
        (SWITCH, {"enable_thinking": True}, "<assistant>"),
        (SWITCH, {"enable_thinking": False, "thinking": False}, "<think></think>"),
        (OTHER_SWITCH, {"enable_thinking": True}, "<think>"),
        (OTHER_SWITCH, {"enable_thinking": False}, "<assistant>"),
        # A model that never thinks obeys; one that thinks by itself does what `true` allows it.
        (PLAIN, {"enable_thinking": False}, "<assistant>"),
        (PLAIN, {"thinking": False}, "<assistant>"),
        (PLAIN, {"enable_thinking": True}, "<assistant>"),
        (THINKS, {"enable_thinking": True}, "<think>\n"),
        (EFFORT, {"reasoning_effort": "low"}, "low"),
        (EFFORT, {"preserve_thinking": True}, "True"),
        # Clients send the hint to every model.
        (PLAIN, {"reasoning_effort": "low"}, "<assistant>"),
    ],
)
def test_thinking_is_told_to_the_template_by_the_name_that_it_reads(
    template: str, said: dict[str, str | bool], end: str
) -> None:
    (job,) = prepare(Ask("m", HELLO, template=said), voice(template), "-").jobs
    assert str(job.prompt).endswith(end)


@pytest.mark.parametrize(
    ("template", "said", "param"),
    [
        (THINKS, {"enable_thinking": False}, "enable_thinking"),
        (THINKS, {"thinking": False}, "thinking"),
        (PLAIN + "{{ 'x</think>'.split('</think>')[0] }}", {"enable_thinking": False}, "enable_thinking"),
        (PLAIN, {"preserve_thinking": True}, "chat_template_kwargs.preserve_thinking"),
        (SWITCH, {"clear_thinking": False}, "chat_template_kwargs.clear_thinking"),
    ],
)
def test_a_switch_that_the_template_does_not_have_is_refused_by_name(
    template: str, said: dict[str, bool], param: str
) -> None:
    with pytest.raises(Unsupported) as refused:
        prepare(Ask("m", HELLO, template=said), voice(template), "-")
    assert refused.value.param == param
    assert f"'{param}'" in refused.value.message


@pytest.mark.parametrize(
    ("template", "told", "prompt"),
    [
        (SWITCH, {"enable_thinking": False}, "<think></think>"),
        (THINKS, {"enable_thinking": False}, "<think>\n"),
        (PLAIN, {"preserve_thinking": True}, "<assistant>"),
    ],
)
def test_a_wish_is_told_where_the_template_reads_it_and_refuses_nothing(
    template: str, told: dict[str, bool], prompt: str
) -> None:
    ask = Ask("m", HELLO, template=told, wishes=frozenset(told))
    assert str(prepare(ask, voice(template), "-").jobs[0].prompt).endswith(prompt)


def test_the_two_names_of_the_switch_must_agree() -> None:
    ask = Ask("m", HELLO, template={"enable_thinking": True, "thinking": False})
    with pytest.raises(BadAsk, match="contradict"):
        prepare(ask, voice(SWITCH), "-")


def test_a_thought_of_limited_length_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(Unsupported) as refused:
        check(Ask("m", HELLO, template={"thinking_budget": 5}))
    assert refused.value.param == "chat_template_kwargs.thinking_budget"


def test_what_cannot_be_rendered_is_refused() -> None:
    with pytest.raises(Unfit, match="/v1/completions"):
        prepare(Ask("m", HELLO), voice(None), "-")
    unanswered = Message("assistant", tool_calls=(ToolUse("1", "find", "{}"),))
    with pytest.raises(BadAsk, match="tool"):
        prepare(Ask("m", (*HELLO, unanswered)), voice(), "-")
