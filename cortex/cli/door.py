"""The commands, their options and their words of help.

A command hands its options to the room that does the work. `main` is what the
`cortex` command, `python -m cortex` and `cortex.py` call.
"""

# ruff: noqa: PLC0415 - rooms are imported by the command that needs them, so that --help is quick

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cortex import __version__
from cortex.cli import engines, keys, models
from cortex.cli.options import (
    AsJson,
    Check,
    Config,
    FileKind,
    Form,
    Level,
    LogForm,
    LogFormat,
    LogLevel,
    Site,
    asks,
    takes,
)
from cortex.cli.wish import Wish

# Plain help, without boxes: it reads the same in a terminal, in a pipe and in a narrow window.
app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True)
files = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look at configuration files.")
app.add_typer(models.app, name="models")
app.add_typer(files, name="config")
app.add_typer(engines.app, name="engines")
app.add_typer(keys.app, name="keys")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, that of the process unless one is given, and leave with its exit code."""
    try:
        app(arguments, prog_name="cortex")
    except (Exception, BaseExceptionGroup) as error:
        from cortex.cli.trouble import tell

        raise SystemExit(tell(error)) from error
    raise SystemExit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cortex {__version__}")
        raise typer.Exit


@app.callback()
def cortex(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A few unlike GPU boxes as one OpenAI-compatible LLM service."""


@app.command()
def up(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A .gguf file, a folder of safetensors, or hf:org/name[:quant]; else the bundled demo."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65534, help="The API's port; metrics get the next. 0: any free ones.")
    ] = 31313,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Serve one model from this computer, for trying cortex out."""
    from cortex.cli import up as room
    from cortex.cli.running import hold, logged

    listen = room.listen_at(host, port)
    room.ensure_free(listen)
    with logged(log_level.value, log_format.value):
        order = room.Order(room.choose(model), listen)
    hold(lambda stop: room.run(order, stop), log_level.value, log_format.value)


@app.command()
def gateway(
    config: Config = None,
    check: Check = False,
    log_level: LogLevel = Level.INFO,
    log_format: LogFormat = None,
) -> None:
    """Run the gateway: one API in front of the neurons."""
    from cortex.cli import roles

    role = roles.gateway(config, os.environ)
    roles.start(role, check, log_level.value, log_format.value if log_format else None)


app.command("serve", help="Alias of gateway.")(gateway)


@app.command()
def neuron(
    config: Config = None,
    check: Check = False,
    log_level: LogLevel = Level.INFO,
    log_format: LogFormat = None,
) -> None:
    """Run the neuron: the daemon that serves this host's devices."""
    from cortex.cli import roles

    role = roles.neuron(config, os.environ)
    roles.start(role, check, log_level.value, log_format.value if log_format else None)


@app.command()
@asks
def status(
    site: Site,
    watch: Annotated[bool, typer.Option("--watch", help="Draw again every second, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show neurons, devices and models. Exit code: 0 all is well, 1 something is not, 2 no answer."""
    from cortex.cli import watching

    raise typer.Exit(watching.look(site, watch=watch, as_json=as_json))


@app.command()
@asks
def plan(
    site: Site,
    model: Annotated[str, typer.Argument(help="A model's id or alias.")],
    as_json: AsJson = False,
) -> None:
    """Tell where a model would go, and why not elsewhere. Exit code: 0 somewhere, 1 refused, 2 no answer."""
    from cortex.cli import planning

    raise typer.Exit(planning.look(model, site, as_json=as_json))


@app.command()
@asks
@takes(Wish)
def connect(site: Site, wish: Wish) -> None:
    """Print or write a client's settings for cortex. Exit code: 0 it answers, 1 it fails, 2 no cortex."""
    from cortex.cli import connecting

    raise typer.Exit(connecting.run(wish, site))


@app.command()
def doctor(
    config: Config = None,
    as_json: AsJson = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Look this host over: what a neuron needs, and the remedy for what is not there."""
    from cortex.cli import doctor as room
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        raise typer.Exit(room.run(config, os.environ, as_json=as_json))


@files.command()
def check(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Any of the three kinds.")],
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Tell all faults of files at once, with key and line. Exit code 2 if there are any."""
    from cortex.cli import roles
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        raise typer.Exit(roles.check(paths))


@files.command()
def schema(
    kind: Annotated[
        FileKind | None, typer.Argument(help="Which file; else one schema that takes any.")
    ] = None,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Print the JSON Schema (2020-12) of a configuration file, for editors."""
    from cortex.cli import roles
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        roles.show_schema(kind.value if kind else None)
