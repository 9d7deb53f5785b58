"""An ask becomes a body in the manner of each kind of engine; nothing of it is lost in silence."""

from dataclasses import fields, replace

import msgspec
import pytest

from cortex.ask import Ask, Message, Sampling, Shape, Tool, ToolChoice, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.translator import openai_chat, openai_text
from cortex.translator.openai_manners import CORTEX, LLAMACPP, MANNERS, OLLAMA, OPENAI, SGLANG, VLLM, of_owner
from cortex.translator.openai_write import BEYOND_TOKENS, write

HELLO = (Message("user", "hi"),)
WEATHER = Tool("weather", "Tells it", {"type": "object", "properties": {"city": {"type": "string"}}}, True)
NEWS = Tool("news")
SAMPLING = Sampling(
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    min_p=0.1,
    seed=7,
    presence_penalty=0.25,
    frequency_penalty=-0.5,
    repetition_penalty=1.5,
    logit_bias={5: -100.0},
)
FULL = Ask(
    model="m",
    messages=(
        Message("system", "be kind"),
        Message("user", "hi", name="ann"),
        Message(
            "assistant",
            "",
            thought="hm",
            tool_calls=(ToolUse("c1", "weather", '{"city":"Rome"}'),),
        ),
        Message("tool", "sunny", tool_call_id="c1"),
    ),
    sampling=SAMPLING,
    max_tokens=100,
    stop=("END", "STOP"),
    tools=(WEATHER, NEWS),
    tool_choice=ToolChoice("named", "weather"),
    parallel_tool_calls=False,
    shape=Shape("json_schema", {"type": "object"}),
    logprobs=2,
    stream=True,
    include_usage=True,
    template={"enable_thinking": False, "reasoning_effort": "low"},
)


def body(ask: Ask, manner=CORTEX, context: int = 0) -> dict:
    return msgspec.json.decode(write(ask, "there", manner, context))


def test_a_chat_is_carried_whole() -> None:
    assert body(FULL) == {
        "model": "there",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -100.0},
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hi", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    }
                ],
                "reasoning_content": "hm",
            },
            {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        ],
        "max_tokens": 100,
        "logprobs": True,
        "top_logprobs": 2,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "description": "Tells it",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
                    "strict": True,
                },
            },
            {"type": "function", "function": {"name": "news"}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": False},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "stop": ["END", "STOP"],
    }


# Another value of each field than FULL has; the two bodies must differ. What is not among the
# fields of a chat's body is there for another reason, which stands beside it.
OTHER = {
    "messages": HELLO,
    "sampling": Sampling(),
    "max_tokens": None,
    "stop": (),
    "tools": (WEATHER,),
    "tool_choice": ToolChoice("required"),
    "parallel_tool_calls": True,
    "shape": Shape("json_object"),
    "logprobs": None,
    "template": {},
}
ELSEWHERE = {
    "model": "its name there is given beside the ask",
    "prompt": "a plain completion's",
    "suffix": "a plain completion's, and not passed on",
    "embed": "vectors, which have a body of their own",
    "further": "a plain completion's, each of which is asked for by itself",
    "echo": "a plain completion's",
    "n": "one body asks for one answer",
    "stream": "always asked for: what the client gets is made here",
    "include_usage": "as stream",
    "wishes": "what of the template may be left unsaid",
    "sealed_thoughts": "how an answer is told, to whom it is told",
}


def test_a_wish_not_to_think_is_not_made_a_condition_and_others_are_told() -> None:
    told = {"enable_thinking": False, "reasoning_effort": "low"}
    wish = Ask("m", HELLO, template=told, wishes=frozenset(told))
    assert "chat_template_kwargs" not in body(wish) and body(wish)["reasoning_effort"] == "low"
    assert body(wish, VLLM)["chat_template_kwargs"] == {"enable_thinking": False}
    assert body(replace(wish, wishes=frozenset()))["chat_template_kwargs"] == {"enable_thinking": False}
    yes = Ask("m", HELLO, template={"enable_thinking": True}, wishes=frozenset({"enable_thinking"}))
    assert body(yes)["chat_template_kwargs"] == {"enable_thinking": True}


def test_a_wish_without_words_there_is_left_unsaid_and_a_condition_refused() -> None:
    wish = Ask("m", HELLO, template={"preserve_thinking": True, "enable_thinking": False})
    said = body(replace(wish, wishes=frozenset(wish.template)), OPENAI)
    assert said["reasoning_effort"] == "none" and "chat_template_kwargs" not in said
    with pytest.raises(Unsupported, match="preserve_thinking"):
        body(wish, OPENAI)


def test_no_field_of_an_ask_is_forgotten() -> None:
    assert {field.name for field in fields(Ask)} == OTHER.keys() | ELSEWHERE.keys()
    for name, value in OTHER.items():
        assert body(replace(FULL, **{name: value})) != body(FULL), name


@pytest.mark.parametrize("name", [field.name for field in fields(Sampling)])
@pytest.mark.parametrize("kind", MANNERS)
def test_a_sampling_field_is_sent_or_refused_by_name_in_every_manner(kind: str, name: str) -> None:
    ask = Ask("m", HELLO, sampling=Sampling(**{name: getattr(SAMPLING, name)}))
    try:
        said = body(ask, MANNERS[kind])
    except Unsupported as error:
        assert error.param == name
        assert kind in error.message
    else:
        assert len(said.keys() - body(Ask("m", HELLO), MANNERS[kind]).keys()) == 1


def test_what_nobody_said_is_not_sent() -> None:
    assert body(Ask("m", HELLO)) == {
        "model": "there",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hi"}],
    }


@pytest.mark.parametrize(("kind", "word"), [("vllm", -1), ("sglang", -1), ("llamacpp", 0), ("tabbyapi", 0)])
def test_all_tokens_is_said_as_the_engine_has_it(kind: str, word: int) -> None:
    assert body(Ask("m", HELLO, sampling=Sampling(top_k=0)), MANNERS[kind])["top_k"] == word


def test_a_neutral_extension_needs_nobody_who_knows_it() -> None:
    neutral = Sampling(top_k=0, min_p=0.0, repetition_penalty=1.0)
    assert body(Ask("m", HELLO, sampling=neutral), OPENAI) == body(Ask("m", HELLO), OPENAI)


def test_llama_servers_name_of_the_repetition_penalty_is_used() -> None:
    said = body(Ask("m", HELLO, sampling=Sampling(repetition_penalty=1.2)), LLAMACPP)
    assert said["repeat_penalty"] == 1.2 and "repetition_penalty" not in said


@pytest.mark.parametrize("manner", [LLAMACPP, OLLAMA], ids=lambda manner: manner.kind)
def test_one_of_several_tools_cannot_be_named_to_engines_that_ignore_it(manner) -> None:
    ask = replace(Ask("m", HELLO), tools=(WEATHER, NEWS), tool_choice=ToolChoice("named", "news"))
    with pytest.raises(Unsupported) as refused:
        body(ask, manner)
    assert refused.value.param == "tool_choice"


def test_the_only_tool_is_named_by_requiring_it() -> None:
    ask = Ask("m", HELLO, tools=(WEATHER,), tool_choice=ToolChoice("named", "weather"))
    assert body(ask, LLAMACPP)["tool_choice"] == "required"


def test_where_no_choice_is_obeyed_none_means_no_tools() -> None:
    ask = Ask("m", HELLO, tools=(WEATHER,), tool_choice=ToolChoice("none"))
    assert "tools" not in body(ask, OLLAMA)
    assert body(ask, VLLM)["tool_choice"] == "none"
    with pytest.raises(Unsupported):
        body(replace(ask, tool_choice=ToolChoice("required")), OLLAMA)


@pytest.mark.parametrize(
    ("manner", "template", "said"),
    [
        (VLLM, {"enable_thinking": True}, {"chat_template_kwargs": {"enable_thinking": True}}),
        (LLAMACPP, {"reasoning_effort": "high"}, {"chat_template_kwargs": {"reasoning_effort": "high"}}),
        (SGLANG, {"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (OPENAI, {"enable_thinking": False}, {"reasoning_effort": "none"}),
        (OPENAI, {"thinking": True}, {}),
        (OLLAMA, {"reasoning_effort": "low", "enable_thinking": True}, {"reasoning_effort": "low"}),
    ],
)
def test_the_template_is_told_in_the_way_that_the_engine_has(manner, template, said) -> None:
    plain = body(Ask("m", HELLO), manner)
    assert body(Ask("m", HELLO, template=template), manner) == {**plain, **said}


@pytest.mark.parametrize(
    ("template", "param"),
    [
        ({"preserve_thinking": True}, "chat_template_kwargs.preserve_thinking"),
        ({"enable_thinking": False, "reasoning_effort": "low"}, "enable_thinking"),
    ],
)
def test_what_the_template_cannot_be_told_is_refused(template, param) -> None:
    with pytest.raises(BadAsk) as refused:
        body(Ask("m", HELLO, template=template), OPENAI)
    assert refused.value.param == param


def test_ollama_has_another_name_for_thoughts() -> None:
    ask = Ask("m", (Message("assistant", "a", thought="t"),))
    assert body(ask, OLLAMA)["messages"] == [{"role": "assistant", "content": "a", "reasoning": "t"}]


@pytest.mark.parametrize(("limit", "sent"), [(99, 99), (100, None), (10**12, None)])
def test_a_limit_beyond_the_context_is_none(limit: int, sent: int | None) -> None:
    assert body(Ask("m", HELLO, max_tokens=limit), context=100).get("max_tokens") == sent
    assert body(Ask("m", HELLO, max_tokens=limit), context=0)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("limit", "context", "sent"), [(5, 0, 5), (5, 3, 3), (None, 300, 300), (None, 0, BEYOND_TOKENS)]
)
def test_a_plain_completion_always_has_a_limit(limit, context, sent) -> None:
    """Without one, engines stop after the vendor's 16 tokens."""
    assert body(Ask("m", prompt="x", max_tokens=limit), context=context)["max_tokens"] == sent


def test_a_plain_completion_is_carried_whole() -> None:
    ask = Ask("m", prompt=(1, 2), max_tokens=3, logprobs=0, stop=("a",), sampling=Sampling(seed=1))
    assert body(ask) == {
        "model": "there",
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 1,
        "prompt": [1, 2],
        "max_tokens": 3,
        "logprobs": 0,
        "stop": ["a"],
    }
    with pytest.raises(Unsupported) as refused:
        body(replace(ask, echo=True))
    assert refused.value.param == "echo"


def test_several_answers_are_not_asked_for_in_one_body() -> None:
    for several in (replace(FULL, n=2), Ask("m", prompt="a", further=("b",))):
        with pytest.raises(ValueError, match="one for each"):
            body(several)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BadAsk):
        body(Ask("m", (Message("user", "\ud800"),)))


def test_what_is_written_is_read_as_it_was() -> None:
    """The two directions agree with each other."""
    ask = replace(FULL, model="there", sampling=replace(SAMPLING, top_k=0))
    assert openai_chat.read(write(ask, "there", CORTEX)) == ask
    plain = Ask("there", prompt="x", max_tokens=3, logprobs=0, stream=True, include_usage=True)
    assert openai_text.read(write(plain, "there", CORTEX)) == plain


@pytest.mark.parametrize(
    ("owner", "kind"),
    [
        ("vllm", "vllm"),
        ("sglang", "sglang"),
        ("llamacpp", "llamacpp"),
        ("tabbyAPI", "tabbyapi"),
        ("library", "ollama"),
        ("organization-owner", "vllm"),
        ("cortex", "cortex"),
        ("openai", "openai"),
        ("somebody", "openai"),
        (None, "openai"),
    ],
)
def test_an_engine_is_told_by_what_it_calls_itself(owner: str | None, kind: str) -> None:
    assert of_owner(owner).kind == kind
    assert of_owner("somebody", otherwise=VLLM) is VLLM


def test_no_alternatives_are_asked_for_in_the_engines_own_way() -> None:
    """llama-server sends no log probabilities at all for 0 of them."""
    ask = Ask("m", messages=(Message("user", "hi"),), logprobs=0)
    for manner, least in ((CORTEX, 0), (LLAMACPP, 1)):
        said = body(ask, manner)
        assert (said["logprobs"], said["top_logprobs"]) == (True, least)
        assert body(replace(ask, messages=(), prompt="x"), manner)["logprobs"] == least
