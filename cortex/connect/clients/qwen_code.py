"""Qwen Code: OpenAI chat, by a model of the provider `openai` in its settings.json.

It reads the key from the variable that `envKey` names, and asks for a login when that is empty; a
gateway without keys gets it a word by the `env` of the same file.
"""

from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import NO_KEY, VARIABLE, Client, Edit, Recipe, Settings, Target


def recipe(target: Target) -> Recipe:
    """Settings of the user, for all projects."""
    model: dict[str, Json] = {
        "id": target.model.name,
        "name": f"{target.model.name} (cortex)",
        "baseUrl": target.api,
        "envKey": VARIABLE,
    }
    if target.model.context is not None:
        model["generationConfig"] = {"contextWindowSize": target.model.context}
    edits = [
        Edit(("modelProviders", "openai"), model, add=True),
        Edit(("security", "auth", "selectedType"), "openai"),
        Edit(("model", "name"), target.model.name),
    ]
    if not target.key.wanted:
        edits.append(Edit(("env", VARIABLE), NO_KEY))
    usual = target.places.home / ".qwen" / "settings.json"
    file = Settings(target.file or usual, "json", tuple(edits))
    return Recipe(files=(file,), start=target.key.before("qwen"))


# 39 KB of instructions and its tools, as it was captured.
CLIENT: Final = Client("Qwen Code", "chat", recipe, agent=True, first=12_000, least=32_768)
