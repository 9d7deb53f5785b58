"""The extension is compiled by order, once, by a child that leaves nothing half-done.

The child is made up, since a real one takes a quarter of an hour; its process, session, output and
end are real, and so are the lock and the cache.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cortex.cli import building
from cortex.cli.trouble import Usage
from cortex.harness.exllamav2 import build, compilers, extension, shelf, toolchain
from cortex.harness.exllamav2.build import Order
from cortex.harness.exllamav2.compilers import BuildFailed
from cortex.harness.exllamav2.toolchain import Tools
from tests.fake_cuda import ENGINE, TORCH, Heard, Host, children, chosen
from tests.fake_terminal import ROOT, lines_until, running

ORDER = Order(("8.9",), 2)
SLEEPER = "import time, subprocess; {before}; time.sleep(60)"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def env(host: Host, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(toolchain, "_ROOTS", ())
    host.install()
    return host.tools()


def home() -> Path:
    folder = extension.home()
    assert folder is not None
    return folder


def left() -> set[str]:
    """What the cache has, but for the lock."""
    return {path.name for path in home().iterdir()} - {shelf.LOCK}


def faults(tools: Tools) -> list[str]:
    return [str(each) for each in tools.faults()]


# -- what a build needs


def test_a_host_that_has_everything_lacks_nothing(host: Host, env: dict[str, str]) -> None:
    tools = toolchain.look(env)
    assert faults(tools) == []
    assert tools.nvcc is not None and tools.compiler is not None
    assert (tools.nvcc.home, tools.nvcc.version) == (host.toolkit, "13.0.88")
    assert (tools.nvcc.newest_gcc, tools.compiler.gcc) == (15, 12)
    assert [str(each) for each in tools.unknown(("8.6", "10.0+PTX", "7.0"))] == [
        "nvcc 13.0.88 does not compile for 7.0: choose of 7.5, 8.6, 8.9, 9.0, 10.0, 12.0"
    ]


def test_all_that_is_missing_is_told_together(host: Host, env: dict[str, str]) -> None:
    for name in ("nvcc", "ninja", "c++"):
        (host.bin / name).unlink()
    host.install("torch", cuda=None)
    (host.site / "exllamav2" / "exllamav2_ext").rmdir()
    tools = toolchain.look({**env, "PATH": str(host.bin), "CXX": "no-such-compiler"})
    said = faults(tools)
    words = ("without CUDA", "exllamav2, whose sources", "nvcc is not found", "no C++ compiler")
    assert [word for word in words if not any(word in each for each in said)] == []
    assert all(": " in each for each in said)


@pytest.mark.parametrize(
    ("nvcc", "gcc", "kind", "word"),
    [
        ("12.8", "12.2.0", "", "is of CUDA 12.8.88, torch of CUDA 13.0"),
        ("13.2", "12.2.0", "", ""),
        ("13.0", "8.5.0", "", "is GCC 8.5.0: install GCC 9 or newer"),
        ("13.0", "9.4.0", "", ""),
        ("13.0", "16.1.0", "", "works with GCC up to 15"),
        ("13.0", "8.0.0", "clang", ""),
    ],
)
def test_compilers_must_be_of_an_age(
    host: Host, env: dict[str, str], nvcc: str, gcc: str, kind: str, word: str
) -> None:
    host.tools(nvcc=nvcc, gcc=gcc, kind=kind)
    said = faults(toolchain.look(env))
    assert [word in each for each in said] == ([True] if word else [])


def test_headers_may_come_with_torch_instead_of_the_toolkit(host: Host, env: dict[str, str]) -> None:
    (host.toolkit / "include" / "cusparse.h").unlink()
    (said,) = faults(toolchain.look(env))
    assert "cusparse.h" in said and "cublas" not in said
    include = host.site / "nvidia" / "cu13" / "include"
    include.mkdir(parents=True)
    (include / "cusparse.h").touch()
    assert faults(toolchain.look(env)) == []


def test_a_toolkit_that_is_named_is_the_only_one_asked(host: Host, env: dict[str, str]) -> None:
    (said,) = faults(toolchain.look({**env, "CUDA_HOME": str(host.root / "nowhere")}))
    assert "nvcc is not found" in said and "correct or unset CUDA_HOME" in said


def test_of_several_toolkits_that_of_torch_is_taken(
    host: Host, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "_ROOTS", (f"{host.root}/cuda-*",))
    (host.bin / "nvcc").rename(host.toolkit / "bin" / "nvcc")
    host.tools(nvcc="12.4")
    assert faults(toolchain.look(env)) == []


@pytest.mark.parametrize(
    ("cores", "memory", "jobs"), [(16, 128 * 2**30, 16), (16, 6 * 2**30, 2), (4, 2**30, 1), (1, 2**40, 1)]
)
def test_as_many_compilers_run_as_there_is_memory_for(cores: int, memory: int, jobs: int) -> None:
    assert build.jobs(cores, memory) == jobs


def test_a_full_disk_and_a_folder_that_is_shut_are_told_before(
    host: Host, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "LEAST_DISK", 2**62)
    with pytest.raises(ExceptionGroup) as caught:
        build.prepare(Order(("7.0",), 1), toolchain.look(env))
    said = [str(each) for each in caught.value.exceptions]
    assert ["does not compile for 7.0" in said[0], "free" in said[1]] == [True, True]
    assert all(isinstance(each, BuildFailed) for each in caught.value.exceptions)


# -- the build


async def test_what_was_compiled_is_found_with_all_that_it_is_for(host: Host, env: dict[str, str]) -> None:
    heard = Heard()
    with trio.fail_after(30):
        folder = await build.build(Order(("12.0", "8.9"), 3), toolchain.look(env), heard, env, children())
    assert heard.steps == [(1, 2), (2, 2)] and heard.words == ["checks"]
    assert folder == home() / "8.9,12.0"
    assert chosen(((8, 9), (12, 0))) == folder
    assert {path.name for path in folder.iterdir()} == {extension.library(folder).name, extension.ABOUT}
    about = json.loads((folder / extension.ABOUT).read_text())
    assert (about["exllamav2"], about["torch"], about["nvcc"]) == (ENGINE, TORCH, "13.0.88")
    assert about["archs"] == ["8.9", "12.0"] and about["at"] > 1.7e9
    assert left() == {folder.name}
    told = json.loads(extension.library(folder).read_text())
    assert told["CUDA_HOME"] == str(host.toolkit)
    assert (told["TORCH_CUDA_ARCH_LIST"], told["MAX_JOBS"]) == ("8.9;12.0", "3")
    assert told["PATH"].split(":")[0] == str(Path(sys.executable).parent)


async def test_headers_of_torchs_packages_come_after_the_toolkits(host: Host, env: dict[str, str]) -> None:
    """Named by CPATH, they would come before: those of another minor do not fit the compiler."""
    include = host.site / "nvidia" / "cu13" / "include"
    include.mkdir(parents=True)
    with trio.fail_after(30):
        folder = await build.build(ORDER, toolchain.look(env), Heard(), env, children())
    told = json.loads(extension.library(folder).read_text())
    assert told["CPLUS_INCLUDE_PATH"] == str(include) and "CPATH" not in told


async def test_the_compiler_that_was_judged_is_the_one_that_nvcc_gets(
    host: Host, env: dict[str, str]
) -> None:
    """torch hands CC to nvcc by an option, which NVCC_CCBIN does not outdo."""
    foreign = {**env, "CC": "/a/gcc/that/nvcc/does/not/know"}
    with trio.fail_after(30):
        folder = await build.build(ORDER, toolchain.look(foreign), Heard(), foreign, children())
    told = json.loads(extension.library(folder).read_text())
    assert told["CC"] == told["CXX"] == told["NVCC_CCBIN"] != foreign["CC"]


@pytest.mark.parametrize(("nvcc", "std"), [("13.2", ""), ("13.3", "-std=c++20"), ("13.10", "-std=c++20")])
def test_a_newer_nvcc_is_told_the_newer_language(
    host: Host, env: dict[str, str], nvcc: str, std: str
) -> None:
    host.tools(nvcc=nvcc)
    making = build._Making(ORDER, toolchain.look(env), Heard(), env, build.ours(), host.root)
    assert making.plan.std == std


async def test_one_that_is_there_is_not_compiled_again_unless_it_is_ordered(
    host: Host, env: dict[str, str]
) -> None:
    tools, broken = toolchain.look(env), children("sys.exit(1)")
    with trio.fail_after(30):
        first = await build.build(Order(("8.6", "8.9"), 1), tools, Heard(), env, children())
        assert await build.build(ORDER, tools, Heard(), env, broken) == first
        with pytest.raises(BuildFailed):
            await build.build(Order(("8.6", "8.9"), 1, again=True), tools, Heard(), env, broken)
        assert chosen(((8, 9),)) == first
        again = await build.build(
            Order(("8.6", "8.9"), 1, again=True), tools, Heard(), {**env, "X": "2"}, children()
        )
    assert again == first
    assert json.loads(extension.library(first).read_text())["X"] == "2"
    assert left() == {first.name}


FAILS = """
print("FAILED: [code=1] one.o")
print("c++ -a -very -long -command")
print("one.cpp:1:1: error: this is what went wrong")
print("ninja: build stopped: subcommand failed.", flush=True)
sys.exit(3)
"""


async def test_a_failure_tells_the_compilers_words_and_where_its_log_lies(
    host: Host, env: dict[str, str]
) -> None:
    tools = toolchain.look(env)
    with trio.fail_after(30):
        with pytest.raises(BuildFailed) as caught:
            await build.build(ORDER, tools, Heard(), env, children(FAILS))
    log = home() / shelf.LOG
    assert "exit code 3" in caught.value.message and str(log) in caught.value.message
    assert caught.value.said == (
        "FAILED: [code=1] one.o",
        "one.cpp:1:1: error: this is what went wrong",
        "ninja: build stopped: subcommand failed.",
    )
    assert "-very -long" in log.read_text() and "[1/2]" in log.read_text()
    failed = extension.failed()
    assert failed is not None and (failed.log, "exit code 3" in failed.why) == (str(log), True)
    assert left() == {shelf.LOG, extension.FAILED}
    with trio.fail_after(30):
        folder = await build.build(ORDER, tools, Heard(), env, children())
    assert left() == {folder.name}


@pytest.mark.parametrize(
    ("then", "check", "word"),
    [
        ("os.kill(os.getpid(), 9)", "", "SIGKILL"),
        ("print('the end'); sys.exit(0)", "", "left no module"),
        ("", "raise ImportError('undefined symbol: _ZN3c10')", "cannot be imported"),
    ],
)
async def test_a_module_that_cannot_be_used_is_no_extension(
    host: Host, env: dict[str, str], then: str, check: str, word: str
) -> None:
    with trio.fail_after(30):
        with pytest.raises(BuildFailed, match=word) as caught:
            await build.build(ORDER, toolchain.look(env), Heard(), env, children(then, check))
    if check:
        assert any("undefined symbol" in line for line in caught.value.said)
    assert chosen(((8, 9),)) is None


GRANDCHILD = """
import subprocess, time
# As ninja starts its compilers: in a group of their own.
child = subprocess.Popen(["sleep", "60"], process_group=0)
{then}
print(f"[{{child.pid}}/1] sleep", flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    return compilers._leader(Path(f"/proc/{pid}/stat")) is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="sessions are told by Linux alone")
@pytest.mark.parametrize("deaf", [False, True])
async def test_a_build_that_is_called_off_ends_all_its_processes(
    host: Host, env: dict[str, str], deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilers, "_STOP_S", 0.3)
    then = GRANDCHILD.format(then="signal.signal(15, signal.SIG_IGN)" if deaf else "").replace(
        "import subprocess", "import signal, subprocess"
    )
    heard = Heard()

    async def call_off(scope: trio.CancelScope) -> None:
        await heard.stepped.wait()
        scope.cancel()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_off, nursery.cancel_scope)
            await build.build(ORDER, toolchain.look(env), heard, env, children(then, step_first=False))
    # The number of the step is that of the process.
    assert not alive(heard.steps[0][0])
    assert left() == set()
    assert extension.failed() is None


async def test_two_builds_wait_for_each_other_and_the_second_finds_the_firsts(
    host: Host, env: dict[str, str]
) -> None:
    tools, first, second = toolchain.look(env), Heard(), Heard()
    gate = host.root / "gate"
    os.mkfifo(gate)

    async def one() -> None:
        await build.build(ORDER, tools, first, env, children(f"open({str(gate)!r}).read()"))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one)
            await first.stepped.wait()
            nursery.start_soon(build.build, ORDER, tools, second, env, children("sys.exit(1)"))
            await second.waited.wait()
            async with await trio.open_file(gate, "w"):
                pass
    assert (second.words, second.steps) == (["waits"], [])


KILLED = """
import trio
from pathlib import Path
from cortex.harness.exllamav2 import shelf

async def main():
    home = Path({home!r})
    async with shelf.locked(home, lambda: None):
        with shelf.workshop(home) as folder:
            print("locked", flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


async def test_one_that_was_killed_holds_up_nobody_and_is_cleared_away(
    host: Host, env: dict[str, str]
) -> None:
    async with running("-c", KILLED.format(home=str(home()))) as builder:
        await lines_until(builder.stdout, b"locked\n")
        assert len(left()) == 1
        builder.kill()
        await builder.wait()
    assert len(left()) == 1
    with trio.fail_after(30):
        heard = Heard()
        folder = await build.build(ORDER, toolchain.look(env), heard, env, children())
    assert heard.words == ["checks"]
    assert left() == {folder.name}


OUTLIVED = """
import sys, subprocess, time
sys.path.insert(0, {root!r})
# The child's own end: it lives in a session of its own, its input a pipe.
import threading
from cortex.harness.exllamav2 import compiling
threading.Thread(target=compiling._outlive_nobody, daemon=True).start()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
time.sleep(60)
"""


async def test_a_compiling_child_ends_with_who_started_it() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", OUTLIVED.format(root=str(ROOT))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    with trio.fail_after(30):
        pid = int(await lines_until(process.stdout, b"\n"))
        await process.stdin.aclose()
        assert await process.wait() == -signal.SIGTERM
        while alive(pid):  # noqa: ASYNC110 - nobody tells of the end of a child's child
            await trio.sleep(0.01)


# -- the command


@pytest.mark.parametrize("wanted", ["8", "8.6,nine", "", "8.6;8.9", "9.0a"])
def test_archs_that_are_none_are_a_usage_error(wanted: str, env: dict[str, str]) -> None:
    with pytest.raises(Usage, match="--arch"):
        building.build_engine("exllamav2", wanted, 1, again=False, env=env)


def test_only_the_engine_that_is_compiled_here_can_be_built(env: dict[str, str]) -> None:
    with pytest.raises(Usage, match="llamacpp is not built here"):
        building.build_engine("llamacpp", None, None, again=False, env=env)


def test_the_command_prints_the_folder_and_nothing_else(
    host: Host, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ours", children)
    building.build_engine("exllamav2", "8.9, 8.6,8.9", 1, again=False, env=env)
    said = capsys.readouterr()
    assert said.out == f"{home() / '8.6,8.9'}\n"
    assert "8.6, 8.9" in said.err and "importing it once" in said.err


def test_what_is_there_needs_no_compiler(
    host: Host, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ours", children)
    building.build_engine("exllamav2", "8.6", 1, again=False, env=env)
    first = capsys.readouterr().out
    for name in ("nvcc", "c++"):
        (host.bin / name).unlink()
    bare = {**env, "PATH": str(host.bin), "CXX": "no-such-compiler"}
    building.build_engine("exllamav2", "8.6", 1, again=False, env=bare)
    said = capsys.readouterr()
    assert (said.out, said.err) == (first, "")
    with pytest.raises(ExceptionGroup):
        building.build_engine("exllamav2", "8.6", 1, again=True, env=bare)


async def test_a_line_a_minute_says_how_long_it_takes_and_does_not_grow(
    capsys: pytest.CaptureFixture[str], autojump_clock: trio.testing.MockClock
) -> None:
    lines = building._Lines()
    lines.waits()
    with trio.move_on_after(3.5 * building.SAY_S):
        await lines.run()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert all(line.count(", after") == 1 for line in told[1:])


def test_a_failed_command_shows_the_compilers_words(
    host: Host, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ours", lambda: children(FAILS))
    with pytest.raises(ExceptionGroup) as caught:
        building.build_engine("exllamav2", "8.9", 1, again=False, env=env)
    assert caught.group_contains(BuildFailed, match="the whole log")
    said = capsys.readouterr()
    assert said.out == "" and "this is what went wrong" in said.err
