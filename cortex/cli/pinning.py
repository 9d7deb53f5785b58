"""`cortex models pin|unpin`: orders to neurons, by way of a gateway or not; with --save, models.toml.

A pin by order is the neuron's, and needs no file. With --save the gateway says which file it
has in force, and what it held: only that file is edited, on its host, and only while it still
holds the same. The gateway then takes it over by itself, and tells the neurons.
"""

from functools import partial
from pathlib import Path
from typing import Final

import trio
import typer

from cortex.cli import asking
from cortex.cli.options import Site
from cortex.cli.trouble import Usage
from cortex.config.editing import KEY, digest_of, pinned, pins_of, replace_file
from cortex.logs import escape
from cortex.status.fetch import Asker, named_in
from cortex.wire.fleet import FleetReport, PinReport

# A gateway looks at its files every two seconds, twice; this leaves room for a busy one.
TAKEN_OVER_S: Final = 15.0
LOOK_S: Final = 0.2
# A neuron writes a file for a pin, and a gateway asks one after another.
OBEYED_S: Final = 60.0


def put(model: str, neuron: str | None, site: Site, *, pins: bool, save: bool) -> int:
    """The exit code, after it was told what is pinned where."""
    if save:
        typer.echo(write(model, neuron, site, pins=pins))
    if save and pins:
        return 0
    # What the file lets go of may be pinned by an order as well.
    report = asking.ask(
        site,
        lambda at: at.pin(model, pinned=pins, neuron=neuron),
        OBEYED_S,
        left="`cortex status` shows what is pinned",
    )
    for line in _told(report):
        typer.echo(line)
    for name, why in report.failed.items():
        typer.echo(f"cortex: {escape(f'{name}: {why}')}", err=True)
    return 1 if report.failed else 0


def write(model: str, neuron: str | None, site: Site, *, pins: bool) -> str:
    """`pinned_on` of `model` has `neuron`, or those where it is loaded; or has it, or them all, no
    longer. Answers what was done."""
    report = asking.ask(site, Asker.report)
    path, before = _file_of(report, site.endpoint)
    name, text = named_in(report, model).id, before.decode()
    had = pins_of(text, name)
    if had is None:
        raise Usage(f"'{name}' has no entry in {path}; write one, or leave --save out")
    if neuron is not None:
        _ensure_known(report, neuron, had)
    has = _more(report, name, had, neuron) if pins else [each for each in had if neuron not in (None, each)]
    if list(had) == has:
        return f"{path} says so already: {KEY} of {name} is {_shown(had)}"
    after = pinned(text, name, has).encode()
    replace_file(path, before, after)
    done = f"{path}: {KEY} of {name} is {_shown(has)}, and was {_shown(had)}"
    taken = asking.ask(site, partial(_taken_over, digest=digest_of(after)), 2 * TAKEN_OVER_S, left=done)
    return f"{done}. " + (
        "The gateway has taken it over"
        if taken
        else "The gateway has not taken it over yet; `cortex status` shows what is against it"
    )


async def _taken_over(at: Asker, digest: str) -> bool:
    with trio.move_on_after(TAKEN_OVER_S):
        while (await at.report()).gateway.models_sha256 != digest:  # noqa: ASYNC110 - asked over HTTP
            await trio.sleep(LOOK_S)
        return True
    return False


def _told(report: PinReport) -> list[str]:
    model = escape(report.model)
    here = ", ".join(map(escape, (each for each in report.neurons if each not in report.awaited)))
    if not report.pinned:
        return [f"{model} is no longer pinned at {', '.join(map(escape, report.neurons)) or 'any neuron'}"]
    awaited = [f"{model} is pinned at {escape(name)} from when it is loaded there" for name in report.awaited]
    return [*([f"{model} is pinned at {here}"] if here else []), *awaited]


def _file_of(report: FleetReport, endpoint: str) -> tuple[Path, bytes]:
    """The catalogue in force and what it holds. Usage when it is not at hand."""
    if not report.gateway.boot_id:
        raise Usage(f"--save edits a gateway's models.toml, and {endpoint} is a neuron's; leave it out")
    if not report.gateway.models_file:
        if report.gateway.withheld:
            raise Usage(
                f"the gateway at {endpoint} tells of its models.toml only to keys with the scope admin"
            )
        raise Usage(
            f"the gateway at {endpoint} has no models.toml to write into: leave --save out, and neurons keep "
            "the pin themselves. `cortex up` has no files; a gateway has the one of [gateway] models_config"
        )
    path = Path(report.gateway.models_file)
    if not path.is_file():
        raise Usage(f"{path}, which the gateway at {endpoint} uses, is not on this host; run this on its own")
    data = path.read_bytes()
    if digest_of(data) != report.gateway.models_sha256:
        raise Usage(
            f"{path} is not what the gateway at {endpoint} has in force: it was changed a moment ago, has "
            "faults (`cortex status` shows them), or is another host's; nothing was written"
        )
    return path, data


def _ensure_known(report: FleetReport, neuron: str, had: tuple[str, ...]) -> None:
    names = [each.name for each in report.neurons]
    if neuron not in names and neuron not in had:
        raise Usage(f"there is no neuron '{neuron}'; there is {', '.join(names) or 'none'}")


def _more(report: FleetReport, name: str, had: tuple[str, ...], neuron: str | None) -> list[str]:
    here = [at.neuron for at in named_in(report, name).locations] if neuron is None else [neuron]
    if not here:
        raise Usage(f"'{name}' is loaded nowhere: load it first, or say where with --neuron NAME")
    return list(dict.fromkeys((*had, *here)))


def _shown(neurons: list[str] | tuple[str, ...]) -> str:
    return ", ".join(neurons) or "empty"
