"""What compiles the extension: nvcc of torch's CUDA, a C++ compiler, ninja, and headers.

Everything is looked for at once and told together, each with its remedy, before a compiler runs:
who lacks three things should not learn of them one by one. Compilers are asked for their version;
nothing is compiled or imported here.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cortex.harness.exllamav2 import archs, installed
from cortex.harness.exllamav2.installed import Torch
from cortex.harness.exllamav2.probe import EXTRA

# Torch's headers are C++17 as of GCC 9.
LEAST_GCC: Final = 9
# A build's objects and the library, with room for several archs.
LEAST_DISK: Final = 2 * 2**30
# torch's headers of CUDA's libraries, which a toolkit without these libraries lacks.
_HEADERS: Final = ("cublas_v2.h", "cusparse.h", "cusolverDn.h")
_ROOTS: Final = ("/usr/local/cuda", "/usr/local/cuda-*", "/opt/cuda")
_ASKED_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Nvcc:
    """A CUDA compiler: `home` is the toolkit that it belongs to, `knows` the archs it compiles for,
    `newest_gcc` the newest major of GCC that it works with; 0 where it does not say."""

    path: Path
    home: Path
    version: str
    knows: tuple[str, ...] = ()
    newest_gcc: int = 0

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler. `gcc` is its major; 0 when it is another kind."""

    path: Path
    version: str
    gcc: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that a build needs and has not."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class Tools:
    """What there is on this host. `includes` are folders of headers that torch brought along."""

    torch: Torch | None
    sources: Path | None
    nvcc: Nvcc | None
    compiler: Compiler | None
    ninja: Path | None
    python_h: bool
    setuptools: bool
    includes: tuple[Path, ...] = ()

    def faults(self) -> Iterator[Fault]:
        """What a build lacks, whatever it is for."""
        yield from self._packages()
        yield from self.compilers()

    def compilers(self) -> Iterator[Fault]:
        """What of that is no package of Python's."""
        if self.ninja is None:
            yield Fault("ninja is not installed", "pip install ninja")
        yield from self._cuda()
        yield from self._host()

    def unknown(self, wanted: Iterable[str]) -> Iterator[Fault]:
        """The archs that the compiler does not compile for."""
        nvcc = self.nvcc
        for arch in wanted if nvcc is not None and nvcc.knows else ():
            if nvcc is not None and arch.removesuffix(archs.PTX) not in nvcc.knows:
                yield Fault(
                    f"nvcc {nvcc.version} does not compile for {arch}", f"choose of {', '.join(nvcc.knows)}"
                )

    def _packages(self) -> Iterator[Fault]:
        if self.torch is None:
            yield Fault("torch is not installed", EXTRA)
        elif self.torch.cuda is None:
            yield Fault(
                f"torch {self.torch.version} is a build without CUDA", f"pip uninstall torch, then {EXTRA}"
            )
        if self.sources is None:
            yield Fault("exllamav2, whose sources are compiled, is not installed", EXTRA)
        if not self.setuptools:
            yield Fault("setuptools, which torch compiles with, is not installed", "pip install setuptools")

    def _cuda(self) -> Iterator[Fault]:
        wanted = None if self.torch is None else self.torch.cuda
        major = "" if wanted is None else wanted.partition(".")[0]
        remedy = f"install NVIDIA's CUDA toolkit{f' {wanted}' if wanted else ''}, and set CUDA_HOME to it"
        if self.nvcc is None:
            yield Fault(
                "nvcc is not found in CUDA_HOME, which counts alone where it is set, or else in "
                "PATH and /usr/local/cuda*",
                f"correct or unset CUDA_HOME, or {remedy}",
            )
            return
        if major and self.nvcc.major != int(major):
            yield Fault(f"{self.nvcc.path} is of CUDA {self.nvcc.version}, torch of CUDA {wanted}", remedy)
        lacking = [name for name in _HEADERS if not self._has(name)]
        if major and lacking:
            what = f"{', '.join(lacking)} are neither in {self.nvcc.home} nor in torch's nvidia packages"
            yield Fault(what, "install the CUDA toolkit's libraries for developers (cuda-libraries-dev)")

    def _host(self) -> Iterator[Fault]:
        found, newest = self.compiler, 0 if self.nvcc is None else self.nvcc.newest_gcc
        if found is None:
            yield Fault("no C++ compiler is found", "install g++ (Debian) or gcc-c++ (Fedora), or set CXX")
        elif 0 < found.gcc < LEAST_GCC:
            yield Fault(
                f"{found.path} is GCC {found.version}", f"install GCC {LEAST_GCC} or newer, and set CXX to it"
            )
        elif 0 < newest < found.gcc:
            what = f"{found.path} is GCC {found.version}, and nvcc works with GCC up to {newest}"
            yield Fault(what, f"install GCC {newest}, and set CXX to it (CXX=g++-{newest})")
        if not self.python_h:
            folder = sysconfig.get_path("include")
            yield Fault(
                f"Python.h is not in {folder}", "install python3-dev (Debian) or python3-devel (Fedora)"
            )

    def _has(self, header: str) -> bool:
        roots = (self.nvcc.home / "include",) if self.nvcc is not None else ()
        return any((folder / header).is_file() for folder in (*roots, *self.includes))


def look(env: Mapping[str, str]) -> Tools:
    """What this host has. Blocks: the compilers are run to ask for their version."""
    path, torch = search_path(env), installed.torch()
    engine = installed.folder_of("exllamav2")
    sources = None if engine is None else engine / "exllamav2_ext"
    ninja = shutil.which("ninja", path=path)
    return Tools(
        torch=torch,
        sources=sources if sources is not None and sources.is_dir() else None,
        nvcc=_nvcc(env, path, torch),
        compiler=_compiler(env, path),
        ninja=None if ninja is None else Path(ninja),
        python_h=Path(sysconfig.get_path("include"), "Python.h").is_file(),
        setuptools=importlib.util.find_spec("setuptools") is not None,
        includes=() if torch is None else tuple(sorted(torch.folder.parent.glob("nvidia/*/include"))),
    )


def search_path(env: Mapping[str, str]) -> str:
    """PATH, with the folder of this Python first: its own ninja is there, activated or not."""
    return ":".join(filter(None, (str(Path(sys.executable).parent), env.get("PATH", ""))))


def _nvcc(env: Mapping[str, str], path: str, torch: Torch | None) -> Nvcc | None:
    """That of CUDA_HOME if it is set. Else the first of torch's own CUDA; else the first."""
    if env.get("CUDA_HOME"):
        return _asked_nvcc(Path(env["CUDA_HOME"], "bin", "nvcc"))
    told = shutil.which("nvcc", path=path)
    roots = (root for each in _ROOTS for root in sorted(Path("/").glob(each[1:])))
    places = [*([Path(told)] if told else []), *(root / "bin" / "nvcc" for root in roots)]
    found = [nvcc for nvcc in map(_asked_nvcc, places) if nvcc is not None]
    wanted = None if torch is None or torch.cuda is None else torch.cuda.partition(".")[0]
    return next((nvcc for nvcc in found if str(nvcc.major) == wanted), next(iter(found), None))


def _asked_nvcc(path: Path) -> Nvcc | None:
    """What `path` says of itself. It may be a script that calls the real one elsewhere: where that is
    shows in what it would run."""
    version = re.search(r"\bV(\d+\.\d+(\.\d+)?)", _said([str(path), "--version"]))
    if version is None:
        return None
    top = re.search(r"^#\$ TOP=(.+)$", _said([str(path), "--dryrun", "x.cu"]), re.MULTILINE)
    home = path.resolve().parent.parent if top is None else Path(top[1].strip()).resolve()
    known = re.findall(r"^compute_(\d+)(\d)$", _said([str(path), "--list-gpu-arch"]), re.MULTILINE)
    return Nvcc(
        path, home, version[1], tuple(archs.names((int(a), int(b)) for a, b in known)), _newest_gcc(home)
    )


def _newest_gcc(home: Path) -> int:
    """The major beyond which the toolkit's own header ends a compilation."""
    try:
        text = (home / "include" / "crt" / "host_config.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    found = re.search(r"#if\s+__GNUC__\s*>\s*(\d+)", text)
    return 0 if found is None else int(found[1])


def _compiler(env: Mapping[str, str], path: str) -> Compiler | None:
    """That of CXX, else the system's: the one that torch takes."""
    found = shutil.which(env.get("CXX") or "c++", path=path)
    if found is None:
        return None
    version = _said([found, "-dumpfullversion", "-dumpversion"]).strip()
    gnu = "Free Software Foundation" in _said([found, "--version"])
    major = re.match(r"\d+", version)
    return Compiler(Path(found), version, int(major[0]) if gnu and major else 0)


def _said(command: Sequence[str]) -> str:
    """What a compiler answers, on either stream; nothing when it cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603 - a compiler that the operator chose
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASKED_S, check=False, text=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""
    return done.stdout + done.stderr
