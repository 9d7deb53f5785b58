"""The child that compiles: torch's own way from sources to a module, with its flags and headers.

Everything it says, and all that the compilers say, goes to its output. It lives in a session of
its own, and no longer than who started it: its input is a pipe that ends with them, and then
it stops the compilers, too. This is the only module of the build that imports torch.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from cortex.harness.exllamav2.extension import MODULE

# As the library compiles itself, so that numbers come out alike.
_C_FLAGS: Final = ("-Ofast",)
_CUDA_FLAGS: Final = ("-lineinfo", "-O3")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told at its start. `path` is where we found what we are made of; `std` is
    the C++ to compile as where torch's own choice does not do."""

    path: list[str] = []
    sources: str = ""
    folder: str = ""
    std: str = ""


def main(said: str) -> None:
    """Compile into the plan's folder, or leave with what went wrong on the output."""
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    plan = msgspec.json.decode(said, type=Plan)
    from torch.utils import cpp_extension  # noqa: PLC0415 - torch is for this process alone

    root, std = Path(plan.sources), [plan.std] if plan.std else []
    cpp_extension.load(
        name=MODULE,
        sources=[str(each) for each in sorted(root.rglob("*")) if each.suffix in {".cpp", ".cu"}],
        extra_include_paths=[str(root)],
        extra_cflags=[*_C_FLAGS, *std],
        extra_cuda_cflags=[*_CUDA_FLAGS, *std],
        build_directory=plan.folder,
        verbose=True,
        # No more than loaded: `check` imports it as an engine would.
        is_python_module=False,
    )


def check(folder: str) -> None:
    """The module in `folder` is imported, and the library with it, which then compiles nothing."""
    sys.path.insert(0, folder)
    __import__("torch")
    module = __import__(MODULE)
    if not str(module.__file__).startswith(folder):
        raise ImportError(f"{MODULE} was imported from {module.__file__} instead of {folder}")
    __import__("exllamav2")


def _outlive_nobody() -> None:
    """ninja passes the signal on to its compilers, which are in groups of their own."""
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
