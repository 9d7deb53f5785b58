"""Programs that `cortex connect` set up in a fresh home: they start as it says, and answer.

Nothing else tells them where the gateway is. The key is in the variable that it names, and nowhere else.
"""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.clients import installing
from tests.clients.fleet import KEY, PLAIN, fleet
from tests.clients.programs import Call, Ended, run
from tests.fake_terminal import ROOT, lines_until, running

pytestmark = pytest.mark.slow
TOO_LONG: Final = "maximum context length is 2048 tokens"


@dataclass(frozen=True)
class Client:
    """`words` go between its command and the question. With the bundled model it says `small`."""

    package: tuple[str, ...]
    words: str
    small: str
    environ: Mapping[str, str]


CALM: Final = {f"DISABLE_{name}": "1" for name in ("TELEMETRY", "ERROR_REPORTING", "AUTOUPDATER")}
OFFLINE: Final = {
    f"OPENCODE_DISABLE_{name}": "1"
    for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
}
CLIENTS: Final = {
    "claude-code": Client(
        installing.told_node("@anthropic-ai/claude-code"),
        "-p",
        "Prompt is too long",
        {**CALM, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
    ),
    "codex": Client(
        installing.told_node("@openai/codex"),
        "exec --skip-git-repo-check -c check_for_update_on_startup=false -c analytics.enabled=false",
        "Codex ran out of room",
        {},
    ),
    "opencode": Client(installing.told_node("opencode-ai"), "run", TOO_LONG, OFFLINE),
    "qwen-code": Client(
        installing.told_node("@qwen-code/qwen-code"),
        "-p",
        TOO_LONG,
        {"QWEN_TELEMETRY_ENABLED": "false", "HTTPS_PROXY": ""},
    ),
    "aider": Client(
        installing.told("aider"),
        "--yes-always --no-git --no-check-update --no-show-model-warnings --no-analytics --no-pretty"
        " --no-fancy-input --no-detect-urls --no-show-release-notes --message",
        "has hit a token limit",
        {},
    ),
}
EACH: Final = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.client(*client.package)) for name, client in CLIENTS.items()],
)


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installing.folder(tmp_path_factory.getbasetemp() / "clients")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (made := tmp_path / "home").mkdir()
    (made / "work").mkdir()
    return made


async def connect(home: Path, *words: str, key: str | None = None) -> str:
    """What `cortex connect` prints, in a process of its own."""
    kept = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT)}
    keys = {} if key is None else {"CORTEX_API_KEY": key}
    with trio.fail_after(30):
        done = await trio.run_process(
            [sys.executable, "-m", "cortex", "connect", *words],
            env={**kept, **keys},
            capture_stdout=True,
        )
    return done.stdout.decode()


async def started(root: Path, home: Path, name: str, printed: str, text: str, key: str = "") -> Ended:
    """What the client says to `text`, started as was printed."""
    client = CLIENTS[name]
    node = await trio.to_thread.run_sync(installing.node, root)
    bins = [node / "node_modules/.bin"]
    if name == "aider":
        bins = [await trio.to_thread.run_sync(installing.python, root, "aider")]
    start = printed.partition("Start it with:")[2].splitlines()[0].strip()
    assert start, printed
    line = f"{start} {client.words} {shlex.quote(text)}"
    environ = {**client.environ, "PATH": os.pathsep.join([*map(str, bins), os.environ["PATH"]])}
    if key:
        environ["CORTEX_API_KEY"] = key
    return await run(Call(["bash", "-c", line], environ), home / "work", home)


@pytest.mark.clients
@installing.wanted
@EACH
async def test_a_client_that_was_connected_answers_by_its_key(
    name: str, root: Path, home: Path, tmp_path: Path
) -> None:
    before = files(home)
    async with fleet(tmp_path, keyed=True) as gateway:
        at = ("--endpoint", gateway.url, "--model", "m")
        printed = await connect(home, name, "--write", *at, key=KEY)
        said = await started(root, home, name, printed, "Hello", KEY)
        assert said.status == 0 and PLAIN in said.text, said
        assert not [path for path, text in files(home).items() if KEY in text and "cortex" in str(path)]
        await connect(home, name, "--undo")
    settings = [path for path in files(home).keys() - before.keys() if gateway.url in files(home)[path]]
    assert not [path for path in settings if path.suffix in (".json", ".toml", ".yml")], settings


@pytest.mark.clients
@installing.wanted
@EACH
async def test_a_newcomers_client_answers_or_says_that_the_bundled_model_is_too_small(
    name: str, root: Path, home: Path
) -> None:
    """Agents ask for many times its context before their user has said a word."""
    async with running("-m", "cortex", "up", "--port", "0") as process:
        with trio.fail_after(60):
            shown = (await lines_until(process.stdout, b"Ctrl-C stops.\n")).decode()
        url = next(word for word in shown.split() if word.endswith("/v1")).removesuffix("/v1")
        printed = await connect(home, name, "--write", "--endpoint", url)
        said = await started(root, home, name, printed, "What is 2 + 2?")
    assert CLIENTS[name].small in " ".join(said.text.split()), said


@pytest.mark.client("openai", "anthropic")
async def test_the_example_of_each_library_for_python_runs_as_it_is_printed(home: Path) -> None:
    async with running("-m", "cortex", "up", "--port", "0") as process:
        with trio.fail_after(60):
            shown = (await lines_until(process.stdout, b"Ctrl-C stops.\n")).decode()
        url = next(word for word in shown.split() if word.endswith("/v1")).removesuffix("/v1")
        for library in ("openai", "anthropic"):
            printed = await connect(home, library, "--endpoint", url)
            words, _, example = printed.partition("A program:\n\n")
            lines = [line.strip() for line in words.splitlines() if line.strip().startswith("export ")]
            program = f"{'; '.join(lines)}; exec {sys.executable} -c {shlex.quote(example)}"
            said = await run(Call(["bash", "-c", program]), home, home)
            assert said.status == 0 and said.text == "Hello! How can I help you?\n", (printed, said)


def files(home: Path) -> dict[Path, str]:
    """Every text beneath."""
    return {path: path.read_text(errors="replace") for path in home.rglob("*") if path.is_file()}
