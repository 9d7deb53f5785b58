"""The vendors' SDKs, for Python and for Node: they read variables, and have no settings file."""

import json
import shlex
from typing import Final

from cortex.connect.recipe import Client, Recipe, Target


def openai(target: Target) -> Recipe:
    """Both languages read these two."""
    return Recipe(
        environment=(
            ("OPENAI_BASE_URL", shlex.quote(target.api)),
            ("OPENAI_API_KEY", target.key.shell),
        ),
        example=f"""\
from openai import OpenAI

answer = OpenAI().chat.completions.create(
    model={json.dumps(target.model.name)}, messages=[{{"role": "user", "content": "Hello"}}]
)
print(answer.choices[0].message.content)
""",
    )


def anthropic(target: Target) -> Recipe:
    """The base has no /v1: the SDK adds it."""
    return Recipe(
        environment=(
            ("ANTHROPIC_BASE_URL", shlex.quote(target.endpoint)),
            ("ANTHROPIC_API_KEY", target.key.shell),
        ),
        example=f"""\
from anthropic import Anthropic

answer = Anthropic().messages.create(
    model={json.dumps(target.model.name)},
    max_tokens=100,
    messages=[{{"role": "user", "content": "Hello"}}],
)
print(answer.content[0].text)
""",
    )


OPENAI: Final = Client("the OpenAI SDK", "chat", openai, writes=False)
ANTHROPIC: Final = Client("the Anthropic SDK", "messages", anthropic, writes=False)
