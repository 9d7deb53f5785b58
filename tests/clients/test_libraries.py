"""Libraries that programs speak to a gateway by: every scenario of a script ends as its users expect.

The scripts run with the libraries' own packages; what each scenario asks is told there.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from cortex.demo import MODEL_ID
from tests.clients import installing
from tests.clients.fleet import COLD_S, KEY, MINUTE, PLAIN, SLOW, SPENT, WIDTH, Fleet, crowd, fleet
from tests.clients.programs import Call, run
from tests.fake_terminal import lines_until, running

pytestmark = [pytest.mark.clients, pytest.mark.slow, installing.wanted]
SCRIPTS: Final = Path(__file__).parent / "scripts"
OSLO: Final = {"city": "Oslo"}
WEATHER: Final = {"city": "Oslo", "degrees": 4}
RAIN: Final = "The tool said: rain in Oslo"
THOUGHT: Final = ["Two and two.", PLAIN]
SIGNED: Final = [
    {"type": "thinking", "thinking": "Two and two.", "signature": "Y29ydGV4"},
    {"type": "text", "text": PLAIN},
]
LONG: Final = "maximum context length is 12 tokens"
TOO_LONG: Final = "prompt is too long: 106 tokens > 12 maximum"
KEY_WORDS: Final = "Incorrect API key provided: it is not known here."
SPENT_WORDS: Final = "Try again after midnight UTC"
NOBODY: Final = "The model 'nobody' does not exist here"
DIED: Final = "The neuron closed the connection in the middle of its answer"


def fails(kind: str, words: str) -> tuple[str, str]:
    """The class that is raised, and what its message has in it."""
    return kind, words


def refused(key: str, unknown: str, long: str, died: str) -> dict[str, object]:
    """What is raised for a wrong key, an unknown model, a long prompt, and a stream that broke off."""
    return {
        "unauthorized": fails(key, KEY_WORDS),
        "unknown": fails(unknown, NOBODY),
        "long": fails(long, LONG),
        "death": fails(died, DIED),
    }


OFTEN: Final = {
    "plain": PLAIN,
    "keyed": PLAIN,
    "cold": PLAIN,
    "stream": PLAIN,
    "full": PLAIN,
    "slow": [PLAIN] * 2,
}
RESPONSES: Final = {"responses": PLAIN, "responses_stream": PLAIN}
MESSAGES: Final = {"messages_plain": PLAIN, "messages_stream": PLAIN}
PYTHON: Final[dict[str, dict[str, object]]] = {
    "litellm": {
        **OFTEN,
        **MESSAGES,
        **refused(
            "AuthenticationError", "NotFoundError", "ContextWindowExceededError", "MidStreamFallbackError"
        ),
        "usage": [1],
        "tool": ["get_weather", '{"city": "Oslo"}', "The tool said: rain"],
        "messages_tool": ["get_weather", '{"city": "Oslo"}', "The tool said: rain"],
        "think": THOUGHT,
        "messages_think": THOUGHT,
        "vllm": PLAIN,
        "messages_unauthorized": fails("AuthenticationError", KEY_WORDS),
        "messages_long": fails("ContextWindowExceededError", TOO_LONG),
        "messages_death": fails("MidStreamFallbackError", DIED),
        "messages_full": fails(
            "InternalServerError", "wait already"
        ),  # in this dialect it does not ask again
        "spent": fails("RateLimitError", SPENT_WORDS),
        "messages_spent": fails("RateLimitError", SPENT_WORDS),
        **RESPONSES,
        "responses_long": fails("ContextWindowExceededError", LONG),
        # Of a model that it does not know it asks for a whole answer, and makes a stream of that.
        "responses_death": fails("BadGatewayError", "closed the connection before it answered"),
        "embeddings": [WIDTH] * 2,
    },
    "langchain": {
        **OFTEN,
        **MESSAGES,
        **refused(
            "OpenAIAuthenticationError", "OpenAIModelNotFoundError", "OpenAIContextOverflowError", "APIError"
        ),
        "usage": [1],
        "tool": ["get_weather", OSLO, RAIN],
        "tool_stream": [["get_weather", OSLO]],
        "structured": WEATHER,
        "structured_call": WEATHER,
        "messages_tool": ["get_weather", OSLO, RAIN],
        "messages_tool_stream": [["get_weather", OSLO]],
        "messages_think": SIGNED,
        "messages_structured": WEATHER,
        "messages_structured_schema": WEATHER,
        "messages_count": 6,
        "messages_unauthorized": fails("AnthropicAuthenticationError", KEY_WORDS),
        "messages_long": fails("AnthropicContextOverflowError", TOO_LONG),
        "messages_death": fails("APIStatusError", DIED),
        "messages_full": PLAIN,
        "spent": fails("OpenAIRateLimitError", SPENT_WORDS),
        "messages_spent": fails("AnthropicRateLimitError", SPENT_WORDS),
        **RESPONSES,
        "responses_tool": ["get_weather", OSLO, RAIN],
        "responses_think": THOUGHT,
        "responses_structured": WEATHER,
        "responses_long": fails("OpenAIContextOverflowError", LONG),
        "responses_death": fails("ValueError", DIED),
        "embeddings": [WIDTH] * 2,
    },
    "pydantic_ai": {
        **OFTEN,
        **MESSAGES,
        **refused(
            "ModelAuthenticationError",
            "ModelNotFoundError",
            "ModelContextWindowExceededError",
            "ModelServerError",
        ),
        "usage": 1,
        "tool": [["Oslo"], RAIN],
        "messages_tool": [["Oslo"], RAIN],
        "think": THOUGHT,
        "messages_think": THOUGHT,
        "structured": WEATHER,
        "structured_native": WEATHER,
        "messages_structured": WEATHER,
        "messages_unauthorized": fails("ModelAuthenticationError", KEY_WORDS),
        "messages_long": fails("ModelContextWindowExceededError", TOO_LONG),
        "messages_death": fails("ModelServerError", DIED),
        "messages_full": PLAIN,
        "spent": fails("ModelQuotaExceededError", SPENT_WORDS),
        "messages_spent": fails("ModelRateLimitError", SPENT_WORDS),
        **RESPONSES,
        "responses_tool": [["Oslo"], RAIN],
        "responses_think": THOUGHT,
        "responses_structured": WEATHER,
        "responses_long": fails("ModelContextWindowExceededError", LONG),
        "responses_death": fails("ModelAPIError", DIED),
    },
    "instructor": {
        **refused(*["InstructorRetryException"] * 4),
        **dict.fromkeys(("tools", "tools_strict", "json_schema", "stream", "keyed", "cold", "full"), WEATHER),
        "slow": [WEATHER] * 2,
        "spent": fails("InstructorRetryException", SPENT_WORDS),
    },
    "llama_index": {
        **OFTEN,
        **refused("AuthenticationError", "NotFoundError", "BadRequestError", "APIError"),
        "text": PLAIN,
        "tool": ["get_weather", OSLO, "The tool said: rain"],
        **RESPONSES,
    },
}
NODE: Final[dict[str, object]] = {
    "openai_plain": PLAIN,
    "openai_stream": PLAIN,
    "openai_helper": PLAIN,
    "openai_tool": [["Oslo"], RAIN],
    "openai_keyed": PLAIN,
    "openai_unauthorized": fails("AuthenticationError", KEY_WORDS),
    "openai_unknown": fails("NotFoundError", NOBODY),
    "openai_long": fails("BadRequestError", LONG),
    "openai_models": ["cold", "doomed", "m", "mortal", "small", "vector"],
    "openai_cold": PLAIN,
    "openai_slow": [PLAIN] * 2,
    "openai_spent": fails("RateLimitError", SPENT_WORDS),
    "openai_full": PLAIN,
    "openai_death": fails("APIError", DIED),
    "responses_plain": PLAIN,
    "responses_stream": PLAIN,
    "responses_parsed": OSLO,
    "responses_tool": ['{"city": "Oslo"}', "The tool said: rain"],
    "responses_long": fails("BadRequestError", LONG),
    "responses_death": fails("APIError", DIED),
    "embeddings": [[WIDTH] * 2, True],
    "ai_embeddings": [WIDTH] * 2,
    "anthropic_plain": PLAIN,
    "anthropic_stream": SIGNED,
    "anthropic_tool": [OSLO, "tool_use", "The tool said: rain"],
    "anthropic_keyed": PLAIN,
    "anthropic_unauthorized": fails("AuthenticationError", KEY_WORDS),
    "anthropic_unknown": fails("NotFoundError", NOBODY),
    "anthropic_long": fails("BadRequestError", TOO_LONG),
    "anthropic_count": 6,
    "anthropic_slow": [PLAIN] * 2,
    "anthropic_spent": fails("RateLimitError", SPENT_WORDS),
    "anthropic_full": PLAIN,
    "anthropic_death": fails("APIError", DIED),
    "anthropic_cold": PLAIN,
    "anthropic_runner": RAIN,
    "ai_slow": [PLAIN] * 2,
    "ai_spent": fails("RetryError", SPENT_WORDS),
    "ai_full": PLAIN,
}
for way, thinks in (("compatible", True), ("openai", False), ("responses", True), ("anthropic", True)):
    broken = [f"error: {DIED}. It may have run; send the request again."]
    NODE |= {
        f"ai_{way}_plain": PLAIN,
        f"ai_{way}_stream": [PLAIN, ["finish"]],
        f"ai_{way}_think": [PLAIN, ["reasoning-end", "finish"] if thinks else ["finish"]],
        f"ai_{way}_tool": [OSLO, RAIN],
        f"ai_{way}_object": WEATHER,
        f"ai_{way}_keyed": PLAIN,
        f"ai_{way}_unauthorized": fails("APICallError", KEY_WORDS),
        f"ai_{way}_unknown": fails("APICallError", NOBODY),
        f"ai_{way}_long": fails("APICallError", TOO_LONG if way == "anthropic" else LONG),
        # Of the two events that end a stream of Responses it reads both.
        f"ai_{way}_death": ["one two", [*broken * (2 if way == "responses" else 1), "finish"]],
        f"ai_{way}_cold": PLAIN,
    }


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installing.folder(tmp_path_factory.getbasetemp() / "clients")


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MINUTE, 3.0)


@dataclass(frozen=True)
class Sites:
    """What the scripts are told of, and how they behaved there."""

    open: Fleet
    keyed: Fleet
    crowded: Fleet

    @property
    def words(self) -> tuple[str, ...]:
        return (self.open.url, self.keyed.url, self.crowded.url, KEY, SLOW, SPENT)

    async def asked(self) -> tuple[int, int, int]:
        """How often they asked too early, after their day was used up, and where the line was full."""
        return (
            await self.keyed.refusals("rate_limit_exceeded"),
            await self.keyed.refusals("insufficient_quota"),
            await self.crowded.refusals("overloaded"),
        )


@asynccontextmanager
async def three(folder: Path) -> AsyncIterator[Sites]:
    async with (
        fleet(_new(folder, "open")) as one,
        fleet(_new(folder, "keyed"), keyed=True) as two,
        crowd(_new(folder, "crowded")) as crowded,
    ):
        yield Sites(one, two, crowded)


async def played(words: list[Path | str], home: Path) -> dict[str, dict[str, Any]]:
    """What each scenario of a script came to."""
    ended = await run(Call(words, {"AI_SDK_LOG_WARNINGS": "false"}), home, home)
    rows = [json.loads(line) for line in ended.text.splitlines() if line.startswith('{"scenario"')]
    assert ended.status == 0 and rows, ended
    return {row["scenario"]: row for row in rows}


def surprises(outcomes: dict[str, dict[str, Any]], expected: dict[str, object]) -> dict[str, object]:
    """The scenarios that ended otherwise, or that one side does not know."""
    wrong: dict[str, object] = {name: outcomes.get(name) for name in outcomes.keys() ^ expected.keys()}
    for name in outcomes.keys() & expected.keys():
        match expected[name], outcomes[name]:
            case (kind, words), {"error": error, "text": text} if error == kind and words in text:
                pass
            case said, {"said": heard} if said == heard:
                pass
            case _, outcome:
                wrong[name] = outcome
    return wrong


@pytest.mark.client(*installing.told_node("openai", "@anthropic-ai/sdk", "ai"))
async def test_node_libraries_have_what_they_ask_for(root: Path, tmp_path: Path, minute: None) -> None:
    home = await trio.to_thread.run_sync(installing.node, root)
    # Packages are looked for beside the script.
    script = home / "drive_node.mjs"
    script.write_text((SCRIPTS / script.name).read_text())
    async with three(tmp_path) as sites:
        outcomes = await played(["node", script, *sites.words], _new(tmp_path, "home"))
        assert not surprises(outcomes, NODE)
        # One that may ask once in a while finds others before it; the AI SDK goes by no header.
        early, spent, full = await sites.asked()
        assert 3 <= early <= 6 and spent <= 2 + 3 and full == 3
    assert outcomes["openai_cold"]["seconds"] >= COLD_S * 0.9


@pytest.mark.parametrize(
    "library",
    [pytest.param(each, marks=pytest.mark.client(*installing.told(each)), id=each) for each in PYTHON],
)
async def test_a_python_library_has_what_it_asks_for(
    library: str, root: Path, tmp_path: Path, minute: None
) -> None:
    bin = await trio.to_thread.run_sync(installing.python, root, library)
    script = SCRIPTS / f"drive_{library}.py"
    async with three(tmp_path) as sites:
        outcomes = await played([bin / "python", script, *sites.words], _new(tmp_path, "home"))
        assert not surprises(outcomes, PYTHON[library])
        both = "messages_full" in outcomes
        assert await sites.asked() == (1, sum("spent" in name for name in outcomes), 1 + both)
    assert outcomes["cold"]["seconds"] >= COLD_S * 0.9


# What a newcomer types, streamed where there is a stream; the arguments are the base and the model.
NEWCOMERS: Final = {
    "litellm": """
import litellm
said = litellm.completion(model="openai/" + model, temperature=0, api_base=base, api_key="none", stream=True,
    messages=[{"role": "user", "content": asked}])
print("".join(chunk.choices[0].delta.content or "" for chunk in said))
""",
    "langchain": """
from langchain_openai import ChatOpenAI
said = ChatOpenAI(model=model, base_url=base, api_key="none", temperature=0).stream(asked)
print("".join(chunk.text for chunk in said))
""",
    "pydantic_ai": """
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
agent = Agent(OpenAIChatModel(model, provider=OpenAIProvider(base_url=base, api_key="none")))
print(agent.run_sync(asked, model_settings={"temperature": 0}).output)
""",
    "llama_index": """
from llama_index.llms.openai_like import OpenAILike
llm = OpenAILike(model=model, api_base=base, api_key="none", is_chat_model=True, temperature=0)
print("".join(part.delta for part in llm.stream_complete(asked)))
""",
}


@pytest.mark.parametrize(
    "library",
    [pytest.param(each, marks=pytest.mark.client(*installing.told(each)), id=each) for each in NEWCOMERS],
)
async def test_a_newcomers_gateway_answers_a_newcomers_program(
    library: str, root: Path, tmp_path: Path
) -> None:
    """`cortex up` with the bundled model, and the library as somebody has it."""
    bin = await trio.to_thread.run_sync(installing.python, root, library)
    program = f"import sys\nbase, model, asked = sys.argv[1:]\n{NEWCOMERS[library]}"
    async with running("-m", "cortex", "up", "--port", "0") as process:
        with trio.fail_after(60):
            printed = (await lines_until(process.stdout, b"Ctrl-C stops.\n")).decode()
        url = next(word for word in printed.split() if word.endswith("/v1"))
        words = [bin / "python", "-c", program, url, MODEL_ID, "What is 2 + 2?"]
        said = await run(Call(words), tmp_path, tmp_path)
    assert said.status == 0 and said.text.strip().endswith("2 + 2 = 4."), said


def _new(folder: Path, name: str) -> Path:
    (made := folder / name).mkdir()
    return made
