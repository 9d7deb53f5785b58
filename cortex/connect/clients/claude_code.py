"""Claude Code: Anthropic Messages, by the `env` of its settings.json.

That file cannot refer to variables; a key comes by `apiKeyHelper`, a command whose output it is.
Every tier of model is mapped, since sub-agents and titles ask for a tier and not for the model.
"""

import shlex
from typing import Final

from cortex.connect.recipe import NO_KEY, VARIABLE, Client, Edit, Recipe, Settings, Target

# Half an hour: a slow load or a long answer that is not streamed. Its own limit is ten minutes.
PATIENCE_MS: Final = 1_800_000


def recipe(target: Target) -> Recipe:
    """Settings of the user, for all projects."""
    usual = target.places.own("CLAUDE_CONFIG_DIR", ".claude") / "settings.json"
    edits = [Edit(("env", name), value) for name, value in _environment(target).items()]
    if target.key.file is not None:
        edits.append(Edit(("apiKeyHelper",), f"cat {shlex.quote(str(target.key.file))}"))
    elif target.key.wanted:
        edits.append(Edit(("apiKeyHelper",), f"printenv {VARIABLE}"))
    return Recipe(files=(Settings(target.file or usual, "json", tuple(edits)),), start="claude")


def _environment(target: Target) -> dict[str, str]:
    model = target.model.name
    said = {
        "ANTHROPIC_BASE_URL": target.endpoint,
        "ANTHROPIC_MODEL": model,
        "ANTHROPIC_DEFAULT_FABLE_MODEL": model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": target.fast.name,
        # It would put a line that changes with each prompt before all others: no prefix is met twice.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "API_TIMEOUT_MS": str(PATIENCE_MS),
    }
    if not target.key.wanted:
        said["ANTHROPIC_AUTH_TOKEN"] = NO_KEY
    if target.model.context is not None:
        # A model that it does not know has 200,000 for it, and is never compacted: both are needed.
        said["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(target.model.context)
        said["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(target.model.context)
        said["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(target.model.answer)
    return said


CLIENT: Final = Client(
    "Claude Code", "messages", recipe, has_fast=True, agent=True, first=41_000, least=65_536
)
