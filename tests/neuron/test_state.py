"""What a neuron remembers is on disk whole or not at all, and never in its way."""

import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cortex.config.neuron import NeuronConfig
from cortex.harness.scripted import Script
from cortex.neuron import state as state_module
from cortex.neuron.state import State, usual_folder
from tests.roles import running_neuron, specs

NAMES = dict[str, int]


@asynccontextmanager
async def opened(folder: Path | None) -> AsyncIterator[State]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            state = State(folder)
            await nursery.start(state.run)
            yield state
            nursery.cancel_scope.cancel()


async def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    async with opened(folder) as state:
        assert state.read("a.json", NAMES) is None
        await state.keep("a.json", {"x": 1})
        state.write("b.json", {"y": 2})
    async with opened(folder) as state:
        assert state.read("a.json", NAMES) == {"x": 1}
        assert state.read("b.json", NAMES) == {"y": 2}
        assert not state.warnings
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == {"a.json", "b.json", "lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


async def test_the_value_is_the_one_of_the_call_and_the_last_call_wins(tmp_path: Path) -> None:
    async with opened(tmp_path) as state:
        value = {"x": 0}
        async with trio.open_nursery() as nursery:
            for number in range(20):
                value["x"] = number
                nursery.start_soon(state.keep, "a.json", dict(value))
        # Tasks start in any order; what counts is that no write of two is mixed.
        assert state.read("a.json", NAMES) in [{"x": number} for number in range(20)]
        await state.keep("a.json", {"x": 1})
        await state.keep("a.json", {"x": 2})
        assert state.read("a.json", NAMES) == {"x": 2}


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"x": "text"}', b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"x": 1} and more']
)
async def test_a_damaged_file_is_set_aside_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "a.json").write_bytes(content)
    async with opened(tmp_path) as state:
        assert state.read("a.json", NAMES) is None
        assert state.read("a.json", NAMES) is None
        (warning,) = state.warnings
        assert f"{tmp_path / 'a.json'} was damaged and is now {tmp_path / 'a.json.damaged'}" in warning
        assert (tmp_path / "a.json.damaged").read_bytes() == content
        await state.keep("a.json", {"x": 3})
        assert state.read("a.json", NAMES) == {"x": 3}
    assert caplog.text.count("state.trouble") == 1


async def test_a_file_of_absurd_length_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MOST_BYTES", 7)
    async with opened(tmp_path) as state:
        await state.keep("a.json", {"x": 1})
        assert state.read("a.json", NAMES) == {"x": 1}
        await state.keep("a.json", {"x": 12})
        assert state.read("a.json", NAMES) is None
        assert "more than 7B" in state.warnings[0]


async def test_a_folder_that_cannot_be_used_leaves_a_neuron_without_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    async with opened(tmp_path / "file" / "state") as state:
        await state.keep("a.json", {"x": 1})
        state.write("a.json", {"x": 1})
        assert state.read("a.json", NAMES) is None
        (warning,) = state.warnings
        assert "cannot be used: Not a directory" in warning and "set neuron.state_dir" in warning
    assert caplog.text.count("state.trouble") == 1
    async with opened(None) as state:
        assert "no home" in state.warnings[0]


async def test_two_neurons_do_not_write_into_one_folder(tmp_path: Path) -> None:
    async with opened(tmp_path) as first, opened(tmp_path) as second:
        await second.keep("a.json", {"x": 2})
        await first.keep("a.json", {"x": 1})
        assert "another running neuron's" in second.warnings[0]
        assert not first.warnings
        assert first.read("a.json", NAMES) == {"x": 1}
    async with opened(tmp_path) as third:
        assert third.read("a.json", NAMES) == {"x": 1}


async def test_a_disk_that_fails_keeps_what_was_there_and_says_so_until_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async with opened(tmp_path) as state:
        await state.keep("a.json", {"x": 1})
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", full)
            await state.keep("a.json", {"x": 2})
            await state.keep("a.json", {"x": 2})
        (warning,) = state.warnings
        assert "a.json cannot be written: No space left on device" in warning
        assert state.read("a.json", NAMES) == {"x": 1}
        await state.keep("a.json", {"x": 3})
        assert not state.warnings
        assert state.read("a.json", NAMES) == {"x": 3}
    assert caplog.text.count("state.trouble") == 1


async def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "DISK_S", 0.05)
    hang = threading.Event()
    async with opened(tmp_path) as state:
        monkeypatch.setattr(os, "fsync", lambda descriptor: hang.wait(20))
        await state.keep("a.json", {"x": 1})
        await state.keep("b.json", {"x": 1})
        assert len(state.warnings) == 2
        assert "does not answer" in state.warnings[0]
        hang.set()


async def test_a_disk_that_hangs_while_it_is_read_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts without what was not read would write over it."""
    (tmp_path / "a.json").write_text('{"x": 1}')
    hang, read = threading.Event(), State.read
    async with opened(tmp_path) as state:
        assert await state.recall("a.json", dict[str, int]) == {"x": 1}
        monkeypatch.setattr(state_module, "DISK_S", 0.05)
        monkeypatch.setattr(State, "read", lambda *about: hang.wait(20) and read(*about))
        assert await state.recall("a.json", dict[str, int]) is None
        monkeypatch.setattr(state_module, "DISK_S", 5.0)
        assert "does not answer" in state.warnings[0]
        await state.keep("a.json", {})
        hang.set()
    assert (tmp_path / "a.json").read_text() == '{"x": 1}'


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_no_file_is_set_aside_and_waited_for_by_nobody(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.json")
    async with opened(tmp_path) as state:
        assert await state.recall("a.json", dict[str, int]) is None
        assert "a.json.damaged" in state.warnings[0]
        await state.keep("a.json", {"x": 1})
        assert await state.recall("a.json", dict[str, int]) == {"x": 1}


async def test_a_folder_that_hangs_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "DISK_S", 0.05)
    hang = threading.Event()
    mkdir = Path.mkdir

    def hangs(path: Path, *how: object, **more: object) -> None:
        hang.wait(20)
        mkdir(path, *how, **more)

    monkeypatch.setattr(Path, "mkdir", hangs)
    async with opened(tmp_path / "state") as state:
        assert "does not answer" in state.warnings[0]
        hang.set()


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/cortex", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/var/lib/cortex"),
        ({"STATE_DIRECTORY": "/var/lib/cortex:/var/lib/more"}, "/var/lib/cortex"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/cortex"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/cortex"),
        ({"HOME": "/h"}, "/h/.local/state/cortex"),
        ({}, None),
    ],
)
def test_state_lies_where_the_service_or_the_user_has_it(env: dict[str, str], folder: str | None) -> None:
    assert usual_folder(env) == (None if folder is None else Path(folder))


async def test_trouble_with_the_state_shows_in_health(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with trio.fail_after(30):
        config = NeuronConfig(state_dir=tmp_path / "file")
        async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), config=config) as role:
            (warning,) = (await role.http.get("/health")).json()["warnings"]
            assert f"state_dir {tmp_path / 'file'} cannot be used" in warning
        config = NeuronConfig(state_dir=tmp_path / "state")
        async with running_neuron(tmp_path, specs(tmp_path, "a"), Script(), config=config) as role:
            assert (await role.http.get("/health")).json()["warnings"] == []
            assert (tmp_path / "state" / "lock").exists()
