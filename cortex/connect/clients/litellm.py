"""LiteLLM's proxy: OpenAI chat, by an entry of `model_list` in a config.yaml of the operator's.

There is no usual place for that file; whoever wants it written names it.
"""

import shlex
from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import NO_KEY, VARIABLE, Client, Edit, Recipe, Settings, Target


def recipe(target: Target) -> Recipe:
    """One model, by its own name."""
    entry: dict[str, Json] = {
        "model_name": target.model.name,
        "litellm_params": {
            "model": f"openai/{target.model.name}",
            "api_base": target.api,
            "api_key": f"os.environ/{VARIABLE}" if target.key.wanted else NO_KEY,
        },
    }
    facts: dict[str, Json] = {}
    if target.model.context is not None:
        facts["max_input_tokens"] = target.model.context
    for name, ability in (("supports_function_calling", "tools"), ("supports_vision", "vision")):
        if (can := target.model.can(ability)) is not None:
            facts[name] = can
    if facts:
        entry["model_info"] = facts
    name = str(target.file) if target.file is not None else "config.yaml"
    return Recipe(
        files=(Settings(target.file, "yaml", (Edit(("model_list",), entry, add=True),)),),
        start=target.key.before(f"litellm --config {shlex.quote(name)}"),
    )


CLIENT: Final = Client("LiteLLM", "chat", recipe)
