"""`cortex models`: what can be asked for, and orders to load, unload and pin.

Works through a gateway, which knows all neurons, or at a neuron, which knows itself.
"""

# ruff: noqa: PLC0415 - libraries are imported by the command that needs them, so that --help is quick

import os
from pathlib import Path
from typing import Annotated

import typer

from cortex.cli.options import ENDPOINT, AsJson, Endpoint, Form, Level, LogForm, LogLevel, TokenFile

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The catalogue of a running cortex.")

Save = Annotated[
    bool, typer.Option("--save", help="Write it into the gateway's models.toml, keeping its comments.")
]
Model = Annotated[str, typer.Argument(help="A model's id or alias.")]


@app.command("list")
def listing(
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    as_json: AsJson = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """List the models that can be asked for."""
    from cortex.cli import asking
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        asking.show_models(endpoint, token_file, as_json=as_json)


@app.command()
def show(
    model: Model,
    *,
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    as_json: AsJson = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Show one model: its state, where it lives, and where it may live."""
    from cortex.cli import asking
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        asking.show_model(model, endpoint, token_file, as_json=as_json)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="A model of models.toml, or hf:org/name[@revision][:quant].")],
    config: Annotated[
        Path | None, typer.Option(help="The neuron.toml with [hub]; else the first of the usual places.")
    ] = None,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Download a model of a hub, as it is now, into the cache that neurons load from."""
    from cortex.cli import pulling
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        local = pulling.pull(model, config, os.environ)
    typer.echo(f"{local.source} is in the cache: {local.path}")


@app.command()
def load(
    model: Model,
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Load a model, and wait until it is resident."""
    from cortex.cli import asking
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        asking.order(f"loading {model}", endpoint, token_file, lambda at: at.load(model))
    typer.echo(f"{model} is loaded")


@app.command()
def unload(
    model: Model,
    *,
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    force: Annotated[bool, typer.Option("--force", help="End the requests that use it.")] = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Unload a model wherever it is resident."""
    from cortex.cli import asking
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        asking.order(f"unloading {model}", endpoint, token_file, lambda at: at.unload(model, force=force))
    typer.echo(f"{model} is unloaded")


@app.command()
def pin(
    model: Model,
    *,
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    save: Save = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Keep a model at a neuron: nothing evicts it, also after a restart."""
    from cortex.cli import asking, pinning
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        if save:
            typer.echo(pinning.save(model, endpoint, token_file, pins=True))
            return
        resident = asking.ask(endpoint, token_file, lambda at: at.pin(model, pinned=True))
    typer.echo(f"{model} is pinned" if resident else f"{model} is pinned from when it is loaded")


@app.command()
def unpin(
    model: Model,
    *,
    endpoint: Endpoint = ENDPOINT,
    token_file: TokenFile = None,
    save: Save = False,
    log_level: LogLevel = Level.WARNING,
    log_format: LogForm = Form.TEXT,
) -> None:
    """Let a neuron evict a model again."""
    from cortex.cli import asking, pinning
    from cortex.cli.running import logged

    with logged(log_level.value, log_format.value):
        if save:
            typer.echo(pinning.save(model, endpoint, token_file, pins=False))
            return
        asking.ask(endpoint, token_file, lambda at: at.pin(model, pinned=False))
    typer.echo(f"{model} is not pinned")
