"""Where a gateway spends its time under a load: py-spy looks at its Python, another tool at whatever it can.

py-spy is looked for where the rivals are, then on the path. A profile is a share of samples, not a cost:
samples are taken of a process that is stopped for them, so that no figure of a profiled run counts.
"""

import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from tests.bench.loads import burst, messages, paced
from tests.bench.stage import Load, Target

SECONDS: Final = 8.0
RATE: Final = 400
MOST_ROWS: Final = 30
MAIN: Final = "MainThread"
LOADS: Final[dict[str, Callable[[Path], Load]]] = {
    "requests": lambda folder: Load(32, SECONDS),
    "one": lambda folder: Load(1, SECONDS),
    "burst": lambda folder: burst(32, SECONDS),
    "paced": lambda folder: paced(200, SECONDS),
    "messages": lambda folder: messages(32, SECONDS, folder),
}


def profile(target: Target, folder: Path, kind: str, root: Path, tool: str | None) -> int:
    """Prints by room, and by function, in which part of the samples they were at work."""
    load = LOADS[kind](folder)
    file, pid, lasting = folder / "profile", target.process.pid, int(SECONDS)
    if tool:
        command = shlex.split(tool.format(pid=pid, seconds=lasting))
    else:
        command = _py_spy(root, pid, lasting, file)
    with subprocess.Popen(
        load.command(folder, target.port, target.headers), stdout=subprocess.PIPE
    ) as client:
        try:
            done = subprocess.run(command, check=False, capture_output=tool is None, text=True)
        finally:
            client.terminate()
    if done.returncode or tool:
        print(done.stderr or "", end="")
        return done.returncode
    stacks = file.read_text().splitlines()
    for title, shares in (("room", by_room(stacks)), ("function", by_function(stacks))):
        print(f"\n| {title} | % |\n|---|---|")
        for name, share in shares[:MOST_ROWS]:
            print(f"| {name} | {share:.1%} |")
    return 0


def _py_spy(root: Path, pid: int, seconds: int, file: Path) -> list[str]:
    own = root / "py-spy" / "bin" / "py-spy"
    program = str(own) if own.exists() else shutil.which("py-spy")
    if program is None:
        raise SystemExit("py-spy is not installed: python -m tests.bench.rivals install FOLDER py-spy")
    known = ("--format", "raw", "--full-filenames", "--function", "--threads", "--rate", str(RATE))
    return [program, "record", "-p", str(pid), "-d", str(seconds), *known, "-o", str(file)]


def by_function(stacks: Iterable[str]) -> list[tuple[str, float]]:
    """What was at work itself, by function and file."""
    return _shares(stacks, lambda frame: frame)


def by_room(stacks: Iterable[str]) -> list[tuple[str, float]]:
    """The same by file."""
    return _shares(stacks, lambda frame: frame.rpartition("(")[2].rstrip(")").partition(":")[0])


def _shares(stacks: Iterable[str], name: Callable[[str], str]) -> list[tuple[str, float]]:
    """Of the main thread, which is trio's: the others wait, and are taken for busy."""
    counted = Counter[str]()
    for line in stacks:
        if MAIN not in line.partition(";")[0]:
            continue
        stack, _, count = line.rpartition(" ")
        counted[name(_short(stack.rpartition(";")[2]))] += int(count)
    total = counted.total()
    return [(frame, count / total) for frame, count in counted.most_common()]


def _short(frame: str) -> str:
    """`function (room)`, without what is above the package."""
    function, _, where = frame.rpartition(" (")
    path = where.rstrip(")")
    for above in ("site-packages/", "/lib/python"):
        path = path.rpartition(above)[2]
    if "/cortex/" in path:
        path = "cortex/" + path.rpartition("/cortex/")[2]
    return f"{function} ({path})"
