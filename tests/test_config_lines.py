"""The line index against hand-made texts, and against tomllib on generated ones."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from cortex.config.lines import line_index

TEXT = '''\
top = 1
"quoted key" = 2
a.b.'c.d' = 3

[table] # comment = 9
key = """
[not.a.table]
still = "text" \\""" ""\"""
after = \'\'\'
x = 1
\'\'\'
list = [
  1, # one
  [2, 3], "a ] , # b",
  { in = 1, deep.er = [4] },
]

[[rows]]
n = 1979-05-27 07:32:00
[rows.inner]
m = 1
[[rows.subs]]
s = 1

[[rows]]
n = 2
[[rows.subs]]
[[rows.subs]]
s = { }
'''


def test_every_form_of_key_has_its_line():
    lines = line_index(TEXT)
    assert tomllib.loads(TEXT)["table"]["key"].endswith('""')
    assert {path: lines[path] for path in EXPECTED} == EXPECTED


EXPECTED = {
    ("top",): 1,
    ("quoted key",): 2,
    ("a", "b", "c.d"): 3,
    ("table",): 5,
    ("table", "key"): 6,
    ("table", "after"): 9,
    ("table", "list"): 12,
    ("table", "list", 0): 13,
    ("table", "list", 1, 1): 14,
    ("table", "list", 2): 14,
    ("table", "list", 3): 15,
    ("table", "list", 3, "in"): 15,
    ("table", "list", 3, "deep", "er", 0): 15,
    ("rows",): 18,
    ("rows", 0): 18,
    ("rows", 0, "n"): 19,
    ("rows", 0, "inner"): 20,
    ("rows", 0, "inner", "m"): 21,
    ("rows", 0, "subs", 0, "s"): 23,
    ("rows", 1): 25,
    ("rows", 1, "n"): 26,
    ("rows", 1, "subs", 0): 27,
    ("rows", 1, "subs", 1): 28,
    ("rows", 1, "subs", 1, "s"): 29,
}


def test_nothing_inside_a_multi_line_text_is_taken_for_a_key():
    names = {part for path in line_index(TEXT) for part in path}
    assert names.isdisjoint({"not", "still", "x"})


def test_windows_line_ends_count_as_one_line():
    assert line_index("a = 1\r\n\r\n[b]\r\nc = 2\r\n") == {("a",): 1, ("b",): 3, ("b", "c"): 4}


names = st.sampled_from(["a", "b-2", '"q . #"', "'l [x]'", '"\\u00e9 \\" ="'])
scalars = st.sampled_from(
    ["1", "true", "1.5e3", '"x = 1 # ]"', "'{'", "1979-05-27", '"""a\n[b]\nc = 1\n"""', "'''\n'\n'''"]
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # c\n" + ",\n".join(items) + "\n]"),
        st.dictionaries(names, scalars.filter(lambda s: "\n" not in s), max_size=3).map(
            lambda pairs: "{ " + ", ".join(f"{k} = {v}" for k, v in pairs.items()) + " }"
        ),
    ),
    max_leaves=6,
)
dotted_names = st.lists(names, min_size=1, max_size=3).map(" . ".join)
statements = st.one_of(
    st.tuples(dotted_names, values).map(lambda pair: f"{pair[0]} = {pair[1]}"),
    dotted_names.map(lambda name: f"[{name}] # [[c]]"),
    dotted_names.map(lambda name: f"[[ {name} ]]"),
    st.just("\n  # a = 1"),
)


def paths(value, at=()):
    """Every path of parsed TOML, and of nothing else."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from paths(inner, (*at, name))


@given(st.lists(statements, max_size=10))
def test_the_index_holds_exactly_the_keys_that_tomllib_reads(parts):
    text, plain = "", {}
    for part in parts:
        # Statements that contradict earlier ones are left out, so that the text stays valid.
        try:
            plain = tomllib.loads(text + part + "\n")
        except tomllib.TOMLDecodeError:
            continue
        text += part + "\n"
    plain = tomllib.loads(text)
    assert set(line_index(text)) == set(paths(plain))


@given(st.lists(st.tuples(names, scalars), max_size=8, unique_by=lambda pair: pair[0]), st.integers(0, 3))
def test_a_key_is_on_the_line_where_its_name_begins(pairs, blank):
    text, expected = "", {}
    for name, value in pairs:
        expected[(next(iter(tomllib.loads(f"{name} = 0"))),)] = text.count("\n") + 1
        text += f"{name} = {value}\n" + "\n" * blank
    assert line_index(text) == expected
