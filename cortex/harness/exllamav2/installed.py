"""What of the engine's libraries is installed, told without importing one of them.

An import of torch takes seconds, hundreds of megabytes and every CPU thread's setting. So what it
is stands to be read: the import system says where a package lies, its metadata say which version,
and torch's own `version.py` says for which CUDA it was built.
"""

import ast
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

# What a generation needs; what compiles the extension is `toolchain`'s to look for.
NEEDED: Final = ("torch", "exllamav2", "tokenizers", "safetensors", "llguidance")


@dataclass(frozen=True, slots=True)
class Torch:
    """The torch that an import would find. `cuda` is the version that it was built for ("13.0"),
    None for a build without it."""

    version: str
    cuda: str | None
    folder: Path


@dataclass(frozen=True, slots=True)
class Abi:
    """What a compiled extension is good for: these very versions, and no other."""

    exllamav2: str
    torch: str
    cuda: str
    python: str


def missing() -> tuple[str, ...]:
    """The packages of `NEEDED` that an import would not find."""
    return tuple(name for name in NEEDED if folder_of(name) is None)


def version_of(package: str) -> str | None:
    """Its version as its metadata has it; None when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def folder_of(package: str) -> Path | None:
    """Where the package's files lie; None when it is not there, or no more than an empty folder."""
    origin = origin_of(package)
    return None if origin is None else origin.parent


def origin_of(module: str) -> Path | None:
    """The file that an import would begin with; None when there is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        # Imported already, by somebody who made it without a spec.
        spec, told = None, getattr(sys.modules.get(module), "__file__", None)
        return None if told is None else Path(told)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    return Path(spec.origin)


def torch() -> Torch | None:
    """The installed torch; None when there is none. One whose version cannot be read has the
    version of its metadata, and no CUDA."""
    folder = folder_of("torch")
    if folder is None:
        return None
    told = _constants(folder / "version.py")
    version, cuda = told.get("__version__"), told.get("cuda")
    return Torch(version or version_of("torch") or "unknown", cuda, folder)


def abi() -> Abi | None:
    """What an extension must have been compiled for; None without exllamav2 or a torch with CUDA."""
    built, engine = torch(), version_of("exllamav2")
    if built is None or built.cuda is None or engine is None:
        return None
    return Abi(engine, built.version, built.cuda, python())


def python() -> str:
    """This Python, as the names of compiled modules have it (cpython-311-x86_64-linux-gnu)."""
    return str(sysconfig.get_config_var("SOABI"))


def _constants(path: Path) -> dict[str, str]:
    """The strings that the module at `path` gives its names, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value))):
                found[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(value))):
                found[name] = value
    return found
