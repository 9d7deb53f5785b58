"""`cortex engines`: what can run on this host and what cannot, with the reason; and the one engine
whose compiled part is made on its host.
"""

# ruff: noqa: PLC0415 - libraries are imported by the command that needs them, so that --help is quick

import os
from typing import Annotated

import typer

from cortex.cli.options import AsJson, Form, Level, LogForm, LogLevel

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def engines(
    context: typer.Context,
    *,
    as_json: AsJson = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """List the engines, and why those that cannot run on this host cannot."""
    if context.invoked_subcommand is None:
        from cortex.cli import surveying
        from cortex.cli.running import logged

        with logged(log_level.value, log_format.value):
            surveying.show(os.environ, as_json=as_json)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="The engine: exllamav2.")],
    *,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="8.6,8.9", help="Compute capabilities to compile for; else those of the GPUs here."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=1024, help="Compilers at a time; else by cores and memory."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile although it is there.")] = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Compile an engine's own part for this host, once. It takes minutes."""
    from cortex.cli import building
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        building.build_engine(name, arch, jobs, again=force, env=os.environ)
