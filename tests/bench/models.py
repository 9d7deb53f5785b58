"""The files that benchmarks run on."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

BENCH: Final = Path(tempfile.gettempdir()) / "bench-model" / "cortex-bench.gguf"
LARGE: Final = BENCH.with_name("cortex-large.gguf")


def ensure(path: Path) -> None:
    """The model is at `path`, made if it is one of ours; else the way to get it is told."""
    if path.exists():
        return
    if path not in (BENCH, LARGE):
        sys.exit(f"{path}: there is no such file")
    script = Path(__file__).with_name("make_model.py")
    wanted = [str(path.parent), *(["--large"] if path == LARGE else [])]
    done = subprocess.run([sys.executable, script, *wanted], check=False)
    if done.returncode or not path.exists():
        sys.exit(
            f"{path} is missing, and cannot be made here. Make it with a Python that has the packages of "
            f"packaging/demo-model/requirements.txt (torch aside):\n  python {script} {' '.join(wanted)}"
        )
