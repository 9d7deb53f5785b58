"""Clients that are programs: how each is told where the gateway is, and asked one thing, headless.

Each runs in a home and a folder of its own, with no key but the one given, nothing counted or
updated, and a proxy that nobody is at for whatever is not on loopback.
"""

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from tests.clients import installing

# There is no proxy.
NOWHERE: Final = "http://127.0.0.1:9"
NOTE: Final = "the secret is 4711"
# Above what the slowest of them needs on a busy host; a client that goes on asking is killed.
MOST_S: Final = 90.0


@dataclass(frozen=True)
class Aim:
    """What a client is pointed at. `home` is its own."""

    url: str
    home: Path
    model: str = "m"
    key: str = "none"

    @property
    def work(self) -> Path:
        return self.home / "work"


@dataclass(frozen=True)
class Call:
    """A program with its words, and what its environment has beside the usual."""

    words: Sequence[str | Path]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How it ended: its status, and all that it printed."""

    status: int
    text: str


async def ask(program: Callable[[Path, Aim, str], Call], root: Path, aim: Aim, text: str) -> Ended:
    """What the program made of `text`, once it had ended."""
    aim.work.mkdir(parents=True, exist_ok=True)
    (aim.work / "note.txt").write_text(f"{NOTE}\n")
    call = await trio.to_thread.run_sync(program, root, aim, text)
    return await run(call, aim.work, aim.home)


async def run(call: Call, work: Path, home: Path) -> Ended:
    """The program has ended, or was killed after `MOST_S`, which is a failure of the test."""
    usual = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1",
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    with trio.fail_after(MOST_S):
        done = await trio.run_process(
            [os.fspath(word) for word in call.words],
            cwd=work,
            env={**usual, **call.environ},
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
    return Ended(done.returncode, done.stdout.decode())


def claude_code(root: Path, aim: Aim, text: str) -> Call:
    program = installing.node(root) / "node_modules/.bin/claude"
    quiet = ("DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING", "DISABLE_AUTOUPDATER")
    environ = {
        "ANTHROPIC_BASE_URL": aim.url,
        "ANTHROPIC_AUTH_TOKEN": aim.key,
        "ANTHROPIC_SMALL_FAST_MODEL": aim.model,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        **dict.fromkeys(quiet, "1"),
    }
    return Call([program, "--model", aim.model, "-p", text, "--allowedTools", "Bash"], environ)


def codex(root: Path, aim: Aim, text: str, *, more: Sequence[str | Path] = ()) -> Call:
    """It may do what it likes: its sandbox wants more of the host than a test may ask for."""
    settings = aim.home / "codex"
    settings.mkdir(exist_ok=True)
    (settings / "config.toml").write_text(f"""\
model = "{aim.model}"
model_provider = "cortex"
model_context_window = 200000
check_for_update_on_startup = false
[analytics]
enabled = false
[otel]
exporter = "none"
[model_providers.cortex]
name = "cortex"
base_url = "{aim.url}/v1"
wire_api = "responses"
env_key = "CORTEX_API_KEY"
""")
    free = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    words = [installing.node(root) / "node_modules/.bin/codex", "exec", *free, *more, text]
    return Call(words, {"CODEX_HOME": str(settings), "CORTEX_API_KEY": aim.key})


def opencode(root: Path, aim: Aim, text: str) -> Call:
    program = installing.node(root) / "node_modules/.bin/opencode"
    model = f"cortex/{aim.model}"
    known = {"reasoning": True, "tool_call": True, "limit": {"context": 200000, "output": 8000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{aim.url}/v1", "apiKey": aim.key},
        "models": {aim.model: known},
    }
    settings = {
        "autoupdate": False,
        "share": "disabled",
        "model": model,
        "small_model": model,
        "provider": {"cortex": provider},
    }
    (aim.work / "opencode.json").write_text(json.dumps(settings))
    off = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    return Call([program, "run", "-m", model, text], {f"OPENCODE_DISABLE_{name}": "1" for name in off})


def qwen_code(root: Path, aim: Aim, text: str) -> Call:
    program = installing.node(root) / "node_modules/.bin/qwen"
    environ = {
        "OPENAI_API_KEY": aim.key,
        "OPENAI_BASE_URL": f"{aim.url}/v1",
        "OPENAI_MODEL": aim.model,
        "QWEN_TELEMETRY_ENABLED": "false",
        "HTTPS_PROXY": "",  # it sends to a proxy what NO_PROXY excepts
    }
    return Call([program, "--auth-type", "openai", "--yolo", "-p", text], environ)


def aider(root: Path, aim: Aim, text: str) -> Call:
    environ = {"OPENAI_API_KEY": aim.key, "OPENAI_API_BASE": f"{aim.url}/v1"}
    return _aider(root, f"openai/{aim.model}", text, environ)


def aider_messages(root: Path, aim: Aim, text: str) -> Call:
    """The same in Anthropic's dialect."""
    environ = {"ANTHROPIC_API_KEY": aim.key, "ANTHROPIC_API_BASE": aim.url}
    return _aider(root, f"anthropic/{aim.model}", text, environ)


def _aider(root: Path, model: str, text: str, environ: Mapping[str, str]) -> Call:
    program = installing.python(root, "aider") / "aider"
    never = (
        "git",
        "check-update",
        "show-model-warnings",
        "analytics",
        "pretty",
        "fancy-input",
        "detect-urls",
    )
    words = [
        program,
        "--model",
        model,
        "--message",
        text,
        "--yes-always",
        *(f"--no-{word}" for word in never),
    ]
    return Call(words, environ)


def llm(root: Path, aim: Aim, text: str) -> Call:
    settings = aim.home / "llm"
    settings.mkdir(exist_ok=True)
    model = {
        "model_id": "one",
        "model_name": aim.model,
        "api_base": f"{aim.url}/v1",
        "api_key_name": "one",
        "supports_tools": True,
    }
    (settings / "extra-openai-models.yaml").write_text(json.dumps([model]))  # JSON is YAML
    (settings / "keys.json").write_text(json.dumps({"one": aim.key}))
    weather = "def get_weather(city: str) -> str:\n    return 'rain in ' + city"
    words = [installing.python(root, "llm") / "llm", "-m", "one", "--functions", weather, text]
    return Call(words, {"LLM_USER_PATH": str(settings)})
