"""Codex: OpenAI Responses, by a provider of its own in config.toml.

It reads the key from the variable that `env_key` names, and refuses to start when that is empty; so
a gateway without keys gets no `env_key`.
"""

from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import VARIABLE, Client, Edit, Recipe, Settings, Target

NAME: Final = "cortex"


def recipe(target: Target) -> Recipe:
    """Settings of the user: projects cannot name a provider."""
    provider: dict[str, Json] = {"name": NAME, "base_url": target.api, "wire_api": "responses"}
    if target.key.wanted:
        provider["env_key"] = VARIABLE
    edits = [Edit(("model",), target.model.name), Edit(("model_provider",), NAME)]
    if target.model.context is not None:
        edits.append(Edit(("model_context_window",), target.model.context))
    edits.append(Edit(("model_providers", NAME), provider))
    usual = target.places.own("CODEX_HOME", ".codex") / "config.toml"
    file = Settings(target.file or usual, "toml", tuple(edits))
    return Recipe(files=(file,), start=target.key.before("codex"))


CLIENT: Final = Client("Codex", "responses", recipe, agent=True, first=20_000, least=32_768)
