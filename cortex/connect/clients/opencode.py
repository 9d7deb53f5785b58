"""opencode: OpenAI chat, by a provider of the AI SDK's openai-compatible package.

Its settings may refer to variables and to files, so the key stays where it is. Limits are said
because it asks for as many tokens as it believes that an answer may have.
"""

from pathlib import Path
from typing import Final

from cortex.ask import Json
from cortex.connect.recipe import NO_KEY, VARIABLE, Client, Edit, Model, Recipe, Settings, Target

NAME: Final = "cortex"


def recipe(target: Target) -> Recipe:
    """Settings of the user, in whichever of the usual files is there."""
    models: dict[str, Json] = {each.name: _model(each) for each in (target.model, target.fast)}
    provider: dict[str, Json] = {
        "npm": "@ai-sdk/openai-compatible",
        "name": NAME,
        "options": {"baseURL": target.api, "apiKey": _key(target)},
        "models": models,
    }
    edits = (
        Edit(("provider", NAME), provider),
        Edit(("model",), f"{NAME}/{target.model.name}"),
        Edit(("small_model",), f"{NAME}/{target.fast.name}"),
    )
    return Recipe(files=(Settings(target.file or _usual(target), "json", edits),), start="opencode")


def _usual(target: Target) -> Path:
    folder = target.places.config() / "opencode"
    # Where both are there, the one with comments is read last and wins.
    commented = folder / "opencode.jsonc"
    return commented if commented.exists() else folder / "opencode.json"


def _key(target: Target) -> str:
    if target.key.file is not None:
        return f"{{file:{target.key.file}}}"
    return f"{{env:{VARIABLE}}}" if target.key.wanted else NO_KEY


def _model(model: Model) -> dict[str, Json]:
    said: dict[str, Json] = {"name": model.name}
    if model.context is not None:
        said["limit"] = {"context": model.context, "output": model.answer}
    for name, ability in (("tool_call", "tools"), ("reasoning", "reasoning"), ("attachment", "vision")):
        if (can := model.can(ability)) is not None:
            said[name] = can
    return said


CLIENT: Final = Client("opencode", "chat", recipe, has_fast=True, agent=True)
