"""The options that several commands share, with their words of help."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

ENDPOINT: Final = "http://127.0.0.1:31313"


class Level(StrEnum):
    DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"


class Form(StrEnum):
    TEXT, JSON = "text", "json"


class FileKind(StrEnum):
    GATEWAY, NEURON, MODELS = "gateway", "neuron", "models"


Endpoint = Annotated[str, typer.Option(metavar="URL", help="The gateway or neuron to ask.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file with the key of the gateway, or the token of the neuron.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LogLevel = Annotated[Level, typer.Option(help="Log records of this level and above, on stderr.")]
LogForm = Annotated[Form, typer.Option("--log-format", help="How log lines look.")]
LogFormat = Annotated[Form | None, typer.Option(help="How log lines look; else as the file says.")]
Config = Annotated[
    Path | None, typer.Option(help="The file to read; else the first of the usual places that exists.")
]
Check = Annotated[bool, typer.Option("--check", help="Only read the files, and tell their faults.")]
