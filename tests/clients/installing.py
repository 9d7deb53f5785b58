"""Real clients, in folders of their own: which, in what version, and how they get there.

Each has its exact version, and what it needs is of a day: nothing newer is looked at. Nothing is
fetched but from the two registries, by their ordinary clients, and nothing of it ends up in the
environment that runs the suite.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pytest

# 1 installs anew; the path of a folder keeps the clients there for the next run.
WANTED: Final = "CORTEX_TEST_CLIENTS"
UNTIL: Final = "2026-11-21T00:00:00Z"
UV: Final = "uv==0.13.9"
PYTHON: Final[Mapping[str, Sequence[str]]] = {
    "aider": ["aider-chat==0.86.2"],
    "instructor": ["instructor==1.17.0"],
    "langchain": ["langchain-openai==1.7.3", "langchain-anthropic==1.7.7"],
    "litellm": ["litellm==1.106.2", "mcp"],  # without mcp its Anthropic tools do not import
    "llama_index": ["llama-index-llms-openai-like==0.8.1"],
    "llm": ["llm==0.36"],
    "pydantic_ai": ["pydantic-ai-slim[openai,anthropic]==2.68.0"],
}
NODE: Final = {
    "@ai-sdk/anthropic": "3.0.138",
    "@ai-sdk/openai": "3.0.141",
    "@ai-sdk/openai-compatible": "2.0.87",
    "@anthropic-ai/claude-code": "2.1.197",
    "@anthropic-ai/sdk": "1.12.0",
    "@openai/codex": "0.169.0",
    "@qwen-code/qwen-code": "0.15.10",
    "ai": "6.0.326",
    "openai": "6.49.0",
    "opencode-ai": "1.18.33",
    "zod": "4.6.7",
}

wanted = pytest.mark.skipif(
    not os.environ.get(WANTED), reason=f"installs clients from their registries: {WANTED}=1 or =FOLDER"
)


def told(client: str) -> tuple[str, ...]:
    """What a client of Python is called, with its version."""
    return tuple(" ".join(pin.split("==")) for pin in PYTHON[client] if "==" in pin)


def told_node(*packages: str) -> tuple[str, ...]:
    return tuple(f"{package} {NODE[package]} (Node)" for package in packages)


def folder(session: Path) -> Path:
    """Where the clients are; `session` unless the variable names a place."""
    said = os.environ[WANTED]
    return session if said == "1" else Path(said)


@cache
def python(root: Path, client: str) -> Path:
    """The folder with the client's programs, and the Python that has its packages."""
    home = root / client
    bin = home / "bin"
    if not _complete(home, pins := "\n".join(PYTHON[client])):
        tools = _tools(root)
        _run([tools / "uv", "venv", "--quiet", "--clear", "--python", sys.executable, home], root)
        into = [
            tools / "uv",
            "pip",
            "install",
            "--quiet",
            "--exclude-newer",
            UNTIL,
            "--python",
            bin / "python",
        ]
        _run([*into, *PYTHON[client]], root)
        (home / "complete").write_text(pins)
    return bin


@cache
def node(root: Path) -> Path:
    """The folder whose node_modules has the clients."""
    home = root / "node"
    pins = json.dumps({"private": True, "dependencies": NODE})
    if not _complete(home, pins):
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(pins)
        _run(["npm", "install", "--before", UNTIL, "--no-audit", "--no-fund", "--loglevel=error"], home)
        (home / "complete").write_text(pins)
    return home


def _complete(home: Path, pins: str) -> bool:
    """Whether all of `pins` are there, from this run or from one before it."""
    note = home / "complete"
    return note.exists() and note.read_text() == pins


def _tools(root: Path) -> Path:
    """uv, since pip does not look at days, and takes minutes over the larger of these clients."""
    home = root / "tools"
    if not (home / "bin" / "uv").exists():
        _run([sys.executable, "-m", "venv", home], root)
        _run([home / "bin" / "pip", "install", "--quiet", UV], root)
    return home / "bin"


def _run(words: Sequence[str | Path], within: Path) -> None:
    within.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(words, check=False, cwd=within, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
