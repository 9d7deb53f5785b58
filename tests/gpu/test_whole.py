"""The one command tells what came of each part, and runs the next whatever that was. Needs no card."""

import time
import tomllib
from pathlib import Path

import pytest

from tests.gpu import report
from tests.gpu.record import VARIABLE, read, record
from tests.gpu.report import Outcome
from tests.gpu.whole import Part, Run, parts

ROOT = Path(__file__).resolve().parents[2]
FOREVER = ("http.server", "0", "--bind", "127.0.0.1")


def run(folder: Path, *chosen: Part, seconds: float = 60.0, card: bool = True) -> list[Outcome]:
    saved: list[int] = []
    this = Run(
        folder, time.monotonic() + seconds, card, folder / "log.txt", lambda said: saved.append(len(said)),
        least_s=0.1,
    )  # fmt: skip
    for part in chosen:
        this._go(part)
    assert saved == list(range(1, len(chosen) + 1)), "the report is there after each part"
    return this.outcomes


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    told = run(tmp_path, Part("one", ("no_such_module",), 30), Part("other", ("platform",), 30))
    assert [(each.name, each.state) for each in told] == [("one", "failed"), ("other", "passed")]
    assert "no_such_module" in told[0].what


def test_a_part_that_does_not_end_is_ended_and_said_to_be_cut(tmp_path: Path) -> None:
    (told,) = run(tmp_path, Part("endless", FOREVER, 0.5))
    assert told.state == "cut"
    assert "its own limit" in told.what


def test_what_there_is_no_time_for_is_cut_unbegun(tmp_path: Path) -> None:
    (told,) = run(tmp_path, Part("late", ("platform",), 30), seconds=0.0)
    assert (told.state, told.took_s) == ("cut", 0.0)


def test_a_rehearsal_leaves_out_what_needs_a_card(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        Part("for a card", ("no_such_module",), 30),
        Part("other", ("no_such_module",), 30, rehearsed=("platform",)),
        card=False,
    )
    assert [each.state for each in told] == ["cut", "passed"]


def test_what_was_missed_is_told_of_a_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "missing.py").write_text("print('missed: a mark')\nprint('bye')\nraise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (told,) = run(tmp_path, Part("bench", ("missing",), 30))
    assert (told.state, told.what) == ("failed", "missed: a mark")


def test_every_part_is_of_modules_that_are_there(tmp_path: Path) -> None:
    named = [
        word
        for part in parts(tmp_path)
        for word in (*part.arguments, *part.rehearsed)
        if word.startswith(("tests.", "tests/"))
    ]
    assert len(named) > 10
    for word in named:
        path = word if "/" in word else f"{word.replace('.', '/')}.py"
        assert (ROOT / path).is_file(), word


def test_rows_come_back_by_table_and_half_a_line_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv(VARIABLE, str(path))
    record("parity", model="a", gap=0.5)
    record("speed", model="b")
    with path.open("a") as file:
        file.write('{"table": "speed", "mo')
    assert read(path) == {"parity": [{"model": "a", "gap": 0.5}], "speed": [{"model": "b"}]}
    assert read(tmp_path / "none") == {}


def test_the_report_says_what_failed_and_what_was_cut() -> None:
    outcomes = [Outcome("one", "passed", 1.0, "ok"), Outcome("two", "failed", 2.0, "a | b")]
    text = report.written({}, [*outcomes, Outcome("three", "cut", 0.0, "late")], {}, card=False, seconds=9)
    assert "Passed: one. Failed: two. Cut: three." in text
    assert "| two | **failed** | 2 | a / b |" in text
    assert "No figure here says anything of a card" in text
    assert "Everything ran" not in text
    assert "Everything ran" in report.written({}, outcomes[:1], {}, card=False, seconds=9)


def test_the_report_shows_faults_that_were_not_seen() -> None:
    rows = {"faults": [{"fault": "a wrong page", "seen": False, "gap": 0.01, "amiss": 0}]}
    text = report.written(rows, [], {}, card=False, seconds=9)
    assert "| a wrong page | **no** | 0 findings, worst gap 0.01 |" in text


def test_wheels_are_of_the_versions_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    exact = {name: version for name, _, version in (each.partition("==") for each in wanted) if version}
    lines = (ROOT / "tests/gpu/wheels.txt").read_text().splitlines()
    wheels = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert wheels["exllamav2"]
    assert {name: version for name, version in wheels.items() if name in exact} == {
        name: version for name, version in exact.items() if name in wheels
    }
