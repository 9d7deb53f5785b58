"""Which models a neuron can load by itself, and which files it may open at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

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


async def test_the_catalogue_comes_before_a_file_of_the_same_name(root: Path) -> None:
    (root / "a.gguf").touch()
    (root / "b.gguf").touch()
    own = ModelSpec("a", source="path:/elsewhere/a.gguf", aliases=("fast",))
    found = Found(Catalogue({"a": own}, {"fast": "a"}), (root,))
    await found.look()
    assert found.spec("a") is found.spec(found.resolve("fast")) is own
    assert found.spec("fast") is None
    assert found.spec("b") == ModelSpec("b", source=f"path:{root}/b.gguf")
    assert sorted(found.known()) == ["a", "b"]
    assert found.spec("c") is None


async def test_the_lists_read_no_disk_and_a_miss_looks_again(root: Path) -> None:
    found = Found(Catalogue(), (root,))
    await found.look()
    (root / "late.gguf").touch()
    assert found.spec("late") is None
    assert await found.find("late") == ModelSpec("late", source=f"path:{root}/late.gguf")
    assert list(found.known()) == ["late"]
    (root / "late.gguf").unlink()
    assert list(found.known()) == ["late"]
    await found.look()
    assert list(found.known()) == [demo.MODEL_ID]


async def test_what_lies_in_the_roots_is_looked_at_now_and_then(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LOOK_S", 0.01)
    found = Found(Catalogue(), (root,))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(found.run)
            (root / "new.gguf").touch()
            while "new" not in found.known():  # noqa: ASYNC110
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_a_root_that_went_away_empties_the_list(root: Path) -> None:
    (root / "a.gguf").touch()
    found = Found(Catalogue(), (root,))
    await found.look()
    (root / "a.gguf").unlink()
    root.rmdir()  # noqa: ASYNC240
    await found.look()
    assert "a" not in found.known()


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
    await found.look()
    await found.look()
    assert list(found.known()) == ["a"]
    assert [message for message in caplog.messages if "Stale" in message] == caplog.messages[:1]


async def test_a_file_whose_name_is_no_model_id_is_skipped_and_said_once(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "no id.gguf").touch()
    (root / "folder.gguf").mkdir()
    found = Found(Catalogue({"x": ModelSpec("x")}), (root,))
    await found.look()
    await found.look()
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
    assert locate(ModelSpec("a", source=f"path:{root}/own.gguf"), (root,)) == root / "own.gguf"
    for source in (outside, root / "link.gguf", root / ".." / "b.gguf", Path("/etc/passwd")):
        with pytest.raises(Unfit, match="model_roots"):
            locate(ModelSpec("a", source=f"path:{source}"), (root,))
    with pytest.raises(Unfit, match="none set"):
        locate(ModelSpec("a", source=f"path:{inside}"), ())


def test_the_demo_model_may_always_be_opened() -> None:
    assert locate(demo_spec(), ()) == demo.GGUF


@pytest.mark.parametrize("source", [None, "hf:org/name", "upstream:http://x/v1", "/plain/path.gguf"])
def test_a_source_that_is_no_file_is_refused_with_the_remedy(source: str | None) -> None:
    with pytest.raises(Unfit, match="download it and set source") as caught:
        locate(ModelSpec("org/name", source=source), ())
    assert (source or "hf:org/name") in caught.value.message
