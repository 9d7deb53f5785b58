"""`cortex models pin|unpin --save`: writes pins into the models.toml of a gateway.

The gateway says which file it has in force, and what it held. Only that file is edited,
on its host, and only while it still holds the same; the gateway then takes it over by itself.
"""

from pathlib import Path

from cortex.cli import asking
from cortex.cli.trouble import Usage
from cortex.config.editing import KEY, digest_of, pinned, pins_of, replace_file
from cortex.status.fetch import Asker, named_in
from cortex.wire.fleet import FleetReport


def save(model: str, endpoint: str, token_file: Path | None, *, pins: bool) -> str:
    """`pinned_on` of `model` has the neurons where it is loaded, or none; answers what was done."""
    report = asking.ask(endpoint, token_file, Asker.report)
    path, before = _file_of(report, endpoint)
    name, text = named_in(report, model).id, before.decode()
    had = pins_of(text, name)
    if had is None:
        raise Usage(f"'{name}' has no entry in {path}; write one, or leave --save out and name its neuron")
    has = _more(report, name, had) if pins else []
    if list(had) == has:
        return f"{path} says so already: {KEY} of {name} is {_shown(had)}"
    replace_file(path, before, pinned(text, name, has).encode())
    return (
        f"{path}: {KEY} of {name} is {_shown(has)}, and was {_shown(had)}. The gateway takes it over within "
        "seconds; a copy that is loaded keeps the pin that it has until it is loaded again"
    )


def _file_of(report: FleetReport, endpoint: str) -> tuple[Path, bytes]:
    """The catalogue in force and what it holds. Usage when it is not at hand."""
    if not report.gateway.boot_id:
        raise Usage(f"--save edits a gateway's models.toml, and {endpoint} is a neuron's; leave it out")
    if report.gateway.withheld:
        raise Usage(
            f"the gateway at {endpoint} tells which models.toml it has in force to keys with the scope admin "
            "only: give --token-file with one"
        )
    if not report.gateway.models_file:
        raise Usage(
            f"the gateway at {endpoint} has no models.toml in force: name one in [gateway] models_config"
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


def _more(report: FleetReport, name: str, had: tuple[str, ...]) -> list[str]:
    here = [at.neuron for at in named_in(report, name).locations]
    if not here:
        raise Usage(f"'{name}' is loaded nowhere: load it first, or write {KEY} by hand")
    return list(dict.fromkeys((*had, *here)))


def _shown(neurons: list[str] | tuple[str, ...]) -> str:
    return ", ".join(neurons) or "empty"
