"""Where files are looked for, and the check of one whatever its kind."""

from pathlib import Path

import pytest

from cortex.config.files import candidates, check


@pytest.mark.parametrize(
    ("role", "env", "paths"),
    [
        ("gateway", {}, ["/etc/cortex/cortex.toml"]),
        ("gateway", {"HOME": "/h"}, ["/etc/cortex/cortex.toml", "/h/.config/cortex/cortex.toml"]),
        (
            "neuron",
            {"HOME": "/h", "XDG_CONFIG_HOME": "/x"},
            ["/etc/cortex/neuron.toml", "/etc/neuron/neuron.toml", "/x/cortex/neuron.toml"],
        ),
        ("models", {"XDG_CONFIG_HOME": "/x"}, ["/etc/cortex/models.toml", "/x/cortex/models.toml"]),
        # The base directory specification: a relative path is not valid, and is ignored.
        (
            "models",
            {"HOME": "/h", "XDG_CONFIG_HOME": "rel"},
            ["/etc/cortex/models.toml", "/h/.config/cortex/models.toml"],
        ),
    ],
)
def test_files_are_looked_for_in_this_order(role, env, paths):
    assert candidates(role, env) == [Path(path) for path in paths]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.toml", "[gateway]", "gateway"),
        ("a.toml", "[neuron]", "neuron"),
        ("a.toml", "[[models]]\nid = 'm'", "models"),
        ("a.toml", "[eviction]\n[devices]", "neuron"),
        ("a.toml", "[aliases]\n[eviction]\n[poll]", "gateway"),
        ("a.toml", "[gatewya]\n[limits]", "gateway"),
        ("neuron.toml", "[eviction]", "neuron"),
        ("models.toml", "[aliases]\na = 'b'", "models"),
        ("cortex.toml", "", "gateway"),
        ("neuron.toml", "[gateway]", "gateway"),
        ("a.toml", "[aliases]", None),
        ("a.toml", "", None),
        ("a.toml", "x = ", None),
    ],
)
def test_the_kind_is_told_by_the_tables_and_then_by_the_name(tmp_path, name, text, kind):
    (tmp_path / name).write_text(text)
    report = check(tmp_path / name)
    assert report.kind == kind
    assert (kind is None) <= bool(report.faults)


def test_faults_and_warnings_are_reported_together(tmp_path):
    file = tmp_path / "neuron.toml"
    file.write_text("[[default_models]]\nid = 'm'\nlimit = {}\n[neuron]\nx = 1\n")
    report = check(file)
    assert report.warnings == (f"{file}:3: default_models[0].limit: has no effect in this version",)
    assert len(report.faults) == 1 and report.faults[0].startswith(f"{file}:5: neuron.x: unknown key")


def test_warnings_alone_are_reported_without_faults(tmp_path):
    file = tmp_path / "cortex.toml"
    file.write_text("[gateway]\nanonymous = true\n")
    report = check(file)
    assert (report.kind, report.faults) == ("gateway", ())
    (warning,) = report.warnings
    assert "names no [[neurons]] and no [discovery]" in warning


def test_a_file_that_is_not_there_is_a_fault(tmp_path):
    (fault,) = check(tmp_path / "cortex.toml").faults
    assert fault == f"{tmp_path}/cortex.toml: cannot be read: No such file or directory"
