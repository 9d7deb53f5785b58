"""Thoughts are told from text by their markers, however the answer was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cortex.events import Text, Thought
from cortex.text.thinking import KINDS, Marks, Thinking, marks, opens_thought

Said = list[tuple[str, str]]


def read(cut: list[str], *, inside: bool = False, kind: Marks = KINDS[0]) -> Said:
    """What was said, neighbours of one kind joined."""
    scanner = Thinking(inside=inside, kind=kind)
    said: Said = []
    for piece in [*(p for part in cut for p in scanner.feed(part)), *scanner.flush()]:
        kind = "thought" if isinstance(piece, Thought) else "text"
        assert piece.text
        if said and said[-1][0] == kind:
            said[-1] = (kind, said[-1][1] + piece.text)
        else:
            said.append((kind, piece.text))
    return said


def cuts(text: str) -> list[list[str]]:
    return [[text[:at], text[at:]] for at in range(len(text) + 1)] + [list(text)]


OUTSIDE = {
    "no marker": ("just text", [("text", "just text")]),
    "line ends at the markers go": (
        "<think>\n\nhm\n\nyes\n\n</think>\n\nHello\n",
        [("thought", "hm\n\nyes"), ("text", "Hello\n")],
    ),
    "blanks before the thought go": (" \n\t<think>a</think>b", [("thought", "a"), ("text", "b")]),
    "leading blanks without a thought stay": (" \n\tb", [("text", " \n\tb")]),
    "blanks alone stay": (" \n ", [("text", " \n ")]),
    "an indent after the thought stays": ("<think>a</think>\n  b", [("thought", "a"), ("text", "  b")]),
    "an empty thought is none": ("<think>\n\n</think>\n\nHi", [("text", "Hi")]),
    "only line ends": ("<think>\n\n\n</think>\n\n", []),
    "unclosed stays thought": ("<think>\nso far\n", [("thought", "so far")]),
    "half a closing marker is thought": ("<think>a</thin", [("thought", "a</thin")]),
    "half an opening marker is text": ("<thin", [("text", "<thin")]),
    "nothing after the opening marker": ("<think>", []),
    "a second thought on its own line": (
        "<think>a</think>\nb\n<think>c</think>\n\nd",
        [("thought", "a"), ("text", "b\n"), ("thought", "c"), ("text", "d")],
    ),
    "two thoughts in a row": ("<think>a</think>\n<think>b</think>c", [("thought", "ab"), ("text", "c")]),
    "line ends before a closing marker do not come with the next thought": (
        "<think>a\n\n</think>b\n<think>c</think>",
        [("thought", "a"), ("text", "b\n"), ("thought", "c")],
    ),
    "in a line the marker is text": (
        "Use `<think>` and `</think>`.",
        [("text", "Use `<think>` and `</think>`.")],
    ),
    "in a line after a line": ("a\n b <think>c", [("text", "a\n b <think>c")]),
    "an indented marker opens": ("a\n  <think>c</think>", [("text", "a\n  "), ("thought", "c")]),
    "a stray closing marker is text": ("a</think>b", [("text", "a</think>b")]),
    "an opening marker in a thought is thought": (
        "<think>a <think> b</think>c",
        [("thought", "a <think> b"), ("text", "c")],
    ),
    "markers that almost are": ("<think<think>", [("text", "<think<think>")]),
    "an almost closing marker": ("<think>a</thin</think>b", [("thought", "a</thin"), ("text", "b")]),
}

INSIDE = {
    "closed": ("\nhm\n</think>\n\nHi", [("thought", "hm"), ("text", "Hi")]),
    "never closed": ("hm\n\nso\n", [("thought", "hm\n\nso")]),
    "closed at once": ("</think>Hi", [("text", "Hi")]),
}


@pytest.mark.parametrize(("answer", "said"), OUTSIDE.values(), ids=OUTSIDE.keys())
def test_every_cut_gives_the_same_thoughts_and_text(answer: str, said: Said):
    for cut in cuts(answer):
        assert read(cut) == said, cut


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [False, True])
def test_every_kind_of_marker_reads_alike(kind: Marks, inside: bool):
    table = INSIDE if inside else OUTSIDE
    for answer, said in table.values():
        there = [(what, _with(kind, text)) for what, text in said]
        for cut in cuts(_with(kind, answer)):
            assert read(cut, inside=inside, kind=kind) == there, cut


def _with(kind: Marks, text: str) -> str:
    return text.replace("<think>", kind.open).replace("</think>", kind.close)


@pytest.mark.parametrize("kind", KINDS)
def test_the_markers_of_another_kind_are_text(kind: Marks):
    others = "".join(f"{other.open}a{other.close}\n" for other in KINDS if other != kind)
    assert read([others], kind=kind) == [("text", others)]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{{ '<think>\n' }}", KINDS[0]),
        ("{{ content.split('</think>')[-1] }}", KINDS[0]),
        ("[THINK]{{ thought }}[/THINK]", KINDS[1]),
        ("<reasoning>", KINDS[2]),
        ("</thought>", KINDS[3]),
        ("{{ content }}", None),
    ],
)
def test_the_template_says_which_markers_its_model_has(source: str, kind: Marks | None):
    assert marks(source) == kind


@pytest.mark.parametrize(("answer", "said"), INSIDE.values(), ids=INSIDE.keys())
def test_an_answer_may_begin_inside_a_thought(answer: str, said: Said):
    for cut in cuts(answer):
        assert read(cut, inside=True) == said, cut


def test_only_what_may_be_a_marker_is_held_back():
    scanner = Thinking(inside=False)
    assert scanner.feed("a\n<thi") == [Text("a\n")]
    assert scanner.held() == 4
    assert scanner.feed("s") == [Text("<this")]
    assert scanner.held() == 0
    assert scanner.feed("\n<think>b</th") == [Text("\n"), Thought("b")]
    assert scanner.feed("em") == [Thought("</them")]


def test_inside_is_true_between_the_markers():
    scanner = Thinking(inside=False)
    states = []
    for piece in ["<think", ">", "a", "</think", ">", "b"]:
        scanner.feed(piece)
        states.append(scanner.inside)
    assert states == [False, True, True, True, False, False]


@given(st.text().filter(lambda text: "<think>" not in text), st.integers(0))
def test_an_answer_without_markers_comes_out_as_it_is(answer: str, seed: int):
    at = seed % (len(answer) + 1)
    assert "".join(text for _, text in read([answer[:at], answer[at:]])) == answer


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "a", " ", "\n"])), st.booleans())
def test_any_mixture_of_markers_reads_the_same_in_pieces(parts: list[str], inside: bool):
    whole = "".join(parts)
    assert read(list(whole), inside=inside) == read([whole], inside=inside) == read(parts, inside=inside)


@pytest.mark.parametrize(
    ("prompt", "prefill", "inside"),
    [
        ("<|im_start|>assistant\n", "", False),
        ("<|im_start|>assistant\n<think>\n", "", True),
        ("<|im_start|>assistant\n<think>", "", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "", False),
        ("user: what is <think> for?\nassistant:", "", False),
        ("assistant: <think>\nI sup", "<think>\nI sup", True),
        ("assistant: <think>a</think>So", "<think>a</think>So", False),
    ],
)
def test_the_prompt_tells_whether_the_model_goes_on_in_a_thought(prompt: str, prefill: str, inside: bool):
    for kind in KINDS:
        assert opens_thought(_with(kind, prompt), _with(kind, prefill), kind) is inside
    assert not opens_thought(prompt, prefill, KINDS[1])
