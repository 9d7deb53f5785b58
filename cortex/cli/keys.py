"""`cortex keys`: makes a caller's key, and the entry of cortex.toml that lets it in."""

# ruff: noqa: PLC0415 - libraries are imported by the command that needs them, so that --help is quick

from enum import StrEnum
from typing import Annotated

import typer

from cortex.cli.options import Form, Level, LogForm, LogLevel

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Keys of a gateway's callers.")


class Scope(StrEnum):
    INFERENCE, ADMIN = "inference", "admin"


@app.callback()
def keys() -> None:
    """Keys of a gateway's callers."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What logs, metrics and limits call the key.")],
    *,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; once for each. Else inference.")
    ] = None,
    said: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other key of the entry, once for each value: models, max_in_flight, "
            "requests_per_minute, tokens_per_day, expires, share.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print key and entry as JSON on stdout.")] = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Make a key: it is shown once, on stderr, and its [[keys]] entry goes to stdout."""
    from cortex.cli import minting
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        minting.mint(name, [each.value for each in scope or ()], said or [], as_json=as_json)
