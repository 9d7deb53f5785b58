"""Programs that people point at a gateway, run headless: what they print, and how often they ask."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.clients import installing
from tests.clients.fleet import (
    FULL,
    KEY,
    MINUTE,
    PLAIN,
    SLOW,
    SPENT,
    WRONG,
    crowd,
    fleet,
)
from tests.clients.programs import (
    NOTE,
    Aim,
    Call,
    Ended,
    aider,
    aider_messages,
    ask,
    claude_code,
    codex,
    llm,
    opencode,
    qwen_code,
)

pytestmark = [pytest.mark.clients, pytest.mark.slow, installing.wanted]
UNKNOWN_KEY: Final = "Incorrect API key provided: it is not known here."
DAY_SPENT: Final = "Try again after midnight UTC"


@dataclass(frozen=True)
class Manners:
    """What a client does of its own. `called` is what it prints after a tool turn, None for one without
    tools; `refused` is its status after a refusal; the next four are its words for one, where None is one
    that goes on asking while the day lasts. `resends`: it asks again when an answer breaks off in the
    middle. One that is let in has so many `questions`; a wrong key it tries `tries` times. Within
    `minute_s` it is started and has asked, `restless` times where it does not wait as it is told."""

    called: str | None = NOTE
    refused: int = 1
    key: str = UNKNOWN_KEY
    unknown: str = "The model 'nobody' does not exist here"
    long: str = "maximum context length is 12 tokens"
    spent: str | None = DAY_SPENT
    resends: bool = True
    questions: int = 1
    tries: int = 1
    minute_s: float = 3.0
    restless: int = 1


PROGRAMS: Final = {
    claude_code: Manners(
        unknown="There's an issue with the selected model (nobody)", long="Prompt is too long"
    ),
    codex: Manners(long="Codex ran out of room", spent="Quota exceeded", tries=6),
    # Beside its answer opencode asks for a title, and Qwen Code, after it, for what is worth remembering.
    opencode: Manners(spent=None, questions=2, tries=2),
    qwen_code: Manners(spent=None, resends=False, questions=2),
    aider: Manners(
        called=None,
        refused=0,
        key="Check your API key",
        unknown="litellm.NotFoundError",
        long="has hit a token limit",
        spent=None,
        minute_s=15.0,
    ),
    aider_messages: Manners(
        called=None,
        refused=0,
        key="Check your API key",
        unknown="litellm.NotFoundError",
        long="has hit a token limit",
        spent=None,
        minute_s=15.0,
        restless=8,
    ),
    llm: Manners(called="The tool said: rain in Oslo", resends=False),
}
WEATHER: Final = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
NAMES: Final = {
    claude_code: installing.told_node("@anthropic-ai/claude-code"),
    codex: installing.told_node("@openai/codex"),
    opencode: installing.told_node("opencode-ai"),
    qwen_code: installing.told_node("@qwen-code/qwen-code"),
    aider: installing.told("aider"),
    aider_messages: installing.told("aider"),
    llm: installing.told("llm"),
}
EACH = pytest.mark.parametrize(
    "program",
    [pytest.param(each, marks=pytest.mark.client(*NAMES[each]), id=each.__name__) for each in PROGRAMS],
)
Program = Callable[[Path, Aim, str], Call]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installing.folder(tmp_path_factory.getbasetemp() / "clients")


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
        assert await gateway.refusals("auth") <= PROGRAMS[program].tries


@EACH
async def test_a_program_that_may_not_ask_yet_waits_as_it_is_told(
    program: Program, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MINUTE, PROGRAMS[program].minute_s)
    async with fleet(tmp_path, keyed=True) as gateway:
        assert (await gateway.ask(SLOW)).status_code == 200
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home", key=SLOW), "Hello")
        assert said.status == 0 and PLAIN in said.text, said
        most = PROGRAMS[program].questions * PROGRAMS[program].restless
        assert 1 <= await gateway.refusals("rate_limit_exceeded") <= most


@EACH
async def test_a_program_whose_day_is_used_up_says_so_and_ends(
    program: Program, root: Path, tmp_path: Path
) -> None:
    """Codex goes by the code, the others by the header that says not to ask again."""
    if (words := PROGRAMS[program].spent) is None:
        pytest.skip("goes by neither, and asks on, ever more seldom")
    async with fleet(tmp_path, keyed=True) as gateway:
        assert (await gateway.ask(SPENT)).status_code == 200
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home", key=SPENT), "Hello")
        assert said.status == PROGRAMS[program].refused and words in " ".join(said.text.split()), said
        assert await gateway.refusals("insufficient_quota") == 1


@EACH
async def test_a_program_that_finds_no_place_comes_back_when_it_was_told_to(
    program: Program, root: Path, tmp_path: Path
) -> None:
    """Without a word Claude Code asks 11 times, and Codex 30."""
    async with crowd(tmp_path) as gateway:
        said = await ask(program, root, Aim(gateway.url, tmp_path / "home", FULL[0]), "Hello")
        assert said.status == 0 and PLAIN in said.text, said
        most = PROGRAMS[program].questions * PROGRAMS[program].restless
        assert 1 <= await gateway.requests(FULL[0], "cortex") <= most


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


@pytest.mark.client(*NAMES[claude_code])
async def test_claude_code_counts_its_context_by_asking_for_counts_alone(root: Path, tmp_path: Path) -> None:
    """Without a count it generates: once for each part of the prompt."""
    async with fleet(tmp_path) as gateway:
        said = await ask(claude_code, root, Aim(gateway.url, tmp_path / "home"), "/context")
        assert said.status == 0 and "| System tools |" in said.text, said
        assert await gateway.requests("m", "ok")
        page = (await gateway.http.get(gateway.metrics_url)).text
        assert "cortex_completion_tokens_total" not in page or " 0.0" in page


@pytest.mark.client(*NAMES[codex])
async def test_codex_calls_a_tool_of_a_namespace_by_its_own_name(root: Path, tmp_path: Path) -> None:
    """It says "unsupported call" of one that came back without its namespace."""
    async with fleet(tmp_path) as gateway:
        said = await ask(codex, root, Aim(gateway.url, tmp_path / "home"), "CALL close_agent")
        assert said.status == 0 and "The tool said:" in said.text, said
        assert "unsupported call" not in said.text, said


@pytest.mark.client(*NAMES[codex])
async def test_codex_shows_what_the_model_thinks(root: Path, tmp_path: Path) -> None:
    async with fleet(tmp_path) as gateway:
        said = await ask(codex, root, Aim(gateway.url, tmp_path / "home"), "THINK")
        assert said.status == 0 and "Two and two." in said.text and said.text.endswith(f"{PLAIN}\n"), said


@pytest.mark.client(*NAMES[codex])
async def test_codex_has_an_answer_in_the_form_that_it_asks_for(root: Path, tmp_path: Path) -> None:
    """With its tools, which it always sends."""
    (form := tmp_path / "schema.json").write_text(json.dumps(WEATHER))
    async with fleet(tmp_path) as gateway:
        asked = partial(codex, more=("--output-schema", form))
        said = await ask(asked, root, Aim(gateway.url, tmp_path / "home"), "Hello")
        assert said.status == 0 and json.loads(said.text.splitlines()[-1]) == {"city": "Oslo"}, said
