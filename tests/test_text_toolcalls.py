"""Tool calls are told from text; what is no call comes out word for word."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.events import Text, ToolCall
from cortex.text.toolcalls import CallReader, reader
from tests.work import lines

Said = list[str | tuple[str, str]]


def scanner() -> CallReader:
    ids = count()
    return reader("hermes", (), lambda: f"{next(ids):024d}-more")


def read(cut: list[str]) -> Said:
    """Texts, joined, and calls as (name, arguments), in order."""
    reader = scanner()
    said: Said = []
    for piece in [*(p for part in cut for p in reader.feed(part)), *reader.flush()]:
        if isinstance(piece, ToolCall):
            said.append((piece.name, piece.arguments))
        elif said and isinstance(said[-1], str):
            said[-1] += piece.text
        else:
            said.append(piece.text)
    assert reader.held() == 0
    return said


def block(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


ONE = block('{"name": "now", "arguments": {"zone": "Köln"}}')

CALLS: dict[str, tuple[str, Said]] = {
    "one": (ONE, [("now", '{"zone": "Köln"}')]),
    "text before": ("Let me see.\n\n" + ONE, ["Let me see.", ("now", '{"zone": "Köln"}')]),
    "right behind a word": ("So" + ONE, ["So", ("now", '{"zone": "Köln"}')]),
    "blanks around go": (" \n" + ONE + " \n", [("now", '{"zone": "Köln"}')]),
    "text after": (ONE + "\nDone. ", [("now", '{"zone": "Köln"}'), "Done. "]),
    "several": (
        block('{"name": "a", "arguments": {"n": 1}}') + "\n" + block('{"name": "b", "arguments": {}}'),
        [("a", '{"n": 1}'), ("b", "{}")],
    ),
    "no line ends": ('<tool_call>{"name":"a","arguments":{"x":[1,{}]}}</tool_call>', [("a", '{"x":[1,{}]}')]),
    "arguments missing": (block('{"name": "a"}'), [("a", "{}")]),
    "arguments null": (block('{"name": "a", "arguments": null}'), [("a", "{}")]),
    "arguments as text": (block('{"name": "a", "arguments": "{\\"x\\": 1}"}'), [("a", '{"x": 1}')]),
    "arguments first": (block('{"arguments": {"x": 1}, "name": "a", "why": [0]}'), [("a", '{"x": 1}')]),
    "numbers keep their spelling": (
        block('{"name": "a", "arguments": {"x": 1.10, "y": 123456789012345678901234567890, "z": 1e400}}'),
        [("a", '{"x": 1.10, "y": 123456789012345678901234567890, "z": 1e400}')],
    ),
    "braces and markers in a string": (
        block('{"name": "a", "arguments": {"code": "}</tool_call>\\"}\\\\", "b": "{"}}'),
        [("a", '{"code": "}</tool_call>\\"}\\\\", "b": "{"}')],
    ),
    "never closed": ('<tool_call>\n{"name": "a", "arguments": {}}\n', [("a", "{}")]),
    "half closed": ('<tool_call>\n{"name": "a", "arguments": {}}\n</tool_', [("a", "{}")]),
    "after a block that is none": ("<tool_call>" + ONE, ["<tool_call>", ("now", '{"zone": "Köln"}')]),
    "after a broken block": (
        block('{"name": "a", "arguments": {"x": "un"quoted"}}') + "\n" + ONE,
        [block('{"name": "a", "arguments": {"x": "un"quoted"}}'), ("now", '{"zone": "Köln"}')],
    ),
}

VERBATIM = {
    "no JSON": block("now(zone='Köln')"),
    "broken JSON": block('{"name": "a", "arguments": {,}}'),
    "no name": block('{"arguments": {}}'),
    "an empty name": block('{"name": "", "arguments": {}}'),
    "a name that is no text": block('{"name": 1, "arguments": {}}'),
    "a list of arguments": block('{"name": "a", "arguments": [1]}'),
    "a number": block('{"name": "a", "arguments": 1}'),
    "text that holds no object": block('{"name": "a", "arguments": "[1]"}'),
    "text that is no JSON": block('{"name": "a", "arguments": "x"}'),
    "a list": block('[{"name": "a"}]'),
    "more than an object": block('{"name": "a"} and more'),
    "a brace too many": block('{"name": "a"}}'),
    "a raw line end in a string": block('{"name": "a", "arguments": {"x": "\n"}}'),
    "NaN": block('{"name": "a", "arguments": {"x": NaN}}'),
    "half a surrogate pair": block('{"name": "a", "arguments": {"x": "\\ud800"}}'),
    "nothing in it": block(""),
    "cut off": '<tool_call>\n{"name": "a", "argum',
    "cut off in a string": '<tool_call>\n{"name": "a',
    "cut off at the marker": "<tool_call>\n",
    "half a marker": "a <tool_ca",
    "talk of the marker": "Write <tool_call> and then </tool_call>, \n ok \n",
    "a stray closing marker": "a </tool_call> b",
    "very deep": block('{"name": "a", "arguments": ' + '{"a":' * 3000 + "1" + "}" * 3001),
}


@pytest.mark.parametrize(("answer", "said"), CALLS.values(), ids=CALLS.keys())
def test_every_cut_gives_the_same_calls_and_text(answer: str, said: Said):
    for at in range(len(answer) + 1):
        assert read([answer[:at], answer[at:]]) == said, at
    assert read(list(answer)) == said


@pytest.mark.parametrize("answer", VERBATIM.values(), ids=VERBATIM.keys())
def test_what_is_no_call_comes_out_word_for_word(answer: str):
    """Fault row 49: the tool-call parser is fed hostile output."""
    for at in range(0, len(answer) + 1, 1 + len(answer) // 300):
        assert read([answer[:at], answer[at:]]) == [answer], at
    assert read(list(answer)) == [answer]


def test_ids_are_24_characters_of_the_factory_behind_a_prefix():
    reader = scanner()
    said = reader.feed(ONE + ONE)
    assert [piece.id for piece in said if isinstance(piece, ToolCall)] == [
        "call_" + "0" * 24,
        "call_" + "0" * 23 + "1",
    ]


def test_talk_of_the_marker_streams_on():
    reader = scanner()
    assert reader.feed("A <tool_call> s") == [Text("A"), Text(" <tool_call>"), Text(" s")]
    assert reader.held() == 0


def test_a_broken_block_streams_on_from_where_it_breaks():
    reader = scanner()
    assert reader.feed('<tool_call>{"name": "a') == []
    assert reader.feed("\n") == [Text('<tool_call>{"name": "a')]
    assert reader.feed('b"}') == [Text('\nb"}')]


@given(st.text().filter(lambda text: "<tool_call>" not in text), st.integers(0))
def test_an_answer_without_markers_comes_out_as_it_is(answer: str, seed: int):
    at = seed % (len(answer) + 1)
    assert read([answer[:at], answer[at:]]) == ([answer] if answer else [])


PARTS = ["<tool_call>", "</tool_call>", "<", '{"name": "a"', "{", "}", '"', "\\", "\n", " ", "x", ONE]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_any_mixture_reads_the_same_in_pieces_and_loses_nothing_but_blanks(parts: list[str]):
    whole = "".join(parts)
    said = read([whole])
    assert read(list(whole)) == said == read(parts)
    if all(isinstance(piece, str) for piece in said):
        assert "".join(said) == whole


@pytest.mark.parametrize(
    "hostile",
    [
        "<tool_call>",
        "<tool_call>{",
        "{",
        '"',
        '<tool_call>{"',
        "</tool_call>",
        "\\",
        " ",
        '<tool_call>{"name":"a"}',
    ],
)
def test_the_work_grows_with_the_answer(hostile: str):
    """Fault row 49: no input makes the scanner look at anything twice."""

    def work(times: int, size: int) -> int:
        text = '<tool_call>{"' + hostile * times
        return lines(lambda: read([text[at : at + size] for at in range(0, len(text), size)]))

    for size in (1, 7, 10_000):
        assert work(800, size) < 2.3 * work(400, size)
