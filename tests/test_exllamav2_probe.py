"""Whether exllamav2 can run here is told from files alone, with a code and what mends it."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from cortex.errors import LoadFailed
from cortex.harness.exllamav2 import archs, extension, installed
from cortex.harness.exllamav2.probe import Cards, why_not
from tests.fake_cuda import TORCH, Host, chosen

ADA = Cards(((8, 9),), cuda="13.0")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def told(cards: Cards = ADA) -> tuple[str, str, str]:
    why = why_not(cards)
    assert why is not None
    return why.code, why.what, why.remedy


def cached(host: Host, *names: str, **other: str) -> Path:
    folder = extension.home()
    assert folder is not None
    return host.put(folder / ",".join(names), names, **other)


def test_nothing_of_cuda_is_imported_to_tell() -> None:
    """A host without CUDA never imports torch: that would cost seconds, memory and its threads."""
    heavy = ("torch", "exllamav2", "numpy", "triton", "tokenizers", "llguidance")
    code = (
        "import sys; from cortex.harness.exllamav2 import ExLlamaV2Harness, extension, probe;"
        "from cortex.neuron import harnesses;"
        "cards = lambda: probe.Cards(((9, 0),));"
        "ExLlamaV2Harness(cards).unavailable(); extension.choose(((9, 0),));"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_a_gpu_lacks_is_told_in_the_order_of_its_mending(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.bare(monkeypatch)
    monkeypatch.setattr(installed, "NEEDED", ("torch", "exllamav2", "madeup"))
    assert told(Cards())[0] == "no_driver"
    assert told(Cards(why_not="NVML says no"))[:2] == ("no_driver", "NVML says no")
    assert told(Cards(((6, 1),)))[0] == "unsupported_gpu"
    code, what, remedy = told()
    assert (code, "[cuda]" in remedy) == ("not_installed", True)
    assert what == "the packages torch, exllamav2, madeup are not installed"
    host.install()
    code, what, _ = told()
    assert (code, what) == ("not_installed", "the package madeup is not installed")
    host.install("madeup")
    host.install(torch="2.11.0+cpu", cuda=None)
    code, what, _ = told()
    assert (code, "2.11.0+cpu" in what) == ("no_cuda_torch", True)
    host.install()
    code, _, remedy = told()
    assert (code, remedy) == ("extension_missing", "cortex engines build exllamav2")
    cached(host, "8.9")
    assert why_not(ADA) is None


@pytest.mark.parametrize(
    ("capability", "cuda", "driver", "code"),
    [
        ((7, 0), "12.8", "12.8", None),
        ((7, 0), "13.0", "13.0", "unsupported_gpu"),
        ((7, 5), "13.0", "13.0", None),
        ((8, 9), "13.0", "12.9", "no_driver"),
        ((8, 9), "13.2", "13.0", None),  # compiled for a newer minor: the driver runs it
        ((8, 9), "12.8", "13.0", None),
        ((8, 9), "13.0", None, None),
    ],
)
def test_gpu_and_driver_must_be_for_the_cuda_of_torch(
    host: Host, capability: tuple[int, int], cuda: str, driver: str | None, code: str | None
) -> None:
    host.install(cuda=cuda)
    cached(host, "7.0", "7.5", "8.9", cuda=cuda)
    why = why_not(Cards((capability,), cuda=driver))
    assert (None if why is None else why.code) == code


def test_an_old_gpu_beside_a_good_one_is_no_obstacle(host: Host) -> None:
    host.install()
    folder = cached(host, "8.6")
    assert why_not(Cards(((3, 5), (8, 6)))) is None
    extension.reach(((3, 5), (8, 6)))
    assert sys.path[0] == str(folder)


@pytest.mark.parametrize(
    ("compiled", "capability", "runs"),
    [
        (["8.6"], (8, 6), True),
        (["8.6"], (8, 9), True),
        (["8.6"], (8, 0), False),
        (["8.6"], (9, 0), False),
        (["8.6+PTX"], (9, 0), True),
        (["8.6+PTX"], (12, 0), True),
        (["8.6+PTX"], (8, 0), False),
        (["8.0", "12.0"], (12, 1), True),
        (["10.0"], (12, 0), False),
        ([], (8, 6), False),
        (["all"], (8, 6), False),
    ],
)
def test_machine_code_runs_on_its_major_from_its_minor_on(
    compiled: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert archs.covers(compiled, capability) == runs


def test_archs_are_read_to_the_letter() -> None:
    assert (archs.parse("8.6"), archs.parse("12.0+PTX")) == ((8, 6), (12, 0))
    assert [archs.parse(each) for each in ("8", "8.66", "9.0a", "8.6 ", "+PTX", "")] == [None] * 6
    assert archs.ordered(["12.0", "8.6", "8.6", "9.0+PTX"]) == ["8.6", "9.0+PTX", "12.0"]


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("cuda: Optional[str] = None\n", None),
        ("__version__ = '1'\n", None),
        ("def broken(:\n", None),
        ("cuda = compute()\n", None),
    ],
)
def test_torchs_cuda_is_read_and_not_imported(host: Host, text: str, cuda: str | None) -> None:
    host.install()
    (host.site / "torch" / "version.py").write_text(text)
    torch = installed.torch()
    assert torch is not None and torch.cuda == cuda


def test_what_a_broken_torch_says_of_itself_is_taken_from_its_metadata(host: Host) -> None:
    host.install()
    (host.site / "torch" / "version.py").unlink()
    torch = installed.torch()
    assert torch is not None and (torch.version, torch.cuda) == ("2.11.0", None)


def test_an_empty_folder_of_the_right_name_is_no_package(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.bare(monkeypatch).install()
    (host.site / "exllamav2" / "__init__.py").unlink()
    assert installed.missing() == ("exllamav2",)


def test_the_cache_is_where_the_service_manager_or_the_user_says(tmp_path: Path) -> None:
    assert extension.cache({"CACHE_DIRECTORY": "/c:/d", "HOME": "/h"}) == Path("/c")
    assert extension.cache({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/cortex")
    assert extension.cache({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/cortex")
    assert extension.cache({}) is None


def test_one_that_was_compiled_for_another_torch_never_gets_onto_the_path(host: Host) -> None:
    host.install()
    cached(host, "8.9")
    host.install(torch="2.12.0+cu130")
    code, what, remedy = told()
    assert (code, remedy) == ("extension_missing", "cortex engines build exllamav2")
    assert TORCH in what and "2.12.0+cu130" in what
    before = list(sys.path)
    with pytest.raises(LoadFailed, match="cortex engines build exllamav2"):
        extension.reach(ADA.capabilities)
    assert (chosen(ADA.capabilities), sys.path) == (None, before)


def test_one_for_other_gpus_is_told_with_what_it_is_for(host: Host) -> None:
    host.install()
    folder = cached(host, "8.6", "8.9")
    code, what, _ = told(Cards(((12, 0),)))
    assert code == "extension_missing"
    assert str(folder) in what and "8.6, 8.9" in what and "12.0" in what


def test_the_one_that_covers_most_gpus_is_reached(host: Host) -> None:
    host.install()
    one, both = cached(host, "8.6"), cached(host, "8.6", "12.0")
    assert chosen(((8, 6), (12, 0))) == both
    both.rename(host.root / "gone")
    assert chosen(((8, 6), (12, 0))) == one
    with pytest.raises(LoadFailed, match=r"not 12\.0"):
        extension.reach(((8, 6), (12, 0)))
    extension.reach(((8, 6),))
    extension.reach(((8, 6),))
    assert sys.path.count(str(one)) == 1
    assert installed.origin_of("exllamav2_ext") == extension.library(one)


def test_a_shipped_one_goes_before_the_cache_unless_it_does_not_fit(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install()
    mine = cached(host, "8.9")
    host.put(host.site, ["8.9"])
    before = list(sys.path)
    assert chosen(((8, 9),)) == host.site
    extension.reach(((8, 9),))
    assert sys.path == before
    host.put(host.site, ["12.0"])
    assert chosen(((8, 9),)) == mine
    host.put(host.site, ["8.9"], torch="2.6.0")
    assert chosen(((8, 9),)) == mine
    extension.reach(((8, 9),))
    assert installed.origin_of("exllamav2_ext") == extension.library(mine)


def test_a_shipped_one_that_says_nothing_is_believed_and_one_for_others_is_a_mismatch(host: Host) -> None:
    host.install()
    host.put(host.site, torch="2.6.0+cu124")
    code, what, _ = told()
    assert (code, "2.6.0+cu124" in what) == ("abi_mismatch", True)
    (host.site / extension.ABOUT).unlink()
    assert why_not(ADA) is None


def test_one_that_is_imported_already_stays_the_one(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.install()
    cached(host, "8.9")
    monkeypatch.setitem(sys.modules, "exllamav2_ext", ModuleType("exllamav2_ext"))
    assert chosen(ADA.capabilities) == Path()
    before = list(sys.path)
    extension.reach(ADA.capabilities)
    assert sys.path == before


@pytest.mark.parametrize("name", [".building-x", "8.9"])
def test_what_is_not_whole_is_not_seen(host: Host, name: str) -> None:
    host.install()
    folder = cached(host, "8.9")
    if name == "8.9":
        extension.library(folder).unlink()
    else:
        folder.rename(folder.with_name(name))
    assert chosen(ADA.capabilities) is None


def test_the_remedy_is_for_the_cache_that_the_service_reads(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.install()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "service"))
    assert told()[2] == f"CACHE_DIRECTORY={tmp_path}/service cortex engines build exllamav2"
    assert str(extension.home()).startswith(os.environ["CACHE_DIRECTORY"])


def test_a_build_that_failed_is_told_until_one_comes_through(host: Host) -> None:
    host.install()
    folder = extension.home()
    assert folder is not None
    folder.mkdir(parents=True)
    (folder / extension.FAILED).write_text('{"why": "exit code 1", "log": "/x/build.log"}')
    code, what, remedy = told()
    assert (code, "exit code 1" in what, "/x/build.log" in remedy) == ("build_failed", True, True)
    cached(host, "8.9")
    assert why_not(ADA) is None
