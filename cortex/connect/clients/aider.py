"""aider: OpenAI chat through LiteLLM, by .aider.conf.yml and its table of models.

The prefix `openai/` chooses the dialect and is not sent. Its settings cannot refer to a variable,
and a key is handed over as OPENAI_API_KEY at the start.
"""

from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import NO_KEY, Client, Edit, Model, Recipe, Settings, Target


def recipe(target: Target) -> Recipe:
    """Settings of the user, for all repositories."""
    edits = [
        Edit(("model",), f"openai/{target.model.name}"),
        Edit(("weak-model",), f"openai/{target.fast.name}"),
        Edit(("openai-api-base",), target.api),
    ]
    if not target.key.wanted:
        edits.append(Edit(("openai-api-key",), NO_KEY))
    files = [Settings(target.file or target.places.home / ".aider.conf.yml", "yaml", tuple(edits))]
    known = dict.fromkeys(each for each in (target.model, target.fast) if each.context is not None)
    if known:
        table = tuple(Edit((f"openai/{each.name}",), _entry(each)) for each in known)
        files.append(Settings(target.places.home / ".aider.model.metadata.json", "json", table))
    start = target.key.before("aider", "OPENAI_API_KEY") if target.key.wanted else "aider"
    return Recipe(files=tuple(files), start=start)


def _entry(model: Model) -> dict[str, Json]:
    return {
        "max_tokens": model.answer,
        "max_input_tokens": model.context,
        "max_output_tokens": model.answer,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }


CLIENT: Final = Client("aider", "chat", recipe, has_fast=True)
