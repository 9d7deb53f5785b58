"""What `cortex connect` can be asked for, with its words of help."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ClientName(StrEnum):
    """As `cortex.connect` has them: `--help` does without importing it, and a test holds the two together."""

    CLAUDE_CODE, CODEX, OPENCODE, AIDER = "claude-code", "codex", "opencode", "aider"
    QWEN_CODE, ZED, OPENAI, ANTHROPIC, LITELLM = "qwen-code", "zed", "openai", "anthropic", "litellm"


@dataclass(frozen=True, slots=True)
class Wish:
    """Each field is an option."""

    client: Annotated[ClientName, typer.Argument(help="The client that is to use this cortex.")]
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model's id or alias; else the only one.")
    ] = None
    fast_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="For the client's small tasks; else the same model.")
    ] = None
    file: Annotated[Path | None, typer.Option(help="The settings file; else the client's usual one.")] = None
    write: Annotated[bool, typer.Option("--write", help="Merge the settings into the file.")] = False
    undo: Annotated[bool, typer.Option("--undo", help="Take out again what --write has put in.")] = False
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Send no request to try it.")] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the settings, and how the request went, as JSON.")
    ] = False
