"""How the gateways that cortex is measured beside come onto this machine.

Each lives in a folder of its own below one that the caller names, outside of the repository, and in the
version that is written here; nginx and HAProxy are the distribution's. What is there is left alone.
Nothing is started, and nothing reports to anybody: how they are started is `rivals`' to say.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# 1.109 wants a release of certifi that registries may not have yet.
PYTHON: Final = {
    "litellm": "litellm[proxy]==1.106.2",
    "sglang-router": "sglang-router==0.3.2",
    "vllm-router": "vllm-router==0.1.17",
    "py-spy": "py-spy==0.4.3",
}
# Later servers of the range that Portkey asks for answer each of its streams with an error.
NODE: Final = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15.2"},
    "overrides": {"@hono/node-server": "1.3.3"},
}
DISTRIBUTION: Final = ("nginx", "haproxy")
NAMES: Final = (*DISTRIBUTION, *PYTHON, "portkey")


def install(root: Path, names: Sequence[str]) -> None:
    """Those `names`, all if there are none. CalledProcessError says what was refused."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr)
        if name in DISTRIBUTION:
            _of_distribution(name)
        elif name in PYTHON:
            _of_python(root / name, PYTHON[name])
        else:
            _of_node(root / name)


def python_version(root: Path, package: str) -> str:
    """What is installed in a virtual environment; empty: nothing."""
    found = root.glob(f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info")
    return next((each.name.removesuffix(".dist-info").rpartition("-")[2] for each in found), "")


def node_version(root: Path, package: str) -> str:
    """What is installed in a folder of npm's; empty: nothing."""
    file = root / "node_modules" / package / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.is_file() else ""


def _of_distribution(name: str) -> None:
    if shutil.which(name):
        return
    subprocess.check_call(["apt-get", "update", "-qq"])
    subprocess.check_call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", name])
    # Its service is not wanted: the benchmark starts its own, on loopback. Not every host has services.
    subprocess.run(["systemctl", "disable", "--now", name], check=False, stderr=subprocess.DEVNULL)


def _of_python(root: Path, wanted: str) -> None:
    if not (root / "bin" / "python").exists():
        subprocess.check_call([sys.executable, "-m", "venv", str(root)])
    subprocess.check_call([str(root / "bin" / "pip"), "install", "-q", wanted])


def _of_node(root: Path) -> None:
    if shutil.which("npm") is None:
        subprocess.check_call(["apt-get", "update", "-qq"])
        subprocess.check_call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"])
    root.mkdir(exist_ok=True)
    (root / "package.json").write_text(json.dumps(NODE))
    subprocess.check_call(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=root)
