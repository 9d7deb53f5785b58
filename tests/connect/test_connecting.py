"""`cortex connect` as it is run, against real gateways: what it prints, writes, and never tells."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cortex.config.gateway import GatewayConfig
from cortex.config.keys import Key
from cortex.connect import CLIENTS
from cortex.harness.scripted import Script
from cortex.keys import digest
from tests.fake_reports import Played, played_at
from tests.fake_terminal import ROOT
from tests.roles import Running, demo_neuron, running_gateway, running_neuron, specs

pytestmark = pytest.mark.slow

SECRET = "sk-cortex-very-secret"
WRITING = [name for name, each in CLIENTS.items() if each.writes]


@pytest.fixture(autouse=True)
async def _hang_guard():
    with trio.fail_after(60):
        yield


@asynccontextmanager
async def gateway(
    tmp_path: Path, *models: str, config: GatewayConfig = GatewayConfig()
) -> AsyncIterator[Running]:
    """One with models that nobody has loaded yet."""
    (tmp_path / "models").mkdir()
    script = Script(reply=lambda job: "Hello.", trained_context=100_000)
    catalogue = specs(tmp_path / "models", *models)
    async with running_neuron(tmp_path / "models", catalogue, script) as neuron:
        async with running_gateway(neuron, config=config) as role:
            yield role


@dataclass(frozen=True)
class Said:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def connect(tmp_path: Path):
    """The command as a process, with a home of its own."""
    (tmp_path / "home").mkdir()
    elsewhere = ("XDG_CONFIG_HOME", "CODEX_HOME", "CLAUDE_CONFIG_DIR", "CORTEX_API_KEY", "CORTEX_TOKEN_FILE")
    inherited = {name: value for name, value in os.environ.items() if name not in elsewhere}
    places = {"HOME": str(tmp_path / "home"), "XDG_STATE_HOME": str(tmp_path / "state")}

    async def run(url: str, *words: str, **environment: str) -> Said:
        done = await trio.run_process(
            [sys.executable, "-m", "cortex", "connect", *words, "--endpoint", url],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=ROOT,
            env={**inherited, **places, **environment},
        )
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def everything(folder: Path) -> bytes:
    return b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())


@pytest.mark.parametrize("client", ["openai", "anthropic", "claude-code", "codex"])
async def test_a_client_of_the_demo_model_is_verified_live(tmp_path: Path, client: str, connect) -> None:
    async with demo_neuron() as neuron, running_gateway(neuron) as role:
        said = await connect(role.url, client, "--json")
    assert (said.returncode, said.stderr) == (0, "")
    report = json.loads(said.stdout)
    assert (report["model"], report["context_length"]) == ("cortex-demo", 2048)
    assert report["verified"]["ok"] and report["verified"]["seconds"] > 0
    kinds = {"openai": "chat/completions", "codex": "responses"}
    assert report["verified"]["path"] == f"/v1/{kinds.get(client, 'messages')}"
    assert len(report["warnings"]) == (client in {"claude-code", "codex"})


async def test_settings_are_printed_then_written_and_taken_out_again(tmp_path: Path, connect) -> None:
    settings = tmp_path / "home" / ".claude" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"model": "opus"}')
    async with gateway(tmp_path, "m") as role:
        said = await connect(role.url, "claude-code")
        assert said.returncode == 0
        # It was cold: its context is known since the request that tried it.
        assert '"CLAUDE_CODE_MAX_CONTEXT_TOKENS": "8192"' in said.stdout
        assert "Start it with:  claude\n" in said.stdout
        assert "m answered /v1/messages in " in said.stderr
        assert "warning: Claude Code's first request has about 41,000 tokens" in said.stderr
        assert settings.read_text() == '{"model": "opus"}'
        said = await connect(role.url, "claude-code", "--write")
        assert f"{settings} is written" in said.stdout
        written = json.loads(settings.read_text())
        assert (written["model"], written["env"]["ANTHROPIC_BASE_URL"]) == ("opus", role.url)
        said = await connect(role.url, "claude-code", "--write")
        assert f"{settings} says so already" in said.stdout
    # Nobody needs to be there for it.
    said = await connect(role.url, "claude-code", "--undo")
    assert said.stdout == f"{settings} is as it was before\n"
    assert settings.read_text() == '{"model": "opus"}'
    said = await connect(role.url, "claude-code", "--undo")
    assert (said.returncode, said.stdout.startswith("nothing was written")) == (0, True)


async def test_of_several_models_one_is_to_be_chosen_and_a_second_where_the_client_has_two(
    tmp_path: Path, connect
) -> None:
    async with gateway(tmp_path, "a", "b") as role:
        said = await connect(role.url, "opencode")
        assert said.returncode == 2 and "choose one with --model: a, b" in said.stderr
        said = await connect(role.url, "opencode", "--model", "a", "--fast-model", "b", "--json")
        report = json.loads(said.stdout)
        assert (report["model"], report["fast_model"]) == ("a", "b")
        assert '"small_model": "cortex/b"' in report["files"][0]["text"]
        said = await connect(role.url, "codex", "--model", "a", "--fast-model", "b")
        assert said.returncode == 2 and "leave --fast-model out" in said.stderr
        said = await connect(role.url, "codex", "--model", "c")
        assert said.returncode == 1 and "'c' does not exist" in said.stderr


async def test_no_key_is_printed_or_written_for_any_client(tmp_path: Path, connect) -> None:
    file = tmp_path / "key of mine"
    file.write_text(SECRET)
    config = GatewayConfig(keys=(Key("ann", digest(SECRET)),))
    async with gateway(tmp_path, "m", config=config) as role:
        for key in ({"CORTEX_API_KEY": SECRET}, {"CORTEX_TOKEN_FILE": str(file)}):
            for client in CLIENTS:
                words = ["--file", str(tmp_path / "config.yaml")] if client == "litellm" else []
                written = ["--write"] if client in WRITING else []
                said = await connect(role.url, client, "--json", *words, *written, **key)
                assert said.returncode == 0, said.stderr
                assert SECRET not in said.stdout + said.stderr
        file.unlink()
        assert SECRET.encode() not in everything(tmp_path)
        said = await connect(role.url, "codex")
        assert said.returncode == 2 and "answers 401" in said.stderr


async def test_nothing_is_written_for_a_gateway_that_does_not_answer(tmp_path: Path, connect) -> None:
    models = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "context_length": 9}]}
    played = Played().says("GET /v1/models", models)
    async with played_at(played) as url:
        said = await connect(url, "codex", "--write")
        assert said.returncode == 1
        assert "/v1/responses is not served there (404)" in said.stderr
        assert "nothing was written" in said.stderr
        assert everything(tmp_path) == b""
        said = await connect(url, "codex", "--write", "--no-verify")
        assert said.returncode == 0 and b'model = "m"' in everything(tmp_path / "home")
        assert [what for what, _, _ in played.heard].count("POST /v1/responses") == 1


@pytest.mark.parametrize("name", ["m\x9b2J", "{env:HOME}", "{file:~/.netrc}", "$(id)", "a/../b", ""])
@pytest.mark.parametrize("alias", [True, False])
async def test_a_gateway_whose_models_have_no_names_of_models_is_refused(
    tmp_path: Path, name: str, alias: bool, connect
) -> None:
    entry = {"id": "m" if alias else name, "created": 1, "aliases": [name] if alias else []}
    played = Played().says("GET /v1/models", {"object": "list", "data": [entry]})
    async with played_at(played) as url:
        said = await connect(url, "opencode", "--no-verify", "--write")
    assert (said.returncode, said.stdout) == (1, "")
    assert "is no name of a model" in said.stderr and "\x9b" not in said.stderr
    assert everything(tmp_path) == b""


async def test_what_is_printed_moves_no_cursor_and_keeps_its_lines(tmp_path: Path, connect) -> None:
    models = {"object": "list", "data": [{"id": "m", "created": 1}]}
    fault = {"error": {"message": "no\x9b2J\u202e room"}}
    played = Played().says("GET /v1/models", models).says("POST /v1/responses", fault, 500)
    async with played_at(played) as url:
        said = await connect(url, "codex", "--file", str(tmp_path / "\x9b31m.toml"))
        assert "\n\\x9b" not in said.stdout and '\nmodel = "m"\n' in said.stdout
        assert "\x9b" not in said.stdout + said.stderr and r"\x9b31m.toml" in said.stdout
        said = await connect(url, "codex", "--json")
        assert said.stdout.isascii()
        assert "no\x9b2J\u202e room" in json.loads(said.stdout)["verified"]["fault"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["openai", "--write"], "has no settings file"),
        (["openai", "--file", "x"], "has no settings file"),
        (["litellm", "--write"], "name yours with --file"),
        (["codex", "--undo", "--write"], "no other option"),
        (["codex", "--undo", "--no-verify"], "no other option"),
        (["codex", "--no-verify"], "without /v1"),
    ],
)
async def test_options_that_say_nothing_are_refused(
    tmp_path: Path, words: list[str], why: str, connect
) -> None:
    said = await connect("http://127.0.0.1:9/v1/", *words)
    assert (said.returncode, said.stdout) == (2, "")
    assert why in said.stderr
    assert os.listdir(tmp_path / "home") == []
