"""The clients by name. Each file has the recipe of one, and says why its settings are what they are."""

from types import MappingProxyType
from typing import Final

from cortex.connect.clients import aider, claude_code, codex, litellm, opencode, qwen_code, sdks, zed
from cortex.connect.recipe import Client

CLIENTS: Final = MappingProxyType[str, Client](
    {
        "claude-code": claude_code.CLIENT,
        "codex": codex.CLIENT,
        "opencode": opencode.CLIENT,
        "aider": aider.CLIENT,
        "qwen-code": qwen_code.CLIENT,
        "zed": zed.CLIENT,
        "openai": sdks.OPENAI,
        "anthropic": sdks.ANTHROPIC,
        "litellm": litellm.CLIENT,
    }
)
