"""Which models a neuron can load by itself, and which files it may open at all."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from cortex import demo
from cortex.catalogue import Catalogue, ModelSpec
from cortex.errors import Unfit
from cortex.neuron import sources
from cortex.neuron.sources import Found, demo_spec, locate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@asynccontextmanager
async def looking(found: Found) -> AsyncIterator[None]:
    """The roots are looked through whenever somebody wants it."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            await found.seen()
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look that is wanted is made."""
    monkeypatch.setattr(sources, "AGAIN_S", 0.0)


async def test_the_catalogue_comes_before_a_file_of_the_same_name(root: Path) -> None:
    (root / "a.gguf").touch()
    (root / "b.gguf").touch()
    own = ModelSpec("a", source="path:/elsewhere/a.gguf", aliases=("fast",))
    found = Found(Catalogue({"a": own}, {"fast": "a"}), (root,))
    async with looking(found):
        assert found.spec("a") is found.spec(found.resolve("fast")) is own
        assert found.spec("fast") is None
        assert found.spec("b") == ModelSpec("b", source=f"path:{root}/b.gguf")
        assert sorted(found.known()) == ["a", "b"]
        assert found.spec("c") is None


@pytest.mark.usefixtures("at_once")
async def test_the_lists_read_no_disk_and_a_miss_looks_again(root: Path) -> None:
    found = Found(Catalogue(), (root,))
    async with looking(found):
        (root / "late.gguf").touch()
        assert found.spec("late") is None
        assert await found.find("late") == ModelSpec("late", source=f"path:{root}/late.gguf")
        assert list(found.known()) == ["late"]
        (root / "late.gguf").unlink()
        assert list(found.known()) == ["late"]
        await found.find("nobody")
        assert list(found.known()) == [demo.MODEL_ID]


async def test_the_demo_model_stands_in_only_once_the_roots_were_seen(root: Path) -> None:
    assert list(Found(Catalogue()).known()) == [demo.MODEL_ID]
    found = Found(Catalogue(), (root,))
    assert list(found.known()) == []
    async with looking(found):
        assert list(found.known()) == [demo.MODEL_ID]


async def test_the_first_root_wins(root: Path) -> None:
    second = root / "second"
    second.mkdir()
    for path in (root / "a.gguf", second / "a.gguf", second / "b.gguf"):
        path.touch()
    found = Found(Catalogue(), (root, second))
    async with looking(found):
        assert found.spec("a") == ModelSpec("a", source=f"path:{root}/a.gguf")
        assert found.spec("b") == ModelSpec("b", source=f"path:{second}/b.gguf")


def model_folder(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").touch()
    (path / "model-00001-of-00002.safetensors").touch()
    return path


@pytest.mark.usefixtures("at_once")
async def test_folders_of_safetensors_are_offered_by_their_name(root: Path) -> None:
    weights = model_folder(root / "name-4.0bpw")
    for name, file in (
        ("adapter", "adapter_config.json"),
        ("half", "config.json"),
        ("bare", "x.safetensors"),
    ):
        (root / name).mkdir()
        (root / name / file).touch()
    (root / "file.gguf").touch()
    found = Found(Catalogue(), (root,))
    async with looking(found):
        assert found.known() == {
            "file": ModelSpec("file", source=f"path:{root}/file.gguf"),
            "name-4.0bpw": ModelSpec("name-4.0bpw", source=f"path:{weights}"),
        }
        model_folder(root / "late")
        assert await found.find("late") == ModelSpec("late", source=f"path:{root}/late")


async def test_a_root_may_be_a_model_itself(root: Path) -> None:
    mine, second = model_folder(root / "mine"), root / "second"
    second.mkdir()
    (mine / "beside.gguf").touch()
    model_folder(second / "mine")
    found = Found(Catalogue(), (mine, second))
    async with looking(found):
        assert found.known() == {"mine": ModelSpec("mine", source=f"path:{mine}")}
    assert locate(found.known()["mine"], (mine,)) == mine


async def test_of_a_file_and_a_folder_of_one_name_the_file_is_offered_and_it_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model_folder(root / "a")
    (root / "a.gguf").touch()
    found = Found(Catalogue(), (root,))
    async with looking(found):
        assert found.known() == {"a": ModelSpec("a", source=f"path:{root}/a.gguf")}
    assert f"file={root}/a why=path:{root}/a.gguf beside it has the same name" in caplog.text


async def test_a_folder_that_the_catalogue_names_needs_no_name_of_its_own(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = ModelSpec("mine", source=f"path:{model_folder(root / 'my model')}")
    found = Found(Catalogue({"mine": spec}), (root / "my model",))
    async with looking(found):
        assert found.known() == {"mine": spec}
    assert caplog.text == ""


def test_folders_below_the_roots_are_located(root: Path) -> None:
    inside, outside = model_folder(root / "in"), model_folder(root.parent / "out")
    (root / "link").symlink_to(outside)
    assert locate(ModelSpec("a", source=f"path:{inside}"), (root,)) == inside
    for source in (outside, root / "link"):
        with pytest.raises(Unfit, match="model_roots"):
            locate(ModelSpec("a", source=f"path:{source}"), (root,))


class Counted:
    """Stands in for `Path.glob`: counts the looks, and lets one folder hang."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hangs: Path | None = None) -> None:
        self.looks = 0
        self.go = threading.Event()
        self._hangs, self._list = hangs, Path.glob
        # A function, so that it becomes a method of the path.
        monkeypatch.setattr(Path, "glob", lambda folder, pattern: self.glob(folder, pattern))  # noqa: PLW0108

    def glob(self, folder: Path, pattern: str) -> Iterator[Path]:
        self.looks += 1
        if folder == self._hangs:
            self.go.wait(20)
        return self._list(folder, pattern)


async def test_names_that_nobody_knows_share_one_look(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    monkeypatch.setattr(sources, "AGAIN_S", 0.2)
    found = Found(Catalogue(), (root,))
    async with looking(found):
        assert counted.looks == 1
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(found.find, f"x{number}")
        assert counted.looks == 2
        # The next look is a while away, however many ask; what was put there is then found.
        (root / "late.gguf").touch()
        assert await found.find("late") is not None
        assert trio.current_time() - began >= 0.2
        assert counted.looks == 3


async def test_a_caller_who_leaves_does_not_end_the_look_of_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch, hangs=root)
    (root / "a.gguf").touch()
    found = Found(Catalogue(), (root,))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            async with trio.open_nursery() as callers:
                callers.start_soon(found.find, "a")
                await trio.testing.wait_all_tasks_blocked()
                callers.cancel_scope.cancel()
            nursery.start_soon(trio.to_thread.run_sync, counted.go.set)
            assert await found.find("a") is not None
            assert counted.looks == 1
            nursery.cancel_scope.cancel()


async def test_a_root_that_hangs_delays_a_look_once_and_hides_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "LOOK_DEADLINE_S", 0.5)
    monkeypatch.setattr(sources, "AGAIN_S", 0.0)
    stuck, well = root / "stuck", root / "well"
    for folder in (stuck, well):
        folder.mkdir()
        (folder / f"{folder.name}.gguf").touch()
    counted = Counted(monkeypatch, hangs=stuck)
    found = Found(Catalogue(), (stuck, well))
    async with looking(found):
        assert list(found.known()) == ["well"]
        threads, looks = threading.active_count(), counted.looks
        began = trio.current_time()
        for number in range(20):
            assert await found.find(f"x{number}") is None
        assert trio.current_time() - began < 0.5
        # The other root was looked through again; no second thread went where the first one hangs.
        assert counted.looks >= looks + 20
        assert threading.active_count() <= threads
        counted.go.set()
        while found.spec("stuck") is None:
            await found.find("nobody")
    assert caplog.text.count("no answer") == 1


async def test_a_root_that_hangs_later_keeps_what_it_held(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LOOK_DEADLINE_S", 0.2)
    monkeypatch.setattr(sources, "AGAIN_S", 0.0)
    (root / "a.gguf").touch()
    found = Found(Catalogue(), (root,))
    async with looking(found):
        assert list(found.known()) == ["a"]
        counted = Counted(monkeypatch, hangs=root)
        await found.find("nobody")
        assert counted.looks
        assert list(found.known()) == ["a"]
        counted.go.set()


async def test_what_lies_in_the_roots_is_looked_at_now_and_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LOOK_S", 0.01)
    monkeypatch.setattr(sources, "AGAIN_S", 0.01)
    found = Found(Catalogue(), (root,))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            (root / "new.gguf").touch()
            while "new" not in found.known():  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert list(found.known()) == ["new"]


@pytest.mark.usefixtures("at_once")
async def test_a_root_that_went_away_empties_the_list(root: Path) -> None:
    (root / "a.gguf").touch()
    found = Found(Catalogue(), (root,))
    async with looking(found):
        (root / "a.gguf").unlink()
        root.rmdir()  # noqa: ASYNC240
        await found.find("nobody")
        assert "a" not in found.known()


@pytest.mark.usefixtures("at_once")
async def test_a_root_that_cannot_be_read_costs_the_others_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a network mount fails that went away."""
    bad, listed = root / "bad", Path.glob
    bad.mkdir()
    (root / "a.gguf").touch()

    def glob(folder: Path, pattern: str) -> Iterator[Path]:
        if folder == bad:
            raise OSError(116, "Stale file handle")
        return listed(folder, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    found = Found(Catalogue(), (bad, root))
    async with looking(found):
        await found.find("nobody")
        assert list(found.known()) == ["a"]
    assert [message for message in caplog.messages if "Stale" in message] == caplog.messages[:1]


@pytest.mark.usefixtures("at_once")
async def test_a_file_whose_name_is_no_model_id_is_skipped_and_said_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "no id.gguf").touch()
    (root / "folder.gguf").mkdir()
    found = Found(Catalogue({"x": ModelSpec("x")}), (root,))
    async with looking(found):
        await found.find("nobody")
        assert sorted(found.known()) == ["folder", "x"]
    assert [record.getMessage() for record in caplog.records].count(caplog.messages[0]) == 1
    assert "no id.gguf" in caplog.messages[0]


def test_only_files_below_the_roots_are_located(root: Path) -> None:
    inside, outside = root / "a.gguf", root.parent / "b.gguf"
    for path in (inside, outside):
        path.touch()
    (root / "link.gguf").symlink_to(outside)
    (root / "own.gguf").symlink_to(inside)
    assert locate(ModelSpec("a", source=f"path:{inside}"), (root,)) == inside
    # Without links, so that nobody can set the link elsewhere after the check.
    assert locate(ModelSpec("a", source=f"path:{root}/own.gguf"), (root,)) == inside
    (root.parent / "other-name").symlink_to(root)
    assert locate(ModelSpec("a", source=f"path:{inside}"), (root.parent / "other-name",)) == inside
    for source in (outside, root / "link.gguf", root / ".." / "b.gguf", Path("/etc/passwd")):
        with pytest.raises(Unfit, match="model_roots"):
            locate(ModelSpec("a", source=f"path:{source}"), (root,))
    with pytest.raises(Unfit, match="none set"):
        locate(ModelSpec("a", source=f"path:{inside}"), ())


@pytest.mark.parametrize("name", ["loop.gguf", "a\0b.gguf", "loop.gguf/x.gguf"])
def test_a_path_that_leads_nowhere_is_refused_by_name(root: Path, name: str) -> None:
    (root / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(Unfit, match="leads to no file or folder") as caught:
        locate(ModelSpec("a", source=f"path:{root}/{name}"), (root,))
    assert repr(f"{root}/{name}") in caught.value.message


def test_a_root_that_leads_nowhere_costs_the_others_nothing(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    (root / "a.gguf").touch()
    (root.parent / "other-name").symlink_to(root)
    roots = (root / "loop", root.parent / "other-name")
    assert locate(ModelSpec("a", source=f"path:{root}/a.gguf"), roots) == root / "a.gguf"
    with pytest.raises(Unfit, match="model_roots"):
        locate(ModelSpec("a", source="path:/etc/passwd"), roots)


def test_the_demo_model_may_always_be_opened() -> None:
    assert locate(demo_spec(), ()) == demo.GGUF


@pytest.mark.parametrize("source", [None, "upstream:http://x/v1", "/plain/path.gguf"])
def test_a_source_that_is_no_file_is_refused_with_the_remedy(source: str | None) -> None:
    with pytest.raises(Unfit, match="set source to") as caught:
        locate(ModelSpec("name", source=source), ())
    assert (source or "no source") in caught.value.message
