"""Zed: OpenAI chat, by a provider of `language_models.openai_compatible`.

It reads the key from a variable that it makes of the provider's name, which is ours. A model's
context has to be said; without a key it does not offer the provider.
"""

from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import Client, Edit, Recipe, Settings, Target
from cortex.errors import BadAsk

NAME: Final = "cortex"


def recipe(target: Target) -> Recipe:
    """Settings of the user; the agent uses the model."""
    model = target.model
    if model.context is None:
        raise BadAsk(
            f"Zed has to be told the context length of '{model.name}', which nobody knows before its first "
            "load: leave --no-verify out, or load it with `cortex models load`",
            param="model",
        )
    entry: dict[str, Json] = {
        "name": model.name,
        "display_name": model.name,
        "max_tokens": model.context,
        "max_output_tokens": model.answer,
        "capabilities": {
            "tools": model.can("tools") is not False,
            "images": bool(model.can("vision")),
            "parallel_tool_calls": False,
            "prompt_cache_key": False,
        },
    }
    edits = (
        Edit(
            ("language_models", "openai_compatible", NAME),
            {"api_url": target.api, "available_models": [entry]},
        ),
        Edit(("agent", "default_model"), {"provider": NAME, "model": model.name}),
    )
    usual = target.places.config() / "zed" / "settings.json"
    file = Settings(target.file or usual, "json", edits)
    return Recipe(files=(file,), start=target.key.before("zed", always=True))


CLIENT: Final = Client("Zed", "chat", recipe)
