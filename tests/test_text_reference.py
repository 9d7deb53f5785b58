"""Templates of the families most in use render byte for byte as the reference renders them.

The templates in tests/golden/templates have the constructs of those families in words of
our own. The reference is `transformers`, which needs no torch for this.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from jinja2.exceptions import TemplateError

from cortex.ask import Ask, Message, Tool, ToolUse
from cortex.errors import BadAsk, Unsupported
from cortex.events import ToolCall
from cortex.neuron.prompts import Templates
from cortex.text.template import ChatTemplate
from cortex.text.toolcalls import reader

FOLDER = Path(__file__).parent / "golden" / "templates"
FAMILIES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
# What a family's template calls for beyond the conventions.
ARGUMENTS_AS_TEXT = {"deepseek_r1"}
CONTENT_AS_PARTS = {"vision"}

Reference: TypeAlias = Callable[..., str]

SYSTEM, ASKED = Message("system", "Be terse."), Message("user", "  Wie ist's in <Köln>?\n")
ANSWER = Message("assistant", "Fine. ☀", thought="Let me see.\n\nYes.")
MORE = Message("user", "And in Rome?")
CALL = Message(
    "assistant",
    tool_calls=(
        ToolUse("abcdefghi", "weather", '{"city": "Köln", "days": 2, "deep": {"a": [1, null, true, 0.5]}}'),
    ),
    thought="I need a tool.",
)
TALKING = Message("assistant", "One moment.", tool_calls=(ToolUse("abcdefghj", "now", "{}"),))
BOTH = Message("assistant", tool_calls=(*CALL.tool_calls, *TALKING.tool_calls))
RESULT = Message("tool", '{"sky": "<blue>"}', tool_call_id="abcdefghi", name="weather")
TIME = Message("tool", "12:00", tool_call_id="abcdefghj", name="now")
WEATHER = Tool(
    "weather",
    'The weather, in "words" <b>',
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where, e.g. Köln"},
            "days": {"type": ["integer", "null"], "default": 1},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "deep": {"type": "object"},
            "tags": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
        },
        "required": ["city"],
    },
)
NOW = Tool("now", "The time.", {"type": "object", "properties": {}})

DIALOGUES: dict[str, tuple[list[Message], list[Tool], dict[str, Any]]] = {
    "one question": ([ASKED], [], {}),
    "a system turn": ([SYSTEM, ASKED], [], {}),
    "several turns": ([SYSTEM, ASKED, ANSWER, MORE], [], {}),
    "tools": ([SYSTEM, ASKED], [WEATHER, NOW], {}),
    "tools without a system turn": ([ASKED], [NOW], {}),
    "a call and its result": ([SYSTEM, ASKED, CALL, RESULT], [WEATHER], {}),
    "two calls at once": ([ASKED, BOTH, RESULT, TIME], [WEATHER, NOW], {}),
    "calls one after another": ([ASKED, CALL, RESULT, TALKING, TIME], [WEATHER, NOW], {}),
    "an answer after a call, and on": ([SYSTEM, ASKED, CALL, RESULT, ANSWER, MORE], [WEATHER], {}),
    "thoughts off": ([ASKED], [], {"enable_thinking": False}),
    "thoughts on": ([SYSTEM, ASKED, ANSWER, MORE], [], {"enable_thinking": True}),
    "an effort": ([ASKED], [], {"reasoning_effort": "low"}),
    "a mode by words": ([Message("system", "Be kind. /no_think"), ASKED], [], {}),
    "a thought inside of the content": (
        [ASKED, Message("assistant", "<think>\nhm\n</think>\n\nYes."), MORE],
        [],
        {},
    ),
    "an answer to go on with": ([ASKED, Message("assistant", "It is")], [], {}),
    "a thought and an answer to go on with": (
        [SYSTEM, ASKED, Message("assistant", "It", thought="a")],
        [],
        {},
    ),
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Renders as the reference does; TemplateError where its template refuses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses torch, which it needs not
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>", eos_token="<eos>")

    def render(source: str | dict[str, str], turns: list[Any], tools: list[Any], **kwargs: Any) -> str:
        tokenizer.chat_template = source
        goes_on = turns[-1]["role"] == "assistant"
        return tokenizer.apply_chat_template(
            turns,
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            **kwargs,
        )

    return render


def source_of(family: str) -> str:
    return (FOLDER / f"{family}.jinja").read_text()


def turns_of(messages: Sequence[Message], family: str) -> list[dict[str, Any]]:
    return [_turn(message, family) for message in messages]


def _turn(message: Message, family: str) -> dict[str, Any]:
    """As a caller of the reference writes it."""
    said: dict[str, Any] = {"role": message.role, "content": message.text}
    if family in CONTENT_AS_PARTS:
        said["content"] = [{"type": "text", "text": message.text}]
    if message.thought:
        said["reasoning_content"] = message.thought
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": (
                        call.arguments if family in ARGUMENTS_AS_TEXT else json.loads(call.arguments)
                    ),
                },
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        said["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        said["name"] = message.name
    return said


def tools_of(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in tools
    ]


# Where the reference's template raises.
REFUSED = {("llama3", "two calls at once")}


@pytest.mark.parametrize("dialogue", DIALOGUES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_s_template_renders_as_the_reference_renders_it(
    reference: Reference, family: str, dialogue: str
) -> None:
    messages, tools, kwargs = DIALOGUES[dialogue]
    template = ChatTemplate(source_of(family), bos="<bos>", eos="<eos>")
    if tools and "tools" not in template.variables:
        with pytest.raises(Unsupported):
            template.render(messages, tools, kwargs)
        return
    turns, given = turns_of(messages, family), tools_of(tools)
    if (family, dialogue) in REFUSED:
        with pytest.raises(TemplateError):
            reference(source_of(family), turns, given, **kwargs)
        with pytest.raises(BadAsk):
            template.render(messages, tools, kwargs)
        return
    assert template.render(messages, tools, kwargs) == reference(source_of(family), turns, given, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_loses_a_word_of_the_dialogues(family: str) -> None:
    """A guard of the comparison: templates that say nothing would agree, too."""
    template = ChatTemplate(source_of(family), bos="<bos>", eos="<eos>")
    prompt = template.render([SYSTEM, ASKED, ANSWER, MORE], [], {})
    for message in (SYSTEM, ASKED, ANSWER, MORE):
        assert message.text.strip() in prompt
    if "tools" in template.variables:
        prompt = template.render([SYSTEM, ASKED, CALL, RESULT, ANSWER, MORE], [WEATHER], {})
        assert "weather" in prompt and "Köln" in prompt and "blue" in prompt


def test_foreign_ids_are_made_short_for_a_template_that_insists(reference: Reference) -> None:
    """Clients send back the ids that they got from any model; Mistral's take nine characters."""
    template = ChatTemplate(source_of("mistral"), bos="<bos>", eos="<eos>")
    calls = (ToolUse("call_0123456789abcdef", "weather", "{}"), ToolUse("toolu_01", "now", "{}"))
    results = [Message("tool", "sunny", tool_call_id=call.id) for call in calls]
    prompt = template.render([ASKED, Message("assistant", tool_calls=calls), *results], [WEATHER, NOW], {})
    made = [line.split('"')[0] for line in prompt.split('"id": "')[1:]]
    told = [line.split('"')[0] for line in prompt.split('"call_id": "')[1:]]
    assert made == told and len(set(made)) == 2
    assert all(len(one) == 9 and one.isalnum() for one in made)
    short = [ToolUse(one, call.name, "{}") for one, call in zip(made, calls, strict=True)]
    shortened = [
        ASKED,
        Message("assistant", tool_calls=tuple(short)),
        *(Message("tool", "sunny", tool_call_id=one) for one in made),
    ]
    assert prompt == reference(source_of("mistral"), turns_of(shortened, "mistral"), tools_of([WEATHER, NOW]))


def test_the_named_template_for_tools_is_chosen_as_the_reference_chooses_it(reference: Reference) -> None:
    named = {"default": source_of("gemma3"), "tool_use": source_of("qwen25")}
    templates = Templates(*(ChatTemplate(each, bos="<bos>", eos="<eos>") for each in named.values()))
    for ask in (Ask("m", (ASKED,)), Ask("m", (ASKED,), tools=(NOW,))):
        ours = templates.of(ask).render(ask.messages, ask.tools, {})
        assert ours == reference(named, turns_of(ask.messages, ""), tools_of(ask.tools))


FORMS = {
    "llama3": "llama",
    "qwen25": "hermes",
    "qwen3": "hermes",
    "smollm3": "hermes",
    "qwen3_coder": "qwen_xml",
    "mistral": "mistral_list",
    "ministral": "mistral_args",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_are_read_back_from_the_history_that_a_template_writes(family: str) -> None:
    """The form that is read is the form that the template teaches its model."""
    template = ChatTemplate(source_of(family), bos="<bos>", eos="<eos>")
    assert template.call_form == FORMS.get(family)
    if template.call_form is None:
        return
    prompt = template.render([ASKED, CALL, RESULT], [WEATHER], {})
    begins = '{"name": "weather", "parameters"' if template.call_form == "llama" else template.markers[2]
    said = prompt[prompt.rindex(begins) :]
    scan = reader(template.call_form, [WEATHER], lambda: "x" * 24)
    pieces = [*scan.feed(said), *scan.flush()]
    (call,) = [piece for piece in pieces if isinstance(piece, ToolCall)]
    given = json.loads(CALL.tool_calls[0].arguments)
    assert (call.name, json.loads(call.arguments)) == ("weather", given)
