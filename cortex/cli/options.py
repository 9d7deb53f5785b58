"""The options that several commands share, with their words of help.

`asks` makes a function a command that asks a running cortex: it adds the options that say
whom, with which key, and how its log looks, and hands them over as one `Site`. `takes` does the same
for a command with many options of its own.
"""

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

ENDPOINT: Final = "http://127.0.0.1:31313"
# Where a key may stand, for whoever has no file for it. On the command line everybody could read it.
KEY_VARIABLE: Final = "CORTEX_API_KEY"


T = TypeVar("T")


class Level(StrEnum):
    DEBUG, INFO, WARNING, ERROR = "debug", "info", "warning", "error"


class Form(StrEnum):
    TEXT, JSON = "text", "json"


class FileKind(StrEnum):
    GATEWAY, NEURON, MODELS = "gateway", "neuron", "models"


Endpoint = Annotated[
    str, typer.Option(metavar="URL", envvar="CORTEX_ENDPOINT", help="The gateway or neuron to ask.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="CORTEX_TOKEN_FILE",
        help="A file with the key of the gateway, or the token of the neuron; else the variable "
        f"{KEY_VARIABLE} has it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LogLevel = Annotated[Level, typer.Option(help="Log records of this level and above, on stderr.")]
LogForm = Annotated[Form, typer.Option("--log-format", help="How log lines look.")]
LogFormat = Annotated[
    Form | None,
    typer.Option(
        help="How log lines look; else as the file says, else text on a terminal and JSON elsewhere."
    ),
]
Config = Annotated[
    Path | None, typer.Option(help="The file to read; else the first of the usual places that exists.")
]
Check = Annotated[bool, typer.Option("--check", help="Only read the files, and tell their faults.")]


@dataclass(frozen=True, slots=True)
class Site:
    """Whom a command asks, and what it shows to be let in."""

    endpoint: str
    token_file: Path | None = None

    def token(self) -> str | None:
        """What the file holds, else what the environment does."""
        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return os.environ.get(KEY_VARIABLE, "").strip() or None


def asks(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as a command with the shared options as well; its first argument is the `Site`."""

    def command(**said: object) -> None:
        from cortex.cli.running import logged  # noqa: PLC0415 - --help does without it

        match [said.pop(each.name) for each in shared]:
            case [str(endpoint), Path() | None as token_file, Level() as level, Form() as form]:
                with logged(level.value, form.value):
                    function(Site(endpoint, token_file), **said)
            case odd:
                raise TypeError(odd)

    shared = [
        _option("endpoint", Endpoint, ENDPOINT),
        _option("token_file", TokenFile, None),
        _option("log_level", LogLevel, Level.WARNING),
        _option("log_format", LogForm, Form.TEXT),
    ]
    _, *own = signature(function).parameters.values()
    every = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own] + shared
    command.__signature__ = Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def takes(kind: type[T]) -> Callable[[Callable[[Site, T], None]], Callable[..., None]]:
    """A function of a `Site` and of a dataclass as one of the `Site` and of all its fields, for `asks`."""

    def made(function: Callable[[Site, T], None]) -> Callable[..., None]:
        def command(site: Site, **said: object) -> None:
            function(site, kind(**said))

        site, *_ = signature(function).parameters.values()
        own = [
            _option(each.name, each.type, Parameter.empty if each.default is MISSING else each.default)
            for each in fields(kind)  # type: ignore[arg-type]
        ]
        command.__signature__ = Signature([site, *own])  # type: ignore[attr-defined]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return made


def _option(name: str, annotation: object, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
