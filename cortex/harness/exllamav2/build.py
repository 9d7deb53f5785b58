"""Compiles the extension once, by order, into the cache: never in the middle of an import.

The work is a child's. Its objects lie in a folder of their own beside those that are whole, and
only what has been imported once as a check gets a name that anybody looks at. So a build that ends
early, by Ctrl-C, a failure or a power cut, leaves nothing that could be taken for an extension. Two
builds for the same versions wait for each other; the lock of one that was killed is the kernel's
to take back.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import trio

import cortex
from cortex.harness.exllamav2 import archs, extension, installed, shelf, toolchain
from cortex.harness.exllamav2.compilers import BuildFailed, Ended, Watcher, run
from cortex.harness.exllamav2.compiling import Plan
from cortex.harness.exllamav2.extension import MODULE, Made
from cortex.harness.exllamav2.toolchain import Tools
from cortex.units import size

# The biggest units take that much of a compiler.
JOB_BYTES: Final = 2500 * 2**20
# nvcc as of 13.3 cannot read torch's headers as C++17.
_CPP20_SINCE: Final = (13, 3)
_BEGIN: Final = (
    "import json, sys; path = json.loads(sys.argv[1])['path']; "
    "sys.path[:] = [*path, *(each for each in sys.path if each not in path)]; "
    "from cortex.harness.exllamav2 import compiling; compiling.{call}"
)


@dataclass(frozen=True, slots=True)
class Order:
    """What to compile for, and how many compilers may run at a time. `again`: although there is
    one already."""

    archs: tuple[str, ...]
    jobs: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Commands:
    """The two children: what compiles `plan`, and what imports the module that lies in a folder."""

    compile: Callable[[Plan], list[str]]
    check: Callable[[Plan, Path], list[str]]


def ours() -> Commands:
    """The children that do it in earnest."""
    return Commands(
        compile=lambda plan: [*_python("main(sys.argv[1])"), _encoded(plan)],
        check=lambda plan, folder: [*_python("check(sys.argv[2])"), _encoded(plan), str(folder)],
    )


def jobs(cores: int, available_bytes: int) -> int:
    """How many compilers this host has room for at a time."""
    return max(1, min(cores, available_bytes // JOB_BYTES))


def prepare(order: Order, tools: Tools) -> Path:
    """The folder of the cache to build in. Raises all that is amiss as one group of BuildFailed."""
    home = extension.home()
    faults = [*tools.faults(), *tools.unknown(order.archs)]
    if home is None and not faults:
        faults = [toolchain.Fault("there is no folder for a cache", "set HOME or CACHE_DIRECTORY")]
    if home is not None:
        faults += _room(home)
    if faults or home is None:
        raise ExceptionGroup("the extension cannot be compiled", [BuildFailed(str(each)) for each in faults])
    return home


async def build(
    order: Order,
    tools: Tools,
    watcher: Watcher,
    env: Mapping[str, str],
    commands: Commands | None = None,
) -> Path:
    """The folder of an extension for `order`: one that was there, or a fresh one. Raises BuildFailed,
    alone or as a group. Cancelled, its children are ended and nothing is left behind."""
    home = await trio.to_thread.run_sync(prepare, order, tools)
    async with shelf.locked(home, watcher.waits):
        if not order.again and (there := built(order)) is not None:
            return there
        with shelf.workshop(home) as folder:
            making = _Making(order, tools, watcher, env, commands or ours(), folder)
            try:
                await making.compile()
                await making.check()
            except BuildFailed as error:
                log = shelf.remember(home, folder, error.message)
                raise BuildFailed(f"{error.message}; the whole log is {log}", error.said) from error
            return shelf.put(home, folder, making.made())


@dataclass(frozen=True, slots=True)
class _Making:
    """One build, in a folder of its own."""

    order: Order
    tools: Tools
    watcher: Watcher
    env: Mapping[str, str]
    commands: Commands
    folder: Path

    @property
    def plan(self) -> Plan:
        nvcc, sources = self.tools.nvcc, self.tools.sources
        version = tuple(map(int, nvcc.version.split(".")[:2])) if nvcc is not None else (0, 0)
        return Plan(
            path=[*map(os.path.abspath, filter(None, sys.path)), str(Path(cortex.__file__).parent.parent)],
            sources=str(sources),
            folder=str(self.folder / "work"),
            std="-std=c++20" if version >= _CPP20_SINCE else "",
        )

    async def compile(self) -> None:
        (self.folder / "work").mkdir()
        ended = await self._run(self.commands.compile(self.plan))
        if ended.code != 0:
            raise BuildFailed(f"compiling exllamav2's extension failed ({ended.reason})", ended.said)
        made = self.folder / "work" / f"{MODULE}.so"
        if not made.is_file():
            raise BuildFailed("the compilers ended well and left no module", ended.said)
        made.rename(extension.library(self.folder))
        shutil.rmtree(self.folder / "work")

    async def check(self) -> None:
        self.watcher.checks()
        ended = await self._run(self.commands.check(self.plan, self.folder))
        if ended.code != 0:
            raise BuildFailed(f"the compiled extension cannot be imported ({ended.reason})", ended.said)

    def made(self) -> Made:
        abi, nvcc = installed.abi(), self.tools.nvcc
        if abi is None or nvcc is None:
            raise BuildFailed("torch or exllamav2 went away while it was compiled for")
        return Made(
            exllamav2=abi.exllamav2,
            torch=abi.torch,
            cuda=abi.cuda,
            python=abi.python,
            archs=archs.ordered(self.order.archs),
            nvcc=nvcc.version,
            at=time.time(),
        )

    async def _run(self, command: Sequence[str]) -> Ended:
        log = self.folder / shelf.LOG
        return await run(command, self._environment(), self.folder, log, self.watcher.step)

    def _environment(self) -> dict[str, str]:
        """Headers of torch's packages come after the toolkit's own, which fit its compiler."""
        nvcc, compiler = self.tools.nvcc, self.tools.compiler
        includes = [*map(str, self.tools.includes), self.env.get("CPLUS_INCLUDE_PATH", "")]
        return {
            **self.env,
            "PATH": toolchain.search_path(self.env),
            "CUDA_HOME": "" if nvcc is None else str(nvcc.home),
            "CXX": "" if compiler is None else str(compiler.path),
            # torch hands it to nvcc, before the next one counts.
            "CC": "" if compiler is None else str(compiler.path),
            "NVCC_CCBIN": "" if compiler is None else str(compiler.path),
            "CPLUS_INCLUDE_PATH": ":".join(filter(None, includes)),
            "TORCH_CUDA_ARCH_LIST": ";".join(archs.ordered(self.order.archs)),
            "MAX_JOBS": str(self.order.jobs),
            "NINJA_STATUS": "[%f/%t] ",
        }


def built(order: Order) -> Path | None:
    """The folder of the cache that has all that is ordered."""
    wanted = set(order.archs)
    there = (each for each in extension.cached() if each.made is not None and wanted <= set(each.made.archs))
    return next((each.folder for each in there), None)


def _room(home: Path) -> Iterator[toolchain.Fault]:
    there = next(place for place in (home, *home.parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield toolchain.Fault(f"{there} may not be written", "set CACHE_DIRECTORY to a folder that may")
    elif (free := shutil.disk_usage(there).free) < toolchain.LEAST_DISK:
        needed = size(toolchain.LEAST_DISK)
        yield toolchain.Fault(
            f"{there} has {size(free)} free, a build needs {needed}", "make room, or set CACHE_DIRECTORY"
        )


def _python(call: str) -> list[str]:
    # Isolated from the environment and the folder that it starts in.
    return [sys.executable, "-I", "-c", _BEGIN.format(call=call)]


def _encoded(plan: Plan) -> str:
    return msgspec.json.encode(plan).decode()
