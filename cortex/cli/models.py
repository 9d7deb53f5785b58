"""`cortex models`: what can be asked for, and orders to load, unload and pin.

Works through a gateway, which knows all neurons, or at a neuron, which knows itself.
"""

# ruff: noqa: PLC0415 - libraries are imported by the command that needs them, so that --help is quick

import os
from pathlib import Path
from typing import Annotated

import typer

from cortex.cli.options import AsJson, Form, Level, LogForm, LogLevel, Site, asks

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The catalogue of a running cortex.")

Save = Annotated[
    bool, typer.Option("--save", help="Write it into the gateway's models.toml, keeping its comments.")
]
Model = Annotated[str, typer.Argument(help="A model's id or alias.")]
Neuron = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="At this neuron of the gateway; else wherever it is loaded."),
]


@app.command("list")
@asks
def listing(site: Site, as_json: AsJson = False) -> None:
    """List the models that can be asked for."""
    from cortex.cli import asking

    asking.show_models(site, as_json=as_json)


@app.command()
@asks
def show(site: Site, model: Model, as_json: AsJson = False) -> None:
    """Show one model: its state, where it lives, and where it may live."""
    from cortex.cli import asking

    asking.show_model(model, site, as_json=as_json)


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
@asks
def load(site: Site, model: Model) -> None:
    """Load a model, and wait until it is resident."""
    from cortex.cli import ordering

    typer.echo(ordering.load(model, site))


@app.command()
@asks
def unload(
    site: Site,
    model: Model,
    force: Annotated[
        bool, typer.Option("--force", help="Also when it is pinned or in use: requests that use it are cut.")
    ] = False,
) -> None:
    """Unload a model wherever it is resident."""
    from cortex.cli import ordering

    typer.echo(ordering.unload(model, site, force=force))


@app.command()
@asks
def pin(site: Site, model: Model, neuron: Neuron = None, save: Save = False) -> None:
    """Keep a model where it is: nothing evicts it, also after a restart."""
    from cortex.cli import pinning

    raise typer.Exit(pinning.put(model, neuron, site, pins=True, save=save))


@app.command()
@asks
def unpin(site: Site, model: Model, neuron: Neuron = None, save: Save = False) -> None:
    """Let a model be evicted again."""
    from cortex.cli import pinning

    raise typer.Exit(pinning.put(model, neuron, site, pins=False, save=save))
