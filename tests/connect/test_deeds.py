"""Settings files are written and restored: exactly, atomically, and never over somebody else's work."""

import json
from pathlib import Path

import pytest

from cortex.connect import CLIENTS, KeyAt, Model, Places, Target, prepare, undo, write
from cortex.connect.recipe import Edit, Settings
from cortex.errors import ConfigError

JSON = '{\n    "theme": "dark",\n    "env": {"ANTHROPIC_MODEL": "theirs", "X": "1"}\n}'


def settings(path: Path, value: str = "ours") -> Settings:
    return Settings(path, "json", (Edit(("env", "ANTHROPIC_MODEL"), value), Edit(("made", "here"), 1)))


def put(tmp_path: Path, path: Path, value: str = "ours") -> bool:
    deed = prepare(tmp_path / "state", "c", settings(path, value))
    if deed.changed:
        write(tmp_path / "state", deed)
    return deed.changed


def files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "settings.json"


def test_what_was_written_is_taken_out_to_the_byte_and_the_backup_with_it(tmp_path: Path, path: Path) -> None:
    path.write_text(JSON)
    path.chmod(0o640)
    assert put(tmp_path, path)
    assert json.loads(path.read_text())["env"] == {"ANTHROPIC_MODEL": "ours", "X": "1"}
    backup = path.with_name("settings.json.before-cortex")
    assert (path.stat().st_mode & 0o777, backup.stat().st_mode & 0o777) == (0o640, 0o640)
    assert backup.read_text() == JSON
    assert [each.path for each in undo(tmp_path / "state", "c")] == [path]
    assert files(path.parent) == {"settings.json": JSON.encode()}
    assert path.stat().st_mode & 0o777 == 0o640
    assert files(tmp_path / "state") == {}
    assert undo(tmp_path / "state", "c") == []


def test_writing_twice_changes_nothing_and_another_model_takes_the_place_of_the_first(
    tmp_path: Path, path: Path
) -> None:
    path.write_text(JSON)
    assert put(tmp_path, path)
    once = files(tmp_path)
    assert not put(tmp_path, path)
    assert files(tmp_path) == once
    assert put(tmp_path, path, "other")
    undo(tmp_path / "state", "c")
    assert files(tmp_path) == {"home/settings.json": JSON.encode()}


def test_a_file_that_was_not_there_is_gone_again_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "home" / "a" / "b" / "settings.json"
    assert put(tmp_path, path)
    assert path.stat().st_mode & 0o777 == 0o600
    undo(tmp_path / "state", "c")
    assert not (tmp_path / "home").exists()


def test_a_file_that_holds_nothing_but_ours_goes_however_it_was_laid_out_since(
    tmp_path: Path, path: Path
) -> None:
    put(tmp_path, path)
    path.write_text(json.dumps(json.loads(path.read_text())))
    undo(tmp_path / "state", "c")
    assert files(tmp_path) == {}


def test_what_others_put_into_it_since_stays(tmp_path: Path, path: Path) -> None:
    path.write_text(JSON)
    put(tmp_path, path)
    path.write_text(path.read_text().replace('"ours"', '"changed"').replace('"dark"', '"light"'))
    assert put(tmp_path, path, "other")
    [done] = undo(tmp_path / "state", "c")
    assert json.loads(path.read_text()) == {"theme": "light", "env": {"ANTHROPIC_MODEL": "changed", "X": "1"}}
    assert done.left == ()
    put(tmp_path, path)
    path.write_text(path.read_text().replace('"ours"', '"mine"'))
    assert undo(tmp_path / "state", "c")[0].left == ("env.ANTHROPIC_MODEL",)
    assert json.loads(path.read_text())["env"]["ANTHROPIC_MODEL"] == "mine"
    assert path.with_name("settings.json.before-cortex").exists()


def test_a_file_of_ours_that_was_removed_is_no_trouble(tmp_path: Path, path: Path) -> None:
    put(tmp_path, path)
    path.unlink()
    assert len(undo(tmp_path / "state", "c")) == 1
    assert files(tmp_path) == {}


def test_a_file_that_does_not_parse_is_left_alone_and_the_lines_are_told(tmp_path: Path, path: Path) -> None:
    path.write_text('{"env": {')
    with pytest.raises(ConfigError) as told:
        put(tmp_path, path)
    assert "line 1" in told.value.faults[0] and str(path) in told.value.faults[0]
    assert any('"ANTHROPIC_MODEL": "ours"' in line for line in told.value.faults)
    assert files(tmp_path) == {"home/settings.json": b'{"env": {'}


def test_a_file_that_broke_since_is_not_undone(tmp_path: Path, path: Path) -> None:
    path.write_text(JSON)
    put(tmp_path, path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"nothing was undone: .* from .*settings\.json\.before-cortex"):
        undo(tmp_path / "state", "c")
    path.write_text("\udcff", errors="surrogateescape")
    with pytest.raises(ConfigError, match="UTF-8"):
        undo(tmp_path / "state", "c")


def test_a_change_meanwhile_wins(tmp_path: Path, path: Path) -> None:
    path.write_text(JSON)
    deed = prepare(tmp_path / "state", "c", settings(path))
    path.write_text("{}")
    with pytest.raises(ConfigError, match="changed by somebody else"):
        write(tmp_path / "state", deed)
    assert files(tmp_path) == {"home/settings.json": b"{}"}
    assert undo(tmp_path / "state", "c") == []


def test_a_second_time_that_fails_leaves_the_first_to_be_undone(tmp_path: Path, path: Path) -> None:
    path.write_text(JSON)
    put(tmp_path, path)
    deed = prepare(tmp_path / "state", "c", settings(path, "other"))
    path.write_text(path.read_text().replace('"dark"', '"light"'))
    was = files(tmp_path)
    with pytest.raises(ConfigError, match="changed by somebody else"):
        write(tmp_path / "state", deed)
    assert files(tmp_path) == was
    assert undo(tmp_path / "state", "c")[0].left == ()
    assert json.loads(path.read_text()) == {"theme": "light", "env": {"ANTHROPIC_MODEL": "theirs", "X": "1"}}


def test_a_first_time_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path, state = tmp_path / "home" / "a" / "settings.json", tmp_path / "state"
    deed = prepare(state, "c", settings(path))
    state.write_text("no folder")
    with pytest.raises(OSError, match="state"):
        write(state, deed)
    assert not (tmp_path / "home").exists()
    state.unlink()
    path.parent.mkdir(parents=True)
    path.write_text("somebody else's")
    with pytest.raises(FileExistsError):
        write(state, deed)
    assert files(tmp_path) == {"home/a/settings.json": b"somebody else's"}
    assert undo(state, "c") == []


def test_a_link_stays_one_and_a_backup_of_others_is_not_written_over(tmp_path: Path, path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text(JSON)
    path.symlink_to(real)
    theirs = path.with_name("settings.json.before-cortex")
    theirs.write_text("precious")
    put(tmp_path, path)
    assert path.is_symlink() and "ours" in real.read_text()
    assert theirs.read_text() == "precious"
    assert path.with_name("settings.json.before-cortex-2").read_text() == JSON
    undo(tmp_path / "state", "c")
    assert (path.is_symlink(), real.read_text(), theirs.read_text()) == (True, JSON, "precious")


def test_one_named_file_is_undone_and_other_clients_are_not(tmp_path: Path) -> None:
    one, two = tmp_path / "1.json", tmp_path / "2.json"
    for path in (one, two):
        put(tmp_path, path)
    write(tmp_path / "state", prepare(tmp_path / "state", "other", settings(tmp_path / "3.json")))
    assert [each.path for each in undo(tmp_path / "state", "c", one)] == [one]
    assert (one.exists(), two.exists()) == (False, True)
    undo(tmp_path / "state", "c")
    assert (two.exists(), (tmp_path / "3.json").exists()) == (False, True)


def test_the_memory_is_for_its_owner_alone_and_one_that_is_broken_is_named(
    tmp_path: Path, path: Path
) -> None:
    put(tmp_path, path)
    [memory] = (tmp_path / "state").iterdir()
    assert (memory.stat().st_mode & 0o777, memory.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    memory.write_text("{")
    with pytest.raises(ConfigError, match=str(memory)):
        undo(tmp_path / "state", "c")


@pytest.mark.parametrize("client", [name for name, each in CLIENTS.items() if each.writes])
@pytest.mark.parametrize("key", [KeyAt(), KeyAt(given=True), KeyAt(file=Path("/k"))])
def test_every_client_goes_in_and_out_without_a_trace(tmp_path: Path, client: str, key: KeyAt) -> None:
    model = Model("org/m", 65_536, frozenset({"tools"}))
    file = tmp_path / "config.yaml" if client == "litellm" else None
    at = Target("http://g:1", model, Model("s"), key, Places(tmp_path / "home", {}), file)
    (tmp_path / "home").mkdir()
    made = CLIENTS[client].make(at).files
    before = files(tmp_path)
    for each in made:
        write(tmp_path / "state", prepare(tmp_path / "state", client, each))
    assert len(undo(tmp_path / "state", client)) == len(made)
    assert files(tmp_path) == before
