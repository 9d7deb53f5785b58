"""The packages of the `cuda` extra as an import system sees them, and what compiles, as scripts.

Only files are made up: what reads them is real. An import of a package fails, since whoever only
asks what is installed must not import; the compilers answer what the real ones answer when they
are asked for their version.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from cortex.harness.exllamav2 import extension, installed
from cortex.harness.exllamav2.build import Commands
from cortex.harness.exllamav2.compilers import Watcher
from cortex.harness.exllamav2.compiling import Plan
from cortex.harness.exllamav2.extension import ABOUT, MODULE

TORCH, CUDA, ENGINE = "2.11.0+cu130", "13.0", "0.3.2"
PACKAGES = ("torch", "exllamav2", "tokenizers", "safetensors", "llguidance")
VERSION = """
from typing import Optional
__version__ = {version!r}
cuda: Optional[str] = {cuda!r}
hip: Optional[str] = None
"""
# CUDA 13.0 as its compiler tells of itself, from behind a script that stands elsewhere.
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.88" ;;
  --dryrun) echo "#$ _HERE_={home}/bin" >&2; echo "#$ TOP={home}/bin/.." >&2 ;;
  --list-gpu-arch) for arch in 75 86 89 90 100 120; do echo "compute_$arch"; done ;;
esac
"""
CXX = """#!/bin/sh
case "$1" in
  --version) echo "c++ ({kind}) {version}" ;;
  *) echo "{version}" ;;
esac
"""


class Host:
    """A host of a test's own: its packages, its compilers, its home."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.site, self.home = root, root / "site", root / "home"
        self.toolkit, self.bin = root / "cuda-13.0", root / "bin"
        for each in (self.site, self.home, self.toolkit / "bin", self.toolkit / "include" / "crt", self.bin):
            each.mkdir(parents=True)
        for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME", "CUDA_HOME", "CXX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(self.home))
        # Imported by others of the same run, perhaps: here, only files count.
        for name in (*PACKAGES, MODULE):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(self.site))

    def install(self, *names: str, torch: str = TORCH, cuda: str | None = CUDA) -> "Host":
        """All packages are there, or those that are named."""
        for name in names or PACKAGES:
            package = self.site / name
            package.mkdir(exist_ok=True)
            (package / "__init__.py").write_text(f"raise AssertionError('{name} was imported')\n")
            version = {"torch": torch.partition("+")[0], "exllamav2": ENGINE}.get(name, "1.0")
            info = self.site / f"{name}-{version}.dist-info"
            info.mkdir(exist_ok=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if "torch" in (names or PACKAGES):
            (self.site / "torch" / "version.py").write_text(VERSION.format(version=torch, cuda=cuda))
        if "exllamav2" in (names or PACKAGES):
            (self.site / "exllamav2" / "exllamav2_ext").mkdir(exist_ok=True)
        return self

    def bare(self, monkeypatch: pytest.MonkeyPatch) -> "Host":
        """Not even the real packages are there, on a developer's host that has them."""
        real = [each for each in sys.path if each != str(self.site) and _has_cuda(Path(each))]
        monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in real])
        return self

    def put(self, folder: Path, archs: Sequence[str] = ("8.9",), **other: str) -> Path:
        """A compiled extension lies in `folder`, with what it was compiled for."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{MODULE}.{installed.python()}.so").write_bytes(b"\x7fELF")
        made = {"exllamav2": ENGINE, "torch": TORCH, "cuda": CUDA, "python": installed.python()}
        (folder / ABOUT).write_text(json.dumps({**made, "archs": list(archs), **other}))
        return folder

    def tools(self, nvcc: str = "13.0", gcc: str = "12.2.0", kind: str = "") -> dict[str, str]:
        """The compilers are there; the environment that finds them, and no others."""
        self.script("nvcc", NVCC.format(version=nvcc, home=self.toolkit))
        self.script("c++", CXX.format(version=gcc, kind=kind or "Free Software Foundation"))
        self.script("ninja", "#!/bin/sh\necho 1.13.0\n")
        (self.toolkit / "include" / "crt" / "host_config.h").write_text("#if __GNUC__ > 15\n#error\n")
        for header in ("cublas_v2.h", "cusparse.h", "cusolverDn.h"):
            (self.toolkit / "include" / header).touch()
        return {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.home)}

    def script(self, name: str, text: str) -> None:
        """A program on the PATH of `tools`."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)


def chosen(capabilities: Sequence[tuple[int, int]]) -> Path | None:
    """The folder of the extension that would be used; None for none."""
    best = extension.choose(capabilities)
    return None if best is None else best.folder


class Heard(Watcher):
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.stepped, self.waited = trio.Event(), trio.Event()

    def waits(self) -> None:
        self.words.append("waits")
        self.waited.set()

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        self.stepped.set()

    def checks(self) -> None:
        self.words.append("checks")


COMPILE = """
import json, os, pathlib, sys
plan = json.loads(sys.argv[1])
folder = pathlib.Path(plan["folder"])
(folder / "one.o").touch()
{first}
{then}
print("[2/2] link", flush=True)
(folder / "exllamav2_ext.so").write_text(json.dumps(dict(os.environ)))
"""


def children(then: str = "", check: str = "", *, step_first: bool = True) -> Commands:
    """Children that compile in no time; `then` is what they do in the middle of it."""
    first = "print('[1/2] ' + 'c++ ' * 50, flush=True)" if step_first else ""
    return Commands(
        compile=lambda plan: [sys.executable, "-c", COMPILE.format(first=first, then=then), _told(plan)],
        check=lambda plan, folder: [sys.executable, "-c", check or "pass", str(folder)],
    )


def _told(plan: Plan) -> str:
    return json.dumps({"folder": plan.folder, "std": plan.std})


def _has_cuda(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("torch", "exllamav2"))
