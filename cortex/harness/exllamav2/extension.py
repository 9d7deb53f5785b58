"""Where the compiled part of exllamav2 is, and how it gets onto the path.

The library compiles it by itself, in the middle of an import, when there is none: a quarter of
an hour in which a device stands still. So it is never imported before `reach` has answered.

An `exllamav2_ext` that an import finds is used first: that is how packages ship it. Otherwise it
is one that `build` has put into the cache, which has a folder for each exllamav2, torch, Python,
CUDA and list of archs; one that was compiled for others is never put onto the path. Beside it
lies what it was compiled for, which a shipped one may have, too: without it, it is believed.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cortex.errors import LoadFailed
from cortex.harness.exllamav2 import archs, installed
from cortex.harness.exllamav2.archs import Capability
from cortex.harness.exllamav2.installed import Abi

T = TypeVar("T")

MODULE: Final = "exllamav2_ext"
ABOUT: Final = f"{MODULE}.json"
FAILED: Final = "failed.json"
BUILD: Final = "cortex engines build exllamav2"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What an extension was compiled for and with: the file beside it. `at` is Unix time."""

    exllamav2: str = ""
    torch: str = ""
    cuda: str = ""
    python: str = ""
    archs: list[str] = []
    nvcc: str = ""
    at: float = 0.0

    @property
    def abi(self) -> Abi:
        return Abi(self.exllamav2, self.torch, self.cuda, self.python)


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """How the last build for these versions ended, kept until one comes through."""

    why: str = ""
    log: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Extension:
    """One that is there. `made` is None where nothing says what it was compiled for; `shipped`
    ones are found by an import as it is, the others lie in the cache."""

    folder: Path
    made: Made | None
    shipped: bool = False

    def fits(self, abi: Abi | None) -> bool:
        """Whether the torch and the Python of `abi` can load it, as far as anybody says."""
        return self.made is None or abi is None or self.made.abi == abi

    def covers(self, capability: Capability) -> bool:
        """Whether it runs on such a GPU, as far as anybody says."""
        return self.made is None or not self.made.archs or archs.covers(self.made.archs, capability)

    @property
    def archs(self) -> str:
        return ", ".join(self.made.archs) if self.made and self.made.archs else "archs that nobody says"


def reach(capabilities: Sequence[Capability]) -> None:
    """An import finds an extension that runs on every one of these GPUs, but for those that are too
    old for any. Raises LoadFailed, which names the command that makes one."""
    torch = installed.torch()
    floor = archs.least(None if torch is None else torch.cuda)
    wanted = [each for each in capabilities if each >= floor]
    best = choose(wanted)
    if best is None or not all(map(best.covers, wanted)):
        raise LoadFailed(f"{absence(wanted)}: {command()}, then start the neuron again")
    if not best.shipped and str(best.folder) not in sys.path:
        # Before one on the path that was compiled for other versions or GPUs.
        sys.path.insert(0, str(best.folder))
        importlib.invalidate_caches()


def choose(capabilities: Sequence[Capability]) -> Extension | None:
    """The extension to use on GPUs of these capabilities; None when there is none for any of them. A
    shipped one goes first, then the one that covers most; the one that this process has imported
    stays the one."""
    best = _best(capabilities)
    if best is None or (capabilities and not any(map(best.covers, capabilities))):
        return None
    return best


def usable() -> list[Extension]:
    """All that the installed versions could load."""
    if MODULE in sys.modules:
        origin = installed.origin_of(MODULE)
        folder = Path() if origin is None else origin.parent
        return [Extension(folder, _read(folder / ABOUT, Made), shipped=True)]
    abi = installed.abi()
    return [each for each in (*shipped(), *cached()) if each.fits(abi)]


def shipped() -> list[Extension]:
    """The one that an import finds, if it finds one."""
    origin = installed.origin_of(MODULE)
    if origin is None or origin.parent.parent == home():
        return []
    return [Extension(origin.parent, _read(origin.parent / ABOUT, Made), shipped=True)]


def cached() -> list[Extension]:
    """All that the cache has for the installed versions; those for most archs first."""
    folder = home()
    here = [] if folder is None else _kept(folder)
    whole = [each for each in here if library(each.folder).is_file()]
    return sorted(whole, key=lambda each: -len(each.made.archs if each.made else []))


def others() -> list[Made]:
    """What the cache has for other versions than the installed."""
    root = cache(os.environ)
    folders = [] if root is None else sorted(root.glob("exllamav2-*/torch-*"))
    return [each.made for folder in folders if folder != home() for each in _kept(folder) if each.made]


def failed() -> Failed | None:
    """How the last build for these versions failed; None when it did not."""
    folder = home()
    return None if folder is None else _read(folder / FAILED, Failed)


def absence(capabilities: Sequence[Capability]) -> str:
    """Why there is no extension to use, in words: what there is instead."""
    best, abi = _best(capabilities), installed.abi()
    if best is not None:
        short = ", ".join(archs.names(each for each in capabilities if not best.covers(each)))
        return f"the extension in {best.folder} is for compute capability {best.archs}, not {short}"
    made = [each.made for each in shipped() if each.made] or others()
    if abi is None or not made:
        return f"the extension {MODULE} is not compiled"
    return (
        f"the extension {MODULE} was compiled for exllamav2 {made[0].exllamav2}, torch {made[0].torch} and "
        f"{made[0].python}, and installed are exllamav2 {abi.exllamav2}, torch {abi.torch} and {abi.python}"
    )


def command() -> str:
    """The command that makes the extension, for the cache that this process reads."""
    given = os.environ.get("CACHE_DIRECTORY")
    return f"CACHE_DIRECTORY={given} {BUILD}" if given else BUILD


def cache(env: Mapping[str, str]) -> Path | None:
    """Where what can be made again lies: what systemd gives the service, else what the user's
    desktop says. None where there is no home."""
    given = env.get("CACHE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    chosen = Path(env.get("XDG_CACHE_HOME", ""))
    if chosen.is_absolute():
        return chosen / "cortex"
    return Path(env["HOME"]) / ".cache" / "cortex" if env.get("HOME") else None


def home() -> Path | None:
    """The folder of the cache for the versions that are installed; None without them or a cache."""
    root, abi = cache(os.environ), installed.abi()
    if root is None or abi is None:
        return None
    return root / f"exllamav2-{abi.exllamav2}" / f"torch-{abi.torch}-{abi.python}-cuda-{abi.cuda}"


def library(folder: Path) -> Path:
    """The compiled module in a folder of the cache. Its name says for which Python it is."""
    return folder / f"{MODULE}.{installed.python()}.so"


def _best(capabilities: Sequence[Capability]) -> Extension | None:
    """The one that covers most; of equals the shipped, then that of the most archs."""
    covered = [(sum(map(each.covers, capabilities)), each) for each in usable()]
    return max(covered, key=lambda each: each[0])[1] if covered else None


def _kept(folder: Path) -> list[Extension]:
    """What lies in a folder of the cache, but for what a build has not finished."""
    here = [path.parent for path in sorted(folder.glob(f"*/{ABOUT}")) if path.parent.name[0] != "."]
    return [Extension(each, _read(each / ABOUT, Made)) for each in here]


def _read(path: Path, kind: type[T]) -> T | None:
    """What the file says; None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None
