"""Each family's form of tool calls is read alike however it is cut, and nothing of it is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.events import Stopped, Text, Thought, Tokens, ToolCall
from cortex.text.projection import Projection
from cortex.text.thinking import Thinking
from cortex.text.toolcalls import CallForm, call_form, markers
from tests.call_forms import Said, read, scanner
from tests.work import lines


def xml(name: str, *pairs: tuple[str, str]) -> str:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in pairs)
    return f"<function={name}>\n{body}</function>"


def tagged(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


OSLO = xml("weather", ("city", "Oslo"))
LLAMA = '{"name": "weather", "parameters": {"city": "Oslo"}}'
MISTRAL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
WEATHER = ("weather", '{"city": "Oslo"}')
NOW = ("now", "{}")

CALLS: dict[str, tuple[CallForm, str, Said]] = {
    "xml": ("qwen_xml", tagged(OSLO), [WEATHER]),
    "xml without line ends": (
        "qwen_xml",
        "<tool_call><function=weather><parameter=city>Oslo</parameter></function></tool_call>",
        [WEATHER],
    ),
    "xml of several lines": (
        "qwen_xml",
        tagged(xml("now", ("text", "\n a <b> </parameter\n\nc\n"))),
        [("now", '{"text": "\\n a <b> </parameter\\n\\nc\\n"}')],
    ),
    "xml without parameters": ("qwen_xml", tagged("<function=now>\n</function>"), [NOW]),
    "xml between texts": ("qwen_xml", f"So:\n\n{tagged(OSLO)}\n\nDone", ["So:", WEATHER, "Done"]),
    "xml twice": ("qwen_xml", tagged(OSLO) + "\n" + tagged(xml("now")), [WEATHER, NOW]),
    "xml without outer tags": ("qwen_xml", f"So: {OSLO}\n", ["So:", WEATHER]),
    "xml with the closing outer tag alone": (
        "qwen_xml",
        f"{OSLO}\n</tool_call>\n{xml('now')}\n</tool_call> b",
        [WEATHER, NOW, "b"],
    ),
    "xml never closed": ("qwen_xml", "<tool_call>\n" + OSLO + "\n</tool", [WEATHER]),
    "xml made to write JSON": ("qwen_xml", tagged(MISTRAL), [WEATHER]),
    "xml after talk of its marker": (
        "qwen_xml",
        "<function=a <tool_call>" + OSLO,
        ["<function=a", WEATHER],
    ),
    "llama": ("llama", LLAMA, [WEATHER]),
    "llama with blanks": ("llama", f" \n{LLAMA} \n", [WEATHER]),
    "llama behind its tag": ("llama", "<|python_tag|>" + LLAMA, [WEATHER]),
    "llama behind its tag and words": ("llama", "So. <|python_tag|>" + LLAMA, ["So.", WEATHER]),
    "llama, several": ("llama", f'{LLAMA}; {{"name": "now", "parameters": {{}}}}', [WEATHER, NOW]),
    "llama, several without a semicolon": ("llama", f"{LLAMA}\n{LLAMA}", [WEATHER, WEATHER]),
    "llama, several tags": ("llama", f"<|python_tag|>{LLAMA}<|python_tag|>{LLAMA}", [WEATHER, WEATHER]),
    "llama with a type": (
        "llama",
        '{ "type": "function", "name": "weather", "parameters": {"city": "Oslo"} }',
        [WEATHER],
    ),
    "llama with arguments": ("llama", MISTRAL, [WEATHER]),
    "llama and words": ("llama", f"{LLAMA} That was it.", [WEATHER, "That was it."]),
    "llama and a semicolon": ("llama", f"{LLAMA};", [WEATHER, ";"]),
    "llama, then cut off": ("llama", f'{LLAMA}; {{"name": "no', [WEATHER, '; {"name": "no']),
    "mistral's list": ("mistral_list", f"[TOOL_CALLS] [{MISTRAL}]", [WEATHER]),
    "mistral's list of several": (
        "mistral_list",
        f'[TOOL_CALLS][{MISTRAL}, {{"name": "now", "arguments": {{}}, "id": "abcdefghi"}}]\n',
        [WEATHER, NOW],
    ),
    "mistral's list after words": ("mistral_list", f"So. [TOOL_CALLS][{MISTRAL}]", ["So.", WEATHER]),
    "mistral's list, then cut off": (
        "mistral_list",
        f'[TOOL_CALLS][{MISTRAL}, {{"name": "no',
        [WEATHER, ', {"name": "no'],
    ),
    "mistral's list without its end": ("mistral_list", f"[TOOL_CALLS][{MISTRAL}", [WEATHER]),
    "mistral's list with more than calls": (
        "mistral_list",
        f"[TOOL_CALLS][{MISTRAL}, 1]",
        [WEATHER, ", 1]"],
    ),
    "mistral": ("mistral_args", '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}', [WEATHER]),
    "mistral with an id": (
        "mistral_args",
        '[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Oslo"}',
        [WEATHER],
    ),
    "mistral without its second marker": ("mistral_args", '[TOOL_CALLS]weather{"city": "Oslo"}', [WEATHER]),
    "mistral, several": (
        "mistral_args",
        'So.[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[ARGS]{}',
        ["So.", WEATHER, NOW],
    ),
    "mistral and words": ("mistral_args", "[TOOL_CALLS]now[ARGS]{}\nDone", [NOW, "Done"]),
    "mistral made to write a list": ("mistral_args", f"[TOOL_CALLS][{MISTRAL}]", [WEATHER]),
}

VERBATIM: dict[str, tuple[CallForm, str]] = {
    "xml cut off in the name": ("qwen_xml", "<tool_call>\n<function=wea"),
    "xml cut off in a key": ("qwen_xml", "<tool_call>\n<function=weather>\n<parameter=ci"),
    "xml cut off in a value": ("qwen_xml", "<tool_call>\n<function=weather>\n<parameter=city>\nOs"),
    "xml cut off in a tag": ("qwen_xml", "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parame"),
    "xml cut off before its end": (
        "qwen_xml",
        "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</func",
    ),
    "xml with words between": (
        "qwen_xml",
        "<tool_call>\n<function=a>\nand <parameter=x>1</parameter></function>",
    ),
    "xml with one key twice": ("qwen_xml", tagged(xml("weather", ("city", "Oslo"), ("city", "Rome")))),
    "xml without a name": ("qwen_xml", tagged("<function=></function>")),
    "xml with an endless name": ("qwen_xml", "<function=" + "a" * 300 + "></function>"),
    "xml with a name of two lines": ("qwen_xml", "<function=a\nb></function>"),
    "xml with words behind": ("qwen_xml", f"<tool_call>{OSLO} and more</tool_call>"),
    "talk of xml": ("qwen_xml", "Write <tool_call>, <function=, or </function>. \n"),
    "llama cut off": ("llama", '{"name": "weather", "parameters": {"ci'),
    "llama cut off in its tag": ("llama", "<|python_t"),
    "llama's tag alone": ("llama", "<|python_tag|>"),
    "llama's code": ("llama", '<|python_tag|>weather.call(city="Oslo")'),
    "llama, no tool of that name": ("llama", '{"name": "Bob", "parameters": {}}'),
    "llama, an answer in JSON": ("llama", '{"city": "Oslo", "name": "weather", "parameters": {}}'),
    "llama, not at the beginning": ("llama", f"I call {LLAMA}"),
    "llama, code": ("llama", "{% raw %} {name}"),
    "llama, a list": ("llama", f"[{LLAMA}]"),
    "llama, text as arguments": ("llama", '{"name": "weather", "parameters": "Oslo"}'),
    "mistral's marker alone": ("mistral_list", "[TOOL_CALLS]"),
    "half of mistral's marker": ("mistral_list", "a [TOOL_CA"),
    "mistral's list cut off": ("mistral_list", '[TOOL_CALLS] [{"name": "weather", "argu'),
    "mistral's list of none": ("mistral_list", "[TOOL_CALLS][]"),
    "mistral's list of a number": ("mistral_list", "[TOOL_CALLS][1]"),
    "mistral's list without names": ("mistral_list", '[TOOL_CALLS][{"arguments": {}}]'),
    "mistral cut off in the name": ("mistral_args", "[TOOL_CALLS]wea"),
    "mistral cut off in a marker": ("mistral_args", "[TOOL_CALLS]weather[AR"),
    "mistral cut off in the arguments": ("mistral_args", '[TOOL_CALLS]weather[ARGS]{"ci'),
    "mistral with an endless name": ("mistral_args", "[TOOL_CALLS]" + "a" * 300 + "[ARGS]{}"),
    "mistral without a name": ("mistral_args", "[TOOL_CALLS][ARGS]{}"),
    "mistral without arguments": ("mistral_args", "[TOOL_CALLS]weather and so on"),
    "mistral's arguments are a list": ("mistral_args", "[TOOL_CALLS]weather[ARGS][1]"),
    "mistral's arguments are broken": ("mistral_args", '[TOOL_CALLS]weather[ARGS]{"a" 1}'),
    "talk of mistral's marker": ("mistral_args", "The [TOOL_CALLS] marker, and [ARGS]."),
}


@pytest.mark.parametrize(("form", "answer", "said"), CALLS.values(), ids=CALLS.keys())
def test_every_cut_gives_the_same_calls_and_text(form: CallForm, answer: str, said: Said):
    for at in range(len(answer) + 1):
        assert read(form, [answer[:at], answer[at:]]) == said, at
    assert read(form, list(answer)) == said


@pytest.mark.parametrize(("form", "answer", "said"), CALLS.values(), ids=CALLS.keys())
def test_calls_are_read_behind_a_thought_and_never_in_one(form: CallForm, answer: str, said: Said):
    """The whole way of an answer, cut at every byte, streaming and whole alike."""
    data = f"<think>\nhm ☀ {answer}\n</think>\n\n{answer}".encode()
    for at in range(0, len(data), 3):
        choice = Projection(choice=0, thinking=Thinking(inside=False), calls=scanner(form))
        events = [Tokens(data[:at], 1), Tokens(data[at:], 1), Stopped("length")]
        told = [event for heard in events for event in choice.feed(heard)]
        thought = "".join(event.text for event in told if isinstance(event, Thought))
        text = "".join(event.text for event in told if isinstance(event, Text))
        calls = [(event.name, event.arguments) for event in told if isinstance(event, ToolCall)]
        assert thought == f"hm ☀ {answer.rstrip(chr(10))}"
        assert calls == [piece for piece in said if not isinstance(piece, str)]
        assert text == "".join(piece for piece in said if isinstance(piece, str))
        assert told[-1].reason == "tool_calls"


@pytest.mark.parametrize(("form", "answer"), VERBATIM.values(), ids=VERBATIM.keys())
def test_what_is_no_call_or_is_cut_off_comes_out_word_for_word(form: CallForm, answer: str):
    """Fault row 49: the tool-call parser is fed hostile output."""
    for at in range(len(answer) + 1):
        assert read(form, [answer[:at], answer[at:]]) == [answer], at
    assert read(form, list(answer)) == [answer]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("city", "5", "5"),
        ("city", "true", "true"),
        ("city", "[1]", "[1]"),
        ("city", " Oslo ", " Oslo "),
        ("city", 'a "b"\\\n', 'a "b"\\\n'),
        ("days", "5", 5),
        ("days", " -5 ", -5),
        ("days", "five", "five"),
        ("days", "1.5", "1.5"),
        ("warm", "1.5", 1.5),
        ("warm", "3", 3),
        ("warm", "NaN", "NaN"),
        ("warm", "Infinity", "Infinity"),
        ("loud", "true", True),
        ("loud", "False", False),
        ("loud", "yes", "yes"),
        ("where", '{"a": [1]}', {"a": [1]}),
        ("where", "{'a': 1}", "{'a': 1}"),
        ("where", "[1]", "[1]"),
        ("tags", '["a", 2]', ["a", 2]),
        ("unit", "c", "c"),
        ("unit", "1", "1"),
        ("level", "2", 2),
        ("kind", "True", True),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "1", "1"),
        ("mixed", "1", "1"),
        ("either", '["a"]', ["a"]),
        ("either", "a", "a"),
        ("either", "7", "7"),
        ("point", '{"x": 1}', {"x": 1}),
        ("round", "7", 7),
        ("round", "x", "x"),
        ("lost", "7", "7"),
        ("free", "7", "7"),
        ("unknown", "7", "7"),
    ],
)
def test_arguments_of_the_xml_form_have_the_types_of_the_schema(key: str, text: str, value: object):
    ((name, arguments),) = read("qwen_xml", [tagged(xml("weather", (key, text)))])
    assert name == "weather"
    assert json.loads(arguments) == {key: value}
    assert type(json.loads(arguments)[key]) is type(value)


def test_numbers_keep_the_spelling_of_the_model():
    answer = tagged(xml("weather", ("days", "123456789012345678901"), ("warm", "1.10")))
    ((_, arguments),) = read("qwen_xml", [answer])
    assert arguments == '{"days": 123456789012345678901, "warm": 1.10}'


def test_a_schema_that_branches_into_itself_costs_no_more_than_its_size():
    """Fault row 49: the schema is the caller's, and references may go in circles."""
    from cortex.text.toolcalls.typed import typed_arguments

    loop = {"anyOf": [{"$ref": "#/$defs/a"}] * 50}
    schema = {"properties": {"x": loop}, "$defs": {"a": {"oneOf": [loop, *([{"$ref": "#/$defs/a"}] * 50)]}}}
    assert lines(lambda: typed_arguments({"x": "7"}, schema)) < 10_000
    assert typed_arguments({"x": "7"}, schema) == '{"x": "7"}'


def test_an_answer_in_json_streams_on_from_its_first_key():
    scan = scanner("llama")
    assert scan.feed('{ "na') == []
    assert scan.feed("tion") == [Text("{"), Text(' "nation')]
    assert scan.held() == 0


PARTS = {
    "hermes": ["<tool_call>", "</tool_call>", "<", MISTRAL, '{"name": "a"', tagged(MISTRAL)],
    "qwen_xml": [
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "weather>",
        "<parameter=",
        "city>",
        "</parameter>",
        "</function>",
        OSLO,
        "<",
        tagged(OSLO),
        MISTRAL,
    ],
    "llama": ["<|python_tag|>", LLAMA, ";", '{"name"', '{"', "<|", "<"],
    "mistral_list": ["[TOOL_CALLS]", "[", "]", ",", MISTRAL, "[TOOL_", f"[TOOL_CALLS][{MISTRAL}]"],
    "mistral_args": [
        "[TOOL_CALLS]",
        "now",
        "[ARGS]",
        "[CALL_ID]",
        "{}",
        "[",
        "[TOOL_CALLS]now[ARGS]{}",
        MISTRAL,
    ],
}
ANY = ["{", "}", '"', "\\", "\n", " ", "x", ">", "é"]


@st.composite
def answers(draw: st.DrawFn) -> tuple[CallForm, list[str]]:
    form = draw(st.sampled_from(sorted(PARTS)))
    return form, draw(st.lists(st.sampled_from(PARTS[form] + ANY), max_size=14))


def bare(form: CallForm, text: str) -> str:
    """`text` without what belongs to the form: markers, and what JSON and blanks are made of."""
    for word in (*markers(form), "<parameter=", "</parameter>", "[CALL_ID]"):
        text = text.replace(word, "")
    return "".join(char for char in text if char.isalnum())


@given(answers())
def test_any_mixture_reads_the_same_in_pieces_and_loses_nothing(given_: tuple[CallForm, list[str]]):
    """What comes out has every letter that went in but those of the markers, in order; and where no
    call was found it is the answer itself."""
    form, parts = given_
    whole = "".join(parts)
    said = read(form, [whole])
    assert read(form, list(whole)) == said == read(form, parts)
    if all(isinstance(piece, str) for piece in said):
        assert "".join(map(str, said)) == whole
        return
    again = "".join(piece if isinstance(piece, str) else "".join(piece) for piece in said)
    lost, kept = bare(form, whole), bare(form, again)
    # The words `name` and `arguments` of a call's JSON are the form's, too.
    for word in ("name", "arguments", "parameters"):
        lost, kept = lost.replace(word, ""), kept.replace(word, "")
    assert kept == lost or "[CALL_ID]" in whole


SPOKEN = st.sampled_from(
    ["<tool_call>", "<function=now></function>", "[TOOL_CALLS]now[ARGS]{}", LLAMA, "\n", "x"]
)
KEYS = st.sampled_from(["type", "id", "parameters", "arguments", "city", "<tool_call>"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.lists(SPOKEN).map("".join),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.just("name"), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(["hermes", "qwen_xml", "llama", "mistral_list", "mistral_args"]), st.data())
def test_an_answer_in_a_form_is_no_call_whatever_it_speaks_of(form: CallForm, data: st.DataObject) -> None:
    """Llama's is an object without a name, as `beside` has it: nothing else would tell it from a call."""
    answer = data.draw(st.dictionaries(KEYS, VALUES, max_size=4) if form == "llama" else VALUES)
    whole = json.dumps(answer)
    for pieces in ([whole], list(whole)):
        calls = scanner(form)
        calls.lead()
        said = [*(event for piece in pieces for event in calls.feed(piece)), *calls.flush()]
        assert not any(isinstance(event, ToolCall) for event in said)
        assert "".join(event.text for event in said if isinstance(event, Text)) == whole


@given(st.sampled_from(sorted(PARTS)), st.text(), st.integers(0))
def test_an_answer_without_markers_comes_out_as_it_is(form: CallForm, answer: str, seed: int):
    at = seed % (len(answer) + 1)
    assert read(form, [answer[:at], answer[at:]]) == ([answer] if answer else [])


HOSTILE: list[tuple[CallForm, str, str]] = [
    ("qwen_xml", "", "<tool_call>"),
    ("qwen_xml", "", "<function="),
    ("qwen_xml", "<function=a><parameter=b>", "</parameter"),
    ("qwen_xml", "<function=a>", "<parameter=b>x</parameter>"),
    ("qwen_xml", "<function=", "a"),
    ("qwen_xml", "", "<function=a></function>"),
    ("llama", "", "{"),
    ("llama", '{"name": "', "\\"),
    ("llama", "", '{"name": "now", "parameters": {}};'),
    ("llama", "{", " "),
    ("llama", "", "<|python_tag|>"),
    ("mistral_list", "", "[TOOL_CALLS]"),
    ("mistral_list", "[TOOL_CALLS][", '{"name": "a"},'),
    ("mistral_list", "[TOOL_CALLS][", " "),
    ("mistral_args", "", "[TOOL_CALLS]a"),
    ("mistral_args", "[TOOL_CALLS]", "a"),
    ("mistral_args", "[TOOL_CALLS]a", "[CALL_ID]a"),
]


@pytest.mark.parametrize(("form", "before", "hostile"), HOSTILE)
def test_the_work_grows_with_the_answer(form: CallForm, before: str, hostile: str):
    """Fault row 49: no input makes a scanner look at anything twice."""

    def work(times: int, size: int) -> int:
        text = before + hostile * times
        return lines(lambda: read(form, [text[at : at + size] for at in range(0, len(text), size)]))

    for size in (1, 7, 10_000):
        assert work(600, size) < 2.3 * work(300, size) + 500


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{{ '<tool_call>\\n{\"name\": ' }}", "hermes"),
        ("<tool_call>\n<function=example>\n<parameter=a>", "qwen_xml"),
        ("<tool_call>{{ name }}<arg_key>", None),
        ('{"name": function, "parameters": object}', "llama"),
        ("{{ '<|python_tag|>' }}", "llama"),
        ("[TOOL_CALLS] [", "mistral_list"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral_args"),
        ("{{ tools }}", None),
    ],
)
def test_the_template_says_in_which_form_its_model_calls(source: str, form: CallForm | None):
    assert call_form(source) == form
