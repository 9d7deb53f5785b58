"""What each client is told. The names of settings are those that the clients were seen to obey."""

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from cortex.cli.wish import ClientName
from cortex.connect import CLIENTS, KeyAt, Model, Places, Target, shown, warnings
from cortex.errors import BadAsk

KNOWN = Model("org/m", 65_536, frozenset({"tools", "chat"}))
FAST = Model("small", 8_192, frozenset({"tools", "vision"}))
NO_KEY, VARIABLE, FILE = KeyAt(), KeyAt(given=True), KeyAt(file=Path("/my keys/k"))


def target(home: Path = Path("/h"), key: KeyAt = NO_KEY, model: Model = KNOWN, **environment: str) -> Target:
    return Target("http://g:1", model, FAST, key, Places(home, environment))


def told(client: str, at: Target, file: int = 0) -> tuple[str, dict[str, object]]:
    """Which file, and what it says."""
    settings = CLIENTS[client].make(at).files[file]
    read = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}[settings.form]
    return str(settings.path), read(shown(settings))


def test_the_command_line_names_the_clients_that_there_are() -> None:
    assert {each.value for each in ClientName} == set(CLIENTS)


def test_claude_code_gets_every_tier_and_the_true_context() -> None:
    path, said = told("claude-code", target())
    assert path == "/h/.claude/settings.json"
    tiers = ("FABLE", "OPUS", "SONNET")
    assert said == {
        "env": {
            "ANTHROPIC_BASE_URL": "http://g:1",
            "ANTHROPIC_AUTH_TOKEN": "none",
            "ANTHROPIC_MODEL": "org/m",
            **{f"ANTHROPIC_DEFAULT_{tier}_MODEL": "org/m" for tier in tiers},
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "small",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "API_TIMEOUT_MS": "1800000",
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "65536",
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": "65536",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "16384",
        }
    }


def test_codex_speaks_responses_and_names_a_variable_only_where_a_key_is_needed() -> None:
    path, said = told("codex", target())
    assert path == "/h/.codex/config.toml"
    provider = {"name": "cortex", "base_url": "http://g:1/v1", "wire_api": "responses"}
    head = {"model": "org/m", "model_provider": "cortex", "model_context_window": 65_536}
    assert said == {**head, "model_providers": {"cortex": provider}}
    keyed = told("codex", target(key=VARIABLE))[1]
    assert keyed == {**head, "model_providers": {"cortex": {**provider, "env_key": "CORTEX_API_KEY"}}}


def test_opencode_is_told_the_limits_of_both_models() -> None:
    path, said = told("opencode", target())
    assert path == "/h/.config/opencode/opencode.json"
    assert (said["model"], said["small_model"]) == ("cortex/org/m", "cortex/small")
    provider = said["provider"]["cortex"]  # type: ignore[index]
    assert provider["options"] == {"baseURL": "http://g:1/v1", "apiKey": "none"}
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["models"] == {
        "org/m": {
            "name": "org/m",
            "limit": {"context": 65_536, "output": 16_384},
            "tool_call": True,
            "reasoning": False,
            "attachment": False,
        },
        "small": {
            "name": "small",
            "limit": {"context": 8_192, "output": 2_048},
            "tool_call": True,
            "reasoning": False,
            "attachment": True,
        },
    }


def test_aider_has_its_settings_and_a_table_of_models() -> None:
    path, said = told("aider", target())
    assert path == "/h/.aider.conf.yml"
    assert said == {
        "model": "openai/org/m",
        "weak-model": "openai/small",
        "openai-api-base": "http://g:1/v1",
        "openai-api-key": "none",
    }
    path, table = told("aider", target(), 1)
    assert path == "/h/.aider.model.metadata.json"
    assert [(name, row["max_input_tokens"]) for name, row in table.items()] == [  # type: ignore[index]
        ("openai/org/m", 65_536),
        ("openai/small", 8_192),
    ]


def test_qwen_code_gets_an_entry_of_its_list_and_is_not_asked_to_log_in() -> None:
    path, said = told("qwen-code", target())
    assert path == "/h/.qwen/settings.json"
    assert said == {
        "modelProviders": {
            "openai": [
                {
                    "id": "org/m",
                    "name": "org/m (cortex)",
                    "baseUrl": "http://g:1/v1",
                    "envKey": "CORTEX_API_KEY",
                    "generationConfig": {"contextWindowSize": 65_536},
                }
            ]
        },
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": "org/m"},
        "env": {"CORTEX_API_KEY": "none"},
    }
    assert "env" not in told("qwen-code", target(key=VARIABLE))[1]


def test_zed_is_told_context_and_abilities_and_is_not_set_up_without() -> None:
    path, said = told("zed", target())
    assert path == "/h/.config/zed/settings.json"
    assert said["agent"] == {"default_model": {"provider": "cortex", "model": "org/m"}}
    provider = said["language_models"]["openai_compatible"]["cortex"]  # type: ignore[index]
    assert provider["api_url"] == "http://g:1/v1"
    [model] = provider["available_models"]
    assert (model["name"], model["max_tokens"], model["max_output_tokens"]) == ("org/m", 65_536, 16_384)
    assert (model["capabilities"]["tools"], model["capabilities"]["images"]) == (True, False)
    with pytest.raises(BadAsk, match="context length of 'cold'"):
        told("zed", target(model=Model("cold")))


def test_litellm_gets_an_entry_of_a_file_that_is_named() -> None:
    recipe = CLIENTS["litellm"].make(target(key=VARIABLE))
    assert recipe.files[0].path is None
    [entry] = yaml.safe_load(shown(recipe.files[0]))["model_list"]
    assert entry["litellm_params"] == {
        "model": "openai/org/m",
        "api_base": "http://g:1/v1",
        "api_key": "os.environ/CORTEX_API_KEY",
    }
    assert entry["model_info"] == {
        "max_input_tokens": 65_536,
        "supports_function_calling": True,
        "supports_vision": False,
    }


@pytest.mark.parametrize(
    ("client", "variables"),
    [
        ("openai", {"OPENAI_BASE_URL": "http://g:1/v1", "OPENAI_API_KEY": '"$CORTEX_API_KEY"'}),
        ("anthropic", {"ANTHROPIC_BASE_URL": "http://g:1", "ANTHROPIC_API_KEY": '"$CORTEX_API_KEY"'}),
    ],
)
def test_an_sdk_is_told_by_variables_and_has_a_program_to_try(client: str, variables: dict[str, str]) -> None:
    recipe = CLIENTS[client].make(target(key=VARIABLE))
    assert (recipe.files, dict(recipe.environment)) == ((), variables)
    compile(recipe.example, "example", "exec")
    assert '"org/m"' in recipe.example


CAT = "\"$(cat '/my keys/k')\""


@pytest.mark.parametrize(
    ("client", "none", "variable", "file"),
    [
        ("claude-code", "claude", "claude", "claude"),
        ("codex", "codex", "codex", f"CORTEX_API_KEY={CAT} codex"),
        ("opencode", "opencode", "opencode", "opencode"),
        ("aider", "aider", 'OPENAI_API_KEY="$CORTEX_API_KEY" aider', f"OPENAI_API_KEY={CAT} aider"),
        ("qwen-code", "qwen", "qwen", f"CORTEX_API_KEY={CAT} qwen"),
        ("zed", "CORTEX_API_KEY=none zed", "zed", f"CORTEX_API_KEY={CAT} zed"),
        (
            "litellm",
            "litellm --config config.yaml",
            "litellm --config config.yaml",
            f"CORTEX_API_KEY={CAT} litellm --config config.yaml",
        ),
    ],
)
def test_the_command_hands_the_key_over_where_settings_cannot(
    client: str, none: str, variable: str, file: str
) -> None:
    keys = (NO_KEY, VARIABLE, FILE)
    assert [CLIENTS[client].make(target(key=key)).start for key in keys] == [none, variable, file]


def test_settings_that_can_refer_to_a_key_do() -> None:
    assert told("claude-code", target(key=FILE))[1]["apiKeyHelper"] == "cat '/my keys/k'"
    assert told("claude-code", target(key=VARIABLE))[1]["apiKeyHelper"] == "printenv CORTEX_API_KEY"
    assert "ANTHROPIC_AUTH_TOKEN" not in told("claude-code", target(key=FILE))[1]["env"]  # type: ignore[operator]
    for key, word in ((FILE, "{file:/my keys/k}"), (VARIABLE, "{env:CORTEX_API_KEY}")):
        said = told("opencode", target(key=key))[1]
        assert said["provider"]["cortex"]["options"]["apiKey"] == word  # type: ignore[index]


def test_a_model_whose_context_nobody_knows_gets_no_limits() -> None:
    for client in ("claude-code", "codex", "opencode", "qwen-code", "aider"):
        at = Target("http://g:1", Model("cold"), Model("cold"), NO_KEY, Places(Path("/h"), {}))
        text = shown(CLIENTS[client].make(at).files[0])
        assert "cold" in text
        for word in ("CONTEXT", "context", "limit", "MAX_OUTPUT"):
            assert word not in text
    assert len(CLIENTS["aider"].make(at).files) == 1


def test_files_are_where_the_clients_own_variables_say(tmp_path: Path) -> None:
    moved = {
        "CLAUDE_CONFIG_DIR": "/c",
        "CODEX_HOME": "/x",
        "XDG_CONFIG_HOME": "/g",
    }
    at = target(**moved)
    assert told("claude-code", at)[0] == "/c/settings.json"
    assert told("codex", at)[0] == "/x/config.toml"
    assert told("opencode", at)[0] == "/g/opencode/opencode.json"
    assert told("zed", target(XDG_CONFIG_HOME="relative"))[0] == "/h/.config/zed/settings.json"
    (tmp_path / "opencode").mkdir()
    (tmp_path / "opencode" / "opencode.jsonc").touch()
    assert told("opencode", target(XDG_CONFIG_HOME=str(tmp_path)))[0].endswith("/opencode.jsonc")


@pytest.mark.parametrize(
    ("client", "model", "words"),
    [
        ("claude-code", Model("m", 65_535, frozenset({"tools"})), ["41,000"]),
        ("claude-code", Model("m", 65_536, frozenset({"tools"})), []),
        ("claude-code", Model("m", 65_536, frozenset()), ["does not call tools"]),
        ("claude-code", Model("m", 65_536), []),
        ("codex", Model("m", 16_384), ["20,000"]),
        ("codex", Model("m"), ["not known before its first load"]),
        ("aider", Model("m", 2_048, frozenset()), []),
    ],
)
def test_a_model_that_is_too_small_for_a_client_is_told(client: str, model: Model, words: list[str]) -> None:
    said = list(warnings(CLIENTS[client], model))
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said, strict=True))
