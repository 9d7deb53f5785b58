"""A GGUF that comes in parts is one model: judged whole, loaded whole, named by its first part."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cortex.catalogue import Catalogue, ModelSpec
from cortex.config.hub import HubConfig
from cortex.demo import GGUF
from cortex.errors import LoadFailed, Unfit
from cortex.harness.base import LoadOrder
from cortex.harness.llamacpp import LlamaCppHarness
from cortex.weights import read_gguf
from tests.calls import CHAT, hello, settings, text_of
from tests.fake_gguf import PAIRS, gguf, split, without
from tests.fake_hub import Repo, fake_hub
from tests.roles import demo_neuron

WHOLE = read_gguf(GGUF)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """The demo model in three parts."""
    paths = [tmp_path / f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for path, data in zip(paths, split(GGUF.read_bytes(), 3), strict=True):
        path.write_bytes(data)
    return paths


def test_the_header_is_that_of_the_whole(parts: list[Path]) -> None:
    header = read_gguf(parts[0])
    assert header.files == tuple(parts)
    assert header.file_bytes == sum(path.stat().st_size for path in parts)
    assert header == replace(WHOLE, path=parts[0], files=header.files, file_bytes=header.file_bytes)


def test_only_the_first_part_stands_for_all(parts: list[Path]) -> None:
    with pytest.raises(Unfit, match="part 2 of 3 of a split GGUF; name the first part"):
        read_gguf(parts[1])


def test_a_part_that_is_missing_cut_or_another_is_named(parts: list[Path]) -> None:
    data = parts[2].read_bytes()
    parts[2].write_bytes(data[:-100])
    with pytest.raises(Unfit, match=r"m-00003-of-00003\.gguf: truncated"):
        read_gguf(parts[0])
    shutil.copyfile(parts[1], parts[2])
    with pytest.raises(Unfit, match=r"m-00003-of-00003\.gguf: is not part 3 of 3"):
        read_gguf(parts[0])
    parts[2].unlink()
    with pytest.raises(Unfit, match=r"m-00003-of-00003\.gguf: there is no such file"):
        read_gguf(parts[0])


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00003.gguf"])
def test_a_first_part_by_another_name_is_refused_with_the_right_one(parts: list[Path], name: str) -> None:
    renamed = parts[0].with_name("x" + name)
    parts[0].rename(renamed)
    with pytest.raises(Unfit, match=r"part 1 of 3 .* end in -00001-of-00003\.gguf"):
        read_gguf(renamed)


def test_so_many_parts_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({**PAIRS, "split.count": 65535}))
    with pytest.raises(Unfit, match=r"split\.count"):
        read_gguf(path)


def test_parts_without_any_tensor_are_no_model(tmp_path: Path) -> None:
    for number in (1, 2):
        pairs = {**PAIRS, "split.count": 2, "split.no": number - 1}
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(gguf(pairs, ()))
    with pytest.raises(Unfit, match="holds no tensors"):
        read_gguf(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "v.gguf").write_bytes(gguf(without("split.count"), ()))
    with pytest.raises(Unfit, match="a vocabulary alone"):
        read_gguf(tmp_path / "v.gguf")


def test_all_parts_are_read_while_it_loads_and_can_be_given_up(parts: list[Path]) -> None:
    harness, total = LlamaCppHarness(), sum(path.stat().st_size for path in parts)
    told: list[int] = []

    def progress(done: int, of: int) -> bool:
        assert of == total
        told.append(done)
        return done >= total

    with pytest.raises(LoadFailed, match="given up"):
        harness.load(LoadOrder("m", parts[0], "cpu", 512, 1), progress, lambda: None)
    assert told == sorted(told) and told[-1] == total and len(told) >= 3


async def test_a_split_model_of_a_hub_speaks_as_the_whole_does(parts: list[Path], tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in parts}
    catalogue = Catalogue({"org/m": ModelSpec("org/m", harness="llamacpp", context=512)})
    question = hello("org/m", messages=[{"role": "user", "content": "What is the capital of France?"}])
    with trio.fail_after(30):
        async with fake_hub(m=Repo(files)) as hub:
            config = settings(hub=HubConfig(tmp_path / "cache", endpoint=hub.url))
            async with demo_neuron(config, catalogue) as role:
                assert text_of(await role.http.post(CHAT, json=question)) == "The capital of France is Paris."
