"""What is wrong with a file, said all at once and at its line."""

import tomllib

import pytest

from cortex.config.kinds import FLAG, HOST, sizes, spans, whole
from cortex.config.lines import line_index
from cortex.config.reading import Findings, Known, Table, dotted, open_document, take
from cortex.errors import ConfigError

TABLE = Table(
    {
        "size": Known(sizes(1)),
        "wait_s": Known(spans(0.5, 100)),
        "count": Known(whole(1, 9), required=True),
        "flag": Known(FLAG, idle=True),
        "list": Known(whole(0, 9), form="list"),
        "map": Known(FLAG, form="map"),
        "old": Known(FLAG, old="was renamed"),
        "inner": Table({"count": Known(whole(1, 9))}),
        "rows": Table({"name": Known(HOST, required=True)}, many=True),
        "asleep": Table({"flag": Known(FLAG)}, idle=True),
    }
)


def findings(text, table=TABLE):
    found = Findings("f.toml", line_index(text))
    values = take(table, tomllib.loads(text), (), found)
    return values, [str(f) for f in found.faults], [str(f) for f in found.warnings]


def test_good_values_come_as_the_program_uses_them():
    text = (
        'count = 3\nsize = "1KiB"\nwait_s = "1m"\nlist = [1, 2]\nmap = { a = true }\n[[rows]]\nname = "A.b"\n'
    )
    assert findings(text) == (
        {
            "count": 3,
            "size": 1024,
            "wait_s": 60.0,
            "list": (1, 2),
            "map": {"a": True},
            "rows": [{"name": "a.b"}],
        },
        [],
        [],
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("cuont = 1", "f.toml:2: cuont: unknown key; did you mean 'count'?"),
        ("inner.zzz = 1", "f.toml:2: inner.zzz: unknown key; known here: count"),
        ("asleep.flag = 1", "f.toml:2: asleep.flag: must be true or false, not a whole number"),
        ('size = "12 parsecs"', "f.toml:2: size: '12 parsecs' is not a size such as 24GiB, 500MB or 1024"),
        ("size = 0", "f.toml:2: size: must be 1 to 9007199254740991, not 0"),
        ("inner.count = true", "f.toml:2: inner.count: must be a whole number, not true or false"),
        ("size = 1.5", 'f.toml:2: size: must be a size such as "24GiB", not a number'),
        ("size = true", 'f.toml:2: size: must be a size such as "24GiB", not true or false'),
        ("wait_s = inf", "f.toml:2: wait_s: inf is not a time span such as 90s, 5m or 250ms"),
        ("wait_s = 101", "f.toml:2: wait_s: must be 0.5 to 100, not 101.0"),
        ("wait_s = []", 'f.toml:2: wait_s: must be seconds or a span such as "5m", not a list'),
        (
            "wait_s = 2020-01-01",
            'f.toml:2: wait_s: must be seconds or a span such as "5m", not a date or time',
        ),
        ("list = 1", "f.toml:2: list: must be a list, not a whole number"),
        ("list = [1,\n2, 10]", "f.toml:3: list[2]: must be 0 to 9, not 10"),
        ("list = [1, 2, 1]", "f.toml:2: list[2]: is listed twice"),
        ("map = 1", "f.toml:2: map: must be a table, not a whole number"),
        ("map.'a b' = 1", "f.toml:2: map.'a b': must be true or false, not a whole number"),
        ("inner = 1", "f.toml:2: inner: must be a table, not a whole number"),
        ("rows = 1", "f.toml:2: rows: must be an array of tables, written [[rows]]"),
        ("rows = [1]", "f.toml:2: rows: must be an array of tables, written [[rows]]"),
        ("[rows]\nname = 'a'", "f.toml:2: rows: must be an array of tables, written [[rows]]"),
        ("[[rows]]\nname = 'a'\n[[rows]]", "f.toml:4: rows[1].name: is missing"),
    ],
)
def test_a_fault_names_line_key_and_remedy(line, fault):
    assert findings(f"count = 1\n{line}\n")[1] == [fault]


def test_a_missing_key_of_the_whole_file_has_no_line():
    assert findings("")[1] == ["f.toml: count: is missing"]


@pytest.mark.parametrize(
    ("line", "warnings"),
    [
        ("flag = true", ["f.toml:2: flag: has no effect in this version"]),
        ("flag = false", ["f.toml:2: flag: has no effect in this version"]),
        ("old = true", ["f.toml:2: old: was renamed"]),
        ("[asleep]\nflag = true", ["f.toml:2: asleep: has no effect in this version"]),
    ],
)
def test_what_nothing_acts_on_is_a_warning_and_never_silent(line, warnings):
    assert findings(f"count = 1\n{line}\n")[1:] == ([], warnings)


def test_a_fault_keeps_its_value_out_and_the_others_in():
    values, faults, _ = findings('size = "x"\ncount = 2\nlist = [1, "a"]')
    assert values == {"count": 2} and len(faults) == 2


def test_all_faults_come_together_in_the_order_of_the_file(tmp_path):
    """Row 84: a file with errors is reported with its lines, and nothing of it is used."""
    file = tmp_path / "f.toml"
    file.write_text("b = 1\n\n[inner]\ncount = 10\n[x]\n")
    document = open_document(file)
    take(TABLE, document.plain, (), document.found)
    document.found.warn(("inner",), "careful")
    with pytest.raises(ConfigError) as caught:
        document.found.settle()
    assert caught.value.faults == [
        f"{file}: count: is missing",
        f"{file}:1: b: unknown key; known here: {', '.join(TABLE.keys)}",
        f"{file}:4: inner.count: must be 1 to 9, not 10",
        f"{file}:5: x: unknown key; known here: {', '.join(TABLE.keys)}",
    ]
    assert caught.value.facts["warnings"] == [f"{file}:3: inner: careful"]
    assert str(caught.value) == "\n".join(caught.value.faults)


def test_warnings_alone_are_returned_in_the_order_of_the_file():
    found = Findings("f", {("a",): 9, ("b",): 2})
    found.warn(("a",), "late")
    found.warn(("b",), "early")
    assert found.settle() == ["f:2: b: early", "f:9: a: late"]


def test_a_key_with_a_line_end_cannot_break_a_fault_into_two_lines():
    assert findings('count = 1\n"a\\nf.toml:9: b" = 1\n')[1][0].startswith(
        "f.toml:2: 'a\\nf.toml:9: b': unknown key"
    )


def test_a_path_reads_as_people_write_it():
    assert dotted(("models", 2, "sampling", "top_k")) == "models[2].sampling.top_k"
    assert dotted(("aliases", "org/name")) == "aliases.'org/name'"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a = 1\nb = \n", ":2: Invalid value (is not TOML)"),
        (b"a = 1\n\na = 2\n", ":3: Cannot overwrite a value (is not TOML)"),
        (b"a = 1\n[b\n", ":2: Expected ']' at the end of a table declaration (is not TOML)"),
        (b"a = '''\n\n", ":3: "),
        (b"a = 1\nb = '\xff'\n", ":2: is not UTF-8 text"),
        (b"\xef\xbb\xbfa = 1\n", ":1: begins with a byte order mark"),
        (b"a = " + b"[" * 5000, ": is nested too deeply"),
        (b"a = " + b"9" * 5000, ":1: "),
    ],
)
def test_text_that_is_not_toml_is_one_fault_with_its_line(tmp_path, data, says):
    file = tmp_path / "f.toml"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        open_document(file)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(f"{file}{says}")


def test_a_file_that_is_not_there_is_a_fault_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        open_document(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        open_document(tmp_path)
