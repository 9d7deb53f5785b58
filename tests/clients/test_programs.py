"""Programs that people point at a gateway, run headless: what they print, and how often they ask."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.clients import installing
from tests.clients.fleet import KEY, PLAIN, WRONG, Fleet, fleet
from tests.clients.programs import (
    NOTE,
    Aim,
    Call,
    Ended,
    aider,
    aider_messages,
    ask,
    claude_code,
    llm,
    opencode,
    qwen_code,
)

pytestmark = [pytest.mark.clients, pytest.mark.slow, installing.wanted]
UNKNOWN_KEY: Final = "Incorrect API key provided: it is not known here."


@dataclass(frozen=True)
class Manners:
    """What a client does of its own. `called` is what it prints after a tool turn, None for one without
    tools; `refused` is its status after a refusal; the next three are its words for one. `resends`: it
    asks again when an answer breaks off in the middle."""

    called: str | None = NOTE
    refused: int = 1
    key: str = UNKNOWN_KEY
    unknown: str = "The model 'nobody' does not exist here"
    long: str = "maximum context length is 12 tokens"
    resends: bool = True


PROGRAMS: Final = {
    claude_code: Manners(
        unknown="There's an issue with the selected model (nobody)", long="Prompt is too long"
    ),
    opencode: Manners(),
    qwen_code: Manners(resends=False),
    aider: Manners(
        called=None,
        refused=0,
        key="Check your API key",
        unknown="litellm.NotFoundError",
        long="has hit a token limit",
    ),
    aider_messages: Manners(
        called=None,
        refused=0,
        key="Check your API key",
        unknown="litellm.NotFoundError",
        long="has hit a token limit",
    ),
    llm: Manners(called="The tool said: rain in Oslo", resends=False),
}
EACH = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
Program = Callable[[Path, Aim, str], Call]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installing.folder(tmp_path_factory.getbasetemp() / "clients")


async def refusals(gateway: Fleet, reason: str) -> int:
    """How many requests the gateway refused for that reason."""
    name = f'cortex_rejections_total{{reason="{reason}"}} '
    found = [line for line in (await gateway.page()).text.splitlines() if line.startswith(name)]
    return round(float(found[0].removeprefix(name))) if found else 0


@EACH
async def test_a_program_gets_its_answer_by_a_key_and_asks_once_with_a_wrong_one(
    program: Program, root: Path, tmp_path: Path
) -> None:
    """Claude Code asks 11 times for a 401 that does not tell it not to."""
    async with fleet(tmp_path, keyed=True) as gateway:
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home", key=KEY), "Hello")
        assert said.status == 0 and PLAIN in said.text, said
        said = await ask(program, root, Aim(gateway.url, tmp_path / "other", key=WRONG), "Hello")
        assert said.status == PROGRAMS[program].refused, said
        assert PROGRAMS[program].key in " ".join(said.text.split()), said
        # opencode asks for a title beside.
        assert await refusals(gateway, "auth") <= (2 if program is opencode else 1)


@EACH
async def test_a_program_calls_its_tool_and_goes_on_with_the_result(
    program: Program, root: Path, tmp_path: Path
) -> None:
    if (called := PROGRAMS[program].called) is None:
        pytest.skip("has no tools")
    async with fleet(tmp_path) as gateway:
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home"), "CALL it")
        assert said.status == 0 and "The tool said:" in said.text and called in said.text, said


@EACH
async def test_what_a_program_asks_for_in_vain_is_told_in_its_own_words(
    program: Program, root: Path, tmp_path: Path
) -> None:
    async with fleet(tmp_path) as gateway:
        for model, words in (("nobody", PROGRAMS[program].unknown), ("small", PROGRAMS[program].long)):
            aim = Aim(gateway.url, tmp_path / model, model)
            said = await ask(program, root, aim, "Hello, and a few words more than the smallest one takes")
            assert said.status == PROGRAMS[program].refused and words in said.text, said


@EACH
async def test_a_program_survives_a_neuron_that_dies_in_the_middle(
    program: Program, root: Path, tmp_path: Path
) -> None:
    """It asks again, or says that there is none; it neither hangs nor takes half for whole."""
    async with fleet(tmp_path) as gateway:
        said: Ended = await ask(program, root, Aim(gateway.url, tmp_path / "home", "mortal"), "Hello")
        if PROGRAMS[program].resends:
            assert said.status == 0 and f"one two three {PLAIN}" in said.text, said
        else:
            assert said.status == 1 and "The neuron closed the connection" in said.text, said


@EACH
async def test_a_program_waits_for_a_cold_model(program: Program, root: Path, tmp_path: Path) -> None:
    async with fleet(tmp_path) as gateway:
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home", "cold"), "Hello")
        assert said.status == 0 and PLAIN in said.text, said


async def test_claude_code_counts_its_context_by_asking_for_counts_alone(root: Path, tmp_path: Path) -> None:
    """Without a count it generates: once for each part of the prompt."""
    async with fleet(tmp_path) as gateway:
        said = await ask(claude_code, root, Aim(gateway.url, tmp_path / "home"), "/context")
        assert said.status == 0 and "| System tools |" in said.text, said
        page = (await gateway.page()).text
        assert "cortex_completion_tokens_total" not in page or " 0.0" in page
