"""Edits of settings files: one place changes, every other byte stays, and undoing is exact."""

import json
import signal
import tomllib
from collections.abc import Iterator

import pytest
import tomlkit
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cortex.connect.edits import applied, reverted
from cortex.connect.formats import FORMS, Unreadable
from cortex.connect.recipe import Edit

ZED = """\
// Settings of the editor.
{
  "theme": "One Dark", // the dark one
  "agent": {
    /* asked a lot */
    "default_model": { "provider": "zed.dev", "model": "other" },
  },
  "lsp": {}, // none yet
}
"""


def after(form: str, text: str, *edits: Edit) -> str:
    return applied(FORMS[form], text, edits)[0]


@pytest.mark.parametrize(
    ("text", "edit", "wanted"),
    [
        ("", Edit(("a",), 1), '{\n  "a": 1\n}\n'),
        ("{}", Edit(("a", "b"), "x"), '{\n  "a": {\n    "b": "x"\n  }\n}'),
        ('{"a": 1}', Edit(("b",), 2), '{"a": 1, "b": 2}'),
        ('{"a": 1,}', Edit(("b",), 2), '{"a": 1, "b": 2}'),
        ('{\n\t"a": 1 // one\n}', Edit(("b",), 2), '{\n\t"a": 1, // one\n\t"b": 2\n}'),
        ('{\n  "a": 1, // one\n}', Edit(("b",), 2), '{\n  "a": 1, // one\n  "b": 2,\n}'),
        ("{\n  // nothing yet\n}", Edit(("b",), 2), '{\n  // nothing yet\n  "b": 2\n}'),
        ('{"a": [ /*x*/ 5 ]}', Edit(("a",), 6, add=True), '{"a": [ /*x*/ 6, 5 ]}'),
        ('{\n  "a": [\n    5\n  ]\n}', Edit(("a",), 6, add=True), '{\n  "a": [\n    6,\n    5\n  ]\n}'),
        ('{"a": []}', Edit(("a",), 6, add=True), '{"a": [\n  6\n]}'),
        ('{"a": "//no"}', Edit(("a",), "/*no"), '{"a": "/*no"}'),
        ('{"a": 1, "a": 2}', Edit(("a",), 3), '{"a": 1, "a": 3}'),
        ('\ufeff{"a": 1}', Edit(("a",), 2), '\ufeff{"a": 2}'),
    ],
)
def test_json_changes_at_one_place(text: str, edit: Edit, wanted: str) -> None:
    assert after("json", text, edit) == wanted


def test_comments_and_trailing_commas_of_an_editor_stay() -> None:
    done = after(
        "json",
        ZED,
        Edit(("language_models", "openai_compatible", "cortex"), {"api_url": "u"}),
        Edit(("agent", "default_model"), {"provider": "cortex"}),
    )
    for words in ("// Settings of the editor.", "// the dark one", "/* asked a lot */", "// none yet"):
        assert words in done
    assert '"lsp": {}, // none yet\n  "language_models": {' in done


@pytest.fixture
def hang_guard() -> Iterator[None]:
    """A search through a text that would not end is broken off."""

    def too_long(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "rest",
    [
        "\n" + "  // off: this, that /* and those\n" * 50,
        " " * 500 + "/* x */ ",
        " // one" + "\n" * 200,
        "\n" + (" " * 80 + "// far right\n") * 20,
        "\n" + "\t/* a */ /* b\n */\n" * 50,
    ],
    ids=["comments", "spaces", "blank lines", "deep", "blocks"],
)
@pytest.mark.parametrize("comma", ["", ","])
def test_however_much_stands_behind_the_last_member_it_stays(rest: str, comma: str, hang_guard: None) -> None:
    text = f'{{\n  "x": 1,\n  "a": {{"b": 1}}{comma}{rest}}}\n'
    done, changes = applied(FORMS["json"], text, (Edit(("c",), 2),))
    assert FORMS["json"].read(done) == {"x": 1, "a": {"b": 1}, "c": 2}
    assert all(done.count(each) == rest.count(each) for each in ("//", "/*", "*/"))
    again, left = reverted(FORMS["json"], done, changes)
    assert (FORMS["json"].read(again), left) == (FORMS["json"].read(text), ())
    gone = FORMS["json"].drop(text, ("a",))
    assert FORMS["json"].read(gone) == {"x": 1} and rest.strip() in gone


def test_a_comma_within_a_comment_is_none() -> None:
    text = '{"a": 1 /* one */}\n// see {x */, y}\n'
    assert after("json", text, Edit(("b",), 2)) == '{"a": 1, "b": 2 /* one */}\n// see {x */, y}\n'


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        ("json", '{"a": 1', "line 1"),
        ("json", '{\n "a": 1\n "b": 2}', "line 3"),
        ("json", "[1]", "no object"),
        ("json", '{"a": 01}', "line 1"),
        ("json", "{" * 3 + '"a": ' + "[" * 500, "line 1"),
        ("json", '{"env": 5}', "env"),
        ("toml", "a = ", "Invalid value"),
        ("toml", "env = 5\n", "env"),
        ("yaml", "a: [", "line 1"),
        ("yaml", "- a\n", "table"),
        ("yaml", "{env: 5}\n", "key: value"),
        ("yaml", "a: 1\n---\nb: 2\n", "single document"),
        ("yaml", "env: &m a\nother: *m\n", "cannot be changed safely"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(form: str, text: str, why: str) -> None:
    path = ("env",) if form == "yaml" else ("env", "x")
    with pytest.raises(Unreadable, match=why):
        after(form, text, Edit(path, "y"))


def test_toml_keeps_its_comments_and_puts_keys_before_tables() -> None:
    text = '# mine\nmodel = "gpt"  # best\n\n[tools]\nweb = true # yes\n'
    done = after(
        "toml",
        text,
        Edit(("model",), "m"),
        Edit(("model_provider",), "cortex"),
        Edit(("model_providers", "cortex"), {"name": "cortex"}),
    )
    assert tomllib.loads(done) == {
        "model": "m",
        "model_provider": "cortex",
        "tools": {"web": True},
        "model_providers": {"cortex": {"name": "cortex"}},
    }
    assert 'model = "m"  # best' in done and "# mine" in done and "web = true # yes" in done
    assert "[model_providers]" not in done.replace("[model_providers.cortex]", "")


@pytest.mark.parametrize(
    ("text", "edit", "wanted"),
    [
        ("", Edit(("model",), "openai/m"), "model: openai/m\n"),
        ("dark: true", Edit(("model",), "m"), "dark: true\nmodel: m\n"),
        ("model: x # loved\ndark: true\n", Edit(("model",), "m"), "model: m # loved\ndark: true\n"),
        ("model:\ndark: true\n", Edit(("model",), "m"), "model: m\ndark: true\n"),
        ('"model": x\n', Edit(("model",), "yes"), "\"model\": 'yes'\n"),
        ("model: |\n  x\n  # y\n\n# mine\nb: 1\n", Edit(("model",), "m"), "model: m\n\n# mine\nb: 1\n"),
        ("b: 1\nmodel: >2- # loved\n    x\n\n  y", Edit(("model",), "m"), "b: 1\nmodel: m # loved"),
        ("model: |+\n\nb: 1\n", Edit(("model",), "m"), "model: m\n\nb: 1\n"),
        (
            "model_list:\n  # mine\n  - model_name: a\nother: 1\n",
            Edit(("model_list",), {"model_name": "b", "x": 1}, add=True),
            "model_list:\n  # mine\n  - model_name: b\n    x: 1\n  - model_name: a\nother: 1\n",
        ),
        (
            "model_list:\n- model_name: a\n",
            Edit(("model_list",), {"model_name": "b"}, add=True),
            "model_list:\n- model_name: b\n- model_name: a\n",
        ),
        ("", Edit(("model_list",), {"a": "b"}, add=True), "model_list:\n- a: b\n"),
    ],
)
def test_yaml_changes_at_one_place(text: str, edit: Edit, wanted: str) -> None:
    assert after("yaml", text, edit) == wanted


@pytest.mark.parametrize("text", ['model = "a" # x\r\n', "", "# mine\r\n[tools]\r\nweb = true\r\n"])
def test_the_mark_that_editors_of_windows_put_first_stays_there_in_toml(text: str) -> None:
    form, edit = FORMS["toml"], Edit(("model",), "m")
    done, changes = applied(form, text, (edit,))
    assert applied(form, f"\ufeff{text}", (edit,)) == (f"\ufeff{done}", changes)
    again, left = reverted(form, done, changes)
    assert reverted(form, f"\ufeff{done}", changes) == (f"\ufeff{again}", left)


def test_windows_line_ends_stay() -> None:
    for form, text in (("json", '{\r\n  "a": 1\r\n}\r\n'), ("toml", "a = 1\r\n"), ("yaml", "a: 1\r\n")):
        done = after(form, text, Edit(("b",), "x"))
        assert done.count("\r\n") == done.count("\n") > text.count("\n")


# Settings as somebody might have them, and as they are written.
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.text(
        st.characters(
            codec="utf-8", exclude_characters="\r\x85\u2028\u2029", exclude_categories=("Cc", "Cs")
        ),
        max_size=8,
    ),
)
KEYS = st.sampled_from(["env", "model", "provider", "other", "x y"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
FILES = st.dictionaries(KEYS, VALUES, max_size=5)
EDITS = st.lists(
    st.one_of(
        st.builds(Edit, st.sampled_from([("model",), ("env", "A"), ("provider", "cortex", "x")]), VALUES),
        st.builds(Edit, st.sampled_from([("list",), ("env", "list")]), VALUES, st.just(True)),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda edit: edit.path,
)


def said(form: str, text: str) -> object:
    return FORMS[form].read(text)


@settings(max_examples=150, deadline=None)
@given(FILES, EDITS, st.sampled_from([None, 2, "\t"]))
def test_what_is_taken_out_of_json_leaves_what_was_there(
    file: dict[str, object], edits: list[Edit], indent: int | str | None
) -> None:
    holds("json", json.dumps(file, indent=indent, ensure_ascii=False), edits)


@settings(max_examples=100, deadline=None)
@given(
    FILES,
    st.lists(st.builds(Edit, st.tuples(KEYS), SCALARS), min_size=1, max_size=3, unique_by=lambda e: e.path),
)
def test_what_is_taken_out_of_yaml_leaves_what_was_there(file: dict[str, object], edits: list[Edit]) -> None:
    holds("yaml", yaml.safe_dump(file, allow_unicode=True, sort_keys=False) if file else "", edits)


@settings(max_examples=100, deadline=None)
@given(FILES, EDITS)
def test_what_is_taken_out_of_toml_leaves_what_was_there(file: dict[str, object], edits: list[Edit]) -> None:
    holds("toml", tomlkit.dumps(file), [each for each in edits if not each.add])


def holds(form: str, text: str, edits: list[Edit]) -> None:
    """Applied it stands there, and twice is once; taken out, nothing of it stays. It is refused where
    something else is in its way, and nowhere else."""
    before = said(form, text or FORMS[form].empty)
    if not all(fits(before, edit) for edit in edits):
        with pytest.raises(Unreadable):
            applied(FORMS[form], text, edits)
        return
    done, changes = applied(FORMS[form], text, edits)
    there = said(form, done)
    assert all(stands(there, edit) for edit in edits)
    twice, _ = applied(FORMS[form], done, [edit for edit in edits if not edit.add])
    assert said(form, twice) == there
    again, left = reverted(FORMS[form], done, changes)
    assert (said(form, again), left) == (before, ())
    assert said(form, applied(FORMS[form], again, edits)[0]) == said(form, done)


def fits(here: object, edit: Edit) -> bool:
    """On the way are tables or nothing, and what is to be added to is a list, or is not there."""
    for key in edit.path[:-1]:
        if not isinstance(here, dict):
            return False
        here = here.get(key, {})
    return isinstance(here, dict) and (not edit.add or isinstance(here.get(edit.path[-1], []), list))


def stands(here: object, edit: Edit) -> bool:
    for key in edit.path:
        assert isinstance(here, dict)
        here = here[key]
    return here == edit.value if not edit.add else isinstance(here, list) and here[0] == edit.value


def test_what_others_changed_since_is_left_alone_and_told() -> None:
    text = '{\n  "env": {"A": "1"},\n  "model": "x"\n}\n'
    edits = (Edit(("env", "A"), "2"), Edit(("env", "B"), "3"), Edit(("model",), "m"))
    done, changes = applied(FORMS["json"], text, edits)
    theirs = done.replace('"m"', '"theirs"').replace("{\n", '{\n  // hello\n  "more": 1,\n', 1)
    again, left = reverted(FORMS["json"], theirs, changes)
    assert left == ("model",)
    assert FORMS["json"].read(again) == {"more": 1, "env": {"A": "1"}, "model": "theirs"}
    assert "// hello" in again


def test_objects_that_were_made_for_a_setting_go_with_it_unless_others_use_them() -> None:
    done, changes = applied(FORMS["json"], "{}", (Edit(("a", "b", "c"), 1), Edit(("l",), 1, add=True)))
    assert FORMS["json"].read(reverted(FORMS["json"], done, changes)[0]) == {}
    used = FORMS["json"].put(done, ("a", "mine"), 2)
    assert FORMS["json"].read(reverted(FORMS["json"], used, changes)[0]) == {"a": {"mine": 2}}


@pytest.mark.parametrize(
    ("form", "text", "edit"),
    [
        ("yaml", "general_settings: {}\n# end\n", Edit(("model_list",), {"a": {"b": 1}}, add=True)),
        ("yaml", "model_list: []\n", Edit(("model_list",), {"a": 1}, add=True)),
        ("yaml", "read:\n- a.md\n- b.md # both\nx: 1\n", Edit(("read",), "c.md")),
        ("yaml", "model: &m a\nother: 1\n", Edit(("model",), "c")),
        ("yaml", "model: |\n  a\n\n  b\n\nother: 1\n", Edit(("model",), "c")),
        ("yaml", "read:\n- |\n  a\n\n# end\nx: 1\n", Edit(("read",), "c")),
        (
            "toml",
            'model_providers = { other = { name = "x" } }\n',
            Edit(("model_providers", "c"), {"n": {"a": 1}}),
        ),
        (
            "toml",
            "[model_providers.a]\nx=1\n[z]\n[model_providers.b]\ny=1\n",
            Edit(("model_providers", "c"), {"n": 1}),
        ),
        ("toml", "[[x]]\na=1\n# end", Edit(("model",), "m")),
        ("json", '{"a": [{"b": 1}, 2,],}', Edit(("a",), 3, add=True)),
    ],
)
def test_odd_layouts_are_changed_and_changed_back(form: str, text: str, edit: Edit) -> None:
    done, changes = applied(FORMS[form], text, (edit,))
    assert FORMS[form].read(done) != FORMS[form].read(text)
    again, left = reverted(FORMS[form], done, changes)
    assert (FORMS[form].read(again), left) == (FORMS[form].read(text), ())


def test_an_entry_of_a_list_is_taken_out_wherever_it_is_by_then() -> None:
    form = FORMS["yaml"]
    done, changes = applied(form, "model_list:\n  - a: 1\n", (Edit(("model_list",), {"b": 2}, add=True),))
    moved = form.add(done, ("model_list",), {"c": 3})
    assert form.read(reverted(form, moved, changes)[0]) == {"model_list": [{"c": 3}, {"a": 1}]}
    assert reverted(form, "model_list:\n  - a: 1\n", changes)[1] == ("model_list",)
